"""Integer noise with a Skellam distribution: its draws, and what a release with it costs.

    Sk(V)  =  Poisson(V / 2) - Poisson(V / 2)          P(k) = e^-V I_|k|(V)          Sk(V) + Sk(W) = Sk(V + W)

The sum of the noise of many agents is the noise that one party would have drawn, whoever they are. No draw and no sum
is rounded, so there are no gaps of floating point (`fedrl.core.draws`) through which data could be told apart.

A draw compares 96 random bits with the distribution function, which is computed with 60 digits. Its distribution is off
by less than 2^-79 in total variation, so n draws add less than (1 + e^epsilon) n 2^-79 to delta.
"""

from __future__ import annotations

from decimal import Decimal, localcontext
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt32

from fedrl.core.types import Key
from fedrl.privacy.extra import accounting

WORDS = 3
"""Words of 32 bits of one draw."""
DIGITS = 60
"""Decimal digits with which the distribution is computed."""
FURTHEST, MARGIN = 16.0, 64
"""The recurrence begins so many standard deviations, and so many whole numbers more, from zero."""


@lru_cache(maxsize=8)
def distribution(variance: float) -> tuple[Decimal, ...]:
    """Return P(0), P(1), P(2), ..., as far as 2^-96 of the probability; P(-k) = P(k).

    >>> round(float(distribution(2.0)[0]), 6)
    0.308508
    """
    with localcontext() as context:
        context.prec = DIGITS
        of, last = Decimal(variance), int(FURTHEST * variance**0.5) + MARGIN
        # I_(k-1) = I_(k+1) + (2 k / V) I_k has positive terms alone: downwards, no digit is lost.
        values = [Decimal(0), Decimal(1)]
        for k in range(last, 0, -1):
            values.append(values[-2] + 2 * k * values[-1] / of)
        values.reverse()
        total = values[0] + 2 * sum(values[1:], Decimal(0))
        return tuple(value / total for value in values[:-1])


@lru_cache(maxsize=8)
def thresholds(variance: float) -> tuple[UInt32[np.ndarray, "thresholds 3"], int]:
    """Return P(X <= k) from the lowest k on, in units of 2^-96, three words each, the highest first; and that k.

    A uniform number of 96 bits is drawn, and as many thresholds as it reaches are added to the lowest k.
    """
    with localcontext() as context:
        context.prec = DIGITS
        whole, below, negative = 2 ** (32 * WORDS), Decimal(0), []
        for probability in reversed(distribution(variance)[1:]):
            below += probability
            negative.append(int(below * whole))
    negative = [threshold for threshold in negative if threshold > 0]
    # P(X <= k) = 1 - P(X <= -k - 1), so that both signs are exactly as probable.
    found = [*negative, *(whole - threshold for threshold in reversed(negative))]
    words = [[threshold >> 32 * i & 0xFFFFFFFF for i in reversed(range(WORDS))] for threshold in found]
    return np.array(words, np.uint32).reshape(-1, WORDS), -len(negative)


def reach(variance: float) -> int:
    """Return the largest magnitude of a draw.

    >>> reach(1e4)
    1125
    """
    return -thresholds(variance)[1]


def skellam(key: Key, shape: tuple[int, ...], variance: float) -> Float[Array, "..."]:
    """Return draws of Sk(variance), whole numbers; the variance is no input of the compiled program.

    >>> skellam(jax.random.key(0), (2,), 1e4).shape
    (2,)
    """
    table, lowest = thresholds(variance)
    rows, drawn = jnp.asarray(table), jax.random.bits(key, (*shape, WORDS), jnp.uint32)

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) // 2
        reached = _at_most(rows[jnp.minimum(middle, len(table) - 1)], drawn) & (low < high)
        return jnp.where(reached, middle + 1, low), jnp.where(reached, high, jnp.minimum(middle, high))

    ends = jnp.zeros(shape, jnp.int32), jnp.full(shape, len(table), jnp.int32)
    count, _ = jax.lax.fori_loop(0, len(table).bit_length(), halve, ends)
    return (lowest + count).astype(jnp.float32)


def _at_most(one: Array, other: Array) -> Array:
    """Return whether numbers are at most others, by their words, the highest first."""
    found = one[..., -1] <= other[..., -1]
    for i in reversed(range(WORDS - 1)):
        found = (one[..., i] < other[..., i]) | ((one[..., i] == other[..., i]) & found)
    return found


@lru_cache(maxsize=1)
def _kind() -> Any:
    """Return the class of the event, which is made by the first call, as `dp_accounting` is an extra."""
    import attrs

    @attrs.frozen
    class SkellamDpEvent(accounting().DpEvent):  # type: ignore[misc]
        """Skellam noise of variance (z S)^2 in each entry of a vector of whole numbers.

        Attributes:
            noise_multiplier: z.
            sensitivity: S, the L2 norm by which neighbouring datasets differ.
        """

        noise_multiplier: float
        sensitivity: float

    return SkellamDpEvent


def skellam_event(noise_multiplier: float, sensitivity: float) -> Any:
    """Return the `DpEvent` of one release with Skellam noise of variance (z S)^2 for each entry.

    Args:
        noise_multiplier: z.
        sensitivity: S, the L2 norm by which neighbouring datasets differ, a number of units of the grid.

    >>> skellam_event(2.0, 1000.0)
    SkellamDpEvent(noise_multiplier=2.0, sensitivity=1000.0)
    """
    return _kind()(noise_multiplier, sensitivity)


def is_skellam(event: Any) -> bool:
    """Return whether an event is one of `skellam_event`."""
    return type(event).__name__ == "SkellamDpEvent"


def renyi_of_skellam(event: Any, orders: Float[np.ndarray, " orders"]) -> Float[np.ndarray, " orders"]:
    """Return an upper bound of the Renyi divergence of one release at each order.

        D_a <= a S^2 / (2 V) + min(((2 a - 1) S^2 + 6 S_1) / (4 V^2), 3 S_1 / (2 V)),    a = 2, 3, 4, ...

    S_1, the L1 norm of the difference, is at most S^2, as its entries are whole numbers: no bound needs the number of
    entries. Between two orders (a - 1) D_a is convex in a, and below 2, D_a <= D_2.

    Agarwal, Kairouz & Liu (2021), theorem 3.5, https://arxiv.org/abs/2110.04995.

    >>> renyi_of_skellam(skellam_event(1.0, 1e4), np.array([2.0, 2.5, 3.0])).round(4).tolist()
    [1.0, 1.3333, 1.5]
    """
    z, size = event.noise_multiplier, event.sensitivity

    def at(order: np.ndarray) -> np.ndarray:
        rest = np.minimum((2.0 * order + 5.0) / (4.0 * z**4 * size**2), 3.0 / (2.0 * z**2))
        return order / (2.0 * z**2) + rest

    whole = np.maximum(np.floor(orders), 2.0)
    part = np.maximum(orders - whole, 0.0)
    between = ((1.0 - part) * (whole - 1.0) * at(whole) + part * whole * at(whole + 1.0)) / (orders - 1.0)
    return np.where(orders <= 2.0, at(np.full_like(orders, 2.0)), between)
