"""MountainCar: a car too weak for the hill has to gain momentum; with discrete and with continuous actions."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedrl.core.component import component
from fedrl.core.environment import (
    Box,
    Discrete,
    Environment,
    Picture,
    Spaces,
    Timestep,
    draw_nothing,
    draw_uniform,
    first,
)
from fedrl.core.ranges import ZERO_OR_MORE, Count
from fedrl.environments import pictures
from fedrl.environments.time_limit import time_limit

LEFT_WALL, RIGHT_WALL = -1.2, 0.6
SPEED = 0.07
WIDTH, HEIGHT, UNIT = 420, 280, 220
"""Size of a picture and pixels of a unit of the track."""


BOUNDS = {"gravity": ZERO_OR_MORE}
"""The range of each parameter that has one."""


class MountainCarParams(NamedTuple):
    """Physics per step: `force` of the motor, `gravity`; the goal has to be reached with at least `goal_velocity`."""

    force: jax.Array | float = 0.001
    gravity: jax.Array | float = 0.0025
    goal_position: jax.Array | float = 0.5
    goal_velocity: jax.Array | float = 0.0


class MountainCarState(NamedTuple):
    """Position along the track, the valley's bottom near -0.52; and velocity."""

    position: jax.Array
    velocity: jax.Array


def height_at(position: float) -> float:
    """Return the height of the track, whose slope is proportional to the force of gravity in the dynamics.

    >>> round(height_at(-math.pi / 6), 3)
    0.1
    """
    return 0.45 * math.sin(3 * position) + 0.55


def _drawn(state: MountainCarState, env_params: MountainCarParams) -> Any:
    middle = (LEFT_WALL + RIGHT_WALL) / 2
    picture = pictures.plane(WIDTH, HEIGHT, UNIT, (WIDTH / 2 - middle * UNIT, HEIGHT - 4))
    track = [LEFT_WALL + (RIGHT_WALL - LEFT_WALL) * i / 100 for i in range(101)]
    picture.line([(x, height_at(x)) for x in track], pictures.INK, 2)
    goal = float(env_params.goal_position)
    foot = height_at(goal)
    picture.line([(goal, foot), (goal, foot + 0.2)], pictures.INK, 1.5)
    picture.shape([(goal, foot + 0.2), (goal + 0.1, foot + 0.165), (goal, foot + 0.13)], pictures.GREEN)
    x = float(state.position)
    slope = math.atan(3 * 0.45 * math.cos(3 * x))
    cos, sin = math.cos(slope), math.sin(slope)

    def beside(along: float, up: float) -> tuple[float, float]:
        return x + along * cos - up * sin, height_at(x) + along * sin + up * cos

    corners = ((-0.085, 0.035), (0.085, 0.035), (0.085, 0.07), (0.045, 0.105), (-0.045, 0.105), (-0.085, 0.07))
    picture.shape([beside(*corner) for corner in corners], pictures.ACCENT)
    for along in (-0.05, 0.05):
        picture.disc(beside(along, 0.028), 0.028, pictures.INK)
    return picture.finished()


PICTURE = Picture(_drawn, pause_ms=30)


@component("environment", reference="Moore (1990), https://www.cl.cam.ac.uk/techreports/UCAM-CL-TR-209.pdf")
def mountain_car(max_steps: Count = 200) -> Environment:
    """MountainCar-v0 of Gymnasium: reward -1 per step until the car is at the goal.

    Observation `[position, velocity]`; action 0 pushes left, 1 not at all, 2 right.

    Args:
        max_steps: Steps of an episode at most.

    >>> mountain_car().max_steps
    200
    """

    def step(
        noise: tuple[()], params: MountainCarParams, state: MountainCarState, action: jax.Array
    ) -> tuple[Timestep, MountainCarState]:
        del noise
        state, there = _drive(state, (action - 1) * params.force, params)
        return Timestep(jnp.stack(state), jnp.float32(-1.0), there, jnp.bool_(False)), state

    defaults = MountainCarParams(*(jnp.float32(value) for value in MountainCarParams()))
    spaces = Spaces(Box((2,), LEFT_WALL, RIGHT_WALL), Discrete(3))
    return time_limit(
        Environment(
            defaults, spaces, draw_uniform(1), draw_nothing, _reset, step, max_steps, picture=PICTURE, bounds=BOUNDS
        )
    )


@component("environment", reference="Moore (1990), https://www.cl.cam.ac.uk/techreports/UCAM-CL-TR-209.pdf")
def mountain_car_continuous(max_steps: Count = 999) -> Environment:
    """MountainCarContinuous-v0 of Gymnasium: 100 for reaching the goal, less 0.1 times the squared action each step.

    Observation `[position, velocity]`; action `[push]`, clipped to [-1, 1] in the dynamics but not in the reward.

    Args:
        max_steps: Steps of an episode at most.

    >>> mountain_car_continuous().spaces.action
    Box(shape=(1,), low=-1.0, high=1.0)
    """

    def step(
        noise: tuple[()], params: MountainCarParams, state: MountainCarState, action: jax.Array
    ) -> tuple[Timestep, MountainCarState]:
        del noise
        state, there = _drive(state, jnp.clip(action[0], -1.0, 1.0) * params.force, params)
        reward = jnp.where(there, 100.0, 0.0) - 0.1 * action[0] ** 2
        return Timestep(jnp.stack(state), reward, there, jnp.bool_(False)), state

    defaults = MountainCarParams(*(jnp.float32(value) for value in MountainCarParams(force=0.0015, goal_position=0.45)))
    spaces = Spaces(Box((2,), LEFT_WALL, RIGHT_WALL), Box((1,), -1.0, 1.0))
    return time_limit(
        Environment(
            defaults, spaces, draw_uniform(1), draw_nothing, _reset, step, max_steps, picture=PICTURE, bounds=BOUNDS
        )
    )


def _reset(noise: jax.Array, params: MountainCarParams) -> tuple[Timestep, MountainCarState]:
    del params
    state = MountainCarState(-0.6 + 0.2 * noise[0], jnp.float32(0.0))
    return first(jnp.stack(state)), state


def _drive(state: MountainCarState, push: jax.Array, params: MountainCarParams) -> tuple[MountainCarState, jax.Array]:
    """Return the state after one step, and whether the car is at the goal."""
    velocity = jnp.clip(state.velocity + push - params.gravity * jnp.cos(3 * state.position), -SPEED, SPEED)
    position = jnp.clip(state.position + velocity, LEFT_WALL, RIGHT_WALL)
    velocity = jnp.where(position <= LEFT_WALL, jnp.maximum(velocity, 0.0), velocity)  # the left wall is inelastic
    there = (position >= params.goal_position) & (velocity >= params.goal_velocity)
    return MountainCarState(position, velocity), there
