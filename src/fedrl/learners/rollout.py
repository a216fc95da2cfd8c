"""Stepping many instances of an environment with one policy, and starting the next episode when one ends.

Position --collect--> Position, Trajectory `[time, *features, instances]`, Metrics
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedrl.core.environment import Environment, Noise, State
from fedrl.core.learner import Trajectory
from fedrl.core.types import Key, Metrics, PyTree

RESET, STEP, ACT = 0, 1, 2


class Position(NamedTuple):
    """Where each instance stands: its state, what it sees, and its running episode return and length."""

    state: State
    observation: jax.Array
    returned: jax.Array
    length: jax.Array


class Sampler(NamedTuple):
    """How actions are chosen: noise drawn ahead with `draw(key, batch)`, then `choose(noise, observation)`."""

    draw: Callable[[Key, tuple[int, ...]], Noise]
    choose: Callable[[Noise, jax.Array], jax.Array]


def deal(environment: Environment, env_params: PyTree, instances: int) -> tuple[PyTree, int | None]:
    """The parameters of each instance and their vmap axis: one setting for all, or a stack dealt out in turn."""
    like = jax.tree.leaves(environment.params)
    given = jax.tree.leaves(env_params)
    if all(jnp.ndim(g) == jnp.ndim(d) for g, d in zip(given, like, strict=True)):
        return env_params, None
    return jax.tree.map(lambda leaf: leaf[jnp.arange(instances) % leaf.shape[0]], env_params), 0


def start(key: Key, environment: Environment, env_params: PyTree, instances: int) -> Position:
    """Open an episode in every instance. Those of a host environment stand elsewhere: their position is empty."""
    if environment.host is not None:
        return Position((), jnp.zeros(0), jnp.zeros(instances), jnp.zeros(instances, jnp.int32))
    params, axis = deal(environment, env_params, instances)
    noise = environment.draw_reset(key, (instances,))
    state, timestep = jax.vmap(environment.reset, (-1, axis), -1, axis_size=instances)(noise, params)
    return Position(state, timestep.observation, jnp.zeros(instances), jnp.zeros(instances, jnp.int32))


def collect(
    key: Key, environment: Environment, env_params: PyTree, sampler: Sampler, position: Position, steps: int
) -> tuple[Position, Trajectory, Metrics]:
    """Take `steps` steps in every instance.

    The trajectory holds observations before and after each step, so the last one of an episode is there for
    bootstrapping although the instance has moved on to its next episode.
    """
    instances = position.returned.shape[-1]
    params, axis = deal(environment, env_params, instances)
    reset = jax.vmap(environment.reset, (-1, axis), -1, axis_size=instances)  # there may be no noise
    move = jax.vmap(environment.step, (-1, -1, -1, axis), -1)

    def draw(purpose: int, source: Callable[[Key, tuple[int, ...]], Noise]) -> Noise:
        keys = jax.random.split(jax.random.fold_in(key, purpose), steps)
        return jax.vmap(lambda k: source(k, (instances,)))(keys)

    def step(position: Position, noise: tuple[Noise, Noise, Noise]) -> tuple[Position, tuple[Trajectory, jax.Array]]:
        for_action, for_step, for_reset = noise
        action = sampler.choose(for_action, position.observation)
        state, timestep = move(for_step, position.state, action, params)
        fresh, opening = reset(for_reset, params)
        done = timestep.terminated | timestep.truncated
        returned = position.returned + timestep.reward
        seen = Trajectory(
            position.observation,
            action,
            timestep.reward,
            timestep.terminated,
            timestep.truncated,
            timestep.observation,
        )
        after = Position(
            jax.tree.map(lambda new, old: jnp.where(done, new, old), fresh, state),
            jnp.where(done, opening.observation, timestep.observation),
            jnp.where(done, 0.0, returned),
            jnp.where(done, 0, position.length + 1),
        )
        return after, (seen, jnp.where(done, returned, 0.0))

    noise = (draw(ACT, sampler.draw), draw(STEP, environment.draw_step), draw(RESET, environment.draw_reset))
    position, (trajectory, returns) = jax.lax.scan(step, position, noise, length=steps)
    done = trajectory.terminated | trajectory.truncated
    return position, trajectory, {"episodes": done.sum().astype(jnp.float32), "episode_return": returns.sum()}
