"""Norm clipping of updates, which bounds the influence of one agent on the aggregate."""

from __future__ import annotations

from collections.abc import Callable

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
        return update._replace(value=clipped(update.value, norm, norm_of)), agent_state

    return Stage(encode, clips=norm)


def clipped(value: PyTree, bound: float | jax.Array, norm: Callable[[PyTree], jax.Array]) -> PyTree:
    """Return the value, scaled down to `bound` if its norm is larger; NaN if its norm is.

    Args:
        value: Arrays of real numbers, and integers, which stay as they are.
        bound: C.
        norm: `value -> ||value||`, NaN if an entry is not finite.
    """
    # Two rounding errors of float32 could put the scaled value just above C, which noise would not cover.
    safe, length = bound * (1.0 - 2.0**-20), norm(value)
    # `where`, not `minimum(1, safe / length)`: a NaN fails the comparison and stays NaN, for the server to reject.
    factor = jnp.where(length <= safe, 1.0, safe / length)
    return map_real(lambda leaf: leaf * factor, value)


def norm_of(value: PyTree) -> jax.Array:
    """Return the L2 norm over all arrays of real numbers; NaN if an entry is NaN or infinite."""
    # In units of the largest entry, because squares of large float32 numbers overflow.
    unit = _largest(value)
    squares = (jnp.square(leaf / unit).sum() for leaf in _real(value))
    return unit * jnp.sqrt(sum(squares, jnp.float32(0.0)))


def l1_norm_of(value: PyTree) -> jax.Array:
    """Return the L1 norm over all arrays of real numbers; NaN if an entry is NaN or infinite."""
    unit = _largest(value)
    return unit * sum((jnp.abs(leaf / unit).sum() for leaf in _real(value)), jnp.float32(0.0))


def _real(value: PyTree) -> list[jax.Array]:
    return [leaf for leaf in jax.tree.leaves(value) if is_real(leaf) and leaf.size]


def _largest(value: PyTree) -> jax.Array:
    """Return the largest magnitude of an entry; 1 if all are zero."""
    largest = jnp.stack([jnp.float32(0.0), *(jnp.abs(leaf).max() for leaf in _real(value))]).max()
    return jnp.where(largest == 0.0, 1.0, largest)
