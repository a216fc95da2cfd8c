"""Play a world by a single controller, which observes what all players do and chooses an action for each of them.

    controller  --a joint action-->  one action of each player  -->  the world
                <--all observations, side by side, and the mean of all rewards--

A learner of single agents in such an environment is a joint-action learner: its policy is over the product of the
players' actions, so that it can prefer a pair of actions to its neighbours, which independent policies can't.
"""

from __future__ import annotations

import math
from dataclasses import replace

import jax
import jax.numpy as jnp

from fedrl.core.component import component
from fedrl.core.environment import (
    ActionSpace,
    Box,
    Discrete,
    Environment,
    Noise,
    Overview,
    Picture,
    Product,
    Spaces,
    Timestep,
)
from fedrl.core.errors import ConfigError
from fedrl.core.players import alive_after
from fedrl.core.types import PyTree
from fedrl.environments.worlds.tracked import Tracked

MOST_ACTIONS = 2**31 - 1
"""The largest int32, the type of an action."""


@component("environment", reference="Claus & Boutilier (1998), https://aaai.org/papers/106-aaai98-106")
def joint_actions(world: Environment) -> Environment:
    """Turn a world into an environment of a single agent, which acts for all of its players.

    Joint action a of players with m actions each is, in base m, the number whose digits are the players' actions, those
    of the first player first: a = a_1 m^(P-1) + ... + a_P. Actions that are arrays, continuous ones or several choices
    at once, are one after the other. What it observes is what all players observe, likewise, and its reward is the mean
    of theirs, which is the return of a world in all records. Of a dead player it observes zeros, and the rewards after
    a death are 0.

    It assumes a controller that knows every observation and gives every player its action, while training and
    afterwards. The number of joint actions grows as m^P, and a network has an output for each.

    Where players are rewarded differently, a controller maximises their mean: in a zero-sum game there is nothing to
    learn.

    Args:
        world: The world; agents of a fleet may differ in what they may differ in there.

    Raises:
        ConfigError: The environment has no players, or there are more joint actions than an int32 can number.

    >>> from fedrl.environments import climbing, joint_actions
    >>> joint_actions(climbing()).spaces
    Spaces(observation=Box(shape=(2,), low=1.0, high=1.0), action=Discrete(n=9))
    """
    if world.players is None:
        raise ConfigError(
            f"{world!r} has a single agent, which needs no controller. Give joint_actions a world of several players, "
            "such as climbing(), or use the environment itself."
        )
    players, space = world.players, world.spaces.action

    def shown(timestep: Timestep, before: jax.Array | None) -> tuple[Timestep, jax.Array | None]:
        observation, reward, alive = timestep.observation, timestep.reward, timestep.alive
        if alive is not None and before is not None:
            alive = alive_after(world, before, alive)
            observation = jnp.where(alive, observation, jnp.zeros_like(observation))
            reward = jnp.where(before, reward, 0.0)
        seen = _side_by_side(world.spaces.observation, observation)
        return timestep._replace(observation=seen, reward=reward.mean(), alive=None), alive

    def reset(noise: Noise, params: PyTree) -> tuple[Timestep, Tracked]:
        timestep, state = world.reset(noise, params)
        timestep, alive = shown(timestep, timestep.alive)
        return timestep, Tracked(state, alive)

    def step(noise: Noise, params: PyTree, state: Tracked, action: jax.Array) -> tuple[Timestep, Tracked]:
        timestep, after = world.step(noise, params, state.state, _apart(space, players, action))
        timestep, alive = shown(timestep, state.alive)
        return timestep, Tracked(after, alive)

    picture, above = world.picture, world.overview
    framed = None if picture is None else Picture(lambda at, params: picture.frame(at.state, params), picture.pause_ms)
    see = None if above is None else above.see
    whole = above if above is None or see is None else Overview(above.space, lambda params, at: see(params, at.state))
    seen, done = (_product(each, players, world) for each in world.spaces)
    assert not isinstance(seen, Product)
    # The bounds of each entry, and who is present, are those of single players.
    return replace(
        world,
        spaces=Spaces(seen, done),
        reset=reset,
        step=step,
        players=None,
        picture=framed,
        overview=whole,
        attend=None,
        gymnasium_spaces=None,
    )


def _product(space: ActionSpace, players: int, world: Environment) -> ActionSpace:
    """Return the space of one element for each player."""
    if isinstance(space, Box):
        return Box((players * math.prod(space.shape),), space.low, space.high)
    if isinstance(space, Product):
        return Product(space.parts * players)
    if space.n**players > MOST_ACTIONS:
        raise ConfigError(
            f"{world!r} has {players} players with {space.n} choices each, and {space.n}^{players} joint choices are "
            f"more than an int32 can number. Use a learner of the world itself, such as ppo or vdn."
        )
    return Discrete(space.n**players)


def _side_by_side(space: ActionSpace, x: jax.Array) -> jax.Array:
    """Return the elements of all players, `[*features, players]`, as one element of the product of their spaces."""
    if isinstance(space, Box | Product):
        return jnp.moveaxis(x, -1, 0).reshape(-1)
    places = space.n ** jnp.arange(x.shape[-1] - 1, -1, -1, dtype=jnp.int32)
    return (x * places).sum(dtype=jnp.int32)


def _apart(space: ActionSpace, players: int, x: jax.Array) -> jax.Array:
    """Return the element of each player, `[*features, players]`, the inverse of `_side_by_side`."""
    if isinstance(space, Box | Product):
        return jnp.moveaxis(x.reshape(players, *space.shape), 0, -1)
    places = space.n ** jnp.arange(players - 1, -1, -1, dtype=jnp.int32)
    return x // places % space.n
