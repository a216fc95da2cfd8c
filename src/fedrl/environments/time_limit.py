"""Truncation of episodes after a number of steps."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedrl.core.checks import check_positive
from fedrl.core.environment import Environment, Noise, Overview, Picture, State, Timestep
from fedrl.core.types import PyTree


class Timed(NamedTuple):
    """The state of the environment and the steps taken in this episode."""

    state: State
    steps: jax.Array


def time_limit(environment: Environment) -> Environment:
    """Truncate every episode at `environment.max_steps`; a termination in that very step stays a termination.

    Args:
        environment: Environment without a time limit.

    Raises:
        ConfigError: `max_steps` is below one.

    >>> from fedrl.environments import cartpole
    >>> env = cartpole(max_steps=1)
    >>> _, state = env.reset(env.draw_reset(jax.random.key(0), ()), env.params)
    >>> bool(env.step((), env.params, state, jnp.int32(0))[0].truncated)
    True
    """
    check_positive(max_steps=environment.max_steps)

    def reset(noise: Noise, params: PyTree) -> tuple[Timestep, Timed]:
        timestep, state = environment.reset(noise, params)
        return timestep, Timed(state, jnp.int32(0))

    def step(noise: Noise, params: PyTree, timed: Timed, action: jax.Array) -> tuple[Timestep, Timed]:
        timestep, state = environment.step(noise, params, timed.state, action)
        steps = timed.steps + 1
        # Not truncated if terminated: learners bootstrap from a truncated step, and a terminal state has value 0.
        over = (steps >= environment.max_steps) & ~timestep.terminated
        return timestep._replace(truncated=timestep.truncated | over), Timed(state, steps)

    picture, above = environment.picture, environment.overview
    timed = None if picture is None else Picture(lambda at, params: picture.frame(at.state, params), picture.pause_ms)
    see = None if above is None else above.see
    whole = above if above is None or see is None else Overview(above.space, lambda params, at: see(params, at.state))

    def attend(params: PyTree, state: Timed, present: jax.Array) -> tuple[jax.Array, Timed]:
        assert environment.attend is not None
        observation, inner = environment.attend(params, state.state, present)
        return observation, Timed(inner, state.steps)

    attending = None if environment.attend is None else attend
    return replace(environment, reset=reset, step=step, picture=timed, overview=whole, attend=attending)
