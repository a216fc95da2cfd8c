"""LQR: a cart on a rail with linear dynamics and quadratic cost, whose optimal policy is known exactly.

x' = A x + B u + w,    reward -(x^T Q x + R u^2),    x = [position, velocity],    w on the velocity alone
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedrl.core.component import component
from fedrl.core.environment import Box, Environment, Picture, Spaces, Timestep, draw_uniform, first
from fedrl.core.ranges import ABOVE_ZERO, ZERO_OR_MORE, Count
from fedrl.core.types import Key
from fedrl.environments import pictures
from fedrl.environments.time_limit import time_limit

SWEEPS = 2000
WIDTH, HEIGHT, SHOWN = 420, 140, 2.0
"""Size of a picture in pixels, and the position at its edges."""


BOUNDS = dict.fromkeys(("mass", "tau", "action_cost"), ABOVE_ZERO) | dict.fromkeys(
    ("friction", "stiffness", "position_cost", "velocity_cost", "noise"), ZERO_OR_MORE
)
"""The range of each parameter that has one."""


class LQRParams(NamedTuple):
    """Physics in SI units, costs per step; `noise` is the standard deviation of the velocity noise per step."""

    mass: jax.Array | float = 1.0
    friction: jax.Array | float = 0.1
    stiffness: jax.Array | float = 0.0
    tau: jax.Array | float = 0.1
    position_cost: jax.Array | float = 1.0
    velocity_cost: jax.Array | float = 0.1
    action_cost: jax.Array | float = 0.1
    noise: jax.Array | float = 0.02


class LQRState(NamedTuple):
    """Position (m) and velocity."""

    position: jax.Array
    velocity: jax.Array


class Matrices(NamedTuple):
    """The matrices of the process, with the leading axes of the parameters.

    Attributes:
        dynamics: A, `[2, 2]`.
        control: B, `[2, 1]`.
        state_cost: Q, `[2, 2]`.
        action_cost: R, `[1, 1]`.
        noise: Covariance of w, `[2, 2]`.
    """

    dynamics: jax.Array
    control: jax.Array
    state_cost: jax.Array
    action_cost: jax.Array
    noise: jax.Array


class LinearPolicy(NamedTuple):
    """The policy u = -gain x and its value V(x) = -(x^T cost x + constant).

    Attributes:
        gain: K, `[1, 2]`.
        cost: P, `[2, 2]`.
        constant: Discounted cost of all future noise, a scalar.
    """

    gain: jax.Array
    cost: jax.Array
    constant: jax.Array


@component("environment", reference="Kalman (1960), Bol. Soc. Mat. Mexicana 5:102-119")
def lqr(max_steps: Count = 200) -> Environment:
    """Keep a noisy cart at the origin at the least quadratic cost; episodes never terminate. See `lqr_optimum`.

    Observation `[position, velocity]`, both initially uniform on [-1, 1]; action `[force]`, unbounded. The reward is
    that of the state before the step.

    Args:
        max_steps: Steps of an episode.

    >>> policy = lqr_optimum(lqr().params, gamma=0.95)
    >>> policy.gain.shape
    (1, 2)
    """

    def reset(noise: jax.Array, params: LQRParams) -> tuple[Timestep, LQRState]:
        del params
        state = LQRState(*(2 * noise - 1))
        return first(jnp.stack(state)), state

    def step(noise: jax.Array, params: LQRParams, state: LQRState, action: jax.Array) -> tuple[Timestep, LQRState]:
        force = action[0]
        cost = (
            params.position_cost * state.position**2
            + params.velocity_cost * state.velocity**2
            + params.action_cost * force**2
        )
        pull = (force - params.friction * state.velocity - params.stiffness * state.position) / params.mass
        state = LQRState(
            state.position + params.tau * state.velocity,
            state.velocity + params.tau * pull + params.noise * noise[0],
        )
        return Timestep(jnp.stack(state), -cost, jnp.bool_(False), jnp.bool_(False)), state

    def draw_step(key: Key, batch: tuple[int, ...]) -> jax.Array:
        return jax.random.normal(key, (1, *batch))

    defaults = LQRParams(*(jnp.float32(value) for value in LQRParams()))
    spaces = Spaces(Box((2,)), Box((1,)))
    picture = Picture(_drawn, pause_ms=50)
    return time_limit(
        Environment(
            defaults, spaces, draw_uniform(2), draw_step, reset, step, max_steps, picture=picture, bounds=BOUNDS
        )
    )


def lqr_matrices(params: LQRParams) -> Matrices:
    """Return the matrices of one environment, or of a fleet with any leading axes."""
    mass, friction, stiffness, tau, position, velocity, action, deviation = (
        jnp.asarray(leaf, jnp.float32) for leaf in params
    )
    zero, one = jnp.zeros_like(mass), jnp.ones_like(mass)

    def matrix(*rows: list[jax.Array]) -> jax.Array:
        return jnp.stack([jnp.stack(row, -1) for row in rows], -2)

    return Matrices(
        dynamics=matrix([one, tau], [-tau * stiffness / mass, one - tau * friction / mass]),
        control=matrix([zero], [tau / mass]),
        state_cost=matrix([position, zero], [zero, velocity]),
        action_cost=matrix([action]),
        noise=matrix([zero, zero], [zero, deviation**2]),
    )


def lqr_optimum(params: LQRParams, gamma: float) -> LinearPolicy:
    """Compute the optimal policy by the discounted Riccati equation.

    P = Q + gamma A^T P A - gamma^2 A^T P B (R + gamma B^T P B)^-1 B^T P A,   K = gamma (R + gamma B^T P B)^-1 B^T P A

    Args:
        params: Parameters of one environment, or of a fleet with any leading axes, which the result has too.
        gamma: Discount factor in [0, 1).
    """
    a, b, q, r, noise = lqr_matrices(params)

    def gain_of(p: jax.Array) -> jax.Array:
        pressed = gamma * b.mT @ p
        return pressed @ a / (r + pressed @ b)

    def improve(_: jax.Array, p: jax.Array) -> jax.Array:
        # Made symmetric in every sweep, since rounding leaves an antisymmetric part.
        better = q + gamma * a.mT @ p @ (a - b @ gain_of(p))
        return (better + better.mT) / 2

    cost = jax.lax.fori_loop(0, SWEEPS, improve, q)
    return LinearPolicy(gain_of(cost), cost, _noise_cost(cost, noise, gamma))


def lqr_policy(params: LQRParams, gain: jax.Array, gamma: float) -> LinearPolicy:
    """Compute the value of any linear policy u = -gain x, by the discounted Lyapunov equation.

    P = Q + K^T R K + gamma (A - B K)^T P (A - B K)

    Args:
        params: Parameters of one environment.
        gain: K, `[1, 2]`.
        gamma: Discount factor in [0, 1), small enough for the sum of costs to converge.
    """
    a, b, q, r, noise = lqr_matrices(params)
    closed = a - b @ gain
    # The Lyapunov equation is linear in P: vec(A^T P A) = (A^T kron A^T) vec(P).
    equation = jnp.eye(4) - gamma * jnp.kron(closed.T, closed.T)
    cost = jnp.linalg.solve(equation, (q + gain.T @ r @ gain).ravel()).reshape(2, 2)
    return LinearPolicy(gain, cost, _noise_cost(cost, noise, gamma))


def lqr_return(policy: LinearPolicy) -> jax.Array:
    """Compute the expected discounted return of a policy; E x x^T is I / 3 for the initial state."""
    return -(jnp.trace(policy.cost, axis1=-2, axis2=-1) / 3 + policy.constant)


def _noise_cost(cost: jax.Array, noise: jax.Array, gamma: float) -> jax.Array:
    return gamma / (1 - gamma) * jnp.trace(cost @ noise, axis1=-2, axis2=-1)


def _drawn(state: LQRState, env_params: LQRParams) -> Any:
    """Draw the cart on its rail, its velocity as an arrow.

    A cart outside the picture is drawn at its edge, with its position.
    """
    del env_params
    unit = WIDTH / (2 * SHOWN + 0.6)
    picture = pictures.plane(WIDTH, HEIGHT, unit, (WIDTH / 2, 0.68 * HEIGHT))
    picture.line([(-SHOWN - 1, 0.0), (SHOWN + 1, 0.0)], pictures.SOFT, 2)
    for mark in (-2, -1, 1, 2):
        picture.line([(mark, -0.08), (mark, 0.0)], pictures.SOFT, 2)
        picture.text((mark, -0.2), str(mark), pictures.INK)
    picture.line([(0.0, -0.1), (0.0, 0.85)], pictures.GREEN, 2)
    picture.text((0.0, -0.2), "0", pictures.GREEN)
    x, velocity = (min(max(float(value), -SHOWN), SHOWN) for value in state)
    picture.box((x - 0.2, 0.1), (x + 0.2, 0.34), pictures.INK)
    for wheel in (-0.11, 0.11):
        picture.disc((x + wheel, 0.07), 0.07, pictures.INK)
    if x != float(state.position):
        picture.text((x, 0.85), f"{float(state.position):.3g}", pictures.ACCENT)
    picture.arrow((x, 0.5), (x + velocity, 0.5), pictures.ACCENT, 3)
    return picture.finished()
