"""Where the instances of an environment stand between two rollouts, and how one that is broken begins anew.

A learner keeps a `Position` in its state. Whoever undoes a round knows it by its type: time does not go back in an
environment, so a position is never undone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedrl.core.environment import AnyEnvironment, HostEnvironment, State
from fedrl.core.measures import counting
from fedrl.core.types import Key, PyTree


class Position(NamedTuple):
    """Where each instance stands: its state, what it sees, and its running episode return and length.

    `measured` are the running sums of what its environment measures per episode, by name.
    """

    state: State
    observation: jax.Array
    returned: jax.Array
    length: jax.Array
    measured: Mapping[str, jax.Array] = {}


def deal(environment: AnyEnvironment, env_params: PyTree, num_envs: int) -> tuple[PyTree, int | None]:
    """The parameters of each instance and their vmap axis: one setting for all, or a stack dealt out in turn."""
    like = jax.tree.leaves(environment.params)
    given = jax.tree.leaves(env_params)
    if all(jnp.ndim(g) == jnp.ndim(d) for g, d in zip(given, like, strict=True)):
        return env_params, None
    return jax.tree.map(lambda leaf: leaf[jnp.arange(num_envs) % leaf.shape[0]], env_params), 0


def start(key: Key, environment: AnyEnvironment, env_params: PyTree, num_envs: int) -> Position:
    """Open an episode in every instance. Those of a host environment stand elsewhere: their position is empty."""
    if isinstance(environment, HostEnvironment):
        return Position((), jnp.zeros(0), jnp.zeros(num_envs), jnp.zeros(num_envs, jnp.int32))
    params, axis = deal(environment, env_params, num_envs)
    noise = environment.draw_reset(key, (num_envs,))
    timestep, state = jax.vmap(environment.reset, (-1, axis), -1, axis_size=num_envs)(noise, params)
    measured = {name: jnp.zeros(num_envs) for name in counting(environment.measures).summed}
    return Position(state, timestep.observation, jnp.zeros(num_envs), jnp.zeros(num_envs, jnp.int32), measured)


def mended(key: Key, environment: AnyEnvironment, env_params: PyTree, position: Position) -> Position:
    """The position, with a new episode in every instance of which a number is not finite.

    Host environments stand elsewhere, and whoever steps them begins their episodes.
    """
    if isinstance(environment, HostEnvironment):
        return position
    num_envs = position.returned.shape[-1]
    sound = jnp.ones(num_envs, bool)
    for leaf in jax.tree.leaves(position):
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            sound &= jnp.isfinite(leaf).reshape(-1, num_envs).all(0)
    fresh = start(key, environment, env_params, num_envs)
    return jax.tree.map(lambda here, anew: jnp.where(sound, here, anew), position, fresh)
