"""Add updates as integers modulo 2^32 on a common grid, as masks and secret shares need.

    x --round--> code = round(2^s x), int32 --sum modulo 2^32--> code 2^-s

Masks are uniform in this ring, so a masked update tells nothing about the update, and they cancel exactly. For the same
reason a simulation needs no masks to have the numbers of the protocol: sums of codes are what the protocol opens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core.component import component
from fedrl.core.errors import ConfigError
from fedrl.core.ranges import Count, Positive
from fedrl.core.summation import Summation

BITS = 31
"""The bits of a magnitude in an int32."""
WEIGHT_BITS = 4
"""The bits below one with which weights are rounded."""


def bits_below(agents: int, largest: float) -> int:
    """Return s, the bits after the point: the most for which the sum of all agents does not overflow.

    >>> bits_below(10, 1.0)
    27
    """
    return math.ceil(BITS - math.log2(agents * largest)) - 1


@component("summation", reference="Bonawitz et al. (2017), https://doi.org/10.1145/3133956.3133982")
def ring_sum(agents: Count, largest: Positive) -> Summation:
    """Add updates modulo 2^32 on a grid, so that the server can be kept from reading more than the sum.

        code = round(2^s x),    s = the most bits with agents * largest * 2^s < 2^31

    An update with a larger entry is rejected by its own agent: the sum would overflow. The error of a sum of K updates
    is at most K 2^-(s + 1) per entry. On the wire a number has 4 bytes.

    Args:
        agents: The largest number of agents in one sum.
        largest: The largest magnitude of an entry of an update, times its weight; behind a clip, its norm.

    Raises:
        ConfigError: So many agents with so large entries leave no bits, or more of them than float32 has.

    >>> ring_sum(10, largest=1.0).opens
    'sum'
    """
    bits = bits_below(agents, largest)
    if agents << WEIGHT_BITS >= 1 << BITS or not -100 <= bits <= 100:
        raise ConfigError(
            f"agents is {agents} and largest is {largest:g}. Codes of 32 bits hold their sum in units "
            f"of 2^{-bits}, which is no useful grid. Use another unit of parameters, or a clip."
        )
    unit = 2.0**-bits

    def quantize(terms: jax.Array, accepted: jax.Array) -> jax.Array:
        steps = jnp.full(terms.shape[1], 2.0**bits, jnp.float32).at[-1].set(2.0**WEIGHT_BITS)
        codes = jnp.round(jnp.where(accepted[:, None], terms, 0.0) * steps).astype(jnp.int32)
        return codes.sum(axis=0, keepdims=True, dtype=jnp.int32)

    def total(partials: Sequence[Any]) -> np.ndarray:
        # int64 cannot overflow here, and its low 32 bits are the sum in the ring.
        codes = sum((np.asarray(partial[0], np.int64) for partial in partials), np.int64(0))
        values = np.asarray(codes).astype(np.int32).astype(np.float64) * unit
        values[-1] *= 2.0**-WEIGHT_BITS / unit
        return values

    return Summation(quantize, total, limit=largest, weight_limit=2.0**BITS / (agents << WEIGHT_BITS), opens="sum")
