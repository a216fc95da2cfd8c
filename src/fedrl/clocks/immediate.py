"""Simulate without time: every dispatched agent's update arrives at once, in the order of the agents' numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedrl.clocks.events import ARRIVED, NOBODY, Events
from fedrl.clocks.phases import Phases


class NextArrivals(NamedTuple):
    """The dispatched agents whose updates have not been returned yet, `[n]`."""

    agent: np.ndarray


class Immediate:
    """The clock of a simulation without time."""

    timed = False

    def start(self, seed: int) -> NextArrivals:
        """Return the state without any dispatched agent."""
        del seed
        return NextArrivals(NOBODY)

    def now_s(self, state: NextArrivals) -> float:
        """Return 0: no time passes."""
        del state
        return 0.0

    def dispatch(
        self, state: NextArrivals, ids: np.ndarray, since_s: np.ndarray, steps: np.ndarray, down_bytes: np.ndarray
    ) -> tuple[NextArrivals, np.ndarray]:
        """Dispatch the agents; all of them are online."""
        del since_s, steps, down_bytes
        return NextArrivals(np.union1d(state.agent, ids)), np.ones(len(ids), bool)

    def peek(
        self, state: NextArrivals, until_s: float, wants: int, again: np.ndarray | None, one: bool
    ) -> tuple[NextArrivals, Events]:
        """Return the arrival of the first `wants` dispatched agents."""
        del until_s, again, one
        ids = state.agent[:wants]
        return NextArrivals(state.agent[wants:]), Events(np.full(len(ids), ARRIVED), ids, np.zeros(len(ids)))

    def cancel(self, state: NextArrivals, ids: np.ndarray) -> NextArrivals:
        """Cancel the jobs of these agents."""
        return NextArrivals(np.setdiff1d(state.agent, ids))

    def correct(self, known: np.ndarray, ids: np.ndarray, table: object) -> None:
        """Do nothing: in a simulation it is known which copy each agent has."""
        del known, ids, table

    def hanging(self, state: NextArrivals, ids: np.ndarray) -> int:
        """Return 0: no job hangs."""
        del state, ids
        return 0

    def soon(self, state: NextArrivals) -> np.ndarray:
        """Return the agents whose updates will arrive, in their order."""
        return state.agent

    def costs(self, state: NextArrivals, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the seconds of computing (unknown, NaN) and of communication (0) of arrived updates."""
        del state
        return np.full(len(ids), np.nan), np.zeros(len(ids))

    def phases(
        self, state: NextArrivals, ids: np.ndarray, sizes: Sequence[tuple[int, int]], deadline_s: float
    ) -> Phases:
        """Return that nobody leaves in the phases of a protocol, which take no time."""
        del state, deadline_s
        return Phases(np.full(len(ids), len(sizes)), np.zeros(len(sizes)))

    def advance(self, state: NextArrivals, seconds: float) -> NextArrivals:
        """Return the state unchanged."""
        del seconds
        return state
