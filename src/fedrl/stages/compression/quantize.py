"""Quantisation to at most one byte per number, by unbiased random rounding or to the nearest level."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core.component import component
from fedrl.core.errors import ConfigError
from fedrl.core.ranges import Count
from fedrl.core.stage import Stage
from fedrl.core.types import Key, PyTree, Update, UpdateContext
from fedrl.stages.leaves import PLACES, check_not_encoded, decompressed, is_real
from fedrl.wire.quantized import Quantized, levels

TINY = float(np.finfo(np.float32).tiny)


@component("stage", reference="Alistarh et al. (2017), https://arxiv.org/abs/1610.02132")
def quantize(bits: Count = 8, unbiased: bool = True) -> Stage:
    """Round every number to one of at most 2^bits levels, at random so that the expectation is the number itself.

    With s = 2^(bits - 1) - 1 levels on either side of zero and m the largest magnitude in the array:

        code = floor(s x / m + u),   u uniform on [0, 1),      x ~ m code / s

    With one bit there is no level at zero: the code is +1 with probability (1 + x / m) / 2, else -1. The scale is the
    maximum rather than the paper's L2 norm, as in the paper's own experiments: less variance at the same size. The
    values of a sparse update can be quantised, too.

    The error is E ||x - C(x)||^2 <= (sqrt(1 + (d - 1) / s^2) - 1) / 2 ||x||^2 for an array of d numbers, and up to
    (d - 1) ||x||^2 with one bit. So it is a contraction, fit for `error_feedback`, as long as d - 1 < 8 s^2: up to 392
    numbers with 4 bits, and 129,032 with 8.

    With `unbiased=False` it rounds to the nearest level, u = 1/2. This is biased, but the error is at most half a level
    and at most the number itself: a contraction for arrays of any size,
    ||x - C(x)||^2 <= (1 - 4 s^2 / (4 s^2 + d - 1)) ||x||^2, with as few as 2 bits. Use this inside `error_feedback`.

    Args:
        bits: 1 to 8 per number; a code is stored in an int8.
        unbiased: Round at random, without bias, instead of to the nearest level.

    Raises:
        ConfigError: `bits` is out of range.
    """
    if bits not in range(1, 9):
        raise ConfigError(f"bits is {bits}. A code is stored in one byte. Choose 1 to 8.")
    if bits == 1 and not unbiased:
        raise ConfigError(
            "bits is 1 and unbiased is false. Most numbers are far from both levels, plus and minus the largest "
            "magnitude. Use sign(), whose magnitude is the mean, or 2 bits."
        )
    highest = levels(bits)

    def squeeze(key: Key, x: jax.Array) -> Quantized:
        scale = jnp.abs(x).max(initial=0.0)  # a NaN or infinity stays in the scale, so that the server rejects it
        unit = x / jnp.where(scale > TINY, scale, 1.0)
        unit = jnp.where(jnp.isfinite(unit), unit, 0.0)  # a NaN has no integer code
        if bits == 1:
            integers = 2.0 * round_at_random(key, (unit + 1.0) / 2.0) - 1.0
        else:
            integers = round_at_random(key, unit * highest) if unbiased else jnp.round(unit * highest)
        return Quantized(integers.astype(jnp.int8), scale, bits)

    def encode(
        key: Key, context: UpdateContext, server_state: PyTree, agent_state: PyTree, update: Update
    ) -> tuple[Update, PyTree]:
        del context, server_state
        check_not_encoded(update.value, "quantize()", allowed=PLACES)
        leaves, structure = jax.tree.flatten(update.value)
        coded = [squeeze(jax.random.fold_in(key, i), x) if is_real(x) else x for i, x in enumerate(leaves)]
        return update._replace(value=jax.tree.unflatten(structure, coded)), agent_state

    def decode(server_state: PyTree, update: Update) -> Update:
        del server_state
        return update._replace(value=decompressed(Quantized, update.value))

    def contraction(entries: int) -> float:
        others = max(entries, 1) - 1
        if not unbiased:
            return 4.0 * highest**2 / (4.0 * highest**2 + others)
        return 1.0 - (others if bits == 1 else (math.sqrt(1.0 + others / highest**2) - 1.0) / 2.0)

    return Stage(encode, decode=decode, may_increase_norm=True, unbiased=unbiased, contraction=contraction)


def round_at_random(key: Key, x: jax.Array) -> jax.Array:
    """Round up with the probability of the fractional part, else down; integers stay as they are."""
    # Compared with the fraction, not floor(x + u): in float32, x + u can round up past an integer x.
    low = jnp.floor(x)
    return low + (jax.random.uniform(key, x.shape, x.dtype) < x - low)
