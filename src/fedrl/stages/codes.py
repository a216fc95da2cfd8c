"""Arrays of small whole numbers, and how they travel.

    Quantized    scale as float32, then the codes at exactly `bits` each

A code travels as code - lowest, which is not negative; a run of codes is packed as `fedrl.core.bits` says.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from fedrl.core import bits, codec
from fedrl.core.codec import Format, Source, travels_as
from fedrl.core.errors import WireError
from fedrl.core.types import PyTree


@partial(jax.tree_util.register_dataclass, data_fields=["codes", "scale"], meta_fields=["bits"])
@dataclass(frozen=True, eq=False)
class Quantized:
    """An array as multiples of a part of its scale.

    Attributes:
        codes: int8, from -levels to levels; without zero if there is one bit.
        scale: Scalar, what the code `levels` stands for.
        bits: Of each code.
    """

    codes: PyTree
    scale: PyTree
    bits: int

    def dense(self) -> jax.Array:
        """The numbers that the codes stand for."""
        return self.codes * (self.scale / levels(self.bits))


def levels(bits: int) -> int:
    """How many codes there are on either side of zero.

    >>> [levels(bits) for bits in (1, 2, 4, 8)]
    [1, 1, 7, 127]
    """
    return max(1, 2 ** (bits - 1) - 1)


def _size(node: Any) -> Any:
    return codec.size_bytes(node.scale) + bits.size_of(node.codes.size, node.bits)


def _write(node: Quantized, what: str) -> bytes:
    highest, codes = levels(node.bits), np.asarray(node.codes).reshape(-1).astype(int)
    if node.bits == 1:
        numbers = (codes > 0).astype(int)
    else:
        numbers = codes + highest
        if codes.size and np.abs(codes).max() > highest:
            raise WireError(
                f"{what}: a code is {codes[np.abs(codes).argmax()]}, and {node.bits} bits go from {-highest} to "
                f"{highest}. Something has changed the codes since they were made. Let nothing come between."
            )
    return codec.write(node.scale, node.scale, what) + bits.pack(numbers, node.bits)


def _read(like: Any, source: Source, what: str) -> Quantized:
    scale = codec.read(like.scale, source, what)
    run = source.take(bits.size_of(like.codes.size, like.bits), what)
    numbers = bits.unpack(run, like.bits, like.codes.size, what).astype(int)
    highest = levels(like.bits)
    if numbers.max(initial=0) > 2 * highest:
        raise WireError(
            f"{what}: a code is {numbers.max() - highest}, and {like.bits} bits go from {-highest} to {highest}. "
            "The bytes were damaged, or written for another federation. Compare what both ends run."
        )
    codes = 2 * numbers - 1 if like.bits == 1 else numbers - highest
    return Quantized(codes.astype(like.codes.dtype).reshape(like.codes.shape), scale, like.bits)


travels_as(Quantized, Format(_size, _write, _read))
