"""Gridworlds drawn as text: walls, slippery floor, goals and pits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core.component import component
from fedrl.core.environment import (
    Discrete,
    Environment,
    Picture,
    Spaces,
    Timestep,
    draw_uniform,
    first,
)
from fedrl.core.errors import ConfigError, nearest
from fedrl.core.measures import Measure
from fedrl.core.ranges import UP_TO_ONE, Count
from fedrl.core.types import PyTree
from fedrl.environments import pictures
from fedrl.environments.tabular.model import TabularParams
from fedrl.environments.time_limit import time_limit

START, FLOOR, WALL, GOAL, PIT = "S.#GO"
MOVES = ((0, -1), (1, 0), (0, 1), (-1, 0))  # left, down, right, up: neighbours in the list are perpendicular

LAYOUTS = {
    "4x4": """
        S...
        .O.O
        ...O
        O..G""",
    "8x8": """
        S.......
        ........
        ...O....
        .....O..
        ...O....
        .OO...O.
        .O..O.O.
        ...O...G""",
    "maze": """
        S.#....
        ..#.##.
        #...#..
        ..#.#.#
        .##....
        ...#.#G""",
    "rooms": """
        S....#.....
        .....#.....
        ...........
        .....#.....
        .....#.....
        #.####.....
        .....###.##
        .....#.....
        .....#.....
        ...........
        .....#....G""",
}


class GridworldParams(NamedTuple):
    """Dynamics and rewards. With probability `slip` a move is turned 90 degrees to the left or to the right."""

    slip: jax.Array | float = 0.1
    step_cost: jax.Array | float = 0.01
    goal_reward: jax.Array | float = 1.0
    pit_reward: jax.Array | float = -1.0


class GridworldState(NamedTuple):
    """The number of the cell, int32."""

    cell: jax.Array


class Layout(NamedTuple):
    """A parsed map: cells that are not walls, numbered in reading order."""

    reached: np.ndarray  # [cells, moves], the next cell; goals and pits lead to themselves
    starts: np.ndarray
    goal: np.ndarray  # [cells], bool
    pit: np.ndarray


@component("environment", reference="Sutton & Barto (2018), http://incompleteideas.net/book/the-book-2nd.html")
def gridworld(layout: str = "4x4", max_steps: Count = 100) -> Environment:
    """Build a gridworld with goals, pits and a slippery floor. The observation is the number of the cell.

    Actions: 0 left, 1 down, 2 right, 3 up; a step into a wall or off the map does not move. Entering a goal or a pit
    gives its reward and ends the episode; every step costs `step_cost`. The maps "4x4" and "8x8" are those of
    Gymnasium's FrozenLake, whose dynamics are `slip = 2/3`.

    The measure `success` is the share of episodes that end in a goal.

    Args:
        layout: "4x4", "8x8", "maze", "rooms", or a map of equally long lines of `S` start, `.` floor, `#` wall,
            `G` goal and `O` pit. An episode starts at a random `S`, or on random floor if there is none.
        max_steps: Time limit of an episode.

    Raises:
        ConfigError: `layout` is neither a map nor the name of one.

    >>> gridworld("S.#\\n..G").spaces
    Spaces(observation=Discrete(n=5), action=Discrete(n=4))
    """
    read = read_layout(layout)
    cells = len(read.reached)
    reached, starts = jnp.asarray(read.reached.ravel()), jnp.asarray(read.starts)
    goal, pit = jnp.asarray(read.goal), jnp.asarray(read.pit)

    def reset(noise: jax.Array, params: GridworldParams) -> tuple[Timestep, GridworldState]:
        del params
        cell = starts[(noise[0] * len(starts)).astype(jnp.int32)]
        return first(cell), GridworldState(cell)

    def step(
        noise: jax.Array, params: GridworldParams, state: GridworldState, action: jax.Array
    ) -> tuple[Timestep, GridworldState]:
        # One uniform number decides both whether and to which side the move slips, so a step needs one draw only.
        turn = jnp.where(noise[0] < params.slip, jnp.where(noise[0] < params.slip / 2, 3, 1), 0)
        cell = reached[state.cell * len(MOVES) + (action + turn) % len(MOVES)]
        won, lost = goal[cell], pit[cell]
        reward = jnp.where(won, params.goal_reward, 0.0) + jnp.where(lost, params.pit_reward, 0.0) - params.step_cost
        return Timestep(cell, reward, won | lost, jnp.bool_(False), {"success": won}), GridworldState(cell)

    defaults = GridworldParams(*(jnp.float32(value) for value in GridworldParams()))
    draw = draw_uniform(1)
    spaces = Spaces(Discrete(cells), Discrete(len(MOVES)))
    return time_limit(
        Environment(
            defaults,
            spaces,
            draw,
            draw,
            reset,
            step,
            max_steps,
            model=lambda params: gridworld_model(layout, params),
            picture=Picture(drawing(lines_of(layout)), pause_ms=300),
            measures={"success": Measure("episode", better="higher")},
            bounds={"slip": UP_TO_ONE},
        )
    )


