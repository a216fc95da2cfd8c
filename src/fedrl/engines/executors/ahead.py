"""What agents come to who learn before it is due, to fill a block: kept apart until their updates arrive."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

from fedrl.core.types import PyTree

AHEAD = 1024
"""The most agents that may have learned ahead of time, whatever the blocks and devices: it shapes checkpoints."""


class TrainedAhead(NamedTuple):
    """Results that wait, `[places, ...]`, NumPy arrays that are brought up to date in place.

    Attributes:
        agent: Whose; -1 for a free place.
        states: What each comes to, as rows of words.
        results: What comes of its work besides.
    """

    agent: np.ndarray
    states: np.ndarray
    results: PyTree

    def free(self) -> np.ndarray:
        """Places that are nobody's."""
        return np.flatnonzero(self.agent < 0)

    def take(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, PyTree]:
        """Those of these agents who have learned, their states and results; their places are free again."""
        places = np.flatnonzero(np.isin(self.agent, ids))
        found = jax.tree.map(lambda x: x[places].copy(), (self.agent, self.states, self.results))
        self.agent[places] = -1
        agents, states, results = found
        return agents, states, results

    def keep(self, ids: np.ndarray, states: np.ndarray, results: PyTree) -> None:
        """What these agents have come to."""
        places = self.free()[: len(ids)]
        self.agent[places], self.states[places] = ids, states
        for own, new in zip(jax.tree.leaves(self.results), jax.tree.leaves(results), strict=True):
            own[places] = new


def places_for(agents: int, num_words: int, result: PyTree) -> TrainedAhead:
    """Free places; `result` has the shapes of what comes of one agent's work."""
    count = min(agents, AHEAD)
    room = jax.tree.map(lambda x: np.zeros((count, *x.shape), x.dtype), result)
    return TrainedAhead(np.full(count, -1, np.int32), np.zeros((count, num_words), np.uint32), room)
