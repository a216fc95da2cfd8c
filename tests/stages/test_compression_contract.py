"""What every compressing stage claims of itself holds: unbiased, a contraction, or never off by more than a bound."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import fedrl.stages
from fedrl.core.stage import Stage, pipeline
from fedrl.core.types import Update, UpdateContext
from fedrl.stages import (
    clip,
    flatten,
    hard_threshold,
    partition_by_size,
    quantize,
    random_k,
    scaffold,
    sign,
    top_k,
    uniform_quantize,
    weight_by_signal,
)

COMPRESSING = [
    *[quantize(bits) for bits in (1, 2, 3, 4, 8)],
    *[quantize(bits, unbiased=False) for bits in (2, 3, 8)],
    *[top_k(fraction) for fraction in (0.01, 0.3, 1.0)],
    *[random_k(fraction, unbiased) for fraction in (0.05, 0.5, 1.0) for unbiased in (True, False)],
    *[uniform_quantize(bits) for bits in (2, 7, 16)],
    *[hard_threshold(epsilon) for epsilon in (0.01, 1.0)],
    sign(),
    flatten(),
    partition_by_size(16, sign(), quantize(3, unbiased=False)),
    partition_by_size(17, quantize(2), quantize(3)),
    partition_by_size(100, hard_threshold(0.5), uniform_quantize(7)),
]
CLAIMS_NOTHING = {
    "clip",
    "scaffold",
    "error_feedback",
    "importance_averaging",
    "lag",
    "download_only",
    "weight_by_capacity",
    "weight_by_improvement",
    "weight_by_signal",
}
CONTEXT = UpdateContext(jnp.int32(3), jnp.int32(7), jnp.int32(4), jnp.int32(2))
KEY = jax.random.key(0)
DRAWS = 2000
D = 17


@partial(jax.jit, static_argnums=0)
def read(stage: Stage, x, key):
    """What the server reads of one array."""
    server_state, agent_state = stage.init(x)
    update, _ = stage.encode(key, CONTEXT, server_state, agent_state, Update(x, jnp.float32(1.0), jnp.int32(0)))
    return stage.decode(server_state, update).value


@partial(jax.jit, static_argnums=0)
def draws(stage: Stage, x):
    return jax.vmap(lambda key: read(stage, x, key))(jax.random.split(KEY, DRAWS))


def one_large(rest: float) -> np.ndarray:
    """One entry of 1, the others `rest`: the worst case of quantisers and signs."""
    return np.where(np.arange(D) == 5, 1.0, rest).astype(np.float32)


VECTORS = [
    one_large(0.0),
    one_large(0.01),
    one_large(0.2),
    one_large(-0.45),
    np.ones(D, np.float32),
    np.linspace(-0.3, 0.4, D).astype(np.float32),
    np.random.default_rng(0).normal(size=D).astype(np.float32),
]


def test_every_stage_makes_a_claim_or_is_known_to_make_none():
    claiming = {stage.call.component.name for stage in COMPRESSING}
    assert claiming | CLAIMS_NOTHING == set(fedrl.stages.__all__)
    assert all(s.unbiased or s.contraction is not None or s.error_bound is not None for s in COMPRESSING)


@pytest.mark.parametrize("stage", [s for s in COMPRESSING if s.unbiased], ids=repr)
@pytest.mark.parametrize("x", VECTORS, ids=range(len(VECTORS)))
def test_unbiased_where_claimed(stage, x):
    samples = np.asarray(draws(stage, x), np.float64)
    deviation = np.abs(samples.mean(0) - x) / (samples.std(0) / math.sqrt(DRAWS) + 1e-5)
    assert deviation.max() < 4.5


@pytest.mark.parametrize("stage", [top_k(0.3), random_k(0.5, unbiased=False), sign(), uniform_quantize(2)], ids=repr)
def test_what_does_not_claim_to_be_unbiased_is_not(stage):
    assert not stage.unbiased
    assert np.abs(np.asarray(draws(stage, VECTORS[-1])).mean(0) - VECTORS[-1]).max() > 0.05


@pytest.mark.parametrize("stage", [s for s in COMPRESSING if s.contraction], ids=repr)
@pytest.mark.parametrize("x", VECTORS, ids=range(len(VECTORS)))
def test_a_contraction_by_the_constant_claimed(stage, x):
    lost = np.square(np.asarray(draws(stage, x), np.float64) - x).sum(1)
    allowed = (1.0 - stage.contraction(D)) * np.square(x.astype(np.float64)).sum()
    assert lost.mean() <= allowed + 4.5 * lost.std() / math.sqrt(DRAWS) + 1e-9


def worst_for(levels: int) -> np.ndarray:
    """The vector that a stochastic quantiser errs most on: one entry of `levels` units, the others of 1 / (2 + 2 w)."""
    w = (math.sqrt(1.0 + (D - 1) / levels**2) - 1.0) / 2.0
    return one_large(1.0 / (2.0 + 2.0 * w) / levels)


@pytest.mark.parametrize(
    ("stage", "x"),
    [
        (quantize(1), one_large(0.0)),
        (quantize(2), worst_for(1)),
        (quantize(3), worst_for(3)),
        (quantize(8), worst_for(127)),
        (quantize(2, unbiased=False), one_large(0.49999)),
        (quantize(4, unbiased=False), one_large(0.49999 / 7)),
        (partition_by_size(17, quantize(3), sign()), worst_for(3)),
        (partition_by_size(16, quantize(3), sign()), one_large(0.0)),
        (sign(), one_large(0.0)),
        (top_k(0.3), np.ones(D, np.float32)),
        (random_k(0.5, unbiased=False), np.ones(D, np.float32)),
    ],
    ids=repr,
)
def test_there_is_a_vector_for_which_the_constant_is_exact(stage, x):
    lost = np.square(np.asarray(draws(stage, x), np.float64) - x).sum(1).mean() / np.square(x).sum()
    assert lost == pytest.approx(1.0 - stage.contraction(D), rel=0.1)


DETERMINISTIC = [
    top_k(0.01),
    top_k(0.3),
    sign(),
    flatten(),
    quantize(2, unbiased=False),
    quantize(3, unbiased=False),
    partition_by_size(16, top_k(0.3), quantize(4, unbiased=False)),
]
numbers = st.floats(-1e3, 1e3, width=32, allow_subnormal=False)


@given(arrays(np.float32, D, elements=numbers), st.sampled_from(DETERMINISTIC))
def test_a_deterministic_contraction_contracts_everything(x, stage):
    lost = np.square(np.asarray(read(stage, x, KEY), np.float64) - x).sum()
    assert lost <= (1.0 - stage.contraction(D)) * np.square(x.astype(np.float64)).sum() * (1 + 1e-6)


@given(arrays(np.float32, D, elements=numbers), st.sampled_from([s for s in COMPRESSING if s.error_bound]))
def test_no_entry_is_off_by_more_than_the_bound_claimed(x, stage):
    if stage.call.component.name == "uniform_quantize":  # which has a range
        x = np.clip(x, -0.5 + 2.0 ** -stage.call.arguments["bits"], 0.5 - 2.0 ** -stage.call.arguments["bits"])
    assert np.abs(np.asarray(read(stage, x, KEY), np.float64) - x).max() <= stage.error_bound * (1 + 1e-6)


@given(arrays(np.float32, D, elements=st.floats(-2.0, 2.0, width=32)), st.integers(2, 16))
def test_uniform_quantisation_is_its_formula_and_saturates(x, bits):
    formula = np.round(x.astype(np.float64) * 2**bits) / 2**bits
    end = 0.5 - 2.0**-bits
    np.testing.assert_array_equal(read(uniform_quantize(bits), x, KEY), np.clip(formula, -end, end))


@given(arrays(np.float32, D, elements=numbers))
def test_signs_are_scaled_by_the_mean_magnitude(x):
    scale = np.abs(x.astype(np.float64)).mean()
    np.testing.assert_allclose(read(sign(), x, KEY), np.where(x >= 0, scale, -scale), rtol=1e-6)


def test_rounding_to_the_nearest_is_its_formula():
    x = np.array([1.0, -0.49, 0.51, 0.16, -0.17, 0.0], np.float32)
    assert read(quantize(2, unbiased=False), x, KEY).tolist() == [1.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    np.testing.assert_allclose(read(quantize(3, unbiased=False), x, KEY), np.round(3 * x) / 3, atol=1e-6)


def test_threshold_keeps_what_is_above_and_nothing_else():
    x = np.array([0.5, -0.5, 0.50001, -3.0, 0.0], np.float32)
    assert read(hard_threshold(0.5), x, KEY).tolist() == [0.0, 0.0, x[2], -3.0, 0.0]


def test_the_bound_of_a_threshold_is_met_by_what_just_fails_to_pass():
    stage, x = hard_threshold(0.5), jnp.array([0.4999, 2.0])
    off = float(jnp.abs(read(stage, x, KEY) - x).max())
    assert 0.99 * stage.error_bound < off <= stage.error_bound


def test_after_flatten_the_largest_entries_of_all_arrays_are_kept():
    value = {"a": jnp.array([[1.0, -9.0], [2.0, 8.0]]), "b": jnp.array([0.1, 7.0])}
    update = Update(value, jnp.float32(1.0), jnp.int32(0))
    update, _ = flatten().encode(KEY, CONTEXT, (), (), update)
    update, _ = top_k(0.5).encode(KEY, CONTEXT, (), (), update)
    sent = flatten().decode((), top_k(0.5).decode((), update)).value
    assert jax.tree.map(lambda x: x.tolist(), sent) == {"a": [[0.0, -9.0], [0.0, 8.0]], "b": [0.0, 7.0]}


def test_every_entry_is_drawn_equally_often_and_never_twice():
    kept = np.asarray(draws(random_k(0.3, unbiased=False), np.ones(D, np.float32)))
    k = math.ceil(0.3 * D)
    assert (kept.sum(1) == k).all()
    share, error = kept.mean(0), math.sqrt(k / D * (1 - k / D) / DRAWS)
    assert np.abs(share - k / D).max() < 4.5 * error


@pytest.mark.parametrize("stage", [random_k(0.5, unbiased=False), quantize(1), quantize(4)], ids=repr)
def test_chance_differs_from_one_array_of_a_tree_to_the_next(stage):
    x = jnp.linspace(0.1, 1.0, D)
    sent = draws(stage, {"a": x, "b": x})
    a, b = (np.asarray(sent[name], np.float64) for name in "ab")
    moves = a.std(0) > 0
    a, b = (((each - each.mean(0))[:, moves] / each.std(0)[moves]) for each in (a, b))
    together = (a * b).mean(0) * math.sqrt(DRAWS)  # a correlation, in standard errors; sqrt(DRAWS) were they the same
    assert np.abs(together).max() < 4.5
    assert abs(together.sum()) < 4.5 * math.sqrt(moves.sum()) < math.sqrt(DRAWS) * moves.sum()


@pytest.mark.parametrize("seed", range(4))
def test_random_k_tells_of_what_is_not_finite_even_if_it_drops_it(seed):
    x = np.where(np.arange(D) == 3, np.nan, 0.1).astype(np.float32)
    assert not np.isfinite(np.asarray(read(random_k(0.05), x, jax.random.key(seed)))).all()


def test_flatten_loses_nothing_and_says_so():
    assert flatten().contraction(D) == 1.0


def test_signs_of_what_passed_a_threshold_are_scaled_by_the_mean_of_those_alone():
    x = jnp.array([0.1, 2.0, -4.0, 0.6, 0.0])
    np.testing.assert_allclose(
        read(pipeline([hard_threshold(0.5), sign()]), x, KEY), [0.0, 2.2, -2.2, 2.2, 0.0], rtol=1e-6
    )


@pytest.mark.parametrize("stage", COMPRESSING, ids=repr)
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_so(stage, poison):
    x = np.where(np.arange(D) == 3, poison, 0.1).astype(np.float32)
    assert not np.isfinite(np.asarray(read(stage, x, KEY))).all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: uniform_quantize(1), "bits is 1.*Choose 2 to 16"),
        (lambda: uniform_quantize(17), "bits is 17"),
        (lambda: random_k(0.0), "fraction is 0.0"),
        (lambda: quantize(1, unbiased=False), r"bits is 1.*Use sign\(\)"),
        (lambda: partition_by_size(0, sign(), sign()), "limit is 0"),
        (lambda: partition_by_size(9, clip(1.0), scaffold(0.1)), "scaffold.*more than encode single arrays"),
        (
            lambda: partition_by_size(9, weight_by_signal(), sign()),
            r"weight_by_signal\(\).*before, after or around partition_by_size",
        ),
        (lambda: hard_threshold(0.0), "epsilon is 0.0"),
        (lambda: hard_threshold(float("inf")), "epsilon is inf"),
    ],
)
def test_arguments_out_of_range_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
