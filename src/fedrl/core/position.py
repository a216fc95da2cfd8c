"""Store the states of environment copies between two rollouts, and restart those with numbers that are not finite.

A learner stores a `Position` in its state. `fedrl.core.faults` recognises it by its type: when a round is undone, the
environments keep their states, since time does not go back in them.
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
    """The state of each environment copy between two rollouts; every leaf has the environment copies on the last axis.

    Attributes:
        state: The states.
        observation: The current observations; in a world, of all players: `[*features, players, num_envs]`.
        returned: Float32 `[num_envs]`; the returns of the running episodes so far, in a world the mean over players.
        length: Int32 `[num_envs]`; the lengths of the running episodes in steps.
        measured: The running sums of measures per episode, keyed by name.
        alive: Bool `[players, num_envs]`; the players of a world that are alive. None if no player ever dies.
    """

    state: State
    observation: jax.Array
    returned: jax.Array
    length: jax.Array
    measured: Mapping[str, jax.Array] = {}
    alive: jax.Array | None = None


def deal(environment: AnyEnvironment, env_params: PyTree, num_envs: int) -> tuple[PyTree, int | None]:
    """Return the parameters of the environment copies and their vmap axis: one setting, or a stack assigned in turn."""
    like = jax.tree.leaves(environment.params)
    given = jax.tree.leaves(env_params)
    if all(jnp.ndim(g) == jnp.ndim(d) for g, d in zip(given, like, strict=True)):
        return env_params, None
    return jax.tree.map(lambda leaf: leaf[jnp.arange(num_envs) % leaf.shape[0]], env_params), 0


def start(key: Key, environment: AnyEnvironment, env_params: PyTree, num_envs: int) -> Position:
    """Begin an episode in every environment copy. The position of a host environment is empty: the host stores it."""
    if isinstance(environment, HostEnvironment):
        return Position((), jnp.zeros(0), jnp.zeros(num_envs), jnp.zeros(num_envs, jnp.int32))
    params, axis = deal(environment, env_params, num_envs)
    # Environment copies are on the last axis everywhere, so they are mapped over axis -1.
    noise = environment.draw_reset(key, (num_envs,))
    timestep, state = jax.vmap(environment.reset, (-1, axis), -1, axis_size=num_envs)(noise, params)
    measured = {name: jnp.zeros(num_envs) for name in counting(environment.measures).summed}
    lengths = jnp.zeros(num_envs, jnp.int32)
    return Position(state, timestep.observation, jnp.zeros(num_envs), lengths, measured, timestep.alive)


def mended(key: Key, environment: AnyEnvironment, env_params: PyTree, position: Position) -> Position:
    """Return the position with a new episode in every environment copy that has a number that is not finite.

    The position of a host environment is unchanged: the host executor restarts its episodes.
    """
    if isinstance(environment, HostEnvironment):
        return position
    num_envs = position.returned.shape[-1]
    sound = jnp.ones(num_envs, bool)
    # A copy is restarted as a whole, running return and length included: what came before was not finite.
    for leaf in jax.tree.leaves(position):
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            sound &= jnp.isfinite(leaf).reshape(-1, num_envs).all(0)
    fresh = start(key, environment, env_params, num_envs)
    return jax.tree.map(lambda here, anew: jnp.where(sound, here, anew), position, fresh)
