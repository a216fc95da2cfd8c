"""Vectors of integers modulo 2^32: the ring in which secure sums add.

NumPy's uint32 wraps around, which is the arithmetic of the ring. `uniform + x` is uniform for every x, so a masked
vector has no information about the vector in it; for real numbers no such mask exists.
"""

from __future__ import annotations

import numpy as np

WORD = np.dtype("<u4")
"""An element of the ring, in the byte order in which it travels."""


def as_ring(values: np.ndarray) -> np.ndarray:
    """Return the vector as elements of the ring, without a copy where none is needed.

    Args:
        values: int32 or uint32 `[size]`; a negative number stands for itself plus 2^32.

    Raises:
        ValueError: It is no vector of 32-bit integers.

    >>> as_ring(np.array([-1, 5], np.int32)).tolist()
    [4294967295, 5]
    """
    if values.ndim != 1 or values.dtype not in (np.dtype(np.int32), np.dtype(np.uint32)):
        raise ValueError(
            f"Values are {values.dtype} {list(values.shape)}. A secure sum adds vectors of int32 or uint32. Put them "
            "on a grid first."
        )
    return np.ascontiguousarray(values).view(np.uint32).astype(WORD, copy=False)


def add(total: np.ndarray, term: np.ndarray) -> None:
    """Add a vector to another one, in place, modulo 2^32.

    >>> total = np.array([2**32 - 1, 1], np.uint32)
    >>> add(total, np.array([3, 3], np.uint32))
    >>> total.tolist()
    [2, 4]
    """
    np.add(total, term, out=total)


def subtract(total: np.ndarray, term: np.ndarray) -> None:
    """Subtract a vector from another one, in place, modulo 2^32.

    >>> total = np.array([1], np.uint32)
    >>> subtract(total, np.array([3], np.uint32))
    >>> total.tolist()
    [4294967294]
    """
    np.subtract(total, term, out=total)


def signed(total: np.ndarray) -> np.ndarray:
    """Return elements of the ring as int32: numbers from 2^31 on stand for negative ones.

    >>> signed(np.array([2**32 - 1, 5], np.uint32)).tolist()
    [-1, 5]
    """
    return total.astype(np.uint32, copy=False).view(np.int32)
