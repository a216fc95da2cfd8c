"""Pursuit on a grid: players have to surround a prey that is as fast as they are and runs away."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedrl.core.component import component
from fedrl.core.environment import Box, Discrete, Environment, Overview, Picture, Spaces, Timestep, draw_uniform, first
from fedrl.core.errors import ConfigError
from fedrl.core.measures import Measure
from fedrl.core.ranges import UP_TO_ONE, Count
from fedrl.environments.time_limit import time_limit
from fedrl.environments.worlds.grids import MOVES, apart, check_room, distinct_cells, drawn, inside, moved, moves

BARRED = 1e3
"""Subtracted from the distance of a cell that the prey can't enter."""


class PursuitParams(NamedTuple):
    """Rewards of every player, and the probability with which the prey rests in a step."""

    capture_reward: jax.Array | float = 1.0
    step_cost: jax.Array | float = 0.01
    rest: jax.Array | float = 0.2


class PursuitState(NamedTuple):
    """Cells as (x, y) from 0: of the players, `[2, players]`, and of the prey, `[2]`."""

    hunters: jax.Array
    prey: jax.Array


@component("environment", reference="Benda, Jagannathan & Dodhiawala (1986), BCS-G2010-28")
def pursuit(players: Count = 2, size: Count = 6, max_steps: Count = 50) -> Environment:
    """Build a pursuit: it ends when at least two players are within one move of the prey, and all of them are rewarded.

    In a step the players move first. If the prey is not captured then, it rests with the probability `rest`, else it
    moves to the cell from which the nearest player is farthest, without entering that of a player. So a single hunter
    never captures it, and two have to come from two sides.

    Actions: 0 stay, 1 right, 2 left, 3 up, 4 down; a move off the grid does not move, and players may share a cell. A
    player observes its own cell, from -1 to 1, and the prey and the other players relative to itself.

    Each step costs `step_cost` and the capture is worth `capture_reward`, to every player, so that the return is
    between -0.5 and 1 in 50 steps. The measure `captured` is the share of episodes that end with a capture.

    Args:
        players: Number of players, two or more.
        size: Cells in a row and in a column.
        max_steps: Time limit of an episode.

    Raises:
        ConfigError: There are fewer than two players, or fewer cells than players and prey.

    >>> pursuit(players=3).spaces.observation.shape
    (8,)
    """
    if players < 2:
        raise ConfigError(
            f"players is {players}, and a capture takes two players next to the prey, so that this one would never "
            "end. Set players to 2 or more."
        )
    check_room(players + 1, size)
    far = max(size - 1, 1)
    others = jnp.asarray([[j for j in range(players) if j != i] for i in range(players)]).T

    def seen(state: PursuitState) -> jax.Array:
        own = 2.0 * state.hunters / far - 1.0
        prey = (state.prey[:, None] - state.hunters) / far
        rest = (state.hunters[:, others] - state.hunters[:, None, :]) / far
        return jnp.concatenate([own, prey, rest.reshape(-1, players)]).astype(jnp.float32)

    def above(params: PursuitParams, state: PursuitState) -> jax.Array:
        del params
        cells = jnp.concatenate([state.hunters.ravel(), state.prey])
        return (2.0 * cells / far - 1.0).astype(jnp.float32)

    def reset(noise: jax.Array, params: PursuitParams) -> tuple[Timestep, PursuitState]:
        del params
        cells = distinct_cells(noise, size)
        state = PursuitState(cells[:, :players], cells[:, players])
        return first(seen(state), players), state

    def step(
        noise: jax.Array, params: PursuitParams, state: PursuitState, action: jax.Array
    ) -> tuple[Timestep, PursuitState]:
        hunters = jnp.clip(moved(state.hunters, action), 0, size - 1)
        captured = (apart(hunters, state.prey[:, None]) <= 1).sum() >= 2
        resting = captured | (noise[len(MOVES)] < params.rest)
        prey = jnp.where(resting, state.prey, _fled(noise[: len(MOVES)], state.prey, hunters, size))
        after = PursuitState(hunters, prey)
        reward = jnp.where(captured, params.capture_reward, 0.0) - params.step_cost
        everyone = jnp.broadcast_to(reward, (players,))
        return Timestep(seen(after), everyone, captured, jnp.bool_(False), {"captured": captured}), after

    return time_limit(
        Environment(
            PursuitParams(*(jnp.float32(value) for value in PursuitParams())),
            Spaces(Box((2 * (players + 1),), -1.0, 1.0), Discrete(len(MOVES))),
            draw_uniform(players + 1),
            draw_uniform(len(MOVES) + 1),
            reset,
            step,
            max_steps,
            picture=Picture(lambda state, params: drawn(size, state.hunters, state.prey[:, None]), pause_ms=200),
            measures={"captured": Measure("episode", better="higher")},
            bounds={"rest": UP_TO_ONE},
            players=players,
            overview=Overview(Box((2 * (players + 1),), -1.0, 1.0), above),
        )
    )


def _fled(noise: jax.Array, prey: jax.Array, hunters: jax.Array, size: int) -> jax.Array:
    """Return the cell to which the prey runs: the farthest from the nearest hunter, at random among equals."""
    reached = prey[:, None] + moves()
    distance = apart(reached[:, :, None], hunters[:, None, :]).min(1)
    free = inside(reached, size) & (distance > 0)
    best = jnp.argmax(distance + 0.5 * noise - jnp.where(free, 0.0, BARRED))
    return (reached * (jnp.arange(len(MOVES)) == best)).sum(1)
