"""Results of agents that trained ahead of time, to fill a block; kept apart until their updates are due."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

from fedrl.core.types import PyTree

AHEAD = 1024
"""Largest number of agents with results ahead of time; independent of devices, because it shapes checkpoints."""


class TrainedAhead(NamedTuple):
    """Results that wait, `[places, ...]`, NumPy arrays that are updated in place.

    Attributes:
        agent: Number of the agent; -1 for a free place.
        states: State of the agent after training, as a row of words.
        results: Its update, upload sizes and metrics.
    """

    agent: np.ndarray
    states: np.ndarray
    results: PyTree

    def free(self) -> np.ndarray:
        """Return the free places."""
        return np.flatnonzero(self.agent < 0)

    def take(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, PyTree]:
        """Return those of these agents that have results, with states and results, and free their places."""
        places = np.flatnonzero(np.isin(self.agent, ids))
        found = jax.tree.map(lambda x: x[places].copy(), (self.agent, self.states, self.results))
        self.agent[places] = -1
        agents, states, results = found
        return agents, states, results

    def keep(self, ids: np.ndarray, states: np.ndarray, results: PyTree) -> None:
        """Store the states and results of these agents."""
        places = self.free()[: len(ids)]
        self.agent[places], self.states[places] = ids, states
        for own, new in zip(jax.tree.leaves(self.results), jax.tree.leaves(results), strict=True):
            own[places] = new


def places_for(agents: int, num_words: int, result: PyTree) -> TrainedAhead:
    """Return free places for results; `result` has the shapes of one agent's result."""
    count = min(agents, AHEAD)
    room = jax.tree.map(lambda x: np.zeros((count, *x.shape), x.dtype), result)
    return TrainedAhead(np.full(count, -1, np.int32), np.zeros((count, num_words), np.uint32), room)
