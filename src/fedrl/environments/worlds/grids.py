"""Cells of a square grid: moves, distances, random cells of which no two are the same, and a picture."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from fedrl.core.errors import ConfigError
from fedrl.environments import pictures

MOVES = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))
"""Stay, right, left, up, down, as (x, y)."""


def moves() -> Int[Array, "2 moves"]:
    """Return `MOVES`, x and y on the first axis."""
    return jnp.asarray(MOVES, jnp.int32).T


def moved(cell: Int[Array, "2 players"], action: Int[Array, " players"]) -> Int[Array, "2 players"]:
    """Return the cells beyond a move of each player, which may lie off the grid; an action beyond `MOVES` stays.

    >>> moved(jnp.array([[0], [2]]), jnp.array([1])).tolist()
    [[1], [2]]
    """
    # A product with a one-hot matrix: a gather of each player's move would be slower in a batch.
    chosen = (jnp.arange(len(MOVES))[:, None] == action).astype(jnp.int32)
    return cell + moves() @ chosen


def inside(cell: jax.Array, size: int) -> jax.Array:
    """Return whether cells, `[2, ...]`, lie on the grid: `[...]`."""
    return ((cell >= 0) & (cell < size)).all(0)


def apart(first: jax.Array, second: jax.Array) -> jax.Array:
    """Return the distance of cells, `[2, ...]`, in moves: `|x - x'| + |y - y'|`, `[...]`."""
    return jnp.abs(first - second).sum(0)


def distinct_cells(noise: Float[Array, " count"], size: int) -> Int[Array, "2 count"]:
    """Return random cells of a grid, no two of them the same, from one uniform number each.

    >>> distinct_cells(jnp.array([0.0, 0.0, 0.99]), 2).tolist()
    [[0, 1, 1], [0, 0, 1]]
    """
    taken: list[jax.Array] = []
    for i in range(noise.shape[0]):
        # The number of the cell among those that are left, then past each taken one in ascending order.
        left = size * size - i
        cell = jnp.minimum((noise[i] * left).astype(jnp.int32), left - 1)
        for earlier in jnp.sort(jnp.stack(taken)) if taken else ():
            cell = cell + (cell >= earlier)
        taken.append(cell)
    cells = jnp.stack(taken)
    return jnp.stack([cells % size, cells // size])


def check_room(count: int, size: int) -> None:
    """Refuse a grid with fewer cells than it has to hold.

    Raises:
        ConfigError: It is too small.
    """
    if count > size * size:
        raise ConfigError(
            f"size is {size}, and {count} start in cells of their own, of which the grid has {size * size}. Set a "
            "larger size."
        )


def drawn(size: int, players: jax.Array, marks: jax.Array) -> Any:
    """Draw a grid with discs for players and smaller ones for what they look for; cells are `[2, number]`."""
    picture = pictures.plane(pictures.TILE * size, pictures.TILE * size, pictures.TILE, (0, pictures.TILE * size))
    for x in range(size):
        for y in range(size):
            picture.box((float(x), float(y)), (x + 1.0, y + 1.0), pictures.PAPER, pictures.SOFT)
    for x, y in np.asarray(marks).T.tolist():
        picture.disc((x + 0.5, y + 0.5), 0.22, pictures.ACCENT)
    for x, y in np.asarray(players).T.tolist():
        picture.disc((x + 0.5, y + 0.5), 0.32, pictures.BLUE, pictures.INK)
    return picture.finished()
