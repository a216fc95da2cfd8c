"""What each stage promises, over all inputs."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedrl.core.double import Double
from fedrl.core.errors import ConfigError, UnsoundError
from fedrl.core.stage import Noise, Stage, keep_update, pipeline
from fedrl.core.types import Update, UpdateContext
from fedrl.stages import (
    clip,
    download_only,
    error_feedback,
    flatten,
    hard_threshold,
    quantize,
    random_k,
    scaffold,
    sign,
    top_k,
    uniform_quantize,
)
from fedrl.stages.clip import norm_of
from fedrl.stages.scaffold import CHANGES, ControlVariate
from fedrl.wire.quantized import Quantized
from fedrl.wire.sparse import Sparse

CONTEXT = UpdateContext(jnp.int32(3), jnp.int32(7), jnp.int32(4), jnp.int32(2))
PARAMS = {"w": jnp.zeros((3, 4)), "b": jnp.zeros(5)}
numbers = st.floats(-100.0, 100.0, width=32, allow_subnormal=False)
values = st.builds(
    lambda w, b: {"w": w, "b": b}, arrays(np.float32, (3, 4), elements=numbers), arrays(np.float32, 5, elements=numbers)
)


def added_up(update) -> Update:
    """The update with its statistics as the server's half gets them, of a single agent."""
    return update._replace(statistics=jax.tree.map(lambda x: Double(x, jnp.zeros_like(x)), update.statistics))


def as_update(value) -> Update:
    return Update(value, jnp.float32(10.0), jnp.int32(7))


@partial(jax.jit, static_argnums=0)
def through(stage: Stage, value, key):
    """Encode and decode, from a fresh state."""
    server_state, agent_state = stage.init(jax.tree.map(jnp.zeros_like, value))
    update, agent_state = stage.encode(key, CONTEXT, server_state, agent_state, as_update(value))
    return (update if stage.decode is None else stage.decode(server_state, update)).value, agent_state


def vector(value) -> np.ndarray:
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(value)])


KEY = jax.random.key(0)


@given(values, st.sampled_from([0.01, 1.0, 50.0]))
def test_clip_never_exceeds_the_norm_and_keeps_the_direction(value, norm):
    x, clipped = vector(value), vector(through(clip(norm), value, KEY)[0])
    length = np.linalg.norm(x)
    assert np.linalg.norm(clipped) <= norm * (1 + 1e-6)
    np.testing.assert_allclose(clipped, x * min(1.0, norm / max(length, 1e-30)), rtol=1e-5, atol=1e-30)


@given(values)
def test_clip_leaves_a_short_update_as_it_is_bit_for_bit(value):
    np.testing.assert_array_equal(vector(through(clip(1000.0), value, KEY)[0]), vector(value))


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "stage", [clip(1.0), quantize(8), quantize(1), top_k(0.1), error_feedback(top_k(0.1), quantize(4))], ids=repr
)
def test_no_stage_launders_an_update_that_is_not_finite(stage, poison):
    value = {"w": np.ones((3, 4), np.float32), "b": np.zeros(5, np.float32)}
    value["w"][1, 2] = poison
    sent, _ = through(stage, value, KEY)
    assert not np.isfinite(vector(sent)).all()


def test_clip_shrinks_an_update_whose_square_overflows():
    value = {"w": np.full((3, 4), 1e30, np.float32), "b": np.zeros(5, np.float32)}
    clipped = vector(through(clip(1.0), value, KEY)[0])
    assert np.linalg.norm(clipped) == pytest.approx(1.0, rel=1e-5)


def test_a_norm_is_that_of_all_arrays_together():
    assert norm_of({"a": jnp.array([3.0]), "b": jnp.array([[0.0, -4.0]])}) == pytest.approx(5.0)


def biased(bits: int) -> Stage:
    """A quantiser that rounds to nearest: the wrong one, which the test of unbiasedness must catch."""
    sound = quantize(bits)
    levels = 2 ** (bits - 1) - 1

    def encode(key, context, server_state, agent_state, update):
        update, agent_state = sound.encode(key, context, server_state, agent_state, update)

        def nearest(x):
            return Quantized(jnp.round(x / jnp.abs(x).max() * levels).astype(jnp.int8), jnp.abs(x).max(), bits)

        return update._replace(value=jax.tree.map(nearest, VALUE)), agent_state

    return Stage(encode, decode=sound.decode)


VALUE = {"w": jnp.linspace(-1.0, 0.93, 12).reshape(3, 4), "b": jnp.array([0.0, 0.02, -0.31, 0.5, 0.77])}
DRAWS = 4000


