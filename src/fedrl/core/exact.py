"""Add numbers exactly, so that the sum does not depend on the order or the grouping of its terms.

Floating-point addition is not associative, so a sum over agents would depend on how the engine groups them.
Each term is therefore split into digits of `BITS` bits, from the highest down, and integers add up exactly:

    x  =  d_n u_n + ... + d_1 u_1 + d_0 u_0,      u_i = 2^(lowest + BITS i),   |d_i| <= 2^(BITS - 1)

A float32 has 24 bits, so it is split without loss, unless it has bits below the lowest unit. The sum of `LANES` digits
fits an int32; the host continues in int64. The number of digits covers changes of parameters and weights from far below
1e-12 to far above 1e12, and for statistics the whole range of float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32

BITS = 27
LANES = 16
MANTISSA = 24
"""The bits of a float32: a number larger than a unit by this many bits has no bit as low as that unit."""
CACHED = 1 << 14
"""How many numbers are computed from their digits at a time, so that they fit a processor's cache."""


class Digits(NamedTuple):
    """The digits into which numbers are split.

    Attributes:
        lowest: The exponent of the lowest unit; bits below it are rounded away.
        number: The number of digits.
    """

    lowest: int
    number: int

    @property
    def units(self) -> list[float]:
        """Return u_0, u_1, ..., powers of two."""
        return [2.0 ** (self.lowest + BITS * i) for i in range(self.number)]

    @property
    def fine(self) -> float:
        """Return the lowest unit; the error of a term is at most half of it."""
        return self.units[0]

    @property
    def limit(self) -> float:
        """Return the bound below which all terms must be."""
        return self.units[-1] * 2.0 ** (BITS - 1)


UPDATES = Digits(-97, 6)
"""The digits of weighted changes of parameters, and of weights: from 6e-30 to 1.8e19."""
STATISTICS = Digits(-115, 9)
"""The digits of statistics: from 2e-35 to 1.7e38, the largest power of two of float32."""


def partial_sum(
    terms: Float[Array, "agents size"], accepted: Bool[Array, " agents"], digits: Digits = UPDATES
) -> Int32[Array, "digits size"]:
    """Add rows exactly, inside a compiled program.

    Args:
        terms: One row per agent, at most `LANES` rows.
        accepted: Which rows count; every entry of these must be smaller than `digits.limit`.
        digits: The digits into which terms are split.

    Returns:
        The sum of each digit, from the lowest.

    >>> import jax.numpy as jnp
    >>> terms = jnp.array([[1e-12, 1e12], [3e-12, jnp.nan], [2e-12, -1e12]])
    >>> total([partial_sum(terms, jnp.array([True, False, True]))]).tolist()
    [2.9999999880125916e-12, 0.0]
    """
    if terms.shape[0] > LANES:
        raise ValueError(f"{terms.shape[0]} rows do not fit an exact int32 sum. Add up at most {LANES} at a time.")
    units = np.array(digits.units)[:, None]
    # Powers of two: these factors round nothing, only `jnp.round` does.
    each = (1.0 / units).astype(np.float32)
    above = np.append(each[1:], np.zeros((1, 1), np.float32), axis=0)
    # A term larger than `reach` has no bits as low as this digit, and its quotient would overflow an int32.
    reach = np.minimum(units * 2.0 ** (BITS + MANTISSA), np.finfo(np.float32).max).astype(np.float32)
    sums = jnp.zeros((digits.number, terms.shape[1]), jnp.int32)
    for term, counts in zip(terms, accepted, strict=True):
        near = jnp.where(counts & (jnp.abs(term) < reach), term, 0.0)
        sums += (jnp.round(near * each) - jnp.round(near * above) * 2.0**BITS).astype(jnp.int32)
    return sums


def largest(tree: Any) -> Float[Array, " leaves"]:
    """Return the largest absolute entry of each leaf; NaN if an entry is NaN, 0 for an empty leaf."""
    return jnp.stack([jnp.abs(leaf).max(initial=0.0) for leaf in jax.tree.leaves(tree)])


def total(partials: Sequence[Any], digits: Digits = UPDATES) -> np.ndarray:
    """Add partial sums on the host, float64 `[size]`, with the same bits for every order and grouping."""
    # int32 holds the sum of `LANES` rows only, so several partial sums are added in int64.
    sums = np.asarray(partials[0])
    if len(partials) > 1:
        sums = sums.astype(np.int64)
        for partial in partials[1:]:
            sums += np.asarray(partial)
    whole = np.zeros(sums.shape[1])
    for at in range(0, whole.size, CACHED):
        _add_digits(sums[:, at : at + CACHED], digits, whole[at : at + CACHED])
    return whole


def _add_digits(sums: np.ndarray, digits: Digits, whole: np.ndarray) -> None:
    """Add digits to numbers that are zero, the highest first."""
    # Always from the highest digit down: these float64 additions may round, so their order must be fixed.
    rows = [(row, unit) for row, unit in zip(sums[::-1], digits.units[::-1], strict=True) if row.any()]
    # Most numbers have two nonzero digits, so the first one is written instead of being added to zeros.
    for i, (row, unit) in enumerate(rows):
        if i:
            whole += row * unit
        else:
            np.multiply(row, unit, out=whole)


def mean_of(totals: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the weighted mean, float32, and the sum of weights, from totals whose last entry is the sum of weights.

    The mean is zero if the sum of weights is.
    """
    weight = float(totals[-1])
    mean = np.zeros(totals.size - 1, np.float32)
    if weight > 0.0:
        # Divided in float64 and rounded once, into float32.
        np.divide(totals[:-1], weight, out=mean, casting="same_kind")
    return mean, weight


def nearest_power_of_two(size: float) -> float:
    """Return the nearest power of two, a scale that divides weights without rounding."""
    return 2.0 ** int(np.round(np.log2(max(size, 1.0))))


def flatten(tree: Any) -> Float[Array, " size"]:
    """Return all leaves of a tree of float32 as one vector, empty for a tree without leaves."""
    leaves = jax.tree.leaves(tree)
    return jnp.concatenate([jnp.ravel(leaf) for leaf in leaves]) if leaves else jnp.zeros(0)
