"""MountainCar: a car too weak for the hill has to gain momentum; with discrete and with continuous actions."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedrl.core.component import component
from fedrl.core.environment import Box, Discrete, Environment, Spaces, Timestep, draw_nothing, draw_uniform, first
from fedrl.core.ranges import ZERO_OR_MORE, Count
from fedrl.environments.time_limit import time_limit

LEFT_WALL, RIGHT_WALL = -1.2, 0.6
SPEED = 0.07


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
        Environment(defaults, spaces, draw_uniform(1), draw_nothing, _reset, step, max_steps, bounds=BOUNDS)
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
        Environment(defaults, spaces, draw_uniform(1), draw_nothing, _reset, step, max_steps, bounds=BOUNDS)
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
