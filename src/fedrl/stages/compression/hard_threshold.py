"""Hard threshold: send only what is large enough to matter."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fedrl.core.checks import check_above_zero
from fedrl.core.component import component
from fedrl.core.stage import Stage
from fedrl.core.types import Context, Key, PyTree, Update
from fedrl.stages.leaves import check_not_encoded, opened
from fedrl.wire.sparse import Masked


@component("stage", reference="Sahu et al. (2021), https://arxiv.org/abs/2108.00951")
def threshold(epsilon: float) -> Stage:
    """Keep the entries whose magnitude is above epsilon, and drop the rest.

    Nothing is sent of an array that hardly changed, and all of one that changed much: bytes follow the data. No entry
    is off by more than epsilon, so that the residual of `error_feedback` never exceeds epsilon in any entry; alone,
    what is dropped is lost.

    Args:
        epsilon: In units of the parameters.

    Raises:
        ConfigError: `epsilon` is not above zero.
    """
    check_above_zero(epsilon=epsilon)

    def encode(key: Key, context: Context, shared: PyTree, local: PyTree, update: Update) -> tuple[Update, PyTree]:
        del key, context, shared
        check_not_encoded(update.value, "threshold()")

        def large(x: jax.Array) -> Masked:
            flat = x.reshape(-1)
            mask = ~(jnp.abs(flat) <= epsilon)  # NaN fails the comparison and is sent
            return Masked(mask, jnp.where(mask, flat, 0.0), x.shape)

        return update._replace(value=jax.tree.map(large, update.value)), local

    def decode(shared: PyTree, update: Update) -> Update:
        del shared
        return update._replace(value=opened(Masked, update.value))

    return Stage(encode, decode=decode, error_bound=epsilon)
