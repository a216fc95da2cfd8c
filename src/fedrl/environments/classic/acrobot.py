"""Acrobot: swing a two-link pendulum up, with a motor only between the links."""

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
from fedrl.core.ranges import ABOVE_ZERO, Count
from fedrl.environments import pictures
from fedrl.environments.time_limit import time_limit

SPEED_1 = 4 * math.pi
SPEED_2 = 9 * math.pi
SIZE = 260
"""Width and height of a picture, in pixels."""


SIZES = ("gravity", "mass_1", "mass_2", "length_1", "length_2", "center_1", "center_2", "inertia_1", "inertia_2", "tau")
BOUNDS = dict.fromkeys(SIZES, ABOVE_ZERO)
"""The range of each parameter that has one."""


class AcrobotParams(NamedTuple):
    """Physics in SI units; `center_i` is where a link's centre of mass lies, `goal` the height the tip must pass."""

    gravity: jax.Array | float = 9.8
    mass_1: jax.Array | float = 1.0
    mass_2: jax.Array | float = 1.0
    length_1: jax.Array | float = 1.0
    length_2: jax.Array | float = 1.0
    center_1: jax.Array | float = 0.5
    center_2: jax.Array | float = 0.5
    inertia_1: jax.Array | float = 1.0
    inertia_2: jax.Array | float = 1.0
    torque: jax.Array | float = 1.0
    goal: jax.Array | float = 1.0
    tau: jax.Array | float = 0.2


class AcrobotState(NamedTuple):
    """Angle of the first link (rad, 0 down), of the second to the first, and their velocities."""

    theta_1: jax.Array
    theta_2: jax.Array
    speed_1: jax.Array
    speed_2: jax.Array


@component(
    "environment", reference="Sutton (1996), https://papers.nips.cc/paper/1995/hash/8f1d43620bc6bb580df6e80b0dc05c48"
)
def acrobot(max_steps: Count = 500) -> Environment:
    """Acrobot-v1 of Gymnasium: reward -1 per step until the tip passes the goal's height.

    Observation `[cos theta_1, sin theta_1, cos theta_2, sin theta_2, speed_1, speed_2]`; action 0, 1, 2 turns the joint
    by -torque, 0, +torque. One step of Runge-Kutta of order 4, with the equations of the book, not of the paper.

    Args:
        max_steps: Steps of an episode at most.

    >>> acrobot().spaces.action
    Discrete(n=3)
    """

    def seen(state: AcrobotState) -> jax.Array:
        return jnp.stack(
            [
                jnp.cos(state.theta_1),
                jnp.sin(state.theta_1),
                jnp.cos(state.theta_2),
                jnp.sin(state.theta_2),
                state.speed_1,
                state.speed_2,
            ]
        )

    def reset(noise: jax.Array, params: AcrobotParams) -> tuple[Timestep, AcrobotState]:
        del params
        state = AcrobotState(*((noise - 0.5) * 0.2))
        return first(seen(state)), state

    def step(
        noise: tuple[()], params: AcrobotParams, state: AcrobotState, action: jax.Array
    ) -> tuple[Timestep, AcrobotState]:
        del noise
        torque = (action - 1) * params.torque
        reached = _runge_kutta(state, torque, params)
        state = AcrobotState(
            _wrapped(reached.theta_1),
            _wrapped(reached.theta_2),
            jnp.clip(reached.speed_1, -SPEED_1, SPEED_1),
            jnp.clip(reached.speed_2, -SPEED_2, SPEED_2),
        )
        # The tip's height with the links' own lengths: at the defaults Gymnasium's condition, which ignores them.
        height = -params.length_1 * jnp.cos(state.theta_1) - params.length_2 * jnp.cos(state.theta_1 + state.theta_2)
        up = height > params.goal
        return Timestep(seen(state), jnp.float32(up) - 1.0, up, jnp.bool_(False)), state

    defaults = AcrobotParams(*(jnp.float32(value) for value in AcrobotParams()))
    spaces = Spaces(Box((6,), -SPEED_2, SPEED_2), Discrete(3))
    picture = Picture(_drawn, pause_ms=60)
    return time_limit(
        Environment(
            defaults, spaces, draw_uniform(4), draw_nothing, reset, step, max_steps, picture=picture, bounds=BOUNDS
        )
    )


def _slope(state: AcrobotState, torque: jax.Array, params: AcrobotParams) -> AcrobotState:
    """Time derivative of the state."""
    p, cos, sin = params, jnp.cos(state.theta_2), jnp.sin(state.theta_2)
    lever = p.mass_2 * p.length_1 * p.center_2
    own = p.mass_2 * p.center_2**2 + p.inertia_2
    d_1 = p.mass_1 * p.center_1**2 + p.inertia_1 + p.mass_2 * p.length_1**2 + own + 2 * lever * cos
    d_2 = own + lever * cos
    phi_2 = p.mass_2 * p.center_2 * p.gravity * jnp.sin(state.theta_1 + state.theta_2)
    phi_1 = (
        -lever * sin * state.speed_2 * (state.speed_2 + 2 * state.speed_1)
        + (p.mass_1 * p.center_1 + p.mass_2 * p.length_1) * p.gravity * jnp.sin(state.theta_1)
        + phi_2
    )
    share = d_2 / d_1
    acceleration_2 = (torque + share * phi_1 - lever * state.speed_1**2 * sin - phi_2) / (own - share * d_2)
    acceleration_1 = -(d_2 * acceleration_2 + phi_1) / d_1
    return AcrobotState(state.speed_1, state.speed_2, acceleration_1, acceleration_2)


def _runge_kutta(state: AcrobotState, torque: jax.Array, params: AcrobotParams) -> AcrobotState:
    """Return the state after one step of length tau."""

    def after(slope: AcrobotState, time: jax.Array | float) -> AcrobotState:
        return AcrobotState(*(x + time * dx for x, dx in zip(state, slope, strict=True)))

    k_1 = _slope(state, torque, params)
    k_2 = _slope(after(k_1, params.tau / 2), torque, params)
    k_3 = _slope(after(k_2, params.tau / 2), torque, params)
    k_4 = _slope(after(k_3, params.tau), torque, params)
    mean = AcrobotState(*((a + 2 * b + 2 * c + d) / 6 for a, b, c, d in zip(k_1, k_2, k_3, k_4, strict=True)))
    return after(mean, params.tau)


def _wrapped(angle: jax.Array) -> jax.Array:
    """Return the angle in [-pi, pi)."""
    return angle - 2 * math.pi * jnp.floor((angle + math.pi) / (2 * math.pi))


def _drawn(state: AcrobotState, env_params: AcrobotParams) -> Any:
    upper, lower, goal = (float(x) for x in (env_params.length_1, env_params.length_2, env_params.goal))
    reach = max(upper + lower, abs(goal))
    picture = pictures.plane(SIZE, SIZE, 0.44 * SIZE / reach, (SIZE / 2, SIZE / 2))
    picture.line([(-2 * reach, goal), (2 * reach, goal)], pictures.GREEN, 2)
    angle = float(state.theta_1)
    joint = (upper * math.sin(angle), -upper * math.cos(angle))
    angle += float(state.theta_2)
    tip = (joint[0] + lower * math.sin(angle), joint[1] - lower * math.cos(angle))
    picture.line([(0.0, 0.0), joint], pictures.INK, 9)
    picture.line([joint, tip], pictures.ACCENT, 9)
    for point in ((0.0, 0.0), joint):
        picture.disc(point, 0.035 * reach, pictures.SOFT)
    return picture.finished()
