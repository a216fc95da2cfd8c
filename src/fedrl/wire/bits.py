"""Pack integers of a few bits each without gaps.

Number i occupies bits i * width to (i + 1) * width - 1 of the run, least significant bit first; bit j of the run is bit
j % 8 of byte j // 8. The last byte is padded with zeros, so a run of n numbers takes ceil(n * width / 8) bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fedrl.core.errors import WireError


def size_of(count: Any, width: int) -> Any:
    """Return the bytes of a run of `count` numbers of `width` bits; `count` may be traced.

    >>> size_of(count=9, width=3)
    4
    """
    return (count * width + 7) // 8


def width_of(highest: int) -> int:
    """Return the bits of a number from 0 to `highest`; 0 if there is only one such number.

    >>> [width_of(n) for n in (0, 1, 4, 255)]
    [0, 1, 3, 8]
    """
    return highest.bit_length()


def pack(numbers: np.ndarray, width: int) -> bytes:
    """Pack numbers from 0 to 2^width - 1 into a run of bytes.

    >>> pack(np.array([1, 2, 3]), width=4).hex()
    '2103'
    """
    bits = (numbers.astype(np.uint32)[:, None] >> np.arange(width, dtype=np.uint32)) & 1
    return np.packbits(bits.astype(np.uint8).reshape(-1), bitorder="little").tobytes()


def unpack(run: bytes | memoryview, width: int, count: int, what: str) -> np.ndarray:
    """Unpack the numbers of a run, uint32 `[count]`.

    Args:
        run: The bytes, as `pack` returns them.
        width: Bits of a number.
        count: How many numbers there are.
        what: What the numbers are, for error messages.

    Raises:
        WireError: The padding of the last byte is not zero.

    >>> unpack(bytes.fromhex("2103"), width=4, count=3, what="three numbers").tolist()
    [1, 2, 3]
    """
    bits = np.unpackbits(np.frombuffer(run, np.uint8), bitorder="little")
    # Nonzero padding is rejected, so that a run of numbers has a single encoding.
    if bits[count * width :].any():
        raise WireError(
            f"{what}: the bits behind the last number are not zero. The bytes were damaged, or written for another "
            "federation. Compare what both ends run."
        )
    rows = bits[: count * width].reshape(count, width).astype(np.uint32)
    return (rows << np.arange(width, dtype=np.uint32)).sum(1, dtype=np.uint32)
