"""Arrays of which only some entries travel, and how they do.

    Sparse       where: ceil(log2 d) bits for each of k indices, or a bitmap of d bits, whichever takes fewer bytes;
                 nothing if k = d. Then the k values, an array or another node.

Both numbers are known to both ends, so the choice between the two is, too. Indices ascend.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core import bits, codec
from fedrl.core.codec import Format, Source, travels_as
from fedrl.core.errors import WireError
from fedrl.core.types import PyTree


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


def place_bytes(count: int, size: int) -> int:
    """Bytes that tell which `count` of `size` entries are meant.

    >>> place_bytes(41, 4096), place_bytes(400, 4096), place_bytes(4096, 4096)
    (62, 512, 0)
    """
    return 0 if count == size else min(bits.size_of(count, bits.width_of(size - 1)), bits.size_of(size, 1))


def write_places(index: np.ndarray, size: int) -> bytes:
    """Ascending indices into `size` entries, in `place_bytes` bytes."""
    width, space = bits.width_of(size - 1), place_bytes(index.size, size)
    if index.size == size:
        return b""
    if bits.size_of(index.size, width) == space:
        return bits.pack(index, width)
    return bits.pack(np.isin(np.arange(size), index), 1)


def read_places(count: int, size: int, source: Source, what: str) -> np.ndarray:
    """What `write_places` wrote, int32 `[count]`.

    Raises:
        WireError: An index is out of range or out of order, or a bitmap has another number of bits set.
    """
    width, space = bits.width_of(size - 1), place_bytes(count, size)
    if count == size:
        return np.arange(size, dtype=np.int32)
    run = source.take(space, what)
    if bits.size_of(count, width) != space:
        index = np.flatnonzero(bits.unpack(run, 1, size, what))
        if index.size != count:
            raise WireError(
                f"{what}: {index.size} bits of its bitmap are set, and {count} entries were to be sent. The bytes "
                "were damaged, or written for another federation. Compare what both ends run."
            )
        return index.astype(np.int32)
    index = bits.unpack(run, width, count, what).astype(np.int32)
    if index.max(initial=0) >= size:
        raise WireError(
            f"{what}: index {index.max()} is out of range for {size} entries. The bytes were damaged, or written for "
            "another federation. Compare what both ends run."
        )
    if (np.diff(index) <= 0).any():
        raise WireError(
            f"{what}: its indices do not ascend. An entry would be sent twice, or the same entries in two ways. "
            "Compare what both ends run."
        )
    return index


def _size(node: Any) -> Any:
    return place_bytes(node.index.size, math.prod(node.shape)) + codec.size_bytes(node.value)


def _write(node: Sparse, what: str) -> bytes:
    return write_places(node.index, math.prod(node.shape)) + codec.write(node.value, node.value, what)


def _read(like: Any, source: Source, what: str) -> Sparse:
    index = read_places(like.index.size, math.prod(like.shape), source, what)
    return Sparse(index, codec.read(like.value, source, what), like.shape)


travels_as(Sparse, Format(_size, _write, _read))
