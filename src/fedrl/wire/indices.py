"""Encode which k of d entries are sent, as indices or as a bitmap.

    indices    ceil(log2 d) bits each, ascending
    bitmap     d bits
    nothing    if k = d

The smaller encoding is used, the indices if both are equal. Both ends know k and d, so they know which one it is.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core.errors import WireError
from fedrl.wire import bits
from fedrl.wire.codec import Source


def place_bytes(count: Any, size: int) -> Any:
    """Return the bytes that encode which `count` of `size` entries are sent; `count` may be traced.

    >>> place_bytes(41, 4096), place_bytes(400, 4096), place_bytes(4096, 4096)
    (62, 512, 0)
    """
    by_index, by_bitmap = bits.size_of(count, bits.width_of(size - 1)), bits.size_of(size, 1)
    # A traced count allows no `if`, so both sizes are computed and selected from.
    if isinstance(count, jax.Array):
        return jnp.where(count == size, 0, jnp.minimum(by_index, by_bitmap))
    return 0 if count == size else min(by_index, by_bitmap)


def write_places(index: np.ndarray, size: int) -> bytes:
    """Encode ascending indices into `size` entries, in `place_bytes` bytes."""
    width, space = bits.width_of(size - 1), place_bytes(index.size, size)
    if index.size == size:
        return b""
    if bits.size_of(index.size, width) == space:
        return bits.pack(index, width)
    return bits.pack(np.isin(np.arange(size), index), 1)


def read_places(count: int, size: int, source: Source, what: str) -> np.ndarray:
    """Decode the indices of `write_places`, int32 `[count]`, in ascending order.

    Args:
        count: How many indices there are.
        size: Number of entries that they point into.
        source: The bytes, from which those of the indices are taken.
        what: Which node of the message they belong to, for error messages.

    Raises:
        WireError: An index is out of range or out of order, or a bitmap has another number of bits set.
    """
    # Each content has one encoding only, so whatever decodes encodes to the very same bytes.
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
