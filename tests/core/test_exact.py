"""Exact sums: the same bits in any order and grouping, as close to the truth as stated, and never poisoned."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedrl.core import exact

AGENTS, SIZE = 12, 5
add_up = jax.jit(exact.partial_sum)
numbers = st.floats(-(2.0**19), 2.0**19, width=32, allow_subnormal=False)
rows = arrays(
    np.float32, (AGENTS, SIZE), elements=st.one_of(numbers, st.floats(-1, 1, width=32, allow_subnormal=False))
)
shares = arrays(np.float32, (AGENTS,), elements=st.sampled_from([0.0, 0.25, 0.7, 1.0, 1.5]))
orders = st.permutations(range(AGENTS))


def grouped(values: np.ndarray, weights: np.ndarray, order, size: int) -> np.ndarray:
    """The total over blocks of four seats, in the given order, `size` agents to a block, other seats empty."""
    partials = []
    for start in range(0, AGENTS, size):
        block = np.zeros((4, SIZE), np.float32)
        weight = np.zeros(4, np.float32)
        seated = list(order)[start : start + size]
        block[: len(seated)], weight[: len(seated)] = values[seated], weights[seated]
        partials.append(add_up(block, weight)[0])
    return exact.total(partials)


@given(rows, shares, orders, st.sampled_from([1, 2, 3, 4]))
def test_sums_are_the_same_bits_in_any_order_and_grouping(values, weights, order, size):
    np.testing.assert_array_equal(grouped(values, weights, order, size), grouped(values, weights, range(AGENTS), 4))


@given(rows)
def test_a_sum_errs_by_less_than_half_the_fine_unit_per_term(values):
    sums, refused = add_up(values, np.ones(AGENTS, np.float32))
    mean, weight = exact.mean_of(exact.total([sums]))
    assert not np.asarray(refused).any()
    assert weight == AGENTS
    truth = values.astype(np.float64).mean(0)
    rounding = np.abs(truth) * 2.0**-24  # of the result to float32
    assert (np.abs(mean - truth) <= exact.FINE / 2 + rounding).all()


def test_the_stated_error_is_not_an_idle_bound():
    values = np.full((AGENTS, SIZE), exact.FINE * 0.49, np.float32)
    mean, _ = exact.mean_of(exact.total([add_up(values, np.ones(AGENTS, np.float32))[0]]))
    np.testing.assert_array_equal(mean, 0.0)


def test_a_float_sum_would_depend_on_the_order():
    values = np.array([2.0**18, 2.0**-6, -(2.0**18)], np.float32)
    assert (values[0] + values[1]) + values[2] != values[1] + (values[0] + values[2])


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 2.0**20, -1e30])
def test_a_row_that_is_not_finite_or_out_of_range_is_refused_and_leaves_no_trace(poison):
    values = np.arange(AGENTS * SIZE, dtype=np.float32).reshape(AGENTS, SIZE)
    weights = np.ones(AGENTS, np.float32)
    without, absent = values.copy(), weights.copy()
    values[3, 2] = poison
    without[3], absent[3] = 0.0, 0.0
    sums, refused = add_up(values, weights)
    np.testing.assert_array_equal(sums, add_up(without, absent)[0])
    assert np.flatnonzero(np.asarray(refused)).tolist() == [3]


@pytest.mark.parametrize("weight", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_refused(weight):
    weights = np.ones(AGENTS, np.float32)
    weights[5] = weight
    sums, refused = add_up(np.ones((AGENTS, SIZE), np.float32), weights)
    assert exact.mean_of(exact.total([sums]))[1] == AGENTS - 1
    assert np.flatnonzero(np.asarray(refused)).tolist() == [5]


def test_an_absent_agent_is_not_counted_as_refused():
    values = np.full((AGENTS, SIZE), np.nan, np.float32)
    sums, refused = add_up(values, np.zeros(AGENTS, np.float32))
    assert not np.asarray(refused).any()
    mean, weight = exact.mean_of(exact.total([sums]))
    assert weight == 0.0
    np.testing.assert_array_equal(mean, np.zeros(SIZE, np.float32))


def test_sixteen_terms_at_the_limit_do_not_overflow():
    edge = np.nextafter(np.float32(exact.LIMIT), np.float32(0.0))
    values = np.stack([np.full(exact.LANES, edge), np.full(exact.LANES, -edge)], axis=1)
    mean, _ = exact.mean_of(exact.total([add_up(values, np.ones(exact.LANES, np.float32))[0]]))
    np.testing.assert_array_equal(mean, np.array([edge, -edge]))


def test_more_rows_than_fit_are_refused_with_the_number_that_fits():
    with pytest.raises(ValueError, match=f"at most {exact.LANES}"):
        exact.partial_sum(jnp.zeros((exact.LANES + 1, 1)), jnp.zeros(exact.LANES + 1))


def test_hundred_thousand_agents_do_not_overflow_the_host():
    sums, _ = add_up(np.full((AGENTS, SIZE), 2.0**19, np.float32), np.ones(AGENTS, np.float32))
    mean, weight = exact.mean_of(exact.total([sums] * 10_000))
    assert weight == AGENTS * 10_000
    np.testing.assert_array_equal(mean, 2.0**19)


@given(st.floats(0.5, 1e9))
def test_scales_are_powers_of_two_and_near(size):
    scale = exact.nearest_power_of_two(size)
    assert np.frexp(scale)[0] == 0.5
    assert scale / max(size, 1.0) < 1.5
    assert max(size, 1.0) / scale < 1.5


def test_flatten_lays_leaves_out_in_order():
    tree = {"b": np.array([[3.0, 4.0]], np.float32), "a": np.float32(1.0)}
    assert exact.flatten(tree).tolist() == [1.0, 3.0, 4.0]
