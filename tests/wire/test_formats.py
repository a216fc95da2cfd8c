"""What every stage puts on the wire: as bytes and back, as large as claimed, refused when damaged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrl.aggregators import mean, median
from fedrl.core.aggregator import on_time
from fedrl.core.errors import WireError
from fedrl.core.stage import pipeline
from fedrl.core.types import Update, UpdateContext
from fedrl.engines.simulate import simulate
from fedrl.federation.federate import federate
from fedrl.learners import sgd
from fedrl.stages import (
    clip,
    download_only,
    error_feedback,
    flatten,
    hard_threshold,
    lag,
    partition_by_size,
    quantize,
    random_k,
    scaffold,
    sign,
    top_k,
    uniform_quantize,
)
from fedrl.wire.codec import codec, size_bytes
from fedrl.wire.indices import place_bytes
from fedrl.wire.quantized import FixedPoint, Quantized, levels
from fedrl.wire.sparse import Masked, Sparse
from tests.support.quadratic import Valley, quadratic
from tests.support.turns import keys_of_server, turns_of

PARAMS = {
    "layers": ({"weight": jnp.zeros((40, 30)), "bias": jnp.zeros(40)}, {"weight": jnp.zeros((1, 40))}),
    "log_std": jnp.zeros(()),
}
SIZES = [40, 1200, 40, 1]  # of the leaves, in their order
KEY = jax.random.key(0)
CONTEXT = UpdateContext(jnp.int32(2), jnp.int32(5), jnp.int32(4), jnp.int32(3))
HEAD = 8  # weight and version

# of each pipeline, the size of an update as its documentation says it; None where it depends on the data
PIPELINES = [
    ([], HEAD + 4 * 1281),
    ([clip(1.0)], HEAD + 4 * 1281),
    ([download_only(["log_std", "layers/-1"])], HEAD + 4 * 1240),
    ([scaffold(0.1)], HEAD + 2 * 4 * 1281),
    *[([quantize(bits)], HEAD + sum(4 + -(-n * bits // 8) for n in SIZES)) for bits in range(1, 9)],
    # 1 % of 40, 1200, 40 and 1: one index of 6 bits, twelve of 11 bits, one of 6 bits, none
    ([top_k(0.01)], HEAD + (1 + 4) + (17 + 4 * 12) + (1 + 4) + 4),
    # a quarter: bitmaps all but for the last
    ([top_k(0.25)], HEAD + (5 + 40) + (150 + 1200) + (5 + 40) + 4),
    ([top_k(1.0)], HEAD + 4 * 1281),
    ([top_k(0.01), quantize(4)], HEAD + (1 + 4 + 1) + (17 + 4 + 6) + (1 + 4 + 1) + (4 + 1)),
    ([sign()], HEAD + (4 + 5) + (4 + 150) + (4 + 5) + (4 + 1)),
    ([flatten(), sign()], HEAD + 4 + 161),
    ([partition_by_size(40, quantize(3, unbiased=False), sign())], HEAD + (4 + 15) + (4 + 150) + (4 + 15) + (4 + 1)),
    ([partition_by_size(39, flatten(), sign())], HEAD + 4 * 1 + (4 + 5) + (4 + 150) + (4 + 5)),
    ([partition_by_size(40, quantize(4), hard_threshold(0.5))], None),
    ([flatten(), top_k(0.01)], HEAD + (18 + 4 * 13)),  # 13 indices of 11 bits
    ([flatten(), top_k(0.01), sign()], HEAD + (18 + 4 + 2)),
    *[([uniform_quantize(bits)], HEAD + sum(-(-n * bits // 8) for n in SIZES)) for bits in (2, 5, 8, 9, 16)],
    ([top_k(0.01), uniform_quantize(12)], HEAD + (1 + 2) + (17 + 18) + (1 + 2) + 2),
    ([random_k(0.01)], HEAD + 4 + 4 * (1 + 12 + 1 + 1)),
    ([random_k(0.01, unbiased=False), quantize(2)], HEAD + 4 + (4 + 1) + (4 + 3) + (4 + 1) + (4 + 1)),
    ([lag()], None),
    ([lag(top_k(0.01), sign())], None),
    ([lag(error_feedback(hard_threshold(0.5), uniform_quantize(12)))], None),
    ([hard_threshold(1.5)], None),
    ([hard_threshold(1.5), quantize(3)], None),
    ([hard_threshold(1.5), quantize(1)], None),
    ([hard_threshold(1.5), sign()], None),
    ([error_feedback(flatten(), hard_threshold(0.5), uniform_quantize(12))], None),
    ([error_feedback(top_k(0.01), quantize(8))], HEAD + (1 + 4 + 1) + (17 + 4 + 12) + (1 + 4 + 1) + (4 + 1)),
]


def drawn(key, scale=1.0):
    return jax.tree.map(lambda x: scale * jax.random.normal(key, x.shape), PARAMS)


def same(a, b) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(*(map(np.asarray, jax.tree.leaves(tree)) for tree in (a, b)), strict=True):
        assert (x.shape, x.dtype, x.tobytes()) == (y.shape, y.dtype, y.tobytes())


@pytest.fixture(scope="module", params=PIPELINES, ids=lambda case: repr(case[0]))
def case(request):
    """A pipeline, its encoding and decoding compiled, and the size it should have."""
    stages, size = request.param
    pipe = pipeline(stages)
    shared, local = pipe.init(PARAMS)

    @jax.jit
    def encode(key, value):
        return pipe.encode(key, CONTEXT, shared, local, Update(value, jnp.float32(10.0), jnp.int32(5)))[0]

    return encode, jax.jit(lambda update: pipe.decode(shared, update)), size


@pytest.mark.parametrize("scale", [1.0, 0.0, 1e-42, 1e15, np.nan, np.inf])
def test_what_arrives_is_what_was_sent_bit_for_bit(case, scale):
    encode, decode, size = case
    for i in range(5):
        update = encode(jax.random.fold_in(KEY, i), drawn(jax.random.fold_in(KEY, 100 + i), scale))
        wire = codec(jax.eval_shape(lambda update=update: update))
        sent = wire.encode(update)
        assert wire.size_bytes == size
        assert len(sent) == size_bytes(update) == jax.jit(size_bytes)(update)
        arrived = wire.decode(sent)
        same(decode(arrived), decode(update))
        same(arrived, wire.decode(wire.encode(arrived)))
        if size is not None:
            assert len(sent) == size
            same(arrived, update)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_a_damaged_message_is_refused_or_another_message_that_no_bit_of_it_belies(case, data):
    """Whatever decodes encodes to the very same bytes: there is one way to say a thing, and nothing is overlooked."""
    encode, _, _ = case
    update = encode(KEY, drawn(KEY))
    wire = codec(update)
    damaged = bytearray(wire.encode(update))
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        read = wire.decode(bytes(damaged))
    except WireError:
        return
    assert wire.encode(read) == bytes(damaged)


@pytest.mark.parametrize("cut", [1, 9, 10_000])
def test_a_message_of_another_length_is_refused(case, cut):
    encode, _, _ = case
    wire = codec(encode(KEY, drawn(KEY)))
    sent = wire.encode(encode(KEY, drawn(KEY)))
    for damaged in (sent[:-cut], sent + bytes(cut)):
        with pytest.raises(WireError, match=r"bytes"):
            wire.decode(damaged)


def test_a_sparse_array_takes_the_smaller_of_indices_and_bitmap():
    assert [place_bytes(k, 1200) for k in (0, 1, 109, 110, 1199, 1200)] == [0, 2, 150, 150, 150, 0]
    for count in (1, 5, 109, 110, 600, 1199, 1200):
        index = np.sort(np.random.default_rng(count).choice(1200, count, replace=False)).astype(np.int32)
        sparse = Sparse(index, np.arange(count, dtype=np.float32), (40, 30))
        wire = codec(sparse)
        assert wire.size_bytes == min(-(-11 * count // 8), 150 if count < 1200 else 0) + 4 * count
        same(wire.decode(wire.encode(sparse)), sparse)


def sparse(index) -> Sparse:
    return Sparse(np.array(index, np.int32), np.ones(len(index), np.float32), (60,))


@pytest.mark.parametrize(
    ("index", "message"),
    [([3, 60], "index 60 is out of range for 60"), ([5, 5], "do not ascend"), ([7, 2], "do not ascend")],
)
def test_indices_out_of_range_or_order_are_refused(index, message):
    sent = codec(sparse(index)).encode(sparse(index))
    with pytest.raises(WireError, match=message):
        codec(sparse([0, 1])).decode(sent)


def test_a_bitmap_with_another_number_of_entries_is_refused():
    wire = codec(sparse(range(20)))
    sent = bytearray(wire.encode(sparse(range(20))))
    sent[7] ^= 1
    with pytest.raises(WireError, match="21 bits of its bitmap are set, and 20 entries"):
        wire.decode(bytes(sent))


@pytest.mark.parametrize("bits", range(2, 9))
def test_the_code_that_no_number_has_is_refused(bits):
    node = Quantized(np.array([0, -levels(bits), levels(bits)], np.int8), np.float32(2.0), bits)
    wire = codec(node)
    sent = bytearray(wire.encode(node))
    same(wire.decode(bytes(sent)), node)
    sent[4] |= 2**bits - 1
    with pytest.raises(WireError, match=f"a code is {levels(bits) + 1}, and {bits} bits go from"):
        wire.decode(bytes(sent))


def test_codes_that_do_not_fit_are_not_sent():
    node = Quantized(np.array([0, 9, -1], np.int8), np.float32(2.0), 4)
    with pytest.raises(WireError, match="a code is 9, and 4 bits go from -7 to 7"):
        codec(node).encode(node)


def test_more_entries_than_there_are_cannot_be_announced():
    node = Masked(np.arange(12) < 9, np.where(np.arange(12) < 9, 1.5, 0.0).astype(np.float32), (3, 4))
    wire = codec(node)
    sent = bytearray(wire.encode(node))
    assert len(sent) == 1 + 2 + 4 * 9  # nine entries, a bitmap, values
    sent[0] = 13
    with pytest.raises(WireError, match="13 of 12 entries are announced"):
        wire.decode(bytes(sent))


def test_an_array_of_which_nothing_travels_takes_its_count():
    node = Masked(np.zeros(1000, bool), np.zeros(1000, np.float32), (1000,))
    assert len(codec(node).encode(node)) == 2


def test_fixed_point_travels_in_twos_complement():
    node = FixedPoint(np.array([-1, 3, -4, 0], np.int8), 3)
    assert codec(node).encode(node) == bytes([0b00_011_111, 0b0000_0001])  # 111 011 100 000, the last bit first
    assert np.isnan(codec(node).decode(codec(node).encode(node)).dense()[2])


AGENTS, SIZE = 5, 12
FLEET = Valley(np.ones((AGENTS, SIZE), np.float32), np.random.default_rng(0).normal(size=(AGENTS, SIZE)).astype("f4"))


@pytest.mark.parametrize(
    ("aggregator", "stages"),
    [
        (mean(), (top_k(0.3), quantize(4))),
        (median(), (top_k(0.3), quantize(4))),
        (mean(), (random_k(0.5, unbiased=False), sign())),
        (mean(), (hard_threshold(0.1), quantize(5))),
        (median(), (error_feedback(flatten(), hard_threshold(0.1)),)),
    ],
    ids=repr,
)
def test_the_simulator_reports_the_bytes_that_would_travel_and_merges_what_would_arrive(aggregator, stages):
    """One round by hand, every update as bytes in between, against one round of the engine."""
    federation = federate(quadratic(sgd(0.1), size=SIZE), aggregator, *stages)
    simulation = simulate(federation, FLEET, devices=jax.devices()[:1])
    run_state = simulation.init(0)
    sent = federation.broadcast(run_state.server)
    agents = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *run_state.blocks)
    agents = jax.tree.map(lambda x: x[:AGENTS], agents)
    updates = jax.jit(jax.vmap(federation.agent, (0, None, 0, None)))(
        turns_of(run_state, AGENTS), sent, agents, jnp.int32(AGENTS)
    )
    each = [jax.tree.map(lambda x, k=k: x[k], updates[0]) for k in range(AGENTS)]
    wire = codec(each[0])
    bytes_up = [wire.encode(update) for update in each]
    arrived = jax.tree.map(lambda *leaves: np.stack(leaves), *map(wire.decode, bytes_up))
    expected = federation.server(keys_of_server(run_state), on_time(np.arange(AGENTS)), run_state.server, arrived)
    after, seen = simulation.round(run_state)
    assert seen.bytes_up == sum(map(len, bytes_up))
    if wire.size_bytes is None:
        assert len(set(map(len, bytes_up))) > 1
        assert seen.uploads.size_bytes.tolist() == list(map(len, bytes_up))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), after.server.params, expected.params
    )