def largest_deviation(stage: Stage) -> float:
    """How many standard errors the mean of many draws is off, at worst."""
    keys = jax.random.split(jax.random.key(1), DRAWS)
    draws = jax.jit(jax.vmap(lambda key: through(stage, VALUE, key)[0]))(keys)
    samples = np.concatenate([np.asarray(x, np.float64).reshape(DRAWS, -1) for x in jax.tree.leaves(draws)], axis=1)
    error = np.abs(samples.mean(0) - vector(VALUE))
    return float((error / (samples.std(0) / np.sqrt(DRAWS) + 1e-6)).max())


@pytest.mark.parametrize("bits", [8, 4, 2, 1])
def test_quantisation_is_unbiased(bits):
    assert largest_deviation(quantize(bits)) < 4.5


@pytest.mark.parametrize("bits", [4, 2])
def test_the_test_of_unbiasedness_rejects_rounding_to_nearest(bits):
    assert largest_deviation(biased(bits)) > 20.0


@given(values, st.sampled_from([1, 2, 8]), st.integers(0, 2**31 - 1))
def test_quantisation_errs_by_less_than_one_level(value, bits, seed):
    sent, _ = through(quantize(bits), value, jax.random.key(seed))
    for leaf, x in zip(jax.tree.leaves(sent), jax.tree.leaves(value), strict=True):
        step = np.abs(x).max() / max(1, 2 ** (bits - 1) - 1) * (2 if bits == 1 else 1)
        assert (np.abs(leaf - x) <= step * (1 + 1e-5)).all()


@partial(jax.jit, static_argnums=0)
def encoded(stage: Stage, value) -> Update:
    return stage.encode(KEY, CONTEXT, (), (), as_update(value))[0]


@given(values, st.sampled_from([1, 2, 3, 8]))
def test_codes_fit_the_claimed_bits(value, bits):
    update = encoded(quantize(bits), value)
    used = np.concatenate([np.asarray(update.value[name].integers).ravel() for name in ("w", "b")])
    assert used.dtype == np.int8
    assert np.abs(used.astype(int)).max() <= max(1, 2 ** (bits - 1) - 1)
    assert len(np.unique(used)) <= 2**bits


def test_the_largest_number_never_overshoots_its_code():
    """`floor(127 + u)` rounds up to 128 once in some 10^5 draws of u, and 128 is -128 in an int8."""
    value = {"x": jnp.full(200_000, -1.0)}
    np.testing.assert_array_equal(through(quantize(8), value, KEY)[0]["x"], -1.0)


@given(values, st.sampled_from([0.05, 0.3, 0.5, 1.0]))
def test_top_k_is_a_contraction(value, fraction):
    sent, _ = through(top_k(fraction), value, KEY)
    for leaf, x in zip(jax.tree.leaves(sent), jax.tree.leaves(value), strict=True):
        kept = int(np.ceil(fraction * x.size))
        lost = np.square(np.asarray(leaf, np.float64) - x).sum()
        assert lost <= (1 - kept / x.size) * np.square(x.astype(np.float64)).sum() * (1 + 1e-12)
        assert np.count_nonzero(leaf) <= kept


def test_top_k_sends_the_largest_by_magnitude_as_index_and_value():
    update, _ = top_k(0.4).encode(KEY, CONTEXT, (), (), as_update({"x": jnp.array([[0.1, -5.0], [2.0, 0.0]])}))
    sparse = update.value["x"]
    assert sparse.index.tolist() == [1, 2]
    assert sparse.value.tolist() == [-5.0, 2.0]
    assert sparse.dense().tolist() == [[0.0, -5.0], [2.0, 0.0]]


def test_a_sparse_array_opens_without_a_template():
    leaves, structure = jax.tree.flatten(Sparse(jnp.array([1]), jnp.array([4.0]), (2, 2)))
    assert [leaf.shape for leaf in leaves] == [(1,), (1,)]
    assert jax.tree.unflatten(structure, leaves).dense().tolist() == [[0.0, 4.0], [0.0, 0.0]]


LOSSY = [
    (top_k(0.2),),
    (quantize(4),),
    (sign(),),
    (uniform_quantize(3),),
    (hard_threshold(0.5),),
    (random_k(0.3, unbiased=False),),
    (top_k(0.3), quantize(4)),
    (flatten(), top_k(0.2), sign()),
    (hard_threshold(0.5), quantize(4)),
]


@pytest.mark.parametrize("stages", LOSSY, ids=repr)
def test_what_was_read_and_what_is_held_add_up_to_what_was_meant(stages):
    stage = error_feedback(*stages)
    server_state, agent_state = stage.init(PARAMS)
    draws, read = np.random.default_rng(0), 0.0
    encode = jax.jit(stage.encode)
    meant = []
    for i in range(30):
        value = jax.tree.map(lambda x: draws.normal(size=x.shape).astype(np.float32), PARAMS)
        update, agent_state = encode(jax.random.fold_in(KEY, i), CONTEXT, server_state, agent_state, as_update(value))
        read = read + vector((update if stage.decode is None else stage.decode(server_state, update)).value)
        meant.append(vector(value))
    np.testing.assert_allclose(read + vector(agent_state[1]), np.sum(meant, axis=0), atol=1e-4)
    assert np.abs(vector(agent_state[1])).max() > 0.01  # the stages did lose something


