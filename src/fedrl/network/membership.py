"""Who takes part: seats by name, and federations that speak the same wire."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TypeAlias

from fedrl.core.errors import WireError
from fedrl.core.types import PyTree
from fedrl.federation.federation import Federation
from fedrl.federation.wire_digest import differences, from_json, wire_digest
from fedrl.network.bridge import Bridge
from fedrl.network.sessions import Membership
from fedrl.wire.protocol import Hello, Stop, Welcome, one_line

SeatOf: TypeAlias = Callable[[str], int | str]
"""`name -> number` of its seat, or the reason why it has none, one sentence."""
Admitting: TypeAlias = Callable[[Federation, PyTree, int, tuple[str, ...] | None], Membership]
"""`(federation, setting, agents, bids) -> Membership`, which the executor calls when it knows the federation."""


class MembershipCheck:
    """Admits agents that have a seat and speak the wire of this federation.

    Args:
        federation: Federation of the coordinator.
        setting: Parameters of one agent's environment.
        agents: Number of seats.
        bridge: The coordinator's bridge.
        seat_of: `name -> number` of an agent, or why it has none.
        bids: Reports that agents say in bids, under an upload budget; None for no bids.
    """

    def __init__(
        self,
        federation: Federation,
        setting: PyTree,
        agents: int,
        bridge: Bridge,
        seat_of: SeatOf,
        bids: tuple[str, ...] | None = None,
    ) -> None:
        self._mine, self._agents = wire_digest(federation, setting, bids), agents
        self._bridge, self._seat_of = bridge, seat_of

    def answer(self, name: str, hello: Hello) -> Welcome | Stop:
        """Return the welcome of an agent, or why it is sent away."""
        seat = self._seat_of(name)
        if isinstance(seat, int) and seat >= self._agents:
            seat = f"{name} has number {seat}, and this federation has {self._agents} seats. Ask its operator for one."
        if isinstance(seat, str):
            return Stop(seat, "no_seat", False)
        try:
            theirs = from_json(json.loads(hello.content))
        except (ValueError, RecursionError) as fault:
            why = str(fault) if isinstance(fault, WireError) else "The digest of the agent's federation is no JSON."
            return Stop(one_line(why), "bad_message", False)
        found = differences(self._mine, theirs)
        decisive = [each.sentence for each in found if each.decisive]
        if decisive:
            # "here" is this end, so the sentence says whose end that is.
            told = f"The coordinator and {name} have different federations (here is the coordinator). {decisive[0]}"
            return Stop(one_line(told), "other_federation", False)
        bridge = self._bridge
        for each in found:  # such as other versions of libraries
            bridge.observer.tell("differs", f"{name} takes part and differs: {each.sentence}", seat, name)
        return Welcome(
            bridge.run,
            bridge.name,
            seat,
            self._agents,
            bridge.version,
            0,
            bridge.replayable,
            bridge.beat_s,
        )


def seats_in_order(agents: int) -> SeatOf:
    """Return seats that are given to names in the order in which they come.

    >>> seat_of = seats_in_order(1)
    >>> seat_of("a"), seat_of("a"), seat_of("b")
    (0, 0, 'All 1 seats of this federation are taken. Ask its operator for one.')
    """
    seats: dict[str, int] = {}

    def seat_of(name: str) -> int | str:
        if name not in seats and len(seats) >= agents:
            return f"All {agents} seats of this federation are taken. Ask its operator for one."
        return seats.setdefault(name, len(seats))

    return seat_of
