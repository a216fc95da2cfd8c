"""The shapes of a tree of arrays, as a part of its structure."""

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
    """Structure without arrays, so it is known everywhere and costs no bytes."""

    structure: Any
    leaves: tuple[tuple[tuple[int, ...], str], ...]

    @property
    def sizes(self) -> list[int]:
        """Entries of each array."""
        return [math.prod(shape) for shape, _ in self.leaves]

    def zeros(self) -> PyTree:
        """A tree of these shapes."""
        return jax.tree.unflatten(self.structure, [jnp.zeros(shape, kind) for shape, kind in self.leaves])

    def filled(self, vectors: list[jax.Array]) -> PyTree:
        """The tree with these entries, a vector for each array."""
        parts = [vector.reshape(shape) for vector, (shape, _) in zip(vectors, self.leaves, strict=True)]
        return jax.tree.unflatten(self.structure, parts)


def shapes_of(tree: PyTree) -> TreeShapes:
    """The shapes of a tree of arrays."""
    leaves, structure = jax.tree.flatten(tree)
    return TreeShapes(structure, tuple((leaf.shape, leaf.dtype.name) for leaf in leaves))
