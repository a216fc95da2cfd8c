"""Norm clipping of updates, which bounds the influence of one agent on the aggregate."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fedrl.core.component import component
from fedrl.core.ranges import Positive
from fedrl.core.stage import Stage
from fedrl.core.types import Key, PyTree, Update, UpdateContext
from fedrl.stages.leaves import PLACES, check_not_encoded, is_real, map_real


@component("stage", reference="McMahan et al. (2018), https://arxiv.org/abs/1710.06963")
def clip(norm: Positive) -> Stage:
    """Scale an update down to an L2 norm of at most `norm`, over all its arrays together.

        value <- value * min(1, C / ||value||_2)

    An update with an entry that is not finite becomes NaN, so that the server rejects it.

    Args:
        norm: C, in units of the parameters.

    Raises:
        ConfigError: `norm` is not above zero.
    """

    def encode(
        key: Key, context: UpdateContext, server_state: PyTree, agent_state: PyTree, update: Update
    ) -> tuple[Update, PyTree]:
        del key, context, server_state
        check_not_encoded(update.value, "clip()", allowed=PLACES)
        length = norm_of(update.value)
        # `where`, not `minimum(1, norm / length)`: a NaN fails the comparison and stays NaN, for the server to reject.
        factor = jnp.where(length <= norm, 1.0, norm / length)
        return update._replace(value=map_real(lambda leaf: leaf * factor, update.value)), agent_state

    return Stage(encode, clips=norm)


def norm_of(value: PyTree) -> jax.Array:
    """Return the L2 norm over all arrays of real numbers; NaN if an entry is NaN or infinite."""
    # In units of the largest entry, because squares of large float32 numbers overflow.
    leaves = [leaf for leaf in jax.tree.leaves(value) if is_real(leaf) and leaf.size]
    largest = jnp.stack([jnp.float32(0.0), *(jnp.abs(leaf).max() for leaf in leaves)]).max()
    unit = jnp.where(largest == 0.0, 1.0, largest)
    return unit * jnp.sqrt(sum((jnp.square(leaf / unit).sum() for leaf in leaves), jnp.float32(0.0)))
