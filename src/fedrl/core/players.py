"""Lay the players of a world beside the copies of its environment, so that a learner sees a plain batch.

    arrays of a world  [*features, players, num_envs]  --rows--> [*features, players * num_envs] --> policy, learner
                                                       <-dealt-- their actions

Rows are player-major: those of the first player in all copies come first. So the last axis of `x.reshape(-1, num_envs)`
is the copies', whatever comes before it. An environment without players has a row per copy, and nothing is reshaped.

A dead player's observation and reward are replaced by zeros here, before anything is computed from them: a NaN in them
would otherwise pass through a mask in a loss, since 0 * NaN is NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedrl.core.environment import AnyEnvironment, Environment, Noise, State, Timestep, common_of
from fedrl.core.errors import ConfigError
from fedrl.core.learner import Trajectory
from fedrl.core.types import PyTree


class EnvironmentCopies(NamedTuple):
    """The copies of an environment, stepped side by side; every array of theirs has the copies on the last axis.

    Attributes:
        reset: `(noise, params) -> (timestep, state)`.
        step: `(noise, params, state, alive, action) -> (timestep, state)`, from the actions of all rows. `alive` is
            that of the timestep before.
        transition: `(before, action, timestep) -> Trajectory`, a transition of each row, from the observation and
            `alive` before it.
        overview: `(params, state) -> [features, num_envs]`; None if the environment has none.
    """

    reset: Callable[[Noise, PyTree], tuple[Timestep, State]]
    step: Callable[[Noise, PyTree, State, jax.Array | None, jax.Array], tuple[Timestep, State]]
    transition: Callable[[Seen, jax.Array, Timestep], Trajectory]
    overview: Callable[[PyTree, State], jax.Array] | None


class Seen(NamedTuple):
    """What the copies show before a step: `[*features, num_envs]`, or `[*features, players, num_envs]` with `alive`.

    Attributes:
        observation: The observations.
        alive: `[players, num_envs]`, which players are alive; None if no player dies.
    """

    observation: jax.Array
    alive: jax.Array | None = None


def copies_of(environment: Environment, axis: int | None, num_envs: int) -> EnvironmentCopies:
    """Return how `num_envs` copies of an environment are stepped, with parameters on the vmap axis `axis`."""
    players = environment.players
    reset = jax.vmap(environment.reset, (-1, axis), -1, axis_size=num_envs)  # there may be no noise
    move = jax.vmap(environment.step, (-1, axis, -1, -1), -1)

    def step(
        noise: Noise, params: PyTree, state: State, alive: jax.Array | None, action: jax.Array
    ) -> tuple[Timestep, State]:
        timestep, after = move(noise, params, state, dealt(action, players))
        if alive is None:
            return timestep, after
        assert timestep.alive is not None
        # The step in which a player dies still has its reward.
        living = alive_after(environment, alive, timestep.alive)
        observation = jnp.where(living, timestep.observation, jnp.zeros_like(timestep.observation))
        reward = jnp.where(alive, timestep.reward, 0.0)
        return timestep._replace(observation=observation, reward=reward, alive=living), after

    def transition(before: Seen, action: jax.Array, timestep: Timestep) -> Trajectory:
        over = everyone(timestep.terminated, players)
        cut, alive = everyone(timestep.truncated, players), None
        if before.alive is not None:
            assert timestep.alive is not None
            alive = rows(before.alive, players)
            # A death is a termination: nothing is earned after it, however the others go on.
            over |= alive & ~rows(timestep.alive, players)
            cut &= ~over
        observation, reached = rows(before.observation, players), rows(timestep.observation, players)
        return Trajectory(observation, action, rows(timestep.reward, players), over, cut, reached, alive)

    above = None if environment.overview is None else environment.overview.see
    overview = None if above is None else jax.vmap(above, (axis, -1), -1, axis_size=num_envs)
    return EnvironmentCopies(reset, step, transition, overview)


def alive_after(environment: Environment, before: jax.Array, now: jax.Array) -> jax.Array:
    """Return who is alive after a step: the dead live again only where players are places for others who come."""
    return now if environment.revives else now & before


def check_lives_once(environment: AnyEnvironment, what: str) -> None:
    """Refuse what counts a player until its death, in a world whose places live again.

    Args:
        environment: The environment.
        what: What counts so, such as "reinforce".

    Raises:
        ConfigError: Players of the environment are places for others who come.
    """
    world = common.world if (common := common_of(environment)) is not None else environment
    if isinstance(world, Environment) and world.revives:
        raise ConfigError(
            f"{environment!r} has places which one player after another takes, and {what} plays whole episodes, in "
            "which a player counts until its first death: all who come later would be left out. Use ppo, a2c or mappo "
            "without trajectory_clip."
        )


def players_of(environment: AnyEnvironment) -> int | None:
    """Return the number of players; None for an environment with a single agent."""
    return environment.players


def may_die(environment: AnyEnvironment) -> bool:
    """Return whether a trajectory may say who is alive: in a world, also in one whose players are the agents."""
    return environment.players is not None or common_of(environment) is not None


def rows_of(environment: AnyEnvironment, num_envs: int) -> int:
    """Return the number of rows of so many copies."""
    return num_envs * (players_of(environment) or 1)


def rows(x: jax.Array, players: int | None) -> jax.Array:
    """Reshape `[*features, players, num_envs]` to `[*features, players * num_envs]`.

    >>> rows(jnp.arange(6).reshape(2, 3), 2).tolist()
    [0, 1, 2, 3, 4, 5]
    """
    return x if players is None else x.reshape(*x.shape[:-2], -1)


def dealt(x: jax.Array, players: int | None) -> jax.Array:
    """Reshape `[*features, players * num_envs]` to `[*features, players, num_envs]`, the inverse of `rows`."""
    return x if players is None else x.reshape(*x.shape[:-1], players, -1)


def everyone(x: jax.Array, players: int | None) -> jax.Array:
    """Repeat what concerns a copy, `[num_envs]`, for each of its players, `[players * num_envs]`.

    >>> everyone(jnp.array([1, 2]), 3).tolist()
    [1, 2, 1, 2, 1, 2]
    """
    return x if players is None else jnp.tile(x, players)


def mean_over_players(reward: jax.Array, players: int | None) -> jax.Array:
    """Return the mean over players of their rewards, `[players, num_envs]`: `[num_envs]`."""
    return reward if players is None else reward.mean(-2)


def check_players(environment: AnyEnvironment, network_players: int | None) -> None:
    """Refuse a network with parameters of each player in an environment with other players.

    Raises:
        ConfigError: The numbers differ, or the players are the agents.
    """
    players = players_of(environment)
    if network_players is not None and common_of(environment) is not None:
        raise ConfigError(
            f"network has parameters for {network_players} players, and in {environment!r} each agent is one player, "
            "with parameters of its own anyway. Give it the network of one player, such as mlp()."
        )
    if network_players not in (None, players):
        found = "a single agent" if players is None else f"{players} players"
        raise ConfigError(
            f"network has parameters for {network_players} players and {environment!r} has {found}: each acts by "
            "parameters of its own, so the numbers have to be equal. Change one of them."
        )
