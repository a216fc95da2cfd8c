"""Messages as bytes: packed numbers, plain arrays, and what is refused."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from fedrl.core.errors import WireError
from fedrl.wire.bits import pack, size_of, unpack, width_of
from fedrl.wire.codec import codec, size_bytes, varies

LIKE = {"w": np.zeros((2, 3), np.float32), "gone": None, "n": (np.int32(0), np.zeros(3, np.int8))}


def same(a, b) -> None:
    """Equal bit for bit: structure, types, and the bits of numbers that are not numbers."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(*(map(np.asarray, jax.tree.leaves(tree)) for tree in (a, b)), strict=True):
        assert (x.shape, x.dtype, x.tobytes()) == (y.shape, y.dtype, y.tobytes())


@given(st.integers(0, 20), st.data())
def test_packed_numbers_take_exactly_their_bits_and_come_back(width, data):
    numbers = np.array(data.draw(st.lists(st.integers(0, 2**width - 1), max_size=40)), np.uint32)
    run = pack(numbers, width)
    assert len(run) == size_of(numbers.size, width) == -(-numbers.size * width // 8)
    np.testing.assert_array_equal(unpack(run, width, numbers.size, "these"), numbers)


def test_packed_numbers_are_where_the_format_says():
    bits = [0] * 5 + [1, 0, 1] + [0, 1, 1]  # 0, then 5 and 6 of three bits each behind five of one bit
    run = pack(np.array(bits[:5]), 1) + pack(np.array([0b101, 0b110]), 3)
    assert run == bytes([0, 0b110_101])
    assert width_of(4095) == 12
    assert width_of(4096) == 13


def test_bits_behind_the_last_number_are_refused():
    with pytest.raises(WireError, match="five bits: the bits behind the last number are not zero"):
        unpack(bytes([0b100000]), 1, 5, "five bits")


kinds = st.sampled_from([np.float32, np.float16, np.int32, np.uint32, np.int8, np.bool_])


@given(st.lists(kinds.flatmap(lambda kind: arrays(kind, array_shapes(min_dims=0, min_side=0, max_side=4)))))
def test_arrays_come_back_bit_for_bit(leaves):
    wire = codec(leaves)
    sent = wire.encode(leaves)
    assert len(sent) == wire.size_bytes == size_bytes(leaves) == sum(leaf.nbytes for leaf in leaves)
    same(wire.decode(sent), leaves)


def test_numbers_travel_little_endian_in_the_order_of_the_leaves():
    wire = codec({"b": np.float32(0), "a": np.int32(0)})
    assert wire.encode({"b": np.float32(-2.0), "a": np.int32(258)}) == bytes([2, 1, 0, 0, 0, 0, 0, 0xC0])


def test_shapes_alone_make_a_codec():
    shapes = jax.eval_shape(lambda: jax.tree.map(jax.numpy.asarray, LIKE))
    assert not varies(shapes)
    same(codec(shapes).decode(codec(LIKE).encode(LIKE)), LIKE)


@given(st.binary(max_size=60))
def test_bytes_are_either_a_message_or_refused(data):
    wire = codec(LIKE)
    if len(data) == wire.size_bytes:
        assert wire.encode(wire.decode(data)) == data
    else:
        with pytest.raises(WireError):
            wire.decode(data)


def test_bytes_of_another_length_are_refused_by_name():
    wire = codec(LIKE)
    sent = wire.encode(LIKE)
    with pytest.raises(WireError, match=r"\['w'\] takes 24 bytes and 20 are left of 27.*cut off"):
        wire.decode(sent[:-4])
    with pytest.raises(WireError, match="has 32 bytes and ends after 31"):
        wire.decode(sent + b"\0")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"w": np.zeros((2, 3), np.float64)}, r"\['w'\] is float64 of shape \(2, 3\) where float32"),
        ({"w": np.zeros((3, 2), np.float32)}, r"\['w'\] is float32 of shape \(3, 2\) where float32 of shape \(2, 3\)"),
        ({"more": np.zeros(1)}, "was agreed on"),
    ],
)
def test_another_message_than_agreed_on_is_refused(change, message):
    with pytest.raises(WireError, match=message):
        codec(LIKE).encode(LIKE | change)
