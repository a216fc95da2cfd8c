"""Sign compression: one bit per number, and one magnitude per array."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fedrl.core.component import component
from fedrl.core.stage import Stage
from fedrl.core.types import Key, PyTree, Update, UpdateContext
from fedrl.stages.leaves import PLACES, check_not_encoded, decompressed, is_real
from fedrl.wire.quantized import Quantized
from fedrl.wire.sparse import Masked


@component(
    "stage",
    reference="Bernstein et al. (2018), https://arxiv.org/abs/1802.04434; "
    "Karimireddy et al. (2019), https://arxiv.org/abs/1901.09847",
)
def sign() -> Stage:
    """Send the sign of every number, and the mean magnitude of each array.

        C(x) = ||x||_1 / d * sign(x)

    With this scale it is a contraction, ||x - C(x)||^2 = (1 - ||x||_1^2 / (d ||x||_2^2)) ||x||^2: by 1 / d for an array
    with a single entry, by 2 / pi for normal ones. It is not unbiased, so use it inside `error_feedback`; signSGD's
    bare signs need not converge. A zero counts as positive.
    """

    def signs(x: jax.Array, count: jax.Array | int) -> Quantized:
        scale = jnp.abs(x).sum() / jnp.maximum(count, 1)  # a NaN or infinity stays in the scale, for the server
        return Quantized(jnp.where(x >= 0.0, 1, -1).astype(jnp.int8), scale, bits=1)

    def encode(
        key: Key, context: UpdateContext, server_state: PyTree, agent_state: PyTree, update: Update
    ) -> tuple[Update, PyTree]:
        del key, context, server_state
        check_not_encoded(update.value, "sign()", allowed=PLACES)

        def squeeze(node: PyTree) -> PyTree:
            # The mean is over the entries that are sent: the zeros elsewhere would make the magnitude too small.
            if isinstance(node, Masked):
                return Masked(node.mask, signs(node.value, node.mask.sum()), node.shape)
            return signs(node, node.size) if is_real(node) else node

        value = jax.tree.map(squeeze, update.value, is_leaf=lambda node: isinstance(node, Masked))
        return update._replace(value=value), agent_state

    def decode(server_state: PyTree, update: Update) -> Update:
        del server_state
        return update._replace(value=decompressed(Quantized, update.value))

    return Stage(encode, decode=decode, contraction=lambda entries: 1.0 / max(entries, 1))
