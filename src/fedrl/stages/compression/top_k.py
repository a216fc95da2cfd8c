"""Sparsification: send only the largest entries, as pairs of index and value."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from fedrl.core.component import component
from fedrl.core.ranges import FractionAboveZero
from fedrl.core.stage import Stage
from fedrl.core.types import Key, PyTree, Update, UpdateContext
from fedrl.stages.leaves import check_not_encoded, check_share, decompressed
from fedrl.wire.sparse import Sparse


@component("stage", reference="Aji & Heafield (2017), https://arxiv.org/abs/1704.05021")
def top_k(fraction: FractionAboveZero) -> Stage:
    """Keep the largest entries of every array, by magnitude, and drop the rest.

    Each array of d entries keeps k = ceil(fraction * d). This is a contraction, ||x - C(x)||^2 <= (1 - k / d) ||x||^2,
    as `error_feedback` needs it; without error feedback, dropped entries are lost.

    Args:
        fraction: Share of the entries that is kept, above 0 and at most 1; never less than one entry.

    Raises:
        ConfigError: `fraction` is out of range.
    """
    check_share(fraction)

    def encode(
        key: Key, context: UpdateContext, server_state: PyTree, agent_state: PyTree, update: Update
    ) -> tuple[Update, PyTree]:
        del key, context, server_state
        check_not_encoded(update.value, "top_k()")

        def largest(x: jax.Array) -> Sparse:
            flat = x.reshape(-1)
            _, index = jax.lax.top_k(jnp.abs(flat), math.ceil(fraction * flat.size))
            index = jnp.sort(index.astype(jnp.int32))
            return Sparse(index, flat[index], x.shape)

        return update._replace(value=jax.tree.map(largest, update.value)), agent_state

    def decode(server_state: PyTree, update: Update) -> Update:
        del server_state
        return update._replace(value=decompressed(Sparse, update.value))

    return Stage(encode, decode=decode, contraction=lambda entries: math.ceil(fraction * entries) / max(entries, 1))
