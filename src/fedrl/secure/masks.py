"""Masks: vectors that cannot be told from uniformly random ones, from keys of 256 bits.

    secret --HKDF-SHA256(purpose)--> key --AES-256 in counter mode--> keystream, 4 bytes an entry, added modulo 2^32

A key is used for one mask. Peers' masks from a 32-bit seed are found by trying all seeds in seconds, and one random
number that is added to all entries leaves their differences in the clear; here each entry has its own 32 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from fedrl.secure.ring import WORD, add, subtract

KEY_BYTES = 32
BLOCK = 1 << 18
"""Bytes of a keystream that are computed at once: a block and the entries that it is added to stay in the cache."""
AES_BLOCK = 16
SALT = b"fedrl secure sum 2"
_ZEROS = bytes(BLOCK)


class Mask(NamedTuple):
    """A mask and its sign.

    Attributes:
        key: 32 bytes, used for this mask alone.
        positive: Whether it is added; else it is subtracted.
    """

    key: bytes
    positive: bool


def derived_key(secret: bytes, purpose: bytes) -> bytes:
    """Return a key of 32 bytes for one purpose, by HKDF-SHA256 (RFC 5869).

    Args:
        secret: What only those know who may know the key.
        purpose: What the key is for. Keys for different purposes say nothing about each other.

    >>> len(derived_key(bytes(32), b"test")), derived_key(bytes(32), b"a") == derived_key(bytes(32), b"b")
    (32, False)
    """
    return derived_keys(secret, purpose, 1)[0]


def derived_keys(secret: bytes, purpose: bytes, count: int) -> list[bytes]:
    """Return several keys of 32 bytes for one purpose, which say nothing about each other: one call, as it is faster.

    >>> derived_keys(bytes(32), b"a", 2)[0] == derived_key(bytes(32), b"a")
    True
    """
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    keys = HKDF(hashes.SHA256(), count * KEY_BYTES, SALT, purpose).derive(secret)
    return [keys[at : at + KEY_BYTES] for at in range(0, len(keys), KEY_BYTES)]


def apply_masks(values: np.ndarray, masks: Sequence[Mask], threads: int = 1) -> None:
    """Add masks to a vector, or subtract them, in place.

    Args:
        values: uint32 `[size]`, contiguous.
        masks: The masks.
        threads: Threads among which the entries are divided; AES runs outside of Python's lock.

    >>> values = np.arange(5, dtype=np.uint32)
    >>> apply_masks(values, [Mask(bytes(32), True), Mask(bytes(32), False)])
    >>> values.tolist()
    [0, 1, 2, 3, 4]
    """
    if not masks:
        return
    words = BLOCK // WORD.itemsize
    blocks = -(-values.size // words)
    count = max(1, min(threads, blocks))
    cuts = [words * (blocks * i // count) for i in range(count + 1)]
    ranges = [(start, values[start:end]) for start, end in pairwise(cuts)]
    if count == 1:
        _apply_from(0, values, masks)
        return
    with ThreadPoolExecutor(count) as pool:
        for done in [pool.submit(_apply_from, start, part, masks) for start, part in ranges]:
            done.result()


def _apply_from(start: int, values: np.ndarray, masks: Sequence[Mask]) -> None:
    """Apply masks to a part of a vector that begins at entry `start`, a multiple of the entries of a block."""
    streams = [_keystream(mask.key, start * WORD.itemsize // AES_BLOCK) for mask in masks]
    buffer = bytearray(BLOCK + AES_BLOCK)
    words = np.frombuffer(buffer, WORD, BLOCK // WORD.itemsize)
    zeros = memoryview(_ZEROS)
    for at in range(0, values.size, words.size):
        part = values[at : at + words.size]
        mask_words = words[: part.size]
        for mask, stream in zip(masks, streams, strict=True):  # the part of the vector stays in the cache meanwhile
            stream.update_into(zeros[: part.nbytes], buffer)
            (add if mask.positive else subtract)(part, mask_words)


def _keystream(key: bytes, counter: int) -> Any:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    # The counter begins at zero for each key: a key makes one keystream, so no pair of both comes twice.
    return Cipher(algorithms.AES(key), modes.CTR(counter.to_bytes(AES_BLOCK, "big"))).encryptor()
