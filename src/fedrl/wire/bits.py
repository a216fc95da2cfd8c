"""Whole numbers of a few bits each, packed without gaps.

Number i occupies bits i * width to (i + 1) * width - 1 of the run, least significant bit first; bit j of the run is bit
j % 8 of byte j // 8. The last byte is filled up with zeros, so a run of n numbers takes ceil(n * width / 8) bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fedrl.core.errors import WireError


def size_of(count: Any, width: int) -> Any:
    """Bytes of a run of `count` numbers of `width` bits; `count` may be traced.

    >>> size_of(count=9, width=3)
    4
    """
    return (count * width + 7) // 8


def width_of(highest: int) -> int:
    """Bits of a number from 0 to `highest`: none if there is only one.

    >>> [width_of(n) for n in (0, 1, 4, 255)]
    [0, 1, 3, 8]
    """
    return highest.bit_length()


def pack(numbers: np.ndarray, width: int) -> bytes:
    """The run of these numbers, each from 0 to 2^width - 1.

    >>> pack(np.array([1, 2, 3]), width=4).hex()
    '2103'
    """
    bits = (numbers.astype(np.uint32)[:, None] >> np.arange(width, dtype=np.uint32)) & 1
    return np.packbits(bits.astype(np.uint8).reshape(-1), bitorder="little").tobytes()


def unpack(run: bytes | memoryview, width: int, count: int, what: str) -> np.ndarray:
    """The numbers of a run, uint32 `[count]`.

    Raises:
        WireError: The bits that fill up the last byte are not zero; `what` says of what they are.

    >>> unpack(bytes.fromhex("2103"), width=4, count=3, what="three numbers").tolist()
    [1, 2, 3]
    """
    bits = np.unpackbits(np.frombuffer(run, np.uint8), bitorder="little")
    if bits[count * width :].any():
        raise WireError(
            f"{what}: the bits behind the last number are not zero. The bytes were damaged, or written for another "
            "federation. Compare what both ends run."
        )
    rows = bits[: count * width].reshape(count, width).astype(np.uint32)
    return (rows << np.arange(width, dtype=np.uint32)).sum(1, dtype=np.uint32)
