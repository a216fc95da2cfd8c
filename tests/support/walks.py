"""Small Gymnasium environments for these tests, importable by worker processes."""

from __future__ import annotations

import gymnasium as gym
import numpy as np


class Walk(gym.Env):
    """Walk by `gain` to the right or half of it to the left; past 3 it is over, and cut off at the same time."""

    def __init__(self, gain: float = 1.0) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = gym.spaces.Discrete(2, start=5)
        self.gain, self.x, self.slope = gain, 0.0, 1.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = 0.0
        return np.float32([self.x, 1.0]), {}

    def step(self, action):
        self.x += self.gain * self.slope * (1.0 if action == 6 else -0.5)
        over = abs(self.x) > 3.0
        return np.float32([self.x, 1.0]), self.x, over, over, {}


class Noisy(Walk):
    """Draws from its own generator at every reset and step."""

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = float(self.np_random.normal())
        return np.float32([self.x, 1.0]), {}

    def step(self, action):
        self.x += float(self.np_random.normal())
        return super().step(action)


class Broken(Walk):
    """Falls over at the second step."""

    def step(self, action):
        if self.x:
            raise ValueError("the floor is gone")
        return super().step(action)


class Tuples(Walk):
    """Sees a pair of integers."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = gym.spaces.Tuple((gym.spaces.Discrete(2), gym.spaces.Discrete(3)))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return (1, 2), {}


class Pairs(Walk):
    """Takes as many actions at once as the agent likes."""

    def __init__(self) -> None:
        super().__init__()
        self.action_space = gym.spaces.Sequence(gym.spaces.Discrete(2))


class Far(Walk):
    """Sees and does nothing but report the action it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.action_space = gym.spaces.Box(np.float32([-1.0, -4.0]), np.float32([1.0, 2.0]))

    def step(self, action):
        assert action.dtype == np.float32
        return action, 0.0, False, False, {}


class Telling(Walk):
    """Says in every step how far it went, and with the last one whether it stands to the right."""

    def reset(self, *, seed=None, options=None):
        self.left = 7
        return super().reset(seed=seed)

    def step(self, action):
        before, self.left = self.x, self.left - 1
        observation, reward, over, cut, _ = super().step(action)
        info = {"moved": abs(self.x - before), "name": "walk"}
        return observation, reward, over, cut, info | ({"right": np.bool_(self.x > 0)} if over or not self.left else {})


class Words(gym.Space):
    """A space of texts of its own, as MiniGrid's missions have: no Text, and nothing that Gymnasium can flatten."""

    def __init__(self) -> None:
        super().__init__(dtype=str)

    def sample(self, mask=None, probability=None):
        return "go"

    def contains(self, x):
        return isinstance(x, str)


class Mission(Walk):
    """Sees its place, and is told in words what to do."""

    def __init__(self) -> None:
        super().__init__()
        inner = gym.spaces.Dict({"hint": gym.spaces.Text(9), "signs": gym.spaces.MultiBinary(3)})
        self.observation_space = gym.spaces.Dict({"place": self.observation_space, "mission": Words(), "told": inner})

    def reset(self, *, seed=None, options=None):
        return self._seen(super().reset(seed=seed)[0]), {}

    def step(self, action):
        place, *rest = super().step(action)
        return self._seen(place), *rest

    def _seen(self, place):
        return {"place": place, "mission": "go right", "told": {"hint": "now", "signs": np.int8([1, 0, 1])}}


class Talk(Walk):
    """Sees nothing but words."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = gym.spaces.Dict({"mission": Words()})


for walk, limit in (
    (Walk, 7),
    (Noisy, 9),
    (Broken, 7),
    (Tuples, 7),
    (Pairs, 7),
    (Far, 7),
    (Telling, 7),
    (Mission, 7),
    (Talk, 7),
):
    gym.register(f"{walk.__name__}-v0", entry_point=f"tests.support.walks:{walk.__name__}", max_episode_steps=limit)
gym.register("Endless-v0", entry_point="tests.support.walks:Walk")
