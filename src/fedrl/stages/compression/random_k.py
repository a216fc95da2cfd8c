"""Random sparsification: agent and server draw the same entries from a seed, so only values and the seed are sent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from fedrl.core.component import component
from fedrl.core.ranges import FractionAboveZero
from fedrl.core.stage import Stage
from fedrl.core.types import Key, PyTree, Update, UpdateContext
from fedrl.stages.leaves import check_not_encoded, check_share, decompressed
from fedrl.wire.shapes import TreeShapes, shapes_of


@partial(jax.tree_util.register_dataclass, data_fields=["seed", "value"], meta_fields=["shapes"])
@dataclass(frozen=True, eq=False)
class Drawn:
    """Some entries of every array of a tree.

    Attributes:
        seed: Scalar uint32, from which both ends draw the same indices.
        value: The entries of each array, a list of `[entries]`, or a later stage's encoding of them.
        shapes: Shapes of the whole tree.
    """

    seed: PyTree
    value: PyTree
    shapes: TreeShapes

    def dense(self) -> PyTree:
        """Return the whole tree, zero where nothing was drawn."""
        places = lots(self.seed, self.shapes, [part.size for part in self.value])
        parts = zip(self.value, places, self.shapes.sizes, strict=True)
        return self.shapes.filled([jnp.zeros(size, x.dtype).at[index].set(x) for x, index, size in parts])


@component("stage", reference="Stich et al. (2018), https://arxiv.org/abs/1809.07599")
def random_k(fraction: FractionAboveZero, unbiased: bool = True) -> Stage:
    """Keep some entries of every array, drawn at random for each update, and drop the rest.

    Of the d entries of an array, k = ceil(fraction * d) are kept, each with the same probability. The indices follow
    from a seed of four bytes that is part of the update. There are two forms:

        unbiased        C(x)_i = d / k x_i if kept       E C(x) = x,  E ||x - C(x)||^2 = (d / k - 1) ||x||^2
        a contraction   C(x)_i = x_i if kept             E ||x - C(x)||^2 = (1 - k / d) ||x||^2

    Use the first alone and the second inside `error_feedback`. Both ends need the same version of JAX.

    Args:
        fraction: Share of the entries that is kept, above 0 and at most 1; never less than one entry.
        unbiased: Whether values are scaled by d / k.

    Raises:
        ConfigError: `fraction` is out of range.
    """
    check_share(fraction)

    def encode(
        key: Key, context: UpdateContext, server_state: PyTree, agent_state: PyTree, update: Update
    ) -> tuple[Update, PyTree]:
        del context, server_state
        check_not_encoded(update.value, "random_k()")
        seed, shapes = jax.random.bits(key, (), jnp.uint32), shapes_of(update.value)
        counts = [math.ceil(fraction * size) for size in shapes.sizes]
        leaves = [leaf.reshape(-1) for leaf in jax.tree.leaves(update.value)]
        finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()
        # An entry that is not finite may be among the dropped ones; all kept ones become NaN, so the server rejects it.
        factor = jnp.where(finite, 1.0, jnp.nan)
        kept = [
            factor * (leaf.size / max(index.size, 1) if unbiased else 1.0) * leaf[index]
            for leaf, index in zip(leaves, lots(seed, shapes, counts), strict=True)
        ]
        return update._replace(value=Drawn(seed, kept, shapes)), agent_state

    def decode(server_state: PyTree, update: Update) -> Update:
        del server_state
        return update._replace(value=decompressed(Drawn, update.value))

    if unbiased:
        return Stage(encode, decode=decode, may_increase_norm=True, unbiased=True)
    return Stage(encode, decode=decode, contraction=lambda entries: math.ceil(fraction * entries) / max(entries, 1))


def lots(seed: jax.Array, shapes: TreeShapes, counts: list[int]) -> list[jax.Array]:
    """Draw the indices of the kept entries of each array, int32 `[count]`, every subset with the same probability."""
    # The generator is named, since both ends have to draw the same whatever their default generator is.
    key = jax.random.key(seed, impl="threefry2x32")
    ranks = [jax.random.bits(jax.random.fold_in(key, i), (size,)) for i, size in enumerate(shapes.sizes)]
    return [jnp.argsort(rank)[:count].astype(jnp.int32) for rank, count in zip(ranks, counts, strict=True)]
