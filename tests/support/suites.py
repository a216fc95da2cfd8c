"""Environments with composite spaces of actions and observations, for the page of environments that were tried."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

LIMIT = 20


class Acts(gym.Env):
    """Observes its time, and earns what `worth` makes of an action."""

    def __init__(self, action: gym.Space, observation: gym.Space | None = None) -> None:
        self.action_space = action
        self.observation_space = observation or gym.spaces.Box(0.0, LIMIT, (1,), np.float32)
        self.time = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), action
        self.time += 1
        return self._seen(), float(np.sum(gym.spaces.flatten(self.action_space, action))), False, False, {}

    def _seen(self) -> Any:
        if isinstance(self.observation_space, gym.spaces.Sequence):
            return (1,) * self.time
        return np.float32([self.time])


SPACES = {
    "MultiDiscrete": (gym.spaces.MultiDiscrete([3, 4]),),
    "MultiBinary": (gym.spaces.MultiBinary(3),),
    "DictActions": (gym.spaces.Dict({"turn": gym.spaces.Discrete(3), "push": gym.spaces.Box(-1.0, 1.0, (2,))}),),
    "TupleActions": (gym.spaces.Tuple((gym.spaces.Discrete(2), gym.spaces.Discrete(5))),),
    "Sequence": (gym.spaces.Discrete(2), gym.spaces.Sequence(gym.spaces.Discrete(2))),
}


def acts(name: str) -> Acts:
    """Make one of these environments."""
    return Acts(*SPACES[name])


for each in SPACES:
    gym.register(f"{each}-v0", entry_point="tests.support.suites:acts", kwargs={"name": each}, max_episode_steps=LIMIT)
