"""Without time: whoever is sent for answers at once, in the order of the agents' numbers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fedrl.clocks.events import ARRIVED, NOBODY, Events


class NextArrivals(NamedTuple):
    """Agents that were sent for."""

    agent: np.ndarray


class Immediate:
    """The clock of a simulation without time."""

    timed = False

    def start(self, seed: int) -> NextArrivals:
        """Nobody was sent for."""
        del seed
        return NextArrivals(NOBODY)

    def now_s(self, state: NextArrivals) -> float:
        """It is always now."""
        del state
        return 0.0

    def dispatch(
        self, state: NextArrivals, ids: np.ndarray, since_s: np.ndarray, steps: np.ndarray, down_bytes: np.ndarray
    ) -> tuple[NextArrivals, np.ndarray]:
        """All are there."""
        del since_s, steps, down_bytes
        return NextArrivals(np.union1d(state.agent, ids)), np.ones(len(ids), bool)

    def peek(
        self, state: NextArrivals, until_s: float, wants: int, again: np.ndarray | None, one: bool
    ) -> tuple[NextArrivals, Events]:
        """Everybody arrives."""
        del until_s, again, one
        ids = state.agent[:wants]
        return NextArrivals(state.agent[wants:]), Events(np.full(len(ids), ARRIVED), ids, np.zeros(len(ids)))

    def cancel(self, state: NextArrivals, ids: np.ndarray) -> NextArrivals:
        """They do not arrive."""
        return NextArrivals(np.setdiff1d(state.agent, ids))

    def hanging(self, state: NextArrivals, ids: np.ndarray) -> int:
        """Nobody does."""
        del state, ids
        return 0

    def soon(self, state: NextArrivals) -> np.ndarray:
        """Who will arrive, the first ones first."""
        return state.agent

    def costs(self, state: NextArrivals, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Seconds of work and of messages behind updates that arrived: none is known."""
        del state
        return np.full(len(ids), np.nan), np.zeros(len(ids))
