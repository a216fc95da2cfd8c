"""Hard threshold: send only the entries above a fixed magnitude."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fedrl.core.component import component
from fedrl.core.ranges import Positive
from fedrl.core.stage import Stage
from fedrl.core.types import Key, PyTree, Update, UpdateContext
from fedrl.stages.leaves import check_not_encoded, decompressed
from fedrl.wire.sparse import Masked


@component("stage", reference="Sahu et al. (2021), https://arxiv.org/abs/2108.00951")
def hard_threshold(epsilon: Positive) -> Stage:
    """Keep the entries whose magnitude is above epsilon, and drop the rest.

    An array that hardly changed sends nothing and one that changed much sends all its entries, so the bytes of an
    update depend on the data. No entry has an error above epsilon, so neither has the residual of `error_feedback`;
    without error feedback, dropped entries are lost.

    Args:
        epsilon: Threshold, in units of the parameters.

    Raises:
        ConfigError: `epsilon` is not above zero.
    """

    def encode(
        key: Key, context: UpdateContext, server_state: PyTree, agent_state: PyTree, update: Update
    ) -> tuple[Update, PyTree]:
        del key, context, server_state
        check_not_encoded(update.value, "hard_threshold()")

        def large(x: jax.Array) -> Masked:
            flat = x.reshape(-1)
            mask = ~(jnp.abs(flat) <= epsilon)  # not `>`: a NaN has to be sent, so that the server rejects it
            return Masked(mask, jnp.where(mask, flat, 0.0), x.shape)

        return update._replace(value=jax.tree.map(large, update.value)), agent_state

    def decode(server_state: PyTree, update: Update) -> Update:
        del server_state
        return update._replace(value=decompressed(Masked, update.value))

    return Stage(encode, decode=decode, error_bound=epsilon)
