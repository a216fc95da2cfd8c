"""Uniform quantisation: rounding to the nearest point of a fixed grid."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fedrl.core.component import component
from fedrl.core.errors import ConfigError
from fedrl.core.ranges import Count
from fedrl.core.stage import Stage
from fedrl.core.types import Key, PyTree, Update, UpdateContext
from fedrl.stages.leaves import PLACES, check_not_encoded, decompressed, map_real
from fedrl.wire.quantized import FixedPoint


@component("stage", reference="fixed point, rounded to nearest: Gupta et al. (2015), https://arxiv.org/abs/1502.02551")
def uniform_quantize(bits: Count = 8) -> Stage:
    """Round every number to the nearest multiple of 2^-bits, and saturate beyond about one half.

        C(x) = clip(round(2^b x), -s, s) / 2^b,     s = 2^(b - 1) - 1,      so |C(x)| <= 1/2 - 2^-b

    Only codes of b bits are sent: 2^b - 1 grid points from -(1/2 - 2^-b) to 1/2 - 2^-b, and one code for a number that
    was not finite. A number beyond the grid becomes the last point on its side; any other has an error of at most half
    a step, 2^-(b + 1). Smaller numbers become zero in every round, so use this stage inside `error_feedback`, which
    also sends the excess beyond the grid in later rounds, unless every round exceeds it.

    Args:
        bits: b, 2 to 16 per number.

    Raises:
        ConfigError: `bits` is out of range.
    """
    if bits not in range(2, 17):
        raise ConfigError(
            f"bits is {bits}. The grid needs three points, and a code is stored in two bytes. Choose 2 to 16."
        )
    highest = 2 ** (bits - 1) - 1

    def squeeze(x: jax.Array) -> FixedPoint:
        integers = jnp.clip(jnp.round(x * 2.0**bits), -highest, highest)
        # The code -s - 1 is not on the grid, so it can stand for a number that is not finite.
        integers = jnp.where(jnp.isfinite(x), integers, -highest - 1)
        return FixedPoint(integers.astype(jnp.int8 if bits <= 8 else jnp.int16), bits)

    def encode(
        key: Key, context: UpdateContext, server_state: PyTree, agent_state: PyTree, update: Update
    ) -> tuple[Update, PyTree]:
        del key, context, server_state
        check_not_encoded(update.value, "uniform_quantize()", allowed=PLACES)
        return update._replace(value=map_real(squeeze, update.value)), agent_state

    def decode(server_state: PyTree, update: Update) -> Update:
        del server_state
        return update._replace(value=decompressed(FixedPoint, update.value))

    return Stage(encode, decode=decode, may_increase_norm=True, error_bound=2.0 ** -(bits + 1))
