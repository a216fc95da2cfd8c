"""The vector of an agent in a secure sum: the codes of its update and weight, and the digits of its statistics.

    update, weight --summation.quantize--> codes [size]                       on the grid of the sum
    statistics     --exact.partial_sum-->  digits [digits, count] --> halves of each digit: low 14 bits, and the rest

Digits of statistics (`fedrl.core.exact`) have 27 bits, so that a ring of 32 bits holds the sum of 16 of them; it holds
the sum of 2^17 halves. So hidden sums of statistics are exact, like those in the clear.
"""

from __future__ import annotations

import numpy as np

from fedrl.core import exact

LOW = 14
"""The bits of the lower half of a digit."""
MOST_AGENTS = 1 << 17
"""The largest number of agents in a sum with statistics."""


def vector_size(size: int, counts: int) -> int:
    """Return the entries of a vector with so many codes, and so many statistics.

    >>> vector_size(5, 2)
    41
    """
    return size + 2 * exact.STATISTICS.number * counts


def vector_of(entries: np.ndarray, digits: np.ndarray) -> np.ndarray:
    """Return vectors, int32 `[agents, entries]`.

    Args:
        entries: The codes of updates and weights, int32 `[agents, size]`.
        digits: The digits of statistics, int32 `[agents, digits, count]`.
    """
    halves = np.stack([digits & ((1 << LOW) - 1), digits >> LOW], axis=1)
    return np.concatenate([entries, halves.reshape(len(entries), -1)], axis=1)


def codes_and_digits(total: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums of codes, int32 `[size]`, and of digits, int64 `[digits, count]`, of a sum of vectors.

    Args:
        total: int32 or uint32 `[entries]`.
        size: Number of codes.

    >>> import numpy as np
    >>> codes, digits = np.array([[1], [2]], np.int32), np.arange(-9, 9, dtype=np.int32).reshape(2, 9, 1) << 20
    >>> sums = codes_and_digits(vector_of(codes, digits).sum(0, dtype=np.int32), 1)
    >>> sums[0].tolist(), bool((sums[1] == digits.sum(0)).all())
    ([3], True)
    """
    signed = total.view(np.int32)
    low, high = signed[size:].reshape(2, exact.STATISTICS.number, -1).astype(np.int64)
    return signed[:size], low + (high << LOW)
