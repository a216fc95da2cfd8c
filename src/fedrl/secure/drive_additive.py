"""A whole sum by additive shares in one process: all parties, and who leaves when. For simulations and tests."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedrl.secure.additive import AdditivePlan, PartAdder, Splitter, SplittingPeer, combined
from fedrl.secure.drive import CostMeter, OpenedSum, check_rows
from fedrl.secure.messages import COUNT

ADDITIVE_PHASES = ("parts", "half of the parts", "sums")
"""When an agent may leave: before it sends parts, after half of them, before it sends a sum."""


def additive_sum(
    values: np.ndarray,
    plan: AdditivePlan,
    leaves: Mapping[int, str] | None = None,
    meter: CostMeter | None = None,
) -> OpenedSum:
    """Add the rows of a matrix by additive shares, all parties in one process.

    Args:
        values: int32 or uint32 `[agents, size]`, a row for each member of the plan.
        plan: The plan of the sum.
        leaves: When an agent leaves, one of `ADDITIVE_PHASES`; "sums" concerns agents that add themselves.
        meter: Where costs are added up, also those of a sum that is given up.

    Raises:
        TooFewAgentsError: Too few agents were left, or one that had to stay.

    >>> plan = AdditivePlan(b"example", (0, 1, 2), size=2, minimum=2, aggregators=2)
    >>> additive_sum(np.array([[1, 2], [30, 40], [500, 600]], np.int32), plan, {1: "parts"}).total.tolist()
    [501, 602]
    """
    check_rows(values, plan.members)
    leaves, meter = leaves or {}, CostMeter() if meter is None else meter
    peers = {} if plan.aggregators else {agent: SplittingPeer(plan, agent) for agent in plan.members}
    adders: dict[int, SplittingPeer | PartAdder] = {**peers}
    adders |= {party: PartAdder(plan, party) for party in range(plan.aggregators)}
    meter.add("parts")  # it has begun, also if nobody answers
    for agent, row in zip(plan.members, values, strict=True):
        if leaves.get(agent) == "parts":
            continue
        with meter.timed("parts", "agents_s"):
            parts = (peers[agent] if peers else Splitter(plan, agent)).split(row)
        reached = len(parts) // 2 if leaves.get(agent) == "half of the parts" else len(parts)
        for party, part in list(parts.items())[:reached]:
            adders[party].receive(agent, part)
            meter.came("parts", agent, COUNT.size + len(part.content))
    here = {party for party in adders if not peers or leaves.get(party) not in ADDITIVE_PHASES[:2]}
    common = set(plan.members).intersection(*(adders[party].present() for party in here))
    included = tuple(sorted(common & here if peers else common))
    sums = []
    for party in included if peers else sorted(here):
        if peers and party in leaves:
            continue
        with meter.timed("sums", "agents_s" if peers else "coordinator_s"):
            sums.append(adders[party].add(included))
        size = COUNT.size + sums[-1].values.nbytes
        if peers:
            meter.came("sums", party, size)
        else:
            meter.add("sums", up_bytes=size)
    with meter.timed("sums", "coordinator_s"):
        return OpenedSum(combined(plan, sums), included, meter.costs)
