"""Level-based foraging: food that is too heavy for one player has to be lifted by several at once."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core.component import component
from fedrl.core.environment import (
    Box,
    Discrete,
    Environment,
    Overview,
    Picture,
    Spaces,
    Timestep,
    draw_nothing,
    draw_uniform,
    first,
)
from fedrl.core.measures import Measure
from fedrl.core.ranges import ZERO_OR_MORE, Count
from fedrl.environments.time_limit import time_limit
from fedrl.environments.worlds.grids import MOVES, apart, check_room, distinct_cells, drawn, inside, moved
from fedrl.environments.worlds.player_returns import player_returns

LOAD = len(MOVES)
"""The action that lifts food next to the player."""
MOST = 2
"""The highest level of a player."""


class ForagingParams(NamedTuple):
    """Cost of every step, and of lifting where nothing is lifted, to the player."""

    step_cost: jax.Array | float = 0.0
    failed_cost: jax.Array | float = 0.0


class ForagingState(NamedTuple):
    """Cells as (x, y) and levels: `[2, players]`, `[players]`, `[2, foods]`, `[foods]`, 0 of food that was eaten.

    `total` is the sum of the levels of all food at the beginning.
    """

    cells: jax.Array
    levels: jax.Array
    foods: jax.Array
    weights: jax.Array
    total: jax.Array


@component("environment", reference="Albrecht & Ramamoorthy (2013), https://arxiv.org/abs/1506.01170")
def foraging(players: Count = 2, foods: Count = 2, size: Count = 6, max_steps: Count = 50) -> Environment:
    """Build level-based foraging: players move on a grid and lift food with those that stand beside it.

    Every player has the level 1 or 2, every food a level from 1 to the sum of the players'. A food is eaten if players
    one move away lift it together in one step, whose levels add up to at least that of the food. Each of them gets

        own level / (levels of those who lifted it) * level of the food / (levels of all food at the beginning),

    so that the rewards of all players together are 1 when everything is eaten. The return in records is the mean over
    players: at most 1 / `players`. The episode then ends.

    Actions: 0 stay, 1 right, 2 left, 3 up, 4 down, 5 lift. A move off the grid, into a cell with food or a player, or
    into one that another player moves to, does not move. A player observes its own cell and level, and cells relative
    to itself and levels of the others and of food, within [-1, 1]; food that was eaten is all zeros.

    The measure `eaten` is the eaten share of food, by level; `player_1_return`, ... are what each player gets.

    Args:
        players: Number of players.
        foods: Pieces of food.
        size: Cells in a row and in a column.
        max_steps: Time limit of an episode.

    Raises:
        ConfigError: There are fewer cells than players and food.

    >>> foraging(players=2, foods=3).spaces
    Spaces(observation=Box(shape=(15,), low=-1.0, high=1.0), action=Discrete(n=6))
    """
    check_room(players + foods, size)
    far, heaviest = max(size - 1, 1), float(MOST * players)
    others = jnp.asarray([[j for j in range(players) if j != i] for i in range(players)], jnp.int32).T
    others = others.reshape(players - 1, players)

    def seen(state: ForagingState) -> jax.Array:
        own = jnp.concatenate([2.0 * state.cells / far - 1.0, state.levels[None] / MOST])
        near = (state.cells[:, others] - state.cells[:, None, :]) / far
        there = (state.foods[:, :, None] - state.cells[:, None, :]) / far * (state.weights > 0)[:, None]
        heavy = jnp.broadcast_to(state.weights[:, None] / heaviest, (foods, players))
        parts = (own, near.reshape(-1, players), state.levels[others] / MOST, there.reshape(-1, players), heavy)
        return jnp.concatenate(parts).astype(jnp.float32)

    def above(params: ForagingParams, state: ForagingState) -> jax.Array:
        del params
        cells = jnp.concatenate([state.cells.ravel(), state.foods.ravel()])
        parts = (2.0 * cells / far - 1.0, state.levels / MOST, state.weights / heaviest)
        return jnp.concatenate(parts).astype(jnp.float32)

    def reset(noise: jax.Array, params: ForagingParams) -> tuple[Timestep, ForagingState]:
        del params
        cells = distinct_cells(noise[: players + foods], size)
        levels = 1 + (noise[players + foods : 2 * players + foods] * MOST).astype(jnp.int32)
        weights = 1 + (noise[2 * players + foods :] * levels.sum()).astype(jnp.int32)
        state = ForagingState(cells[:, :players], levels, cells[:, players:], weights, weights.sum())
        return first(seen(state), players), state

    def step(
        noise: tuple[()], params: ForagingParams, state: ForagingState, action: jax.Array
    ) -> tuple[Timestep, ForagingState]:
        del noise
        reward, eaten = lifted(state, action == LOAD, params)
        weights = jnp.where(eaten, 0, state.weights)
        share = jnp.where(eaten, state.weights, 0).sum() / state.total
        after = state._replace(cells=_walked(state, action, size), weights=weights)
        over = (weights == 0).all()
        return Timestep(seen(after), reward, over, jnp.bool_(False), {"eaten": share.astype(jnp.float32)}), after

    defaults = ForagingParams(*(jnp.float32(value) for value in ForagingParams()))
    shape, whole = (3 * players + 3 * foods,), (3 * (players + foods),)
    return time_limit(
        player_returns(
            Environment(
                defaults,
                Spaces(Box(shape, -1.0, 1.0), Discrete(LOAD + 1)),
                draw_uniform(2 * (players + foods)),
                draw_nothing,
                reset,
                step,
                max_steps,
                picture=Picture(
                    lambda state, params: drawn(size, state.cells, state.foods[:, np.asarray(state.weights) > 0]), 200
                ),
                measures={"eaten": Measure("episode", better="higher")},
                bounds={"step_cost": ZERO_OR_MORE, "failed_cost": ZERO_OR_MORE},
                players=players,
                overview=Overview(Box(whole, -1.0, 1.0), above),
            )
        )
    )


def lifted(state: ForagingState, lifting: jax.Array, params: ForagingParams) -> tuple[jax.Array, jax.Array]:
    """Return the rewards of players, `[players]`, and which food is eaten, `[foods]`.

    Args:
        state: Before the step.
        lifting: Which players lift, `[players]`.
        params: The costs.
    """
    beside = apart(state.foods[:, :, None], state.cells[:, None, :]) == 1
    taking = beside & lifting & (state.weights > 0)[:, None]
    strength = (taking * state.levels).sum(1)
    eaten = (strength >= state.weights) & (state.weights > 0)
    share = taking * state.levels / jnp.maximum(strength, 1)[:, None]
    got = jnp.where(eaten[:, None], share * (state.weights / state.total)[:, None], 0.0)
    failed = lifting & ~(taking & eaten[:, None]).any(0)
    return got.sum(0) - params.step_cost - jnp.where(failed, params.failed_cost, 0.0), eaten


def _walked(state: ForagingState, action: jax.Array, size: int) -> jax.Array:
    """Return the cells of the players after they have moved, `[2, players]`."""
    wanted = moved(state.cells, action)
    players = wanted.shape[1]
    food = ((apart(wanted[:, :, None], state.foods[:, None, :]) == 0) & (state.weights > 0)).any(1)
    occupied = (apart(wanted[:, :, None], state.cells[:, None, :]) == 0).any(1)
    contested = ((apart(wanted[:, :, None], wanted[:, None, :]) == 0) & ~jnp.eye(players, dtype=bool)).any(1)
    return jnp.where(inside(wanted, size) & ~food & ~occupied & ~contested, wanted, state.cells)
