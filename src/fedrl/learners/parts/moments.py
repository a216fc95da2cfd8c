"""Mean and variance that agents count apart and the server merges exactly.

    samples --count, both--> Sums --parted--> parts that add up --joined--> Sums --merged--> Moments

An agent counts about its own mean, so nothing cancels. Over agents, the sum of squares is that about each mean and that
of the means, which cancel for data far from zero: they travel in twice float32's precision.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fedrl.core.double import Double, added, negative, product, quotient, two_product

EPSILON = 1e-8
CONSTANT = 2e-7
"""A spread below this share of the mean is rounding of float32."""
LEAST = 1e-15
"""The least spread that samples are divided by."""
FARTHEST = 1e15
"""The farthest that a server takes samples to be from their mean."""
ROUNDING, UNDERFLOW = 1e-3, 1e-30
"""How far sums of squares may be off, relatively and at all: they are computed in float32."""


class Moments(NamedTuple):
    """How many samples were seen, their mean and variance; 0 and 1 before there were any."""

    samples: jax.Array
    mean: jax.Array
    variance: jax.Array


class MomentSums(NamedTuple):
    """Of new samples: their number, their mean less the old mean, and the sum of squares about their mean."""

    samples: jax.Array
    shift: jax.Array
    squares: jax.Array


class Parts(NamedTuple):
    """What adds up over agents: number, sum and sum of squares of samples less the old mean, the last in two.

    Arrays of one agent, a `Double` each of all of them.
    """

    samples: Any
    first: Any
    second: Any
    second_rest: Any


def unseen(shape: tuple[int, ...]) -> Moments:
    """The moments of no samples."""
    return Moments(jnp.float32(0.0), jnp.zeros(shape), jnp.ones(shape))


def nothing(shape: tuple[int, ...]) -> MomentSums:
    """The sums over no samples."""
    return MomentSums(jnp.float32(0.0), jnp.zeros(shape), jnp.zeros(shape))


def count(moments: Moments, samples: Float[Array, "*features samples"]) -> MomentSums:
    """Sum up samples about the mean of `moments`."""
    shifted = samples - moments.mean[..., None]
    mean = shifted.sum(-1) / max(samples.shape[-1], 1)
    return MomentSums(jnp.float32(samples.shape[-1]), mean, jnp.square(shifted - mean[..., None]).sum(-1))


def both(a: MomentSums, b: MomentSums) -> MomentSums:
    """The sums over the samples of both.

    Reference: Chan, Golub & LeVeque (1983), https://doi.org/10.1080/00031305.1983.10483115
    """
    samples = a.samples + b.samples
    share = b.samples / jnp.maximum(samples, EPSILON)
    apart = b.shift - a.shift
    return MomentSums(samples, a.shift + share * apart, a.squares + b.squares + share * a.samples * apart**2)


def merged(moments: Moments, sums: MomentSums) -> Moments:
    """The moments of all samples, given the sums over the new ones about the old moments.

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
    """What adds up over agents: with s = n d, the sum of squares is that about the mean and s^2 / n."""
    first = sums.samples * sums.shift
    about_zero = quotient(two_product(first, first), jnp.maximum(sums.samples, 1.0))
    second = added(Double(sums.squares, jnp.zeros_like(first)), about_zero)
    return Parts(sums.samples, first, *second)


def joined(parts: Parts) -> MomentSums:
    """The sums over all agents, from the sums of their parts, each a `Double`."""
    samples, first = parts.samples, parts.first
    second = added(parts.second, parts.second_rest)
    number = jnp.maximum(samples.value, 1.0)
    size = jnp.maximum(jnp.abs(first.value) / number, jnp.sqrt(jnp.abs(second.value) / number))
    # in units of a power of two, so that squares of large numbers stay in float32's range
    unit = jnp.ldexp(jnp.float32(1.0), jnp.where(size > 0.0, jnp.floor(jnp.log2(size)), 0.0).astype(jnp.int32))
    first = Double(first.value / unit, first.rest / unit)
    second = Double(second.value / unit / unit, second.rest / unit / unit)
    left = added(product(second, samples), negative(product(first, first)))  # n times the sum of squares about the mean
    squares = jnp.maximum(left.value / number, 0.0) * unit * unit
    return MomentSums(samples.value, first.value / number * unit, squares)


def doubt(parts: Parts, samples: int) -> str:
    """Why no agent can have counted these parts over so many samples, or "".

    n^2 times a variance, n sum x^2 - (sum x)^2, is never negative.
    """
    if float(parts.samples) != samples:
        return f"counts {float(parts.samples):g} samples, and {samples} follow from the local steps that were ordered"
    first = np.abs(np.asarray(parts.first, np.float64))
    second = np.asarray(parts.second, np.float64) + np.asarray(parts.second_rest, np.float64)
    if (first > samples * FARTHEST).any() or (second > samples * FARTHEST**2).any():
        return f"has samples beyond {FARTHEST:g}, whose squares float32 does not add up"
    if (samples * second < np.square(first) * (1.0 - ROUNDING) - UNDERFLOW).any():
        return "has a sum of squares below what its sum makes it at least"
    return ""


def scaled(moments: Moments, samples: jax.Array, limit: float) -> jax.Array:
    """`[*features, samples]` divided by their spread, within +- `limit`."""
    least = jnp.maximum(CONSTANT * jnp.abs(moments.mean), LEAST)
    return jnp.clip(samples / jnp.maximum(jnp.sqrt(moments.variance), least)[..., None], -limit, limit)


def standardised(moments: Moments, samples: jax.Array, limit: float) -> jax.Array:
    """`[*features, samples]` shifted to mean 0 and scaled to variance 1, within +- `limit`."""
    return scaled(moments, samples - moments.mean[..., None], limit)