def test_error_feedback_delivers_a_constant_update_that_top_k_alone_loses():
    value = {"x": jnp.array([4.0, 1.0, 1.0, 2.0])}

    def mean_read(stage: Stage) -> np.ndarray:
        server_state, agent_state = stage.init(jax.tree.map(jnp.zeros_like, value))
        read = np.zeros(4)
        encode = jax.jit(stage.encode)
        for _ in range(80):
            update, agent_state = encode(KEY, CONTEXT, server_state, agent_state, as_update(value))
            read += vector(stage.decode(server_state, update).value)
        return read / 80

    np.testing.assert_allclose(mean_read(error_feedback(top_k(0.25))), [4.0, 1.0, 1.0, 2.0], atol=0.15)
    np.testing.assert_allclose(mean_read(top_k(0.25)), [4.0, 0.0, 0.0, 0.0])


def test_a_residual_recovers_from_an_update_that_was_not_finite():
    stage = error_feedback(top_k(0.2))
    server_state, agent_state = stage.init(PARAMS)
    poisoned = jax.tree.map(lambda x: x + jnp.nan, PARAMS)
    _, agent_state = stage.encode(KEY, CONTEXT, server_state, agent_state, as_update(poisoned))
    assert np.isfinite(vector(agent_state[1])).all()


def test_control_variates_by_hand():
    stage = scaffold(0.5, gradient_steps=3)
    server_state, agent_state = {"x": jnp.array([1.0])}, ControlVariate({"x": jnp.array([4.0])}, jnp.float32(0.25))
    assert stage.correction(server_state, agent_state)["x"].tolist() == [-3.0]
    context = CONTEXT._replace(share=jnp.float32(0.5))
    update, after = stage.encode(KEY, context, server_state, agent_state, as_update({"x": jnp.array([6.0])}))
    # two local steps of three gradient steps of size 0.5: 4 - c - delta / 3 = 4 - 1 - 6 / 3 = 1
    assert (after.variate["x"].tolist(), float(after.share)) == ([1.0], 0.5)
    assert update.value["x"].tolist() == [6.0]
    assert update.statistics[CHANGES]["x"].tolist() == [-0.5]  # 0.5 * 1 - 0.25 * 4
    finished, c = stage.finish(KEY, server_state, added_up(update))
    assert finished.value["x"].tolist() == [6.0]
    assert c["x"].tolist() == [0.5]


def test_a_pipeline_takes_off_last_what_went_on_first():
    pipe = pipeline([clip(1.0), top_k(0.5), quantize(8)])
    server_state, agent_state = pipe.init(PARAMS)
    update, _ = pipe.encode(KEY, CONTEXT, server_state, agent_state, as_update(VALUE))
    assert isinstance(update.value["w"], Sparse)
    assert isinstance(update.value["w"].value, Quantized)
    assert jax.tree.map(jnp.shape, pipe.decode(server_state, update).value) == jax.tree.map(jnp.shape, VALUE)


def noise(**marks) -> Stage:
    return Stage(
        lambda key, context, server_state, agent_state, update: (update, agent_state), finish=keep_update, **marks
    )


@pytest.mark.parametrize("inner", [noise(noise=Noise("Gaussian", 1.0, at)) for at in ("agent", "server")])
def test_error_feedback_refuses_to_send_later_what_is_hidden_now(inner):
    with pytest.raises(UnsoundError, match=r"residual would subtract that noise.*after error_feedback"):
        error_feedback(top_k(0.1), inner)


def test_error_feedback_refuses_a_stage_that_steers():
    with pytest.raises(UnsoundError, match=r"scaffold\(0.1\).*before error_feedback"):
        error_feedback(scaffold(0.1))


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (random_k(0.1), r"random_k\(0.1\), which is unbiased, but.*random_k\(0.01, unbiased=False\)"),
        (clip(1.0), r"clip\(1.0\), which is no compression.*before error_feedback"),
        (download_only(["b"]), r"download_only\(\['b'\]\), which is no compression"),
        (error_feedback(sign()), r"error_feedback\(sign\(\)\), which is no compression"),
    ],
    ids=repr,
)
def test_error_feedback_refuses_a_stage_whose_error_has_no_bound(stage, message):
    with pytest.raises(UnsoundError, match=message):
        error_feedback(stage)


