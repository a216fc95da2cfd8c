"""Pendulum: swing a rod up and balance it, with a motor too weak to lift it directly."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedrl.core.component import component
from fedrl.core.environment import Box, Environment, Picture, Spaces, Timestep, draw_nothing, draw_uniform, first
from fedrl.core.ranges import ABOVE_ZERO, Count
from fedrl.environments import pictures
from fedrl.environments.time_limit import time_limit

SPEED = 8.0
TORQUE = 2.0
SIZE = 240
"""Width and height of a picture, in pixels."""


BOUNDS = dict.fromkeys(("mass", "length", "tau"), ABOVE_ZERO)
"""The range of each parameter that has one."""


class PendulumParams(NamedTuple):
    """Physics in SI units; `tau` is the time of a step."""

    gravity: jax.Array | float = 10.0
    mass: jax.Array | float = 1.0
    length: jax.Array | float = 1.0
    tau: jax.Array | float = 0.05


class PendulumState(NamedTuple):
    """Angle in [-pi, pi), 0 upright; and angular velocity."""

    theta: jax.Array
    theta_dot: jax.Array


@component("environment", reference="Åström & Furuta (2000), https://doi.org/10.1016/S0005-1098(99)00140-5")
def pendulum(max_steps: Count = 200) -> Environment:
    """Pendulum-v1 of Gymnasium: reward -(theta^2 + 0.1 theta_dot^2 + 0.001 torque^2); episodes never terminate.

    Observation `[cos theta, sin theta, theta_dot]`; action `[torque]`, clipped to [-2, 2]. The reward is that of the
    state before the step.

    Args:
        max_steps: Steps of an episode.

    >>> pendulum().spaces.action
    Box(shape=(1,), low=-2.0, high=2.0)
    """

    def seen(state: PendulumState) -> jax.Array:
        return jnp.stack([jnp.cos(state.theta), jnp.sin(state.theta), state.theta_dot])

    def reset(noise: jax.Array, params: PendulumParams) -> tuple[Timestep, PendulumState]:
        del params
        state = PendulumState(math.pi * (2 * noise[0] - 1), 2 * noise[1] - 1)
        return first(seen(state)), state

    def step(
        noise: tuple[()], params: PendulumParams, state: PendulumState, action: jax.Array
    ) -> tuple[Timestep, PendulumState]:
        del noise
        torque = jnp.clip(action[0], -TORQUE, TORQUE)
        cost = state.theta**2 + 0.1 * state.theta_dot**2 + 0.001 * torque**2
        fall = 1.5 * params.gravity / params.length * jnp.sin(state.theta)
        drive = 3.0 / (params.mass * params.length**2) * torque
        speed = jnp.clip(state.theta_dot + (fall + drive) * params.tau, -SPEED, SPEED)
        angle = state.theta + speed * params.tau
        # Gymnasium lets the angle grow; wrapped, it keeps its precision and the cost needs no remainder.
        state = PendulumState(angle - 2 * math.pi * jnp.floor((angle + math.pi) / (2 * math.pi)), speed)
        return Timestep(seen(state), -cost, jnp.bool_(False), jnp.bool_(False)), state

    defaults = PendulumParams(*(jnp.float32(value) for value in PendulumParams()))
    spaces = Spaces(Box((3,), -SPEED, SPEED), Box((1,), -TORQUE, TORQUE))
    picture = Picture(_drawn, pause_ms=50)
    return time_limit(
        Environment(
            defaults, spaces, draw_uniform(2), draw_nothing, reset, step, max_steps, picture=picture, bounds=BOUNDS
        )
    )


def _drawn(state: PendulumState, env_params: PendulumParams) -> Any:
    # A longer rod is drawn as long as the default one, on a smaller scale; a shorter one is shorter.
    length, angle = float(env_params.length), float(state.theta)
    reach = max(length, 1.0)
    picture = pictures.plane(SIZE, SIZE, 0.42 * SIZE / reach, (SIZE / 2, SIZE / 2))
    picture.line([(0.0, 0.0), (0.0, 1.06 * reach)], pictures.SOFT)
    # As in Gymnasium, a positive angle is one to the left.
    picture.line([(0.0, 0.0), (-length * math.sin(angle), length * math.cos(angle))], pictures.ACCENT, 14)
    picture.disc((0.0, 0.0), 0.04 * reach, pictures.INK)
    return picture.finished()
