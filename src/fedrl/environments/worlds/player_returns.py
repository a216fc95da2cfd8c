"""Measure the return of each player, where players are rewarded differently."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedrl.core.environment import Environment, Noise, Overview, Picture, State, Timestep
from fedrl.core.measures import Measure
from fedrl.core.types import PyTree


class Rewarded(NamedTuple):
    """The state of the world, the players that are alive, and those that are present; None for all of them."""

    state: State
    alive: jax.Array | None
    present: jax.Array | None = None


def player_returns(world: Environment) -> Environment:
    """Add the measures `player_1_return`, `player_2_return`, ... to a world: what each player earns in an episode.

    The return in records is their mean over players, which is 0 in every game that is won from each other.

    Args:
        world: A world without them.

    >>> from fedrl.environments import matching_pennies
    >>> sorted(matching_pennies().measures)
    ['player_1_return', 'player_2_return']
    """
    assert world.players is not None
    names = [f"player_{number}_return" for number in range(1, world.players + 1)]

    def earned(timestep: Timestep, *earning: jax.Array | None) -> Timestep:
        reward = timestep.reward
        for who in earning:
            reward = reward if who is None else jnp.where(who, reward, 0.0)
        return timestep._replace(measures={**timestep.measures, **dict(zip(names, reward, strict=True))})

    def reset(noise: Noise, params: PyTree) -> tuple[Timestep, Rewarded]:
        timestep, state = world.reset(noise, params)
        return timestep, Rewarded(state, timestep.alive)

    def step(noise: Noise, params: PyTree, state: Rewarded, action: jax.Array) -> tuple[Timestep, Rewarded]:
        before = state.alive
        timestep, after = world.step(noise, params, state.state, action)
        living = None if before is None or timestep.alive is None else before & timestep.alive
        return earned(timestep, before, state.present), Rewarded(after, living, state.present)

    def attend(params: PyTree, state: Rewarded, present: jax.Array) -> tuple[jax.Array, Rewarded]:
        assert world.attend is not None
        observation, inner = world.attend(params, state.state, present)
        return observation, Rewarded(inner, state.alive, present)

    picture, above = world.picture, world.overview
    framed = None if picture is None else Picture(lambda at, params: picture.frame(at.state, params), picture.pause_ms)
    whole = None if above is None else Overview(above.space, lambda params, at: above.see(params, at.state))
    declared = {**world.measures, **dict.fromkeys(names, Measure("episode", better="higher"))}
    attending = None if world.attend is None else attend
    return replace(world, reset=reset, step=step, measures=declared, picture=framed, overview=whole, attend=attending)
