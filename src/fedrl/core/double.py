"""Numbers of twice float32's precision, as sums of two float32, inside compiled programs.

    x  =  value + rest,      |rest| <= half a unit in the last place of value

Where large numbers almost cancel, as in a mean of squares less the square of a mean, float32 keeps nothing of what is
left; two of them keep 48 bits. The building blocks return the rounding error of an operation exactly.

Reference: Dekker (1971), https://doi.org/10.1007/BF01397083; Shewchuk (1997), https://doi.org/10.1007/PL00009321
"""

from __future__ import annotations

from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

SPLIT = 2.0**12 + 1.0
"""Cuts a float32 of 24 bits into halves of 12."""


class Double(NamedTuple):
    """A number, or an array of numbers, as a sum of two float32."""

    value: jax.Array
    rest: jax.Array


def split64(x: np.ndarray) -> Double:
    """Of float64 on the host, the nearest pair."""
    with np.errstate(over="ignore", invalid="ignore"):  # beyond float32 it is inf, and found by whoever checks
        value = np.asarray(x, np.float32)
        rest = np.asarray(np.where(np.isfinite(value), x - value, 0.0), np.float32)
    return Double(cast(jax.Array, value), cast(jax.Array, rest))


def two_sum(a: jax.Array, b: jax.Array) -> Double:
    """A + b, exactly (Knuth)."""
    value = a + b
    there = value - a
    return Double(value, (a - (value - there)) + (b - there))


def two_product(a: jax.Array, b: jax.Array) -> Double:
    """A * b, exactly, while `SPLIT` times either stays in float32's range (Dekker)."""
    (a1, a2), (b1, b2) = _halves(a), _halves(b)
    value = a * b
    return Double(value, ((a1 * b1 - value) + a1 * b2 + a2 * b1) + a2 * b2)


def added(a: Double, b: Double) -> Double:
    """A + b."""
    value, rest = two_sum(a.value, b.value)
    return two_sum(value, rest + (a.rest + b.rest))


def negative(a: Double) -> Double:
    """-a."""
    return Double(-a.value, -a.rest)


def product(a: Double, b: Double) -> Double:
    """A * b."""
    value, rest = two_product(a.value, b.value)
    return two_sum(value, rest + (a.value * b.rest + a.rest * b.value))


def quotient(a: Double, b: jax.Array) -> Double:
    """A / b, of a float32 b."""
    value = a.value / b
    taken = two_product(value, b)
    return two_sum(value, ((a.value - taken.value) - taken.rest + a.rest) / b)


def sum_of(x: jax.Array) -> Double:
    """The sum over the first axis."""

    def add(so_far: Double, term: jax.Array) -> tuple[Double, None]:
        return added(so_far, Double(term, jnp.zeros_like(term))), None

    zero = jnp.zeros_like(x[0])
    return jax.lax.scan(add, Double(zero, zero), x)[0]


def _halves(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    large = x * SPLIT
    high = large - (large - x)
    return high, x - high
