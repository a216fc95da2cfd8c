"""Arrays of which only some entries travel, and how they do.

    Sparse    which ones, as `fedrl.wire.indices` says, then their values: an array or another node
    Masked    how many travel, as a number of ceil(log2(d + 1)) bits; then the same

Of a sparse array both ends know how many entries it has. Of a masked one that depends on the data, and so do its bytes.
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
    """An array that is zero but for some entries; the shape is static, so it opens without a template.

    Attributes:
        index: int32 `[entries]`, into the array laid out flat, ascending.
        value: `[entries]`, an array or what a later stage made of it.
        shape: Of the whole array.
    """

    index: PyTree
    value: PyTree
    shape: tuple[int, ...]

    def dense(self) -> jax.Array:
        """The whole array."""
        flat = jnp.zeros(math.prod(self.shape), self.value.dtype)
        return flat.at[self.index].set(self.value).reshape(self.shape)


@partial(jax.tree_util.register_dataclass, data_fields=["mask", "value"], meta_fields=["shape"])
@dataclass(frozen=True, eq=False)
class Masked:
    """An array that is zero but for some entries, whose number depends on the data; inside programs it has all of them.

    Attributes:
        mask: bool `[size]`, which entries of the array laid out flat travel.
        value: `[size]`, an array or what a later stage made of it; what it says of the others is of no consequence.
        shape: Of the whole array.
    """

    mask: PyTree
    value: PyTree
    shape: tuple[int, ...]

    def dense(self) -> jax.Array:
        """The whole array."""
        return jnp.where(self.mask, self.value, 0.0).reshape(self.shape)


def _size_sparse(node: Any, entries: Any) -> Any:
    del entries  # of a sparse array all travel
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
