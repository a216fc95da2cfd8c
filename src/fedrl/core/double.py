"""Compute with twice float32's precision inside compiled programs, by sums of two float32.

    x  =  value + rest,      |rest| <= half a unit in the last place of value

Where large numbers almost cancel, as in a mean of squares minus the square of a mean, the result in float32 has no
correct bits; two float32 have 48 bits. The building blocks return the rounding error of an operation exactly.

Reference: Dekker (1971), https://doi.org/10.1007/BF01397083; Shewchuk (1997), https://doi.org/10.1007/PL00009321
"""

from __future__ import annotations

from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

SPLIT = 2.0**12 + 1.0
"""The factor that splits a float32 of 24 bits into halves of 12 bits (Dekker)."""


class Double(NamedTuple):
    """A number, or an array of numbers, as the unevaluated sum of two float32.

    Attributes:
        value: The number rounded to float32.
        rest: The rounding error.
    """

    value: jax.Array
    rest: jax.Array


def split64(x: np.ndarray) -> Double:
    """Return the nearest pair of float32 for float64 numbers on the host."""
    # Beyond float32's range the value is infinite, which the caller checks.
    with np.errstate(over="ignore", invalid="ignore"):
        value = np.asarray(x, np.float32)
        rest = np.asarray(np.where(np.isfinite(value), x - value, 0.0), np.float32)
    return Double(cast(jax.Array, value), cast(jax.Array, rest))


def two_sum(a: jax.Array, b: jax.Array) -> Double:
    """Return a + b exactly (Knuth)."""
    # Not associative arithmetic: a compiler that simplified these differences would return a rest of zero.
    value = a + b
    there = value - a
    return Double(value, (a - (value - there)) + (b - there))


def two_product(a: jax.Array, b: jax.Array) -> Double:
    """Return a * b exactly, as long as `SPLIT` times either factor is within float32's range (Dekker)."""
    (a1, a2), (b1, b2) = _halves(a), _halves(b)
    value = a * b
    return Double(value, ((a1 * b1 - value) + a1 * b2 + a2 * b1) + a2 * b2)


def added(a: Double, b: Double) -> Double:
    """Return a + b."""
    value, rest = two_sum(a.value, b.value)
    return two_sum(value, rest + (a.rest + b.rest))


def negative(a: Double) -> Double:
    """Return -a."""
    return Double(-a.value, -a.rest)


def product(a: Double, b: Double) -> Double:
    """Return a * b."""
    value, rest = two_product(a.value, b.value)
    return two_sum(value, rest + (a.value * b.rest + a.rest * b.value))


def quotient(a: Double, b: jax.Array) -> Double:
    """Return a / b for a float32 b."""
    value = a.value / b
    taken = two_product(value, b)
    return two_sum(value, ((a.value - taken.value) - taken.rest + a.rest) / b)


def sum_of(x: jax.Array) -> Double:
    """Return the sum over the first axis."""

    def add(so_far: Double, term: jax.Array) -> tuple[Double, None]:
        return added(so_far, Double(term, jnp.zeros_like(term))), None

    zero = jnp.zeros_like(x[0])
    return jax.lax.scan(add, Double(zero, zero), x)[0]


def _halves(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    large = x * SPLIT
    high = large - (large - x)
    return high, x - high
