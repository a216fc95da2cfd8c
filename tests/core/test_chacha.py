"""ChaCha20 as JAX draws with it: the numbers of RFC 8439 and of another implementation, and keys below that differ."""

import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrl.core.chacha import BELOW, CHACHA20, LARGEST_DRAW, blocks, chacha_key
from fedrl.core.errors import ConfigError
from tests.support.fresh_noise import check_fresh

DATA = np.frombuffer(bytes(range(32)), np.uint32)
KEY = chacha_key(DATA)

# RFC 8439: key, counter, nonce, block; of section 2.3.2, and of appendix A.1
VECTORS = {
    "2.3.2": (
        bytes(range(32)),
        1,
        "000000090000004a00000000",
        "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e"
        "d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e",
    ),
    "A.1, 1": (
        bytes(32),
        0,
        "000000000000000000000000",
        "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
        "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586",
    ),
    "A.1, 2": (
        bytes(32),
        1,
        "000000000000000000000000",
        "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed"
        "29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f",
    ),
    "A.1, 5": (
        bytes(32),
        0,
        "000000000000000000000002",
        "c2c64d378cd536374ae204b9ef933fcd1a8b2288b3dfa49672ab765b54ee27c7"
        "8a970e0e955c14f3a88e741b97c286f75f8fc299e8148362fa198a39531bed6d",
    ),
}


def keystream(key: bytes, nonce: tuple[int, int, int], size: int) -> bytes:
    """As another implementation computes it, from counter 0 on."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

    given = struct.pack("<4I", 0, *nonce)
    return Cipher(algorithms.ChaCha20(key, given), mode=None).encryptor().update(bytes(size))


@pytest.mark.parametrize("vector", VECTORS)
def test_blocks_are_those_of_the_standard(vector):
    key, counter, nonce, expected = VECTORS[vector]
    words = struct.unpack("<3I", bytes.fromhex(nonce))
    found = blocks(jnp.asarray(np.frombuffer(key, "<u4")), jnp.array([counter], jnp.uint32), words)
    assert np.asarray(found).astype("<u4").tobytes().hex() == expected


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
@pytest.mark.parametrize("shape", [(), (1,), (16,), (17,), (3, 37), (5000,), (0,), (2, 0)])
def test_draws_are_the_keystream(shape, dtype):
    drawn = np.asarray(jax.random.bits(KEY, shape, dtype))
    assert drawn.shape == shape
    found = drawn.astype(np.dtype(dtype).newbyteorder("<")).tobytes()
    assert found == keystream(DATA.tobytes(), (0, 0, 0), drawn.nbytes)


def test_draws_of_64_bits_are_the_keystream():
    with jax.enable_x64(True):
        drawn = np.asarray(jax.random.bits(chacha_key(DATA), (19,), "uint64"))
    assert drawn.astype("<u8").tobytes() == keystream(DATA.tobytes(), (0, 0, 0), drawn.nbytes)


@pytest.mark.parametrize("number", [0, 1, 2**31, 2**32 - 1])
def test_a_key_below_is_the_start_of_another_keystream(number):
    below = np.asarray(jax.random.key_data(jax.random.fold_in(KEY, number)))
    assert below.astype("<u4").tobytes() == keystream(DATA.tobytes(), (BELOW, number, 0), 32)


def test_split_keys_are_folded_ones():
    """As of JAX's own keys: the rules of `fedrl.core.keys` hold for both."""
    split = jax.random.key_data(jax.random.split(KEY, (2, 3))).reshape(6, 8)
    folded = [jax.random.key_data(jax.random.fold_in(KEY, i)) for i in range(6)]
    np.testing.assert_array_equal(split, np.stack(folded))


def test_keys_below_draw_unrelated_numbers():
    """Down two generations, with the key itself among them."""
    children = jax.random.split(KEY, 3)
    grandchildren = jax.vmap(lambda key: jax.random.split(key, 2))(children).reshape(-1)
    family = jnp.concatenate([KEY[None], children, grandchildren])
    check_fresh(jax.vmap(lambda key: jax.random.normal(key, (100,)))(family).T)
    words = np.asarray(jax.vmap(lambda key: jax.random.bits(key, (400,)))(family))
    data = np.asarray(jax.random.key_data(family))
    assert not set(words.ravel().tolist()) & set(data.ravel().tolist())  # no draw shows a key below


def test_a_key_drawn_from_twice_is_found():
    draws = np.stack([jax.random.normal(key, (100,)) for key in (KEY, jax.random.fold_in(KEY, 0), KEY)], axis=1)
    with pytest.raises(AssertionError, match="were there before"):
        check_fresh(draws)


def test_one_bit_of_a_key_changes_half_of_the_bits():
    data = np.stack([DATA, DATA ^ np.eye(8, dtype=np.uint32)[7]])
    one, other = (np.asarray(jax.random.bits(chacha_key(each), (1000,))) for each in data)
    flipped = np.unpackbits((one ^ other).view(np.uint8))
    assert abs(flipped.mean() - 0.5) < 4.5 * 0.5 / np.sqrt(flipped.size)


def test_the_same_numbers_alone_in_a_batch_in_a_loop_and_compiled():
    keys = jax.random.split(KEY, 5)

    def draw(key):
        return jax.random.normal(jax.random.fold_in(key, 7), (33,))

    @jax.jit
    def everywhere(keys):
        last = jax.lax.while_loop(lambda at: at[0] < 5, lambda at: (at[0] + 1, keys[at[0]]), (0, keys[0]))[1]
        chosen = jax.lax.cond(keys.size > 1, draw, lambda key: draw(jax.random.fold_in(key, 1)), keys[0])
        return jax.vmap(draw)(keys), jax.lax.scan(lambda _, key: (0, draw(key)), 0, keys)[1], chosen, draw(last)

    each = np.stack([draw(key) for key in keys])
    in_a_batch, in_a_loop, chosen, last = everywhere(keys)
    np.testing.assert_array_equal(in_a_batch, each)
    np.testing.assert_array_equal(in_a_loop, each)
    np.testing.assert_array_equal(chosen, each[0])
    np.testing.assert_array_equal(last, each[-1])


def test_every_device_draws_the_same_numbers():
    assert len(jax.devices()) > 1
    drawn = [jax.jit(lambda key: jax.random.normal(key, (33,)))(jax.device_put(KEY, at)) for at in jax.devices()]
    assert {next(iter(each.devices())) for each in drawn} == set(jax.devices())
    for each in drawn[1:]:
        np.testing.assert_array_equal(each, drawn[0])


def test_a_draw_whose_counter_would_begin_anew_is_refused():
    most = LARGEST_DRAW // 8
    with pytest.raises(ConfigError, match="repeat after 256 GiB"):
        jax.jit(lambda key: jax.random.bits(key, (most + 1,), "uint8")[0]).lower(KEY)


def test_a_seed_makes_no_key():
    with pytest.raises(ConfigError, match="256 bits and a seed has at most 64"):
        jax.random.key(3, impl=CHACHA20)
