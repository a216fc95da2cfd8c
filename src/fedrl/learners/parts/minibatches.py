"""Shuffling of a batch, whose samples are on the last axis, into minibatches."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

from fedrl.core.types import Key

Batch = TypeVar("Batch")


def shuffled(key: Key, size: int) -> jax.Array:
    """Return a random permutation of `0 ... size - 1`.

    For a power of two it is a pseudo-random bijection (three rounds of an odd multiple and an xor-shift), for other
    sizes a sort by random keys.
    """
    # The sort costs a quarter of the training time of a small network; the bijection is vector arithmetic only.
    if size & (size - 1):
        return jax.random.permutation(key, size)
    mask = jnp.uint32(size - 1)
    shift = max(1, int(math.log2(size)) // 2) if size > 1 else 1
    bits = jax.random.bits(key, (6,), jnp.uint32)
    index = jnp.arange(size, dtype=jnp.uint32)
    for i in range(3):
        index = (index * (bits[2 * i] | 1) + bits[2 * i + 1]) & mask
        index = index ^ (index >> shift)
    return index


def minibatches(key: Key, rows: jax.Array, count: int) -> jax.Array:
    """Deal rows `[samples, columns]` into `count` random minibatches `[count, columns, samples / count]`."""
    order = shuffled(key, rows.shape[0])
    taken = rows.at[order].get(mode="promise_in_bounds", unique_indices=True)
    return jnp.swapaxes(taken.reshape(count, -1, rows.shape[1]), 1, 2)


def pack(batch: Batch, samples: int) -> tuple[jax.Array, Callable[[jax.Array], Batch]]:
    """Concatenate the arrays of a batch into rows `[samples, columns]`, so that a shuffle is one gather.

    An array of a world has a multiple of `samples` on its last axis, player by player. Its players become columns, so
    that they stay together and in their order.

    Returns the rows, and the function that splits `[columns, n]` into arrays again.
    """
    # Integers become float32, which is exact up to 2^24.
    leaves, structure = jax.tree.flatten(batch)
    columns = [leaf.reshape(-1, samples).astype(jnp.float32) for leaf in leaves]
    ends = [sum(c.shape[0] for c in columns[: i + 1]) for i in range(len(columns))]

    def unpack(block: jax.Array) -> Batch:
        parts = [
            block[end - column.shape[0] : end].reshape(*leaf.shape[:-1], -1).astype(leaf.dtype)
            for leaf, column, end in zip(leaves, columns, ends, strict=True)
        ]
        return jax.tree.unflatten(structure, parts)

    return jnp.concatenate(columns).T, unpack
