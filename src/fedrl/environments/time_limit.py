"""Cut episodes off after a number of steps."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedrl.core.checks import check_positive
from fedrl.core.environment import Environment, Noise, Picture, State, Timestep
from fedrl.core.types import PyTree


class Timed(NamedTuple):
    """The state of the environment and the steps taken in this episode."""

    state: State
    steps: jax.Array


def time_limit(environment: Environment) -> Environment:
    """Truncate every episode at `environment.max_steps`. A termination at that very step stays a termination.

    Args:
        environment: Where episodes may go on for longer.

    Raises:
        ConfigError: The limit is below one step.

    >>> from fedrl.environments import cartpole
    >>> env = cartpole(max_steps=1)
    >>> state, _ = env.reset(env.draw_reset(jax.random.key(0), ()), env.params)
    >>> bool(env.step((), state, jnp.int32(0), env.params)[1].truncated)
    True
    """
    check_positive(max_steps=environment.max_steps)

    def reset(noise: Noise, params: PyTree) -> tuple[Timed, Timestep]:
        state, timestep = environment.reset(noise, params)
        return Timed(state, jnp.int32(0)), timestep

    def step(noise: Noise, timed: Timed, action: jax.Array, params: PyTree) -> tuple[Timed, Timestep]:
        state, timestep = environment.step(noise, timed.state, action, params)
        steps = timed.steps + 1
        over = (steps >= environment.max_steps) & ~timestep.terminated
        return Timed(state, steps), timestep._replace(truncated=timestep.truncated | over)

    picture = environment.picture
    timed = None if picture is None else Picture(lambda at, params: picture.frame(at.state, params), picture.pause_ms)
    return replace(environment, reset=reset, step=step, picture=timed)
