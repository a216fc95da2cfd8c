"""Let agents of other sites train in place of simulated ones."""

from __future__ import annotations

from typing import Any

from fedrl.core.types import PyTree
from fedrl.engines.executors.executor import Executor
from fedrl.engines.executors.placement import Placement
from fedrl.federation.federation import Federation
from fedrl.network.bridge import Bridge
from fedrl.network.membership import MembershipCheck, SeatOf, seats_in_order

PATIENCE_S, HANG_S = 30.0, 600.0


def sites(
    bridge: Bridge,
    seat_of: SeatOf | None = None,
    gather: int | None = None,
    patience_s: float = PATIENCE_S,
    hang_s: float = HANG_S,
) -> Placement:
    """Return an executor whose agents are at other sites.

    The loop, the scheduler and the server are those of a simulation; time is real.

    Args:
        bridge: Where agents connect to.
        seat_of: `name -> number` of an agent, or why it has none; by default in the order in which they come.
        gather: Number of agents that have to be there before the first job is given; by default all.
        patience_s: Seconds for which an agent that has lost its connection keeps its job.
        hang_s: Seconds without progress after which the job of an agent that is connected counts as hung.
    """

    def build(*given: Any, **options: Any) -> Executor:
        from fedrl.network.executor import Sites

        def membership(
            federation: Federation, setting: PyTree, agents: int, bids: tuple[str, ...] | None
        ) -> MembershipCheck:
            return MembershipCheck(federation, setting, agents, bridge, seat_of or seats_in_order(agents), bids)

        options |= {"gather": gather, "patience_s": patience_s, "hang_s": hang_s}
        return Sites(*given, bridge=bridge, membership=membership, **options)

    return Placement(build, live=True, replayable=bridge.replayable)
