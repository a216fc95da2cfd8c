"""CartPole: balance a pole on a cart by pushing the cart left or right."""

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

TRACK = 2.4
TILT = 12 * 2 * math.pi / 360
WIDTH, HEIGHT = 480, 240
"""Size of a picture, in pixels."""


BOUNDS = dict.fromkeys(("cart_mass", "pole_mass", "length", "tau"), ABOVE_ZERO)
"""The range of each parameter that has one."""


class CartPoleParams(NamedTuple):
    """Physics in SI units; `length` is half the pole's, `tau` the time of a step."""

    gravity: jax.Array | float = 9.8
    cart_mass: jax.Array | float = 1.0
    pole_mass: jax.Array | float = 0.1
    length: jax.Array | float = 0.5
    force: jax.Array | float = 10.0
    tau: jax.Array | float = 0.02


class CartPoleState(NamedTuple):
    """Position (m), velocity, angle (rad, 0 upright), angular velocity."""

    x: jax.Array
    x_dot: jax.Array
    theta: jax.Array
    theta_dot: jax.Array


@component("environment", reference="Barto, Sutton & Anderson (1983), https://doi.org/10.1109/TSMC.1983.6313077")
def cartpole(max_steps: Count = 500) -> Environment:
    """CartPole-v1 of Gymnasium: reward 1 per step until the pole tilts past 12 degrees or the cart leaves the track.

    Observation `[x, x_dot, theta, theta_dot]`; action 0 pushes left, 1 right. Explicit Euler, as Gymnasium's default.

    Args:
        max_steps: Time limit of an episode.

    >>> import jax
    >>> env = cartpole()
    >>> timestep, state = env.reset(env.draw_reset(jax.random.key(0), ()), env.params)
    >>> timestep.observation.shape
    (4,)
    """

    def seen(state: CartPoleState) -> jax.Array:
        return jnp.stack(state)

    def reset(noise: jax.Array, params: CartPoleParams) -> tuple[Timestep, CartPoleState]:
        del params
        state = CartPoleState(*((noise - 0.5) * 0.1))
        return first(seen(state)), state

    def step(
        noise: tuple[()], params: CartPoleParams, state: CartPoleState, action: jax.Array
    ) -> tuple[Timestep, CartPoleState]:
        del noise
        force = jnp.where(action == 1, params.force, -params.force)
        cos, sin = jnp.cos(state.theta), jnp.sin(state.theta)
        mass = params.cart_mass + params.pole_mass
        moment = params.pole_mass * params.length
        push = (force + moment * state.theta_dot**2 * sin) / mass
        theta_acc = (params.gravity * sin - cos * push) / (
            params.length * (4.0 / 3.0 - params.pole_mass * cos**2 / mass)
        )
        x_acc = push - moment * theta_acc * cos / mass
        state = CartPoleState(
            state.x + params.tau * state.x_dot,
            state.x_dot + params.tau * x_acc,
            state.theta + params.tau * state.theta_dot,
            state.theta_dot + params.tau * theta_acc,
        )
        fallen = (jnp.abs(state.x) > TRACK) | (jnp.abs(state.theta) > TILT)
        return Timestep(seen(state), jnp.float32(1.0), fallen, jnp.bool_(False)), state

    defaults = CartPoleParams(*(jnp.float32(value) for value in CartPoleParams()))
    spaces = Spaces(Box((4,)), Discrete(2))
    picture = Picture(_drawn, pause_ms=20)
    return time_limit(
        Environment(
            defaults, spaces, draw_uniform(4), draw_nothing, reset, step, max_steps, picture=picture, bounds=BOUNDS
        )
    )


def _drawn(state: CartPoleState, env_params: CartPoleParams) -> Any:
    unit = WIDTH / (2.4 * TRACK)
    picture = pictures.plane(WIDTH, HEIGHT, unit, (WIDTH / 2, 0.82 * HEIGHT))
    for edge in (-TRACK, TRACK):
        picture.line([(edge, -8 / unit), (edge, 8 / unit)], pictures.SOFT, 2)
    picture.line([(-1.2 * TRACK, 0.0), (1.2 * TRACK, 0.0)], pictures.SOFT)
    x, top = float(state.x), 0.16
    picture.box((x - 0.25, 0.0), (x + 0.25, top), pictures.INK)
    length = 2.0 * float(env_params.length)
    tip = (x + length * math.sin(float(state.theta)), top + length * math.cos(float(state.theta)))
    picture.line([(x, top), tip], pictures.ACCENT, 0.08 * unit)
    return picture.finished()
