"""A grid with a cliff along its lower edge and a wind that blows towards it.

12 13 14 15        start 0, goal 3, cliff 1 and 2; from the cliff and from the goal every action leads to the
 8  9 10 11        start. The reward depends on the state before the step: -100 on the cliff, +100 at the goal,
 4  5  6  7        -1 elsewhere. Any action but down is replaced by down with probability theta / 3.
 S  x  x  G
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core.component import component
from fedrl.core.environment import Environment, Picture, Variants
from fedrl.core.errors import ConfigError
from fedrl.core.ranges import Count, Fraction
from fedrl.core.types import PyTree
from fedrl.environments import pictures
from fedrl.environments.tabular.model import TabularParams, TabularState, check_fraction, process

UP, DOWN, LEFT, RIGHT = range(4)


@component("environment", reference="Jin et al. (2022), https://arxiv.org/abs/2204.02634")
def windy_cliff(theta: Fraction = 0.5, width: Count = 4, height: Count = 4, max_steps: Count = 100) -> Environment:
    """WindyCliffs: walk past a cliff in the wind, without end. Actions: 0 up, 1 down, 2 left, 3 right.

    At gamma = 0.95 and theta = 0.5, the optimal value of the start is 133.965.

    Args:
        theta: Strength of the wind, from 0 to 1. Fleets vary it.
        width: Columns, at least 2.
        height: Rows, at least 2.
        max_steps: Steps of an episode.

    Raises:
        ConfigError: An argument is out of range.
    """
    numbers: dict[str, Any] = {"theta": theta, "width": width, "height": height}
    tables = _tables(**numbers)
    return process(tables, max_steps, Variants(_tables, numbers), Picture(_drawing(width, height), pause_ms=300))


def _tables(theta: float, width: int, height: int) -> TabularParams:
    check_fraction(theta=theta)
    return windy_cliffs(theta, width, height)


def _drawing(width: int, height: int) -> Callable[[TabularState, PyTree], Any]:
    """Return the function that draws a state; state 0 is the lower left corner."""
    bottom = [pictures.PAPER, *[pictures.BLUE] * (width - 2), pictures.GREEN]
    rows = [*[[pictures.PAPER] * width for _ in range(height - 1)], bottom]
    cells = [(height - 1 - state // width, state % width) for state in range(width * height)]
    draw = pictures.grid_drawing(rows, cells, ["S"])
    return lambda state, env_params: draw(int(state.position))


def windy_cliffs(thetas: float | jax.Array, width: int = 4, height: int = 4) -> TabularParams:
    """Return the processes for these wind strengths; the shape of `thetas` becomes the leading axes of the result.

    The paper's mixture at heterogeneity kappa, (1 - kappa) P(0.5) + kappa P(theta), is P(0.5 + kappa (theta - 0.5)).

    >>> windy_cliffs(jnp.linspace(0, 1, 5)).transition.shape
    (5, 16, 4, 16)
    """
    if width < 2 or height < 2:
        raise ConfigError(f"The grid is {width} x {height}. A path past the cliff needs 2 x 2. Make it at least 2 x 2.")
    states, goal = width * height, width - 1
    row, column = np.divmod(np.arange(states), width)
    reached = np.stack(
        [
            np.minimum(row + 1, height - 1) * width + column,
            np.maximum(row - 1, 0) * width + column,
            row * width + np.maximum(column - 1, 0),
            row * width + np.minimum(column + 1, width - 1),
        ],
        axis=1,
    )
    # From the cliff and from the goal, every action leads to the start.
    reached[1:width] = 0
    meant = jnp.asarray(np.eye(states, dtype=np.float32)[reached])
    blown = jnp.broadcast_to(meant[:, DOWN : DOWN + 1], meant.shape)
    wind = jnp.asarray(thetas, jnp.float32)
    chance = wind[..., None, None, None] / 3.0
    paid = np.full((states, 4), -1.0, np.float32)
    paid[1:goal], paid[goal] = -100.0, 100.0
    return TabularParams(
        transition=(1.0 - chance) * meant + chance * blown,
        reward=jnp.broadcast_to(paid, (*wind.shape, states, 4)),
        initial=jnp.broadcast_to(np.eye(states, dtype=np.float32)[0], (*wind.shape, states)),
    )
