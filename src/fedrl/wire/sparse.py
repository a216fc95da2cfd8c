"""Encode arrays of which only some entries are sent.

    Sparse    the places of the entries (`fedrl.wire.indices`), then their values: an array or another node
    Masked    the number of entries in ceil(log2(d + 1)) bits, then the same

Both ends know the number of entries of a sparse array. That of a masked array depends on the data, and so does its
size in bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core.errors import WireError
from fedrl.core.types import PyTree
from fedrl.wire import bits, codec
from fedrl.wire.codec import Format, Source, travels_as
from fedrl.wire.indices import place_bytes, read_places, write_places


@partial(jax.tree_util.register_dataclass, data_fields=["index", "value"], meta_fields=["shape"])
@dataclass(frozen=True, eq=False)
class Sparse:
    """An array that is zero except for a fixed number of entries.

    Attributes:
        index: int32 `[entries]`, ascending indices into the flattened array.
        value: `[entries]`, an array or its encoding by a later stage.
        shape: The shape of the whole array, static, so that no template is needed to decode it.
    """

    index: PyTree
    value: PyTree
    shape: tuple[int, ...]

    def dense(self) -> jax.Array:
        """Return the whole array."""
        flat = jnp.zeros(math.prod(self.shape), self.value.dtype)
        return flat.at[self.index].set(self.value).reshape(self.shape)


@partial(jax.tree_util.register_dataclass, data_fields=["mask", "value"], meta_fields=["shape"])
@dataclass(frozen=True, eq=False)
class Masked:
    """An array that is zero except for entries whose number depends on the data.

    Attributes:
        mask: bool `[size]`, which entries of the flattened array are sent.
        value: `[size]`, all entries (compiled programs need a fixed shape) or their encoding by a later stage; those
            outside the mask are ignored.
        shape: The shape of the whole array.
    """

    mask: PyTree
    value: PyTree
    shape: tuple[int, ...]

    def dense(self) -> jax.Array:
        """Return the whole array."""
        return jnp.where(self.mask, self.value, 0.0).reshape(self.shape)


def _size_sparse(node: Any, entries: Any) -> Any:
    # A sparse array always sends all its entries.
    del entries
    return place_bytes(node.index.size, math.prod(node.shape)) + codec.size(node.value)


def _write_sparse(node: Sparse, what: str) -> bytes:
    return write_places(node.index, math.prod(node.shape)) + codec.write(node.value, node.value, what)


def _read_sparse(like: Any, source: Source, what: str) -> Sparse:
    index = read_places(like.index.size, math.prod(like.shape), source, what)
    return Sparse(index, codec.read(like.value, source, what), like.shape)


def _size_masked(node: Any, entries: Any) -> Any:
    del entries
    count, size = jnp.asarray(node.mask).sum(), node.mask.size
    return bits.size_of(1, bits.width_of(size)) + place_bytes(count, size) + codec.size(node.value, count)


def _write_masked(node: Masked, what: str) -> bytes:
    index = np.flatnonzero(node.mask)
    count = bits.pack(np.array([index.size]), bits.width_of(node.mask.size))
    value = jax.tree.map(lambda x: x[index] if x.ndim else x, node.value)
    return count + write_places(index, node.mask.size) + codec.write(value, value, what)


def _read_masked(like: Any, source: Source, what: str) -> Masked:
    size, width = like.mask.size, bits.width_of(like.mask.size)
    count = int(bits.unpack(source.take(bits.size_of(1, width), what), width, 1, what)[0])
    # Checked before reading the places: an untrusted count would size arrays and reads.
    if count > size:
        raise WireError(
            f"{what}: {count} of {size} entries are announced. The bytes were damaged, or written for another "
            "federation. Compare what both ends run."
        )
    mask = np.zeros(size, bool)
    mask[read_places(count, size, source, what)] = True

    def sent(x: Any) -> Any:
        return jax.ShapeDtypeStruct((count, *x.shape[1:]) if x.ndim else x.shape, x.dtype)

    def placed(x: np.ndarray) -> np.ndarray:
        if not x.ndim:
            return x
        whole = np.zeros((size, *x.shape[1:]), x.dtype)
        whole[mask] = x
        return whole

    value = codec.read(jax.tree.map(sent, like.value), source, what)
    return Masked(mask, jax.tree.map(placed, value), like.shape)


travels_as(Sparse, Format(_size_sparse, _write_sparse, _read_sparse))
travels_as(Masked, Format(_size_masked, _write_masked, _read_masked, varies=True))
