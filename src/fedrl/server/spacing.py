"""Let every agent wait for a number of rounds after it took part, as noise that is correlated between rounds needs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fedrl.core.component import component
from fedrl.core.errors import UnsoundError
from fedrl.core.ranges import Count
from fedrl.core.types import PyTree
from fedrl.server.decisions import Selection

NEVER = -(10**9)


class Spaced(NamedTuple):
    """The state of a spaced selection.

    Attributes:
        last: int64 `[agents]`, the round in which each agent was selected last; far in the past if never.
        inner: The state of the selection among those who may take part.
    """

    last: np.ndarray
    inner: PyTree


@component("selection", reference="Kairouz et al. (2021), https://arxiv.org/abs/2103.00039")
def spaced(rounds: Count, selection: Selection | None = None) -> Selection:
    """Select among the agents whose last selection is this number of rounds ago or more.

    Args:
        rounds: The least number of rounds from one selection of an agent to its next one; 1: no rule.
        selection: Who is selected among these agents; all of them by default. It must be able to select from any number
            of agents.

    Raises:
        UnsoundError: The inner selection requests reports.

    >>> rule = spaced(2)
    >>> state = rule.init(3)
    >>> rule.choose(np.random.default_rng(0), np.arange(3), 1, state).tolist()
    [0, 1, 2]
    """
    if selection is not None and selection.requested:
        raise UnsoundError(
            f"{selection!r} decides by what agents report, and spaced() is for selections that anyone may know. Use "
            "one that requests no report."
        )

    def init(agents: int) -> Spaced:
        return Spaced(np.full(agents, NEVER, np.int64), () if selection is None else selection.init(agents))

    def choose(rng: np.random.Generator, ids: np.ndarray, number: int, state: Spaced) -> np.ndarray:
        ready = ids[number - state.last[ids] >= rounds]
        return ready if selection is None or not len(ready) else selection.choose(rng, ready, number, state.inner)

    def noted(chosen: np.ndarray, number: int, state: Spaced) -> Spaced:
        last = state.last.copy()
        last[chosen] = number
        return state._replace(last=last)

    return Selection(choose, init, noted=noted, separation=rounds)
