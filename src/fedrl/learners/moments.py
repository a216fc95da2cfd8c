"""Mean and variance that agents count apart and the server merges exactly.

    samples --count--> Sums (they add up) --merged--> Moments     as if all samples had been in one place

Sums are taken about the mean and in units of the spread that were known when counting began. They stay near one, so
nothing cancels in float32.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

FLOOR = 1e-4
EPSILON = 1e-8
STEP = 2.0**15


class Moments(NamedTuple):
    """How many samples were seen, their mean and variance; 0 and 1 before there were any."""

    samples: jax.Array
    mean: jax.Array
    variance: jax.Array


class Sums(NamedTuple):
    """Of the samples' standardised values: their number, sum and sum of squares."""

    samples: jax.Array
    first: jax.Array
    second: jax.Array


def unseen(shape: tuple[int, ...]) -> Moments:
    """The moments of no samples."""
    return Moments(jnp.float32(0.0), jnp.zeros(shape), jnp.ones(shape))


def nothing(shape: tuple[int, ...]) -> Sums:
    """The sums over no samples."""
    return Sums(jnp.float32(0.0), jnp.zeros(shape), jnp.zeros(shape))


def count(moments: Moments, samples: Float[Array, "*features samples"]) -> Sums:
    """Sum up samples about the mean of `moments`, in units of its spread."""
    z = (samples - moments.mean[..., None]) / _unit(moments)[..., None]
    return Sums(jnp.float32(samples.shape[-1]), z.sum(-1), jnp.square(z).sum(-1))


def merged(moments: Moments, sums: Sums) -> Moments:
    """The moments of all samples, given the sums over the new ones about the old moments.

    With the share f = n / (N + n) and the shift d of the mean: mean + f d, and (1-f) v + f v_new + f (1-f) d^2.

    Reference: Chan, Golub & LeVeque (1983), https://doi.org/10.1080/00031305.1983.10483115

    >>> import jax.numpy as jnp
    >>> start = unseen(())
    >>> both = merged(start, count(start, jnp.array([1.0, 2.0, 6.0])))
    >>> [round(float(x), 3) for x in both]
    [3.0, 3.0, 4.667]
    """
    new = jnp.maximum(sums.samples, EPSILON)
    share = sums.samples / jnp.maximum(moments.samples + sums.samples, EPSILON)
    unit = _unit(moments)
    shift = sums.first / new
    spread = jnp.maximum(sums.second / new - shift**2, 0.0)
    variance = (1.0 - share) * moments.variance + unit**2 * (share * spread + share * (1.0 - share) * shift**2)
    return Moments(moments.samples + sums.samples, moments.mean + share * unit * shift, variance)


def scaled(moments: Moments, samples: jax.Array, limit: float) -> jax.Array:
    """`[*features, samples]` divided by their spread, within +- `limit`."""
    return jnp.clip(samples / jnp.sqrt(moments.variance + EPSILON)[..., None], -limit, limit)


def standardised(moments: Moments, samples: jax.Array, limit: float) -> jax.Array:
    """`[*features, samples]` shifted to mean 0 and scaled to variance 1, within +- `limit`."""
    return scaled(moments, samples - moments.mean[..., None], limit)


def packed(sums: Sums) -> tuple[Sums, Sums]:
    """A coarse and a fine part, for exact sums of limited range (`fedrl.core.exact`).

    Before anything is known of their spread, the squares may be huge.
    """
    coarse = Sums(*(jnp.round(x / STEP) for x in sums))
    return coarse, Sums(*(x - part * STEP for x, part in zip(sums, coarse, strict=True)))


def unpacked(parts: tuple[Sums, Sums]) -> Sums:
    """The sums that were packed."""
    coarse, fine = parts
    return Sums(*(part * STEP + rest for part, rest in zip(coarse, fine, strict=True)))


def _unit(moments: Moments) -> jax.Array:
    return jnp.sqrt(jnp.maximum(moments.variance, FLOOR))
