"""Search the largest number of agents that keeps a limit, with few probes.

    grow by 4, or by 2 where the cost model says that 4 is too many        until the limit is broken
    shrink likewise                                                        until it is kept
    then probe just below and just above where the model meets the limit, and bisect if that was not enough

It ends when the smallest number that breaks the limit is within 10 % of the largest that keeps it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from fedrl.studies.scaling.cost_model import line_through
from fedrl.studies.scaling.limits import Limit
from fedrl.studies.scaling.records import Probe, value_in

GROWTH, WITHIN, BESIDE = 4, 0.1, 0.04
AIMED = 2
"""Probes that are aimed by the cost model before the rest is bisected: it may be wrong."""


class Bracket(NamedTuple):
    """The largest number of agents that keeps the limit, and the smallest that breaks it; None where there is none.

    Of numbers that keep the limit only those below the first that breaks it count, so a lucky round finds no number.
    """

    kept: int | None
    broken: int | None

    @property
    def narrow(self) -> bool:
        """Whether no number of agents that is more than 10 % larger can keep the limit, if costs grow with agents."""
        if self.kept is None or self.broken is None:
            return False
        return self.broken - self.kept <= max(1, math.floor(WITHIN * self.kept))


def bracket_of(probes: Sequence[Probe]) -> Bracket:
    """Return the bracket of all probes so far.

    >>> bracket_of([{"agents": k, "state": "measured", "holds": k < 50} for k in (10, 40, 160)])
    Bracket(kept=40, broken=160)
    """
    broken = min((probe["agents"] for probe in probes if probe["holds"] is False), default=None)
    kept = [p["agents"] for p in probes if p["holds"] and (broken is None or p["agents"] < broken)]
    return Bracket(max(kept, default=None), broken)


def search(
    probe: Callable[[int], Probe | None],
    limit: Limit | None,
    first: Sequence[int],
    most_probes: int,
    most_agents: int,
) -> Iterator[Probe]:
    """Yield probes of the given numbers of agents, then, if there is a limit, of those that the search needs.

    Args:
        probe: Measures one number of agents; None if it was interrupted, which ends the search.
        limit: The limit; None to measure only the given numbers.
        first: Numbers of agents that are measured first, in this order, without those above one that broke the limit.
        most_probes: Number of probes after which the search ends.
        most_agents: The largest number of agents to try.
    """
    probes: list[Probe] = []
    waiting = list(dict.fromkeys(first))
    aimed = 0
    while len(probes) < most_probes:
        bracket = bracket_of(probes)
        # More agents than a number that broke the limit break it, too, and may take all memory.
        waiting = [k for k in waiting if bracket.broken is None or k < bracket.broken]
        between = bracket.kept is not None and bracket.broken is not None
        if waiting:
            agents: int | None = waiting.pop(0)
        else:
            agents = None if limit is None else next_agents(probes, limit, most_agents, bisect=aimed >= AIMED)
            aimed += between
        if agents is None:
            return
        found = probe(agents)
        if found is None:
            return
        probes.append(found)
        yield found


def next_agents(probes: Sequence[Probe], limit: Limit, most_agents: int, *, bisect: bool = False) -> int | None:
    """Return the next number of agents to probe; None if the search is over.

    Args:
        probes: The probes so far.
        limit: The limit.
        most_agents: The largest number of agents to try.
        bisect: Whether to ignore the cost model between the two ends of the bracket.
    """
    bracket, refused = bracket_of(probes), {probe["agents"] for probe in probes if probe["state"] == "refused"}
    kept, broken = bracket
    reach = _reach(probes, limit)
    if kept is None and broken is None:
        return None  # refused
    if kept is None:
        assert broken is not None
        below = max(1, min(broken // GROWTH, math.floor(reach * (1 - BESIDE)) if reach < broken else broken))
        found = below if broken > 1 else None
    elif broken is None:
        wide = kept * GROWTH
        above = min(most_agents, wide if reach >= wide else kept * 2)
        found = above if above > kept else None
    elif bracket.narrow:
        return None
    else:
        found = _between(kept, broken, math.inf if bisect else reach)
        if found in refused:  # as between powers of two, where the middle may be one
            found = _between(kept, broken, math.inf)
    return None if found in refused else found


def _reach(probes: Sequence[Probe], limit: Limit) -> float:
    """Return the number of agents at which the cost model meets the limit; infinite without a model."""
    measured = [probe for probe in probes if probe["state"] == "measured"]
    values = [value_in(probe, limit.quantity) for probe in measured]
    line = line_through([probe["agents"] for probe in measured], values)
    return math.inf if line is None else line.most_agents(limit.most)


def _between(kept: int, broken: int, reach: float) -> int:
    """Return a number of agents between two: just below or above where the model meets the limit, or the middle."""
    if kept < reach < broken:
        below, above = math.floor(reach * (1 - BESIDE)), math.ceil(reach * (1 + BESIDE))
        aimed = below if below > kept else above
        if kept < aimed < broken:
            return aimed
    middle = round(math.sqrt(kept * broken))
    return min(max(middle, kept + 1), broken - 1)
