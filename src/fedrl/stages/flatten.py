"""All arrays of an update as one vector, so that later stages select and scale over all its entries."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import numpy as np

from fedrl.core import exact
from fedrl.core.component import component
from fedrl.core.stage import Stage
from fedrl.core.types import Key, PyTree, Update, UpdateContext
from fedrl.stages.leaves import check_not_encoded, decompressed
from fedrl.wire.shapes import TreeShapes, shapes_of


@partial(jax.tree_util.register_dataclass, data_fields=["vector"], meta_fields=["shapes"])
@dataclass(frozen=True, eq=False)
class Flat:
    """A tree of arrays laid out as one vector, or a later stage's encoding of that vector."""

    vector: PyTree
    shapes: TreeShapes

    def dense(self) -> PyTree:
        """Return the tree of arrays."""
        ends = np.cumsum(self.shapes.sizes)
        starts = ends - self.shapes.sizes
        return self.shapes.filled([self.vector[start:end] for start, end in zip(starts, ends, strict=True)])


@component("stage", reference="global top-k: Aji & Heafield (2017), https://arxiv.org/abs/1704.05021")
def flatten() -> Stage:
    """Lay all arrays of an update out as one vector, for later stages; lossless.

    After it, `top_k(0.01)` keeps the largest 1 % of all entries instead of 1 % of each array (and at least one of
    each), and a quantiser has one scale for all arrays.
    """

    def encode(
        key: Key, context: UpdateContext, server_state: PyTree, agent_state: PyTree, update: Update
    ) -> tuple[Update, PyTree]:
        del key, context, server_state
        check_not_encoded(update.value, "flatten()")
        return update._replace(value=Flat(exact.flatten(update.value), shapes_of(update.value))), agent_state

    def decode(server_state: PyTree, update: Update) -> Update:
        del server_state
        return update._replace(value=decompressed(Flat, update.value))

    return Stage(encode, decode=decode, contraction=lambda entries: 1.0)
