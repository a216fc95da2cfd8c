"""Store the shapes of a tree of arrays as a static part of a tree's structure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from fedrl.core.types import PyTree


@jax.tree_util.register_static
@dataclass(frozen=True)
class TreeShapes:
    """The structure and shapes of a tree, a static node: both ends know it, and it takes no bytes in a message.

    Attributes:
        structure: The structure of the tree.
        leaves: The shape and the name of the dtype of each array.
    """

    structure: Any
    leaves: tuple[tuple[tuple[int, ...], str], ...]

    @property
    def sizes(self) -> list[int]:
        """Return the number of entries of each array."""
        return [math.prod(shape) for shape, _ in self.leaves]

    def zeros(self) -> PyTree:
        """Return a tree of zeros of these shapes."""
        return jax.tree.unflatten(self.structure, [jnp.zeros(shape, kind) for shape, kind in self.leaves])

    def filled(self, vectors: list[jax.Array]) -> PyTree:
        """Return the tree with these entries, one vector for each array."""
        parts = [vector.reshape(shape) for vector, (shape, _) in zip(vectors, self.leaves, strict=True)]
        return jax.tree.unflatten(self.structure, parts)


def shapes_of(tree: PyTree) -> TreeShapes:
    """Return the shapes of a tree of arrays."""
    leaves, structure = jax.tree.flatten(tree)
    return TreeShapes(structure, tuple((leaf.shape, leaf.dtype.name) for leaf in leaves))
