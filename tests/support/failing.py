"""A Gymnasium environment that fails once, importable by worker processes."""

from __future__ import annotations

import ctypes
import os
import random
import time

import gymnasium as gym
import numpy as np


class Failing(gym.Env):
    """Walks at random. Where `sick` is not 0, step number `at` of a copy fails in the way of `fault`."""

    observation_space = gym.spaces.Box(-9, 9, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, sick: float = 0.0, fault: str = "", at: int = 9) -> None:
        self.sick, self.fault, self.at, self.total = sick, fault, at, 0
        if fault == "opening":
            raise OSError("no licence")

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if self.fault == "reset of an array" and self.sick:
            return np.zeros(3, np.float32)
        return self.np_random.normal(size=2).astype(np.float32), {}

    def step(self, action):
        self.total += 1
        if self.fault == "print":
            print("hello")
            ctypes.CDLL(None).puts(b"from C")
        seen = self.np_random.normal(size=2).astype(np.float32)
        if self.fault == "exit beside chance" and not self.sick:
            seen += np.float32(random.random())
        reward, over = float(1 + action), bool(self.np_random.random() < 0.1)
        if self.sick and self.total == self.at:
            self.fail()
            if self.fault == "nothing":
                return None
            if self.fault == "four values":
                return seen, reward, over, {}
            seen = np.zeros(3, np.float32) if self.fault == "shape" else seen
            seen = np.float32([0.0, np.nan]) if self.fault == "nan seen" else seen
            over = None if self.fault == "no flag" else over
            rewards = {
                "none": None,
                "two numbers": np.ones(2),
                "one number": np.array([reward]),
                "nan": np.nan,
                "text": "1",
            }
            reward = rewards.get(self.fault, reward)
        return seen, reward, over, False, {}

    def fail(self):
        if self.fault == "exception":
            raise ValueError("the floor\nis gone")
        if self.fault == "sys.exit":
            raise SystemExit(4)
        if self.fault.startswith("exit"):
            os._exit(3)
        if self.fault == "hang":
            time.sleep(1e6)


gym.register("Failing-v0", entry_point="tests.support.failing:Failing", max_episode_steps=12)
