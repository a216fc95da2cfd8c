"""Selection of the arrays that a stage works on: real numbers. Integers are another stage's codes or indices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fedrl.core.errors import ConfigError, UnsoundError
from fedrl.core.types import PyTree

PLACES = (jnp.int32, jnp.uint32, jnp.bool_)
"""Types of the indices, seeds and masks by which sparsifying stages name entries; the values beside them are real."""


def is_real(leaf: jax.Array) -> bool:
    """Return whether an array contains real numbers."""
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def map_real(function: Callable[[jax.Array], Any], value: PyTree) -> PyTree:
    """Apply a function to every array of real numbers and leave integers as they are."""
    return jax.tree.map(lambda leaf: function(leaf) if is_real(leaf) else leaf, value)


def decompressed(kind: type, value: PyTree) -> PyTree:
    """Return the tree with every node of type `kind` replaced by its `dense()` array."""

    def found(node: Any) -> bool:
        return isinstance(node, kind)

    return jax.tree.map(lambda node: node.dense() if found(node) else node, value, is_leaf=found)


def check_share(fraction: float) -> None:
    """Refuse a share of the entries that is not in (0, 1].

    Raises:
        ConfigError: `fraction` is out of range.
    """
    if not 0.0 < fraction <= 1.0:
        raise ConfigError(f"fraction is {fraction}. The share of entries that are sent lies in (0, 1]. Choose one.")


def check_not_encoded(value: PyTree, stage: str, allowed: Sequence[Any] = ()) -> None:
    """Refuse an update that contains integers of other than the allowed types; checked when a pipeline is traced.

    Raises:
        UnsoundError: An earlier stage has encoded the update.
    """
    for leaf in jax.tree.leaves(value):
        if not is_real(leaf) and leaf.dtype not in [jnp.dtype(kind) for kind in allowed]:
            raise UnsoundError(
                f"{stage} finds {leaf.dtype.name} of shape {leaf.shape} in the update. An earlier stage has already "
                f"encoded it, and codes can't be processed like real numbers. Put {stage} before that stage."
            )
