"""Packing of a tree of arrays into a row of 32-bit words, inside compiled programs.

    tree --pack--> uint32[words] --unpack--> the same tree, bit for bit

The states of thousands of agents are then one array: loading a block of agents is one gather, storing it one scatter,
for any number of leaves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt32

from fedrl.core.types import PyTree

UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


class Packing(NamedTuple):
    """Functions that pack trees of one structure into rows.

    Attributes:
        num_words: Words of a row.
        pack: `tree -> [num_words]`.
        unpack: `[num_words] -> tree`.
    """

    num_words: int
    pack: Callable[[PyTree], UInt32[Array, " words"]]
    unpack: Callable[[UInt32[Array, " words"]], PyTree]


def packing(like: PyTree) -> Packing:
    """Return the packing of trees with the structure, shapes and dtypes of `like`.

    >>> import jax.numpy as jnp
    >>> tree = {"a": jnp.array([1.5, -0.0]), "b": jnp.array(True)}
    >>> how = packing(tree)
    >>> how.num_words, how.unpack(how.pack(tree))["a"].tolist()
    (3, [1.5, -0.0])
    """
    leaves, structure = jax.tree.flatten(like)
    raw = [jax.eval_shape(_bits, leaf) for leaf in leaves]
    ends = np.cumsum([leaf.size for leaf in raw])

    def pack(tree: PyTree) -> jax.Array:
        rows = [_bits(leaf).reshape(-1) for leaf in jax.tree.leaves(tree)]
        return jnp.concatenate(rows) if rows else jnp.zeros(0, jnp.uint32)

    def unpack(row: jax.Array) -> PyTree:
        found = [
            _leaf(row[end - bits.size : end].reshape(bits.shape), leaf)
            for end, bits, leaf in zip(ends, raw, leaves, strict=True)
        ]
        return jax.tree.unflatten(structure, found)

    return Packing(int(ends[-1]) if len(ends) else 0, pack, unpack)


def numbers(like: PyTree, rows: np.ndarray) -> PyTree:
    """Return rows of packed 32-bit scalars as a tree with the structure of `like` and NumPy columns, on the host.

    >>> numbers({"a": jnp.float32(0), "b": jnp.uint32(0)}, np.array([[1069547520, 7]], np.uint32))
    {'a': array([1.5], dtype=float32), 'b': array([7], dtype=uint32)}
    """
    leaves, structure = jax.tree.flatten(like)
    columns = [np.ascontiguousarray(rows[:, i]).view(leaf.dtype) for i, leaf in enumerate(leaves)]
    return jax.tree.unflatten(structure, columns)


def _is_key(leaf: jax.Array | jax.ShapeDtypeStruct) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def _bits(leaf: jax.Array) -> jax.Array:
    if _is_key(leaf):
        return jax.random.key_data(leaf)
    # A bool is cast to a byte first, because XLA has no bitcast of bools.
    leaf = leaf.astype(jnp.uint8) if leaf.dtype == jnp.bool_ else leaf
    return jax.lax.bitcast_convert_type(leaf, UNSIGNED[leaf.dtype.itemsize]).astype(jnp.uint32)


def _leaf(bits: jax.Array, like: jax.Array | jax.ShapeDtypeStruct) -> jax.Array:
    if _is_key(like):
        return jax.random.wrap_key_data(bits)
    if like.dtype == jnp.bool_:
        return bits.astype(jnp.bool_)
    return jax.lax.bitcast_convert_type(bits.astype(UNSIGNED[like.dtype.itemsize]), like.dtype)