def gridworld_model(layout: str, params: GridworldParams) -> TabularParams:
    """Return the exact tables of a gridworld; goals and pits lead to themselves with reward 0.

    Args:
        layout: As for `gridworld`.
        params: Parameters of one environment, or of a fleet with any leading axes, which the result has too.
    """
    read = read_layout(layout)
    moved = jnp.asarray(np.eye(len(read.reached), dtype=np.float32)[read.reached])
    slip, cost, goal_reward, pit_reward = (jnp.asarray(leaf, jnp.float32) for leaf in params)
    chance = slip[..., None, None, None]
    sideways = (jnp.roll(moved, 1, axis=1) + jnp.roll(moved, -1, axis=1)) / 2
    transition = (1.0 - chance) * moved + chance * sideways
    entered = goal_reward[..., None] * read.goal + pit_reward[..., None] * read.pit
    paid = jnp.einsum("...sat,...t->...sa", transition, entered) - cost[..., None, None]
    initial = np.bincount(read.starts, minlength=len(read.reached)).astype(np.float32) / len(read.starts)
    # An episode ends in goals and pits, so nothing is earned there.
    over = (read.goal | read.pit)[:, None]
    return TabularParams(transition, jnp.where(over, 0.0, paid), jnp.broadcast_to(initial, (*slip.shape, len(initial))))


def lines_of(layout: str) -> list[str]:
    """Return the lines of a map, given as text or by name."""
    return [line.strip() for line in LAYOUTS.get(layout, layout).strip().splitlines()]


def drawing(lines: list[str]) -> Callable[[GridworldState, PyTree], Any]:
    """Return the function that draws a state on this map."""
    colours = {WALL: pictures.INK, GOAL: pictures.GREEN, PIT: pictures.BLUE}
    rows = [[colours.get(tile, pictures.PAPER) for tile in row] for row in lines]
    cells = [(y, x) for y, row in enumerate(lines) for x, tile in enumerate(row) if tile != WALL]
    draw = pictures.grid_drawing(rows, cells)
    return lambda state, env_params: draw(int(state.cell))


def read_layout(layout: str) -> Layout:
    """Parse a map, given as text or by name.

    Raises:
        ConfigError: The text is no map, or the map has no start or no goal.
    """
    lines = lines_of(layout)
    # Padded by spaces, which are refused below: lines of different length are no map.
    grid = np.array([list(line.ljust(max(map(len, lines)))) for line in lines] or [[" "]])
    if strange := sorted(set(grid.ravel()) - {START, FLOOR, WALL, GOAL, PIT}):
        raise ConfigError(
            f"layout is {layout!r}, which is neither a known map nor equally long lines of S . # G O "
            f"(found {', '.join(map(repr, strange))}). {nearest(layout, LAYOUTS)}"
        )
    number = np.where(grid == WALL, -1, np.cumsum(grid != WALL).reshape(grid.shape) - 1)
    kinds = grid[grid != WALL]
    starts = np.flatnonzero(kinds == START)
    if not len(starts):
        starts = np.flatnonzero(kinds == FLOOR)
    if not len(starts) or GOAL not in kinds:
        raise ConfigError(f"layout {layout!r} lacks a start or a goal. An episode needs both. Add an S and a G.")
    reached = np.empty((len(kinds), len(MOVES)), np.int32)
    for (row, column), cell in np.ndenumerate(number):
        if cell < 0:
            continue
        for move, (down, right) in enumerate(MOVES):
            r, c = row + down, column + right
            inside = 0 <= r < grid.shape[0] and 0 <= c < grid.shape[1] and number[r, c] >= 0
            reached[cell, move] = number[r, c] if inside and kinds[cell] not in (GOAL, PIT) else cell
    return Layout(reached, starts.astype(np.int32), kinds == GOAL, kinds == PIT)
