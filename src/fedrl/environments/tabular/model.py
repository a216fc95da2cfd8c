"""Finite Markov decision processes, given by their tables.

Such an environment is fully described by its parameters: everything that a fleet varies becomes part of
`TabularParams`, and planning (`fedrl.environments.tabular.planning`) and sampling use the same three arrays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core.component import component
from fedrl.core.environment import Discrete, Environment, Picture, Spaces, Timestep, Variants, draw_uniform, first
from fedrl.core.errors import ConfigError
from fedrl.core.ranges import Count, Fraction
from fedrl.environments import pictures
from fedrl.environments.time_limit import time_limit

SIZE = 260
"""Width and height of a picture, in pixels."""


class TabularParams(NamedTuple):
    """Tables of a finite process; every leaf may have leading axes (agents, seeds).

    Attributes:
        transition: `[states, actions, states]`, P(s' | s, a).
        reward: `[states, actions]`, r(s, a), independent of the next state.
        initial: `[states]`, the distribution of the first state.
    """

    transition: jax.Array
    reward: jax.Array
    initial: jax.Array


class TabularState(NamedTuple):
    """The number of the state, int32."""

    position: jax.Array


@component("environment")
def tabular(
    transition: Sequence[Any] | np.ndarray | jax.Array,
    reward: Sequence[Any] | np.ndarray | jax.Array,
    initial: Sequence[Fraction] | np.ndarray | jax.Array | None = None,
    max_steps: Count = 100,
) -> Environment:
    """Build a finite process from its tables. The observation is the number of the state; episodes never terminate.

    Args:
        transition: `[states, actions, states]`, P(s' | s, a); rows sum to 1.
        reward: `[states, actions]`, r(s, a).
        initial: `[states]`, distribution of the first state; uniform by default.
        max_steps: Steps of an episode.

    Raises:
        ConfigError: The shapes do not match or a row is not a distribution.

    >>> env = tabular(transition=[[[0.0, 1.0]], [[1.0, 0.0]]], reward=[[0.0], [1.0]], initial=[1.0, 0.0])
    >>> env.spaces.observation
    Discrete(n=2)
    """
    tables = np.asarray(transition, np.float32)
    start = np.full(len(tables), 1.0 / len(tables)) if initial is None else np.asarray(initial)
    _check_tables(tables, np.asarray(reward), start)
    return process(TabularParams(*(jnp.asarray(table, jnp.float32) for table in (tables, reward, start))), max_steps)


def process(
    params: TabularParams, max_steps: int, variants: Variants | None = None, picture: Picture | None = None
) -> Environment:
    """Return the environment whose default parameters are these tables.

    Args:
        params: The tables.
        max_steps: Steps of an episode.
        variants: Numbers from which the tables were computed, if a fleet may vary those.
        picture: The renderer; by default, the states are drawn on a circle.
    """
    states, actions, _ = params.transition.shape
    count = Discrete(states)

    def reset(noise: jax.Array, params: TabularParams) -> tuple[Timestep, TabularState]:
        position = _pick(noise[0], _thresholds(params.initial))
        return first(position), TabularState(position)

    def step(
        noise: jax.Array, params: TabularParams, state: TabularState, action: jax.Array
    ) -> tuple[Timestep, TabularState]:
        # Cumulated before the row is selected: this does not depend on the state, so XLA moves it out of the rollout's
        # loop.
        row = _thresholds(params.transition)[state.position, action]
        reached = _pick(noise[0], row)
        reward = params.reward[state.position, action]
        return Timestep(reached, reward, jnp.bool_(False), jnp.bool_(False)), TabularState(reached)

    draw = draw_uniform(1)
    spaces = Spaces(count, Discrete(actions))
    return time_limit(
        Environment(
            params,
            spaces,
            draw,
            draw,
            reset,
            step,
            max_steps,
            model=lambda tables: tables,
            variants=variants,
            picture=picture or Picture(_drawn, pause_ms=300),
        )
    )


def _drawn(state: TabularState, env_params: TabularParams) -> Any:
    """Draw the states on a circle: greener where an action earns more, with lines to where actions may lead."""
    transition, reward = np.asarray(env_params.transition), np.asarray(env_params.reward).max(-1)
    states, here = len(reward), int(state.position)
    picture = pictures.plane(SIZE, SIZE, 0.42 * SIZE, (SIZE / 2, SIZE / 2))
    angles = [2 * math.pi * i / states for i in range(states)]
    places = [(math.sin(angle), math.cos(angle)) for angle in angles]  # clockwise, state 0 at the top
    for i, chance in enumerate(transition[here].max(0).tolist()):
        if chance > 0.0 and i != here:
            picture.line([places[here], places[i]], pictures.blend(pictures.SOFT, pictures.INK, chance), 4 * chance)
    low, high = float(reward.min()), float(reward.max())
    radius = min(0.14, 2.2 / states)
    for i, place in enumerate(places):
        worth = (float(reward[i]) - low) / (high - low) if high > low else 0.0
        colour = pictures.ACCENT if i == here else pictures.blend(pictures.PAPER, pictures.GREEN, worth)
        picture.disc(place, radius, colour, pictures.INK)
        if radius > 0.07:
            picture.text(place, str(i), pictures.PAPER if i == here else pictures.INK)
    return picture.finished()


def check_fraction(**values: float) -> None:
    """Refuse a share outside [0, 1].

    Raises:
        ConfigError: A value is out of range.
    """
    for name, value in values.items():
        if not 0.0 <= value <= 1.0:
            raise ConfigError(f"{name} is {value}. A share lies in [0, 1]. Choose one there.")


def _thresholds(probabilities: jax.Array) -> jax.Array:
    """Return the cumulated probabilities."""
    # After the division they are 1 up to rounding (2^-24) from the last possible outcome on. Uniform numbers are at
    # most 1 - 2^-23, so an impossible outcome is never picked.
    total = jnp.cumsum(probabilities, axis=-1)
    return total / total[..., -1:]


def _pick(uniform: jax.Array, thresholds: jax.Array) -> jax.Array:
    """Return the outcome whose interval of the cumulated probabilities contains `uniform`."""
    return (uniform >= thresholds[:-1]).sum(dtype=jnp.int32)


def _check_tables(transition: np.ndarray, reward: np.ndarray, initial: np.ndarray) -> None:
    states, actions = len(transition), transition.shape[1] if transition.ndim > 1 else 0
    for name, table, shape in (
        ("transition", transition, (states, actions, states)),
        ("reward", reward, (states, actions)),
        ("initial", initial, (states,)),
    ):
        if table.shape != shape:
            raise ConfigError(
                f"{name} has shape {table.shape}. With {states} states and {actions} actions it needs {shape}. "
                "Give transition as [states, actions, states], reward as [states, actions], initial as [states]."
            )
    for name, table in (("transition", transition), ("initial", initial)):
        total = table.sum(-1)
        if (table < 0).any() or not np.allclose(total, 1.0, atol=1e-5):
            raise ConfigError(
                f"{name} has a row that is no distribution (smallest entry {table.min():g}, sums from {total.min():g} "
                f"to {total.max():g}). Make every row along the last axis non-negative with sum 1."
            )
