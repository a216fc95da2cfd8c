"""Uniform quantisation: the nearest point of a grid that never changes."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fedrl.core.component import component
from fedrl.core.errors import ConfigError
from fedrl.core.stage import Stage
from fedrl.core.types import Key, PyTree, Update, UpdateContext
from fedrl.stages.leaves import PLACES, check_not_encoded, decompressed, map_real
from fedrl.wire.quantized import FixedPoint


@component("stage", reference="fixed point, rounded to nearest: Gupta et al. (2015), https://arxiv.org/abs/1502.02551")
def uniform_quantize(bits: int = 8) -> Stage:
    """Round every number to the nearest multiple of 2^-bits, up to one half: beyond, it saturates.

        C(x) = clip(round(2^b x), -s, s) / 2^b,     s = 2^(b - 1) - 1,      so |C(x)| <= 1/2 - 2^-b

    Nothing but codes travels, b bits each: 2^b - 1 points from -(1/2 - 2^-b) to 1/2 - 2^-b, and one code that says that
    the number was not finite. A number beyond the grid becomes the last point on its side. No number is off by more
    than half a step, 2^-(b + 1), unless it lies beyond; what is smaller than that becomes zero, again and again, so use
    it inside `error_feedback`. There, what lies beyond is sent later, as long as it isn't so all the time.

    Args:
        bits: b, 2 to 16 per number.

    Raises:
        ConfigError: `bits` is out of range.
    """
    if bits not in range(2, 17):
        raise ConfigError(
            f"bits is {bits}. One bit has no room for three points, and a code is held in two bytes. Choose 2 to 16."
        )
    highest = 2 ** (bits - 1) - 1

    def squeeze(x: jax.Array) -> FixedPoint:
        integers = jnp.clip(jnp.round(x * 2.0**bits), -highest, highest)
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
