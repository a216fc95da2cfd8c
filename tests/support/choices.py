"""Environments of Gymnasium whose actions are several choices at once, or whose observations are planes."""

from collections import OrderedDict
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

SPACES: dict[str, spaces.Space] = {
    "multi_discrete": spaces.MultiDiscrete([3, 2], start=[1, -1]),
    "matrix": spaces.MultiDiscrete([[3, 2], [2, 2]]),
    "multi_binary": spaces.MultiBinary(3),
    "tuple": spaces.Tuple([spaces.Discrete(3, start=5), spaces.Box(-1.0, 2.0, (2,))]),
    "dict": spaces.Dict(
        OrderedDict(
            steer=spaces.Box(-1.0, 1.0, (1,)),
            lane=spaces.Discrete(3, start=-1),
            inner=spaces.Tuple([spaces.MultiBinary([1, 2]), spaces.MultiDiscrete([4])]),
        )
    ),
}


class Choosing(gym.Env):
    """Observes the first entries of the last action, and refuses an action that is not in its space.

    A step earns how near the sum of the action's entries is to the one asked for.
    """

    def __init__(self, kind: str = "dict") -> None:
        self.action_space = SPACES[kind]
        self.observation_space = spaces.Box(-10.0, 10.0, (8,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.asked = float(self.np_random.integers(2))
        return self._seen(np.zeros(7)), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        entries = np.asarray(flat(action), np.float64)
        seen = np.zeros(7)
        seen[: len(entries)] = entries
        return self._seen(seen), -abs(float(entries.sum()) - self.asked), False, False, {}

    def _seen(self, entries: np.ndarray) -> np.ndarray:
        return np.concatenate([entries, [self.asked]]).astype(np.float32)


class Planes(gym.Env):
    """Observes noise on two planes, and takes one of three actions."""

    observation_space, action_space = spaces.Box(-4.0, 4.0, (7, 9, 2)), spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return self._seen(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return self._seen(), float(action == 1), False, False, {}

    def _seen(self) -> np.ndarray:
        return self.np_random.normal(size=(7, 9, 2)).clip(-4.0, 4.0).astype(np.float32)


def flat(action: Any) -> list[float]:
    """The entries of an action, however deep, in the order of its space."""
    if isinstance(action, dict):
        return [x for part in action.values() for x in flat(part)]
    if isinstance(action, tuple):
        return [x for part in action for x in flat(part)]
    return np.asarray(action, np.float64).reshape(-1).tolist()
