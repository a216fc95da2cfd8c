"""What a mechanism adds, and what one agent can change: the two numbers whose ratio is its price."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedrl.aggregators import mean
from fedrl.core import draws
from fedrl.core.errors import ConfigError, UnsoundError
from fedrl.core.reports import nothing_measured
from fedrl.core.types import Update, UpdateContext
from fedrl.federation.federate import federate
from fedrl.learners import sgd
from fedrl.privacy import central_gaussian, central_laplace, local_gaussian, local_laplace
from fedrl.stages import quantize, sign, top_k
from tests.support.quadratic import quadratic

CLIP, Z, N = 0.7, 1.3, 5.0
LIKE = {"a": jnp.zeros((4, 3)), "b": jnp.zeros(2)}
FLAT = 14
REPEATS = 4000


def context(agent: int = 0) -> UpdateContext:
    return UpdateContext(jnp.int32(agent), jnp.int32(0), jnp.int32(5), jnp.int32(1), nothing_measured())


def sent(stage, value, key=None, agent: int = 0):
    update = Update(value, jnp.float32(1.0), jnp.int32(0))
    key = jax.random.key(0) if key is None else key
    return stage.encode(key, context(agent), *stage.init(value), update)[0].value


def flat(value) -> np.ndarray:
    return np.concatenate([np.asarray(leaf, np.float64).reshape(-1) for leaf in jax.tree.leaves(value)])


def released(stage, total, count: float, keys) -> np.ndarray:
    """What the server makes of the mean of so many updates, `[keys, entries]`."""
    update = Update(jax.tree.map(lambda x: x / count, total), jnp.float32(count), jnp.int32(0))
    values = jax.vmap(lambda key: stage.finish(key, (), update)[0].value)(keys)
    return np.concatenate([np.asarray(x, np.float64).reshape(len(keys), -1) for x in jax.tree.leaves(values)], 1)


KEYS = jax.random.split(jax.random.key(7), REPEATS)
CENTRAL = [
    (central_gaussian(CLIP, Z, N), stats.norm, 1.0),
    (central_gaussian((CLIP, 0.1), Z, N), stats.norm, 1.0),
    (central_laplace(CLIP, Z, N), stats.laplace, 2.0**0.5),
]
LOCAL = [(local_gaussian(CLIP, Z), stats.norm, 1.0), (local_laplace(CLIP, Z), stats.laplace, 2.0**0.5)]


@pytest.mark.parametrize(("stage", "kind", "deviation"), CENTRAL)
@pytest.mark.parametrize("count", [1.0, 5.0, 8.0])
def test_the_server_adds_noise_of_its_scale_whoever_came(stage, kind, deviation: float, count: float) -> None:
    total = jax.tree.map(lambda x: x + 2.0, LIKE)
    noise = released(stage, total, count, KEYS) - 2.0 / N  # the sum is divided by n, not by the count
    scale = Z * CLIP / N
    assert noise.std() == pytest.approx(scale * deviation, rel=0.02)
    assert stats.kstest(noise[:, 3] / scale, kind.cdf).pvalue > 1e-4
    assert abs(noise.mean()) < 4.5 * scale * deviation / math.sqrt(noise.size)
    together = np.corrcoef(noise.T)[np.triu_indices(FLAT, 1)]
    assert np.abs(together).max() < 5.5 / math.sqrt(REPEATS)


@pytest.mark.parametrize(("stage", "kind", "deviation"), LOCAL)
def test_an_agent_adds_the_whole_noise(stage, kind, deviation: float) -> None:
    noise = np.stack([flat(sent(stage, LIKE, key)) for key in KEYS[:500]])
    assert noise.std() == pytest.approx(Z * CLIP * deviation, rel=0.06)
    assert stats.kstest(noise[:, 3] / (Z * CLIP), kind.cdf).pvalue > 1e-4


def test_a_scale_off_by_five_percent_and_a_key_used_twice_are_found() -> None:
    noise = released(central_gaussian(CLIP, 1.05 * Z, N), LIKE, 1.0, KEYS)
    assert noise.std() != pytest.approx(Z * CLIP / N, rel=0.02)
    twice = released(central_gaussian(CLIP, Z, N), LIKE, 1.0, jnp.repeat(KEYS[:2000], 2, axis=0))
    assert np.abs(np.corrcoef(twice[::2, 0], twice[1::2, 0])[0, 1]) > 0.99


@given(st.integers(0, 2**32 - 1), st.floats(-12, 12))
def test_an_update_of_any_size_is_within_the_clip_in_float64(seed: int, magnitude: float) -> None:
    value = jax.tree.map(lambda x: 10.0**magnitude * jax.random.normal(jax.random.key(seed), x.shape), LIKE)
    for clipping in ("flat", "per_layer"):
        assert np.linalg.norm(flat(sent(central_gaussian(CLIP, Z, N, clipping), value))) <= CLIP
        assert np.abs(flat(sent(central_laplace(CLIP, Z, N, clipping), value))).sum() <= CLIP


def test_each_array_has_its_part_of_the_clip() -> None:
    value = {"a": jnp.full((4, 3), 1e3), "b": jnp.full(2, 1e-3)}
    got = sent(central_gaussian(CLIP, Z, N, "per_layer"), value)
    assert np.linalg.norm(got["a"]) == pytest.approx(CLIP / 2**0.5, rel=1e-5)
    np.testing.assert_array_equal(got["b"], value["b"])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("clipping", ["flat", "per_layer"])
@pytest.mark.parametrize("make", [central_gaussian, central_laplace])
def test_a_number_that_is_not_finite_is_not_scaled_to_the_clip(make, clipping: str, bad: float) -> None:
    value = {"a": jnp.ones((4, 3)).at[1, 1].set(bad), "b": jnp.ones(2)}
    assert np.isnan(flat(sent(make(CLIP, Z, N, clipping), value))).any()


def test_an_agent_with_a_smaller_clip_pays_less() -> None:
    stage = central_gaussian((0.8, 0.4, 0.8), Z, N)
    huge = jax.tree.map(lambda x: x + 1e3, LIKE)
    for agent, own in enumerate((0.8, 0.4, 0.8)):
        assert np.linalg.norm(flat(sent(stage, huge, agent=agent))) == pytest.approx(own, rel=1e-5)
    assert stage.noise is not None
    assert [event.noise_multiplier for event in stage.noise.each] == [Z, 2 * Z, Z]
    replaced = local_gaussian((0.8, 0.4), Z).noise
    assert replaced is not None
    assert [event.noise_multiplier for event in replaced.each] == [Z / 2, Z]


def test_noise_reaches_beyond_what_one_draw_of_float32_can() -> None:
    top = np.abs(np.asarray(jax.random.normal(jax.random.key(0), (4_000_000,)))).max()
    assert top < 5.6
    # It is the inverse distribution function of a float32 below one.
    single = float(jnp.sqrt(2.0) * jax.lax.erf_inv(jnp.nextafter(jnp.float32(1.0), jnp.float32(0.0))))
    assert single < 5.6  # no draw is further out
    # Four draws at that end reach twice as far: half their sum.
    assert draws.DRAWS * single / draws.DRAWS**0.5 > 10.0


def test_noise_on_codes_and_indices_is_refused() -> None:
    learner, uniform = quadratic(sgd(0.1)), mean("uniform")
    with pytest.raises(UnsoundError, match="already"):
        federate(learner, uniform, quantize(8), central_gaussian(CLIP, Z, N))
    with pytest.raises(UnsoundError, match="already"):
        federate(learner, uniform, top_k(0.5), local_gaussian(CLIP, Z))
    federate(learner, uniform, top_k(0.5), central_gaussian(CLIP, Z, N))
    federate(learner, uniform, local_gaussian(CLIP, Z), sign())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: central_gaussian(0.0, Z, N), "clip"),
        (lambda: central_gaussian(CLIP, 0.0, N), "noise_multiplier"),
        (lambda: central_gaussian(CLIP, Z, N, "layers"), "clipping is 'layers'"),
        (lambda: local_gaussian(CLIP, Z, unit="person"), "unit is 'person'"),
        (lambda: central_gaussian((CLIP, -1.0), Z, N), "clip"),
    ],
)
def test_a_wrong_number_or_word_is_named(make, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
