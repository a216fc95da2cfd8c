"""Mean and variance over all agents, from sums that agents compute separately and the server merges exactly.

    samples --count, both--> MomentSums --parted--> Parts, which add up --joined--> MomentSums --merged--> Moments

An agent sums squares about its own mean, so nothing cancels. Over agents, the sum of squares is computed from those
about zero, which cancel for data far from zero: they are sent in twice the precision of float32.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from fedrl.core.double import Double, added, negative, product, quotient, two_product
from fedrl.core.hyperparameters import Number

EPSILON = 1e-8
CONSTANT = 2e-7
"""A standard deviation below this share of the mean is rounding of float32."""
LEAST = 1e-15
"""Least standard deviation that samples are divided by."""
FARTHEST = 1e15
"""Largest distance of samples from their mean that a server accepts."""
ROUNDING, UNDERFLOW = 1e-3, 1e-30
"""Relative and absolute tolerance for sums of squares, which are computed in float32."""


class Moments(NamedTuple):
    """Number of samples so far, and their mean and variance; before the first sample, mean 0 and variance 1."""

    samples: jax.Array
    mean: jax.Array
    variance: jax.Array


class MomentSums(NamedTuple):
    """Sums over new samples: their number, their mean minus the old mean, and the sum of squares about their mean."""

    samples: jax.Array
    shift: jax.Array
    squares: jax.Array


class Parts(NamedTuple):
    """Quantities that add up over agents: number, sum and sum of squares of (sample - old mean).

    The sum of squares is two float32 arrays, `second` and `second_rest`. Each field is an array for one agent, and a
    `Double` for the sum over agents.
    """

    samples: Any
    first: Any
    second: Any
    second_rest: Any


def unseen(shape: tuple[int, ...]) -> Moments:
    """Return the moments before the first sample."""
    return Moments(jnp.float32(0.0), jnp.zeros(shape), jnp.ones(shape))


def nothing(shape: tuple[int, ...]) -> MomentSums:
    """Return the sums over no samples."""
    return MomentSums(jnp.float32(0.0), jnp.zeros(shape), jnp.zeros(shape))


def count(
    moments: Moments, samples: Float[Array, "*features samples"], counted: Bool[Array, " samples"] | None = None
) -> MomentSums:
    """Return the sums over samples, or over those that are `counted`, relative to the mean of `moments`."""
    # In two passes, about the samples' own mean: E[x^2] - E[x]^2 would cancel in float32.
    shifted = samples - moments.mean[..., None]
    if counted is None:
        mean = shifted.sum(-1) / max(samples.shape[-1], 1)
        return MomentSums(jnp.float32(samples.shape[-1]), mean, jnp.square(shifted - mean[..., None]).sum(-1))
    number = counted.sum().astype(jnp.float32)
    mean = shifted.sum(-1, where=counted) / jnp.maximum(number, 1.0)
    return MomentSums(number, mean, jnp.square(shifted - mean[..., None]).sum(-1, where=counted))


def both(a: MomentSums, b: MomentSums) -> MomentSums:
    """Return the sums over the samples of both.

    Reference: Chan, Golub & LeVeque (1983), https://doi.org/10.1080/00031305.1983.10483115
    """
    samples = a.samples + b.samples
    share = b.samples / jnp.maximum(samples, EPSILON)
    apart = b.shift - a.shift
    return MomentSums(samples, a.shift + share * apart, a.squares + b.squares + share * a.samples * apart**2)


def merged(moments: Moments, sums: MomentSums) -> Moments:
    """Return the moments of all samples, given the sums over the new ones relative to the old moments.

    With the share f = n / (N + n) and the shift d of the mean: mean + f d, and (1-f) v + f v_new + f (1-f) d^2.

    Reference: Chan, Golub & LeVeque (1983), https://doi.org/10.1080/00031305.1983.10483115

    >>> import jax.numpy as jnp
    >>> start = unseen(())
    >>> all_of_them = merged(start, count(start, jnp.array([1.0, 2.0, 6.0])))
    >>> [round(float(x), 3) for x in all_of_them]
    [3.0, 3.0, 4.667]
    """
    share = sums.samples / jnp.maximum(moments.samples + sums.samples, EPSILON)
    spread = sums.squares / jnp.maximum(sums.samples, EPSILON)
    variance = (1.0 - share) * moments.variance + share * spread + share * (1.0 - share) * sums.shift**2
    return Moments(moments.samples + sums.samples, moments.mean + share * sums.shift, variance)


def parted(sums: MomentSums) -> Parts:
    """Return quantities that add up over agents; with the sum s = n d, the sum of squares gains s^2 / n."""
    # In double float32, since the server subtracts terms of the size of s^2 / n again.
    first = sums.samples * sums.shift
    about_zero = quotient(two_product(first, first), jnp.maximum(sums.samples, 1.0))
    second = added(Double(sums.squares, jnp.zeros_like(first)), about_zero)
    return Parts(sums.samples, first, *second)


def joined(parts: Parts) -> MomentSums:
    """Return the sums over all agents, from the totals of their parts, each a `Double`."""
    samples, first = parts.samples, parts.first
    second = added(parts.second, parts.second_rest)
    number = jnp.maximum(samples.value, 1.0)
    size = jnp.maximum(jnp.abs(first.value) / number, jnp.sqrt(jnp.abs(second.value) / number))
    # In units of a power of two, which rounds nothing, so that squares of large numbers stay in float32's range.
    unit = jnp.ldexp(jnp.float32(1.0), jnp.where(size > 0.0, jnp.floor(jnp.log2(size)), 0.0).astype(jnp.int32))
    first = Double(first.value / unit, first.rest / unit)
    second = Double(second.value / unit / unit, second.rest / unit / unit)
    left = added(product(second, samples), negative(product(first, first)))  # n times the sum of squares about the mean
    squares = jnp.maximum(left.value / number, 0.0) * unit * unit
    return MomentSums(samples.value, first.value / number * unit, squares)


def doubt(parts: Parts, samples: int, fewer: bool = False) -> str:
    """Return the reason why these parts can't be sums over so many samples, or up to so many if `fewer`; "" if not."""
    # n^2 times a variance, n sum x^2 - (sum x)^2, is never negative: sums that violate this have no samples.
    told = float(parts.samples)
    if told != samples and not (fewer and told.is_integer() and 0.0 <= told < samples):
        return f"counts {told:g} samples, and {samples} follow from the local steps that were ordered"
    first = np.abs(np.asarray(parts.first, np.float64))
    second = np.asarray(parts.second, np.float64) + np.asarray(parts.second_rest, np.float64)
    samples = int(told)
    if (first > samples * FARTHEST).any() or (second > samples * FARTHEST**2).any():
        return f"has samples beyond {FARTHEST:g}, whose squares float32 does not add up"
    if (samples * second < np.square(first) * (1.0 - ROUNDING) - UNDERFLOW).any():
        return "has a sum of squares below what its sum makes it at least"
    return ""


def scaled(moments: Moments, samples: jax.Array, limit: Number) -> jax.Array:
    """Divide samples `[*features, samples]` by the standard deviation, and clip to +- `limit`."""
    return jnp.clip(samples / divisor(moments)[..., None], -limit, limit)


def divisor(moments: Moments) -> jax.Array:
    """Return the divisor of samples: their standard deviation, with a lower bound above rounding errors."""
    # A constant feature has a variance of rounding errors only, by which it must not be divided.
    least = jnp.maximum(CONSTANT * jnp.abs(moments.mean), LEAST)
    return jnp.maximum(jnp.sqrt(moments.variance), least)


def standardised(moments: Moments, samples: jax.Array, limit: Number) -> jax.Array:
    """Shift samples `[*features, samples]` to mean 0, scale them to variance 1, and clip to +- `limit`."""
    return scaled(moments, samples - moments.mean[..., None], limit)
