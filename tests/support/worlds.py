"""A world for tests whose players die one after the other, and which says what the dead observe and earn."""

from typing import NamedTuple

import jax.numpy as jnp

from fedrl.core.environment import (
    Box,
    Discrete,
    Environment,
    Overview,
    Spaces,
    Timestep,
    draw_nothing,
    draw_uniform,
)
from fedrl.environments import player_returns

PLAYERS, LENGTH = 3, 5


class MortalParams(NamedTuple):
    bonus: object
    filler: object


class MortalState(NamedTuple):
    time: object


def mortal(filler: float = 0.0, table: bool = False, players: int = PLAYERS) -> Environment:
    """Build a world of `LENGTH` steps: player p > 0 dies in step p, counted from 1, and player 0 lives on.

    Everybody is rewarded `bonus` (1) for action 1, and the step's number is added, which starts from 0.

    Args:
        filler: What the dead observe and earn.
        table: Whether observations are numbers of cells; the dead then observe the last one.
        players: The number of players.
    """
    number = jnp.arange(players)

    def living(time):
        return (number == 0) | (time < number)

    def seen(params, time):
        if table:
            return jnp.where(living(time), number * LENGTH + time, players * LENGTH).astype(jnp.int32)
        shown = jnp.stack([number.astype(jnp.float32), jnp.full(players, time, jnp.float32)]) / LENGTH
        return jnp.where(living(time), shown, params.filler)

    def reset(noise, params):
        del noise
        state = MortalState(jnp.int32(0))
        ends = jnp.bool_(False), jnp.bool_(False)
        return Timestep(seen(params, state.time), jnp.zeros(players), *ends, alive=living(state.time)), state

    def step(noise, params, state, action):
        del noise
        before, after = state.time, state.time + 1
        earned = params.bonus * (action == 1) + before
        reward = jnp.where(living(before), earned, params.filler).astype(jnp.float32)
        over = after >= LENGTH
        return Timestep(seen(params, after), reward, over, jnp.bool_(False), alive=living(after)), MortalState(after)

    space = Discrete(players * LENGTH + 1) if table else Box((2,))
    return player_returns(
        Environment(
            MortalParams(jnp.float32(1.0), jnp.float32(filler)),
            Spaces(space, Discrete(2)),
            draw_uniform(1),
            draw_nothing,
            reset,
            step,
            LENGTH,
            players=players,
            overview=Overview(Box((1,)), lambda params, state: state.time.astype(jnp.float32)[None]),
        )
    )