@pytest.mark.parametrize(
    ("stages", "size"),
    [((quantize(1),), 2), ((quantize(2),), 9), ((quantize(4),), 393), ((top_k(0.5), quantize(4)), 786)],
    ids=repr,
)
def test_error_feedback_refuses_a_quantiser_too_coarse_for_the_arrays_it_is_given(stages, size):
    feedback = error_feedback(*stages)
    feedback.init({"small": jnp.zeros(1), "fits": jnp.zeros(size - 2 if len(stages) > 1 else size - 1)})
    with pytest.raises(
        UnsoundError, match=r"quantize\(bits=.\), whose error may exceed its input.* \d+ entries.*contraction"
    ):
        feedback.init({"small": jnp.zeros(1), "large": jnp.zeros(size)})


def residual_norms(stages, length: int, rounds: int = 200) -> np.ndarray:
    """Of a residual that is fed vectors of norm 1, without the checks of error_feedback."""
    inner = pipeline(stages)
    server_state, agent_state = inner.init(jnp.zeros(length))
    vectors = np.random.default_rng(0).normal(size=(rounds, length)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)

    def step(residual, given):
        key, vector = given
        meant = as_update(vector + residual)
        left = (
            meant.value
            - inner.decode(server_state, inner.encode(key, CONTEXT, server_state, agent_state, meant)[0]).value
        )
        return left, jnp.sqrt(jnp.square(left).sum())

    _, norms = jax.jit(lambda *given: jax.lax.scan(step, jnp.zeros(length), given))(
        jax.random.split(KEY, rounds), vectors
    )
    return np.asarray(norms)


@pytest.mark.parametrize(
    "stages",
    [(top_k(0.1),), (sign(),), (random_k(0.2, unbiased=False),), (quantize(4),), (top_k(0.2), sign())],
    ids=repr,
)
def test_the_residual_of_contractions_stays_below_its_bound(stages):
    """||e|| <= r / (1 - r) for inputs of norm 1, with r = sqrt(1 - delta)."""
    sizes = [60, 12]  # what the first and the second stage are given
    delta = np.prod([stage.contraction(size) for stage, size in zip(stages, sizes, strict=False)])
    rate = np.sqrt(1.0 - delta)
    assert residual_norms(stages, 60).max() < rate / (1.0 - rate)


def test_the_residual_of_a_coarse_quantiser_grows_which_is_why_it_is_refused():
    for coarse in (quantize(1), random_k(0.1)):
        assert residual_norms((coarse,), 60, 20)[-1] > 1e4


@pytest.mark.parametrize("before", [download_only(["b"]), scaffold(0.1)], ids=repr)
def test_error_feedback_takes_what_an_earlier_stage_hands_on(before):
    pipe = pipeline([before, error_feedback(sign())])
    server_state, agent_state = pipe.init(PARAMS)
    for _ in range(3):
        update, after = pipe.encode(KEY, CONTEXT, server_state, agent_state, as_update(VALUE))
        assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, agent_state)
        agent_state = after
    merged, _ = pipe.finish(KEY, server_state, added_up(pipe.decode(server_state, update)))
    assert jax.tree.map(jnp.shape, merged.value) == jax.tree.map(jnp.shape, PARAMS)


@pytest.mark.parametrize(
    ("late", "early"),
    [
        (clip(1.0), quantize(8)),
        (top_k(0.1), quantize(8)),
        (top_k(0.1), top_k(0.1)),
        (quantize(8), quantize(8)),
        (scaffold(0.1), top_k(0.1)),
        (error_feedback(quantize(8)), top_k(0.1)),
    ],
    ids=repr,
)
def test_a_stage_refuses_what_an_earlier_one_has_encoded(late, early):
    pipe = pipeline([early, late])
    server_state, agent_state = pipe.init(VALUE)
    name = repr(late).partition("(")[0]
    with pytest.raises(UnsoundError, match=rf"{name}\(\) finds .*Put {name}\(\) before"):
        pipe.encode(KEY, CONTEXT, server_state, agent_state, as_update(VALUE))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: clip(0.0), "norm is 0.0"),
        (lambda: clip(float("nan")), "norm is nan"),
        (lambda: quantize(0), "bits is 0"),
        (lambda: quantize(9), "bits is 9"),
        (lambda: top_k(0.0), "fraction is 0.0"),
        (lambda: top_k(1.5), "fraction is 1.5"),
        (error_feedback, "has no stages"),
        (lambda: scaffold(-0.1), "learning_rate is -0.1"),
        (lambda: scaffold(0.1, 0), "gradient_steps is 0"),
    ],
)
def test_arguments_out_of_range_are_named(build, message):
    with pytest.raises(ConfigError, match=message):
        build()
