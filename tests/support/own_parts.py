"""Components and environments of a user's own, as modules that tests write to a folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SITE = '''
from pathlib import Path

import gymnasium
import numpy as np
from gymnasium import spaces


class Building(gymnasium.Env):
    """A reward of 1 for action 1; the second observation is the capacity, the first the size of the data."""

    def __init__(self, data: str, capacity: float, insulated: bool = False):
        assert type(data) is str and type(insulated) is bool, (data, insulated)
        self.size, self.capacity = len(Path(data).read_text()), capacity
        self.observation_space = spaces.Box(0.0, 100.0, (3,), np.float32)
        self.action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.array([self.size, self.capacity, 0.0], np.float32), {}

    def step(self, action):
        seen = np.array([self.size, self.capacity, self.np_random.uniform()], np.float32)
        return seen, float(action), False, False, {}


def building(data, capacity=1.0, **more):
    return Building(data, capacity, **more)
'''
PARTS = """
import fedrl
import jax
import jax.numpy as jnp
import optax
from fedrl.core.stage import Stage
from fedrl.environments import cartpole
from fedrl.learners import a2c


def linear(scale=0.1):
    def init(key, space, outputs, gain):
        return scale * jnp.ones((outputs, *space.shape))

    return init, lambda weight, observation: weight @ observation


def learner(environment, learning_rate=0.01):
    return a2c(environment, num_envs=2, num_steps=4, optimizer=optax.adam(learning_rate))


def short(max_steps=10):
    return cartpole(max_steps=max_steps)


def broken(environment):
    raise KeyError("sensor")


def text(environment):
    return "no learner"


@fedrl.component("stage")
def halve(factor: float = 0.5) -> Stage:
    def encode(key, context, shared, local, update):
        return update._replace(value=jax.tree.map(lambda x: factor * x, update.value)), local

    return Stage(encode)
"""


@contextmanager
def modules_in(folder: Path, name: str = "") -> Iterator[None]:
    """Write the modules with this ending of their names, and forget them at the end of the block."""
    names = [f"{kind}{name}" for kind in ("mysite", "myparts")]
    for each, text in zip(names, (SITE, PARTS), strict=True):
        (folder / f"{each}.py").write_text(text)
    before = list(sys.path)
    try:
        yield
    finally:
        sys.path[:] = before
        for each in names:
            sys.modules.pop(each, None)
