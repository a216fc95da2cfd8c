"""Encode arrays of small integers.

    Quantized     the scale as float32, then code + levels in exactly `bits` bits each, or (code + 1) / 2 with one bit
    FixedPoint    the codes in exactly `bits` bits each, in two's complement

Codes are packed by `fedrl.wire.bits`.
"""

from __future__ import annotations

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


@partial(jax.tree_util.register_dataclass, data_fields=["integers", "scale"], meta_fields=["bits"])
@dataclass(frozen=True, eq=False)
class Quantized:
    """An array of integer codes that are multiples of scale / levels.

    Attributes:
        integers: int8 codes from -levels to levels; without zero if there is one bit.
        scale: Scalar; the number that the code `levels` represents.
        bits: The bits of each code.
    """

    integers: PyTree
    scale: PyTree
    bits: int

    def dense(self) -> jax.Array:
        """Return the numbers that the codes represent."""
        return self.integers * (self.scale / levels(self.bits))


@partial(jax.tree_util.register_dataclass, data_fields=["integers"], meta_fields=["bits"])
@dataclass(frozen=True, eq=False)
class FixedPoint:
    """An array of integer codes that are multiples of 2^-bits.

    Attributes:
        integers: int8 or int16 codes from -(2^(bits - 1) - 1) to 2^(bits - 1) - 1; -2^(bits - 1) represents NaN.
        bits: The bits of each code.
    """

    integers: PyTree
    bits: int

    def dense(self) -> jax.Array:
        """Return the numbers that the codes represent."""
        # A code for NaN: a fault must reach the server as one, not as a saturated number.
        nothing = self.integers == -(2 ** (self.bits - 1))
        return jnp.where(nothing, jnp.nan, self.integers * jnp.float32(2.0**-self.bits))


def levels(bits: int) -> int:
    """Return the number of codes on either side of zero.

    >>> [levels(bits) for bits in (1, 2, 4, 8)]
    [1, 1, 7, 127]
    """
    return max(1, 2 ** (bits - 1) - 1)


def _check_codes(integers: np.ndarray, bits: int, lowest: int, what: str, cause: str) -> None:
    highest = levels(bits)
    wrong = integers[(integers < lowest) | (integers > highest)]
    if wrong.size:
        raise WireError(f"{what}: a code is {wrong[0]}, and {bits} bits go from {lowest} to {highest}. {cause}")


CHANGED = "A later stage has changed the codes. Leave it out, or put it before the quantisation."
DAMAGED = "The bytes were damaged, or written for another federation. Compare what both ends run."


def _size_quantized(node: Any, entries: Any) -> Any:
    return codec.size(node.scale) + _size_fixed(node, entries)


def _write_quantized(node: Quantized, what: str) -> bytes:
    highest, integers = levels(node.bits), node.integers.reshape(-1).astype(int)
    _check_codes(integers, node.bits, -highest, what, CHANGED)
    # One bit has no code for zero: it sends the sign alone.
    numbers = integers > 0 if node.bits == 1 else integers + highest
    return codec.write(node.scale, node.scale, what) + bits.pack(numbers, node.bits)


def _read_quantized(like: Any, source: Source, what: str) -> Quantized:
    scale = codec.read(like.scale, source, what)
    numbers = _read_run(like, source, what)
    # Not every bit pattern is a code, so codes are checked again: bytes come from a party that is not trusted.
    integers = 2 * numbers - 1 if like.bits == 1 else numbers - levels(like.bits)
    _check_codes(integers, like.bits, -levels(like.bits), what, DAMAGED)
    return Quantized(integers.astype(like.integers.dtype).reshape(like.integers.shape), scale, like.bits)


def _size_fixed(node: Any, entries: Any) -> Any:
    return bits.size_of(node.integers.size if entries is None else entries, node.bits)


def _write_fixed(node: FixedPoint, what: str) -> bytes:
    integers = node.integers.reshape(-1).astype(int)
    _check_codes(integers, node.bits, -levels(node.bits) - 1, what, CHANGED)
    return bits.pack(integers % 2**node.bits, node.bits)


def _read_fixed(like: Any, source: Source, what: str) -> FixedPoint:
    numbers = _read_run(like, source, what)
    integers = np.where(numbers > levels(like.bits), numbers - 2**like.bits, numbers)
    return FixedPoint(integers.astype(like.integers.dtype).reshape(like.integers.shape), like.bits)


def _read_run(like: Any, source: Source, what: str) -> np.ndarray:
    run = source.take(bits.size_of(like.integers.size, like.bits), what)
    return bits.unpack(run, like.bits, like.integers.size, what).astype(int)


travels_as(Quantized, Format(_size_quantized, _write_quantized, _read_quantized))
travels_as(FixedPoint, Format(_size_fixed, _write_fixed, _read_fixed))
