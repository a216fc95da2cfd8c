"""Let JAX draw with ChaCha20, whose keys have 256 bits, for random numbers that protect data.

    key, counter, nonce --20 rounds of ChaCha--> block of 16 words (RFC 8439)

    nonce (0, 0, 0)   the keystream: numbers drawn by a key
    nonce (1, i, 0)   the key below it, `fold_in(key, i)` and `split(key, n)[i]`

JAX's own keys have 64 bits or fewer, and Threefry with 20 rounds of 32-bit words claims no cryptographic strength. Who
knows a part of its output may search for the key, and with it subtract the noise. So calibrated noise is drawn by keys
of `chacha_key`, and all other numbers by JAX's. Every function of `jax.random` takes them.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import define_prng_impl
from jaxtyping import Array, UInt32

from fedrl.core.errors import ConfigError
from fedrl.core.types import Key

KEY_WORDS, BLOCK_WORDS = 8, 16
LARGEST_DRAW = 2**32 * BLOCK_WORDS * 32
"""Bits that one key draws before the counter of blocks would begin anew."""
CONSTANTS = np.frombuffer(b"expand 32-byte k", "<u4")
COLUMNS = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15))
DIAGONALS = ((0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))
DRAWN, BELOW = 0, 1
"""The first word of a nonce, by which drawn numbers and keys below never have a block in common."""

State = tuple[Array, ...]
"""The 16 words of the state, each for many blocks: element by element, XLA vectorises this over blocks."""


def blocks(
    key: UInt32[Array, " 8"], counter: UInt32[Array, " blocks"], nonce: tuple[int | Array, int | Array, int | Array]
) -> UInt32[Array, "blocks 16"]:
    """Return the blocks of the keystream with these counters: the block function of RFC 8439, section 2.3."""
    words = [*CONSTANTS, *key, counter, *nonce]
    state = tuple(jnp.broadcast_to(jnp.asarray(word, jnp.uint32), counter.shape) for word in words)
    # A loop: unrolled, the 20 rounds take XLA much longer to compile, and run no faster.
    mixed = jax.lax.fori_loop(0, 10, lambda _, words: _double_round(words), state)
    return jnp.stack([old + new for old, new in zip(state, mixed, strict=True)], axis=-1)


def _double_round(state: State) -> State:
    words = list(state)
    for a, b, c, d in (*COLUMNS, *DIAGONALS):
        words[a], words[b], words[c], words[d] = _quarter_round(words[a], words[b], words[c], words[d])
    return tuple(words)


def _quarter_round(a: Array, b: Array, c: Array, d: Array) -> tuple[Array, Array, Array, Array]:
    for first, second in ((16, 12), (8, 7)):
        a = a + b
        d = _rotated(d ^ a, first)
        c = c + d
        b = _rotated(b ^ c, second)
    return a, b, c, d


def _rotated(x: Array, left: int) -> Array:
    return (x << left) | (x >> (32 - left))


def _seed(seed: Array) -> Array:
    raise ConfigError(
        f"A key of ChaCha20 was to be made of the seed {seed}. It has 256 bits and a seed has at most 64, which can be "
        "searched. Make it of 32 secret bytes: fedrl.core.chacha.chacha_key."
    )


def _fold_in(key: Array, data: int | Array) -> Array:
    return blocks(key, jnp.zeros(1, jnp.uint32), (BELOW, data, 0))[0, :KEY_WORDS]


def _split(key: Array, shape: tuple[int, ...]) -> Array:
    below = jax.vmap(lambda i: _fold_in(key, i))(jnp.arange(math.prod(shape), dtype=jnp.uint32))
    return below.reshape(*shape, KEY_WORDS)


def _random_bits(key: Array, bit_width: int, shape: tuple[int, ...]) -> Array:
    size = math.prod(shape)
    if size * bit_width > LARGEST_DRAW:
        raise ConfigError(
            f"{size} numbers of {bit_width} bits were to be drawn by one key. The counter of ChaCha20 has 32 bits, so "
            "blocks would repeat after 256 GiB. Draw them by several keys: jax.random.split."
        )
    count = -(-size * bit_width // (32 * BLOCK_WORDS))
    words = blocks(key, jnp.arange(count, dtype=jnp.uint32), (DRAWN, 0, 0)).reshape(-1)
    pairs = words.reshape(-1, 2) if bit_width == 64 else words
    return jax.lax.bitcast_convert_type(pairs, jnp.dtype(f"uint{bit_width}")).reshape(-1)[:size].reshape(shape)


CHACHA20 = define_prng_impl(
    key_shape=(KEY_WORDS,),
    seed=_seed,
    split=_split,
    random_bits=_random_bits,
    fold_in=_fold_in,
    name="chacha20",
    tag="chacha20",
)
"""ChaCha20 as an implementation of `jax.random`."""


def chacha_key(data: UInt32[Array | np.ndarray, "*batch 8"]) -> Key:
    """Return the keys with this data, 8 words of 32 bits each; also inside compiled programs.

    >>> key = chacha_key(np.arange(8, dtype=np.uint32))
    >>> jax.random.normal(jax.random.fold_in(key, 3), (2,)).shape
    (2,)
    """
    return jax.random.wrap_key_data(jnp.asarray(data), impl=CHACHA20)
