"""Which arrays of an update a stage works on: those of real numbers. Integers are another stage's codes or indices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fedrl.core.errors import ConfigError, UnsoundError
from fedrl.core.types import PyTree

PLACES = (jnp.int32, jnp.uint32, jnp.bool_)
"""Types by which earlier stages tell which entries are meant: indices, seeds, masks. Values beside them are numbers."""


def is_real(leaf: jax.Array) -> bool:
    """Whether an array holds real numbers."""
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def map_real(function: Callable[[jax.Array], Any], value: PyTree) -> PyTree:
    """Apply a function to every array of real numbers and leave integers as they are."""
    return jax.tree.map(lambda leaf: function(leaf) if is_real(leaf) else leaf, value)


def decompressed(kind: type, value: PyTree) -> PyTree:
    """The tree with every node of a type replaced by the array it stands for, its `dense()`."""

    def found(node: Any) -> bool:
        return isinstance(node, kind)

    return jax.tree.map(lambda node: node.dense() if found(node) else node, value, is_leaf=found)


def check_share(fraction: float) -> None:
    """Refuse a share of the entries that is not in (0, 1].

    Raises:
        ConfigError: It names the value.
    """
    if not 0.0 < fraction <= 1.0:
        raise ConfigError(f"fraction is {fraction}. It is the share of entries that is sent. Choose it in (0, 1].")


def check_not_encoded(value: PyTree, stage: str, allowed: Sequence[Any] = ()) -> None:
    """Refuse an update that holds integers other than the allowed types; seen when a pipeline is traced.

    Raises:
        UnsoundError: It names the stage and the way out.
    """
    for leaf in jax.tree.leaves(value):
        if not is_real(leaf) and leaf.dtype not in [jnp.dtype(kind) for kind in allowed]:
            raise UnsoundError(
                f"{stage} finds {leaf.dtype.name} of shape {leaf.shape} in the update. An earlier stage has already "
                f"encoded it, and numbers cannot be told from codes any more. Put {stage} before that stage."
            )
