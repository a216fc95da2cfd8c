"""What each aggregator promises, over all inputs, in NumPy and under jit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedrl.aggregators import mean, median
from fedrl.aggregators.namespace import namespace
from fedrl.core.errors import ConfigError
from fedrl.core.types import Update
from tests.support.rules import VIEW, applied, arrivals

AGENTS = 7
numbers = st.floats(-1000.0, 1000.0, width=32, allow_subnormal=False)
stacked = st.builds(
    lambda w, b, weight: Update({"w": w, "b": b}, weight, np.arange(AGENTS, dtype=np.int32)),
    arrays(np.float32, (AGENTS, 2, 3), elements=numbers),
    arrays(np.float32, (AGENTS,), elements=numbers),
    arrays(np.float32, (AGENTS,), elements=st.floats(0.125, 64.0, width=32)),
)
orders = st.permutations(range(AGENTS))
compiled = {rule: jax.jit(rule.update) for rule in (mean(), median())}


def merged(rule, updates: Update) -> np.ndarray:
    value = applied(rule, updates, rule.init(None))[0].value
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(value)])


def pick(updates: Update, index) -> Update:
    return jax.tree.map(lambda x: x[list(index)], updates)


@given(stacked, orders)
@pytest.mark.parametrize("rule", [mean(), median()], ids=repr)
def test_the_order_of_agents_does_not_matter(rule, updates, order):
    np.testing.assert_allclose(merged(rule, pick(updates, order)), merged(rule, updates), rtol=1e-5, atol=1e-3)


@given(stacked, st.integers(1, AGENTS - 1))
def test_a_mean_of_partial_means_is_the_mean(updates, cut):
    def reduce(part: Update) -> Update:
        return jax.tree.map(lambda x: np.asarray(x)[None], applied(mean(), part)[0])

    parts = [reduce(pick(updates, range(cut))), reduce(pick(updates, range(cut, AGENTS)))]
    halves = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    np.testing.assert_allclose(merged(mean(), halves), merged(mean(), updates), rtol=1e-4, atol=1e-3)
    whole, of_parts = (applied(mean(), u)[0] for u in (updates, halves))
    assert of_parts.weight == pytest.approx(whole.weight, rel=1e-5)
    assert of_parts.version == whole.version


@given(stacked, numbers)
def test_the_mean_is_the_formula(updates, scale):
    expected = (updates.weight[:, None] * updates.value["w"].reshape(AGENTS, -1)).sum(0) / updates.weight.sum()
    np.testing.assert_allclose(merged(mean(), updates)[1:], expected, rtol=1e-4, atol=1e-3)
    rescaled = updates._replace(weight=updates.weight * np.float32(abs(scale) + 1.0))
    np.testing.assert_allclose(merged(mean(), rescaled), merged(mean(), updates), rtol=1e-4, atol=1e-3)


def test_a_mean_of_no_weight_is_zero_not_nan():
    updates = Update(np.ones((3, 2), np.float32), np.zeros(3, np.float32), np.zeros(3, np.int32))
    np.testing.assert_array_equal(merged(mean(), updates), 0.0)


@given(stacked, numbers)
def test_the_median_moves_with_its_agents(updates, shift):
    moved = updates._replace(value=jax.tree.map(lambda x: x + np.float32(shift), updates.value))
    np.testing.assert_allclose(merged(median(), moved), merged(median(), updates) + shift, atol=1e-3)


@given(stacked, orders, st.integers(0, (AGENTS - 1) // 2), st.sampled_from([1e30, -1e30, 0.0]))
def test_the_median_stays_among_honest_values(updates, order, liars, lie):
    honest, lying = list(order)[liars:], list(order)[:liars]
    corrupt = jax.tree.map(np.copy, updates)
    for leaf in jax.tree.leaves(corrupt.value):
        leaf[lying] = lie
    found = merged(median(), corrupt)
    own = np.concatenate([x[honest].reshape(len(honest), -1) for x in jax.tree.leaves(updates.value)], axis=1)
    assert (found >= own.min(0)).all()
    assert (found <= own.max(0)).all()


@pytest.mark.parametrize("agents", [1, 2, 3, 4])
def test_the_median_is_numpys_and_survives_extremes(agents):
    x = np.random.default_rng(agents).normal(size=(agents, 9)).astype(np.float32)
    updates = Update(x, np.ones(agents, np.float32), np.zeros(agents, np.int32))
    np.testing.assert_allclose(merged(median(), updates), np.median(x, axis=0), rtol=1e-6)
    huge = updates._replace(value=np.full_like(x, 3e38))
    np.testing.assert_array_equal(merged(median(), huge), np.float32(3e38))


@given(stacked)
@pytest.mark.parametrize("rule", [mean(), median()], ids=repr)
def test_a_rule_is_the_same_in_numpy_and_compiled(rule, updates):
    assume(updates.weight.sum() > 0)
    host, _ = applied(rule, updates)
    traced, _ = compiled[rule](jax.random.key(0), VIEW, arrivals(AGENTS, xp=jnp), (), updates)
    assert all(isinstance(leaf, np.ndarray | np.generic) for leaf in jax.tree.leaves(host))
    for a, b in zip(jax.tree.leaves(host), jax.tree.leaves(traced), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)


def test_the_namespace_follows_the_arrays():
    assert namespace({"a": np.ones(2), "b": np.float32(1.0)}) is np
    assert namespace({"a": np.ones(2), "b": jnp.ones(2)}) is jnp
    assert jax.jit(lambda x: jnp.float32(namespace(x) is jnp))(np.ones(2)) == 1.0


def test_a_misspelt_weighting_is_named():
    with pytest.raises(ConfigError, match=r"weighting is 'sample'.*Did you mean 'samples'"):
        mean("sample")


def test_a_mean_divides_by_what_it_says():
    assert [mean().divides_by, mean("uniform").divides_by, median().divides_by] == ["weights", "count", None]
    weights, versions = np.arange(1.0, AGENTS + 1, dtype=np.float32), np.zeros(AGENTS, np.int32)
    ones = np.ones((AGENTS, 2), np.float32)
    for rule, divisor in ((mean(), weights.sum()), (mean("uniform"), AGENTS)):
        each = [rule.weigh(Update(ones[0], jnp.float32(weight), versions[0])) for weight in weights]
        weighed = np.array(each, np.float32)
        one = np.zeros((AGENTS, 2), np.float32)
        one[-1] = 1.0
        np.testing.assert_allclose(merged(rule, Update(one, weighed, versions)), weighed[-1] / divisor, rtol=1e-6)


def test_one_agent_moves_a_uniform_mean_by_twice_its_clip_at_most():
    bound = 2.0 / AGENTS
    x = np.zeros((AGENTS, 2), np.float32)
    x[0] = [1.0, 0.0]
    ones, versions = np.ones(AGENTS, np.float32), np.zeros(AGENTS, np.int32)
    moved = merged(mean("uniform"), Update(x, ones, versions)) - merged(mean("uniform"), Update(-x, ones, versions))
    assert np.linalg.norm(moved) <= bound * (1 + 1e-6)
    assert np.linalg.norm(moved) > 0.99 * bound  # and is tight: replacing one agent by its opposite
