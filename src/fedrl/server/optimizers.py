"""Define server optimisers, which take the negative merged update as a gradient and descend.

All are optax transformations for `federate(..., server_optimizer=...)`; any other one may be used, too. Names and
defaults are those of the papers. `tau` is the degree of adaptivity of Reddi et al.: it bounds how much a small change
is magnified.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedrl.core.component import component
from fedrl.core.errors import ConfigError
from fedrl.core.ranges import Count, FractionAboveZero, FractionBelowOne, Positive
from fedrl.core.types import Params

REDDI = "Reddi et al. (2021), https://arxiv.org/abs/2003.00295"
LEAST_TAU = 1e-30
"""The least tau: with less, the denominator of a parameter that never changes could be zero in float32."""


class Adaptive(NamedTuple):
    """The state of an adaptive server optimiser: m and v, each with the shapes of the parameters."""

    mean: Params
    square: Params


@component("server_optimizer", reference="McMahan et al. (2017), https://arxiv.org/abs/1602.05629")
def fedavg(learning_rate: Positive = 1.0) -> optax.GradientTransformation:
    """FedAvg: add the mean change, theta <- theta + learning_rate delta.

    Args:
        learning_rate: Above zero; 1 is plain FedAvg.

    Raises:
        ConfigError: The learning rate is not finite and above zero.
    """
    return optax.sgd(learning_rate)


@component("server_optimizer", reference="Hsu et al. (2019), https://arxiv.org/abs/1909.06335")
def fedavgm(learning_rate: Positive = 1.0, momentum: FractionBelowOne = 0.9) -> optax.GradientTransformation:
    """FedAvgM: heavy-ball momentum, v <- momentum v + delta, theta <- theta + learning_rate v.

    Args:
        learning_rate: Above zero.
        momentum: The share of v that is kept from round to round, in [0, 1).

    Raises:
        ConfigError: An argument is out of range.
    """
    return optax.sgd(learning_rate, momentum)


@component("server_optimizer", reference="Cutkosky & Mehta (2020), https://arxiv.org/abs/2002.03305")
def normalized_momentum(
    learning_rate: Positive = 0.1, alpha: FractionAboveZero = 0.5, decay_steps: Count | None = None
) -> optax.GradientTransformation:
    r"""Normalised momentum: d <- (1 - alpha) d + alpha delta, theta <- theta + learning_rate d / ||d||.

    With the look-ahead of `fedrl.server.schedules.afedpg(alpha)` it is the server of AFedPG, as in NIGT. Where d is
    zero, no step is taken.

    Args:
        learning_rate: The L2 norm of a step over all parameters, at the start.
        alpha: The weight of the newest change in the moving mean.
        decay_steps: The number of merges over which the norm of a step falls linearly to zero. Constant by default,
            and then the iterates do not converge.

    Raises:
        ConfigError: A number is out of range.
    """
    rate = learning_rate if decay_steps is None else optax.linear_schedule(learning_rate, 0.0, decay_steps)
    # Without debiasing, as in the paper; it would only scale d, whose norm is divided out.
    mean = optax.ema(1.0 - alpha, debias=False)
    return optax.chain(mean, _of_length_one(), optax.scale_by_learning_rate(rate))


@component("server_optimizer", reference=REDDI)
def fedadam(
    learning_rate: Positive = 0.01, b1: FractionBelowOne = 0.9, b2: FractionBelowOne = 0.99, tau: Positive = 1e-3
) -> optax.GradientTransformation:
    """FedAdam: theta <- theta + learning_rate m / (sqrt(v) + tau), with moving means m of delta and v of its square.

        m <- b1 m + (1 - b1) delta,      v <- b2 v + (1 - b2) delta^2,      at first m = 0 and v = tau^2

    This is Algorithm 2 of the paper: unlike Adam, it does not divide m and v by 1 - b^t (bias correction). In the first
    1 / (1 - b2) rounds or so, v is smaller than in Adam and steps are longer: for a constant change 2.1 times as long
    in round 10 and 1.26 times in round 100. Use `optax.adam` as `server_optimizer` for Adam itself.

    Args:
        learning_rate: Above zero.
        b1: The share of m that is kept from round to round, in [0, 1).
        b2: The share of v that is kept from round to round, in [0, 1).
        tau: In units of the parameters, at least 1e-30.

    Raises:
        ConfigError: An argument is out of range.
    """
    return _adaptive(learning_rate, b1, b2, tau, lambda v, square: b2 * v + (1.0 - b2) * square)


@component("server_optimizer", reference=REDDI)
def fedyogi(
    learning_rate: Positive = 0.01, b1: FractionBelowOne = 0.9, b2: FractionBelowOne = 0.99, tau: Positive = 1e-3
) -> optax.GradientTransformation:
    """FedYogi: FedAdam with an additive change of v, whose size does not depend on v.

        m <- b1 m + (1 - b1) delta,      v <- v - (1 - b2) delta^2 sign(v - delta^2),      at first m = 0 and v = tau^2
        theta <- theta + learning_rate m / (sqrt(v) + tau)

    This is Algorithm 2 of the paper; `optax.yogi` differs: its m starts at the value of v, and it corrects the bias.

    Args:
        learning_rate: Above zero.
        b1: The share of m that is kept from round to round, in [0, 1).
        b2: 1 - b2 is the factor of delta^2 by which v changes; in [0, 1).
        tau: In units of the parameters, at least 1e-30.

    Raises:
        ConfigError: An argument is out of range.
    """
    return _adaptive(learning_rate, b1, b2, tau, lambda v, square: v - (1.0 - b2) * square * jnp.sign(v - square))


@component("server_optimizer", reference=REDDI)
def fedadagrad(learning_rate: Positive = 0.01, tau: Positive = 1e-3) -> optax.GradientTransformation:
    """FedAdagrad: theta <- theta + learning_rate delta / (sqrt(v) + tau), with v the sum of tau^2 and all delta^2.

    This is Algorithm 2 of the paper with b1 = 0, as in its experiments.

    Args:
        learning_rate: Above zero.
        tau: In units of the parameters, at least 1e-30.

    Raises:
        ConfigError: An argument is out of range.
    """
    return _adaptive(learning_rate, 0.0, 0.0, tau, lambda v, square: v + square)


def _adaptive(
    learning_rate: float, b1: float, b2: float, tau: float, grow: Callable[[jax.Array, jax.Array], jax.Array]
) -> optax.GradientTransformation:
    """Return Algorithm 2 of Reddi et al., whose variants differ in the update of v: `grow(v, delta^2) -> v`."""
    if tau < LEAST_TAU:
        raise ConfigError(
            f"tau is {tau}. It keeps a denominator above zero, and so small a number is lost in float32. Set it to "
            f"{LEAST_TAU} or more."
        )

    # v starts at tau^2, the smallest initial value that Algorithm 2 of the paper allows.
    def init(params: Params) -> Adaptive:
        return Adaptive(jax.tree.map(jnp.zeros_like, params), jax.tree.map(lambda x: jnp.full_like(x, tau**2), params))

    def update(updates: Params, state: Adaptive, params: Params | None = None) -> tuple[Params, Adaptive]:
        del params
        mean = jax.tree.map(lambda m, x: b1 * m + (1.0 - b1) * x, state.mean, updates)
        square = jax.tree.map(lambda v, x: grow(v, x * x), state.square, updates)
        step = jax.tree.map(lambda m, v: -learning_rate * m / (jnp.sqrt(v) + tau), mean, square)
        return step, Adaptive(mean, square)

    return optax.GradientTransformation(init, update)


def _of_length_one() -> optax.GradientTransformation:
    """Return the transformation x -> x / ||x|| over all parameters; zero stays zero."""

    def update(
        updates: Params, state: optax.EmptyState, params: Params | None = None
    ) -> tuple[Params, optax.EmptyState]:
        del params
        # Divided by the largest entry first, no square over- or underflows in float32.
        largest = jnp.stack([jnp.abs(x).max(initial=0.0) for x in jax.tree.leaves(updates)]).max()
        scaled = jax.tree.map(lambda x: x / jnp.where(largest > 0.0, largest, 1.0), updates)
        norm = jnp.sqrt(sum((x * x).sum() for x in jax.tree.leaves(scaled)))
        return jax.tree.map(lambda x: x / jnp.where(largest > 0.0, norm, 1.0), scaled), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
