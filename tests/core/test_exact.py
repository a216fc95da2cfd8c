"""Exact sums: the same bits in any order and grouping, as close to the truth as stated, and never poisoned."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedrl.aggregators import mean
from fedrl.core import exact
from fedrl.core.summation import Summation, exact_sum
from fedrl.engines.simulate import simulate
from fedrl.federation.federate import federate
from fedrl.learners import sgd
from tests.support.quadratic import FLEET, flat, quadratic

AGENTS, SIZE = 12, 5
EVERYBODY = np.ones(AGENTS, bool)
DIGITS = [exact.UPDATES, exact.STATISTICS]
add_up = jax.jit(exact.partial_sum, static_argnums=2)
usual = st.floats(-1, 1, width=32, allow_subnormal=False)


def any_within(digits):
    """Numbers of all sizes for which there are digits, and usual ones."""
    edge = float(np.nextafter(np.float32(digits.limit), np.float32(0.0)))
    return arrays(
        np.float32,
        (AGENTS, SIZE),
        elements=st.one_of(st.floats(-edge, edge, width=32, allow_subnormal=False), usual),
    )


orders = st.permutations(range(AGENTS))


def grouped(terms: np.ndarray, order, size: int, digits) -> np.ndarray:
    """The total over blocks of four seats, in the given order, `size` agents to a block, other seats empty."""
    partials = []
    for start in range(0, AGENTS, size):
        block, here = np.zeros((4, SIZE), np.float32), np.zeros(4, bool)
        in_slots = list(order)[start : start + size]
        block[: len(in_slots)], here[: len(in_slots)] = terms[in_slots], True
        partials.append(add_up(block, here, digits))
    return exact.total(partials, digits)


@pytest.mark.parametrize("digits", DIGITS)
@given(data=st.data(), order=orders, size=st.sampled_from([1, 2, 3, 4]))
def test_sums_are_the_same_bits_in_any_order_and_grouping(digits, data, order, size):
    terms = data.draw(any_within(digits))
    found = grouped(terms, order, size, digits)
    np.testing.assert_array_equal(found, grouped(terms, range(AGENTS), 4, digits))


@pytest.mark.parametrize("digits", DIGITS)
@given(data=st.data())
def test_a_sum_errs_by_less_than_half_the_lowest_unit_per_term(digits, data):
    terms = data.draw(any_within(digits))
    found = exact.total([add_up(terms, EVERYBODY, digits)], digits)
    truth = terms.astype(np.longdouble).sum(0)
    largest = np.abs(terms).max(0).astype(np.longdouble)
    bound = AGENTS * digits.fine / 2 + largest * AGENTS * np.longdouble(2.0) ** -52  # of the result to float64
    assert (np.abs(found - truth) <= bound).all()


@pytest.mark.parametrize("digits", DIGITS)
def test_the_stated_error_is_not_an_idle_bound(digits):
    terms = np.full((AGENTS, SIZE), digits.fine * 0.49, np.float32)
    np.testing.assert_array_equal(exact.total([add_up(terms, EVERYBODY, digits)], digits), 0.0)


@pytest.mark.parametrize("size", [1e-12, 1e-6, 1.0, 1e6, 1e12])
def test_a_mean_is_right_to_float32_for_numbers_of_any_size(size):
    values = (np.random.default_rng(0).normal(size=(AGENTS, SIZE)) * size).astype(np.float32)
    terms = np.concatenate([values, np.ones((AGENTS, 1), np.float32)], axis=1)
    mean, weight = exact.mean_of(exact.total([add_up(terms, EVERYBODY, exact.UPDATES)]))
    assert weight == AGENTS
    np.testing.assert_array_equal(mean, values.astype(np.float64).mean(0).astype(np.float32))


def test_a_float_sum_would_depend_on_the_order():
    values = np.array([2.0**18, 2.0**-6, -(2.0**18)], np.float32)
    assert (values[0] + values[1]) + values[2] != values[1] + (values[0] + values[2])


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, -1e38])
def test_a_row_that_is_not_accepted_leaves_no_trace(poison):
    terms = np.arange(AGENTS * SIZE, dtype=np.float32).reshape(AGENTS, SIZE)
    accepted, without = EVERYBODY.copy(), terms.copy()
    terms[3, 2], accepted[3], without[3] = poison, False, 0.0
    np.testing.assert_array_equal(add_up(terms, accepted, exact.UPDATES), add_up(without, EVERYBODY, exact.UPDATES))


def test_with_no_weight_at_all_the_mean_is_zero():
    mean, weight = exact.mean_of(exact.total([add_up(np.ones((AGENTS, SIZE), np.float32), ~EVERYBODY, exact.UPDATES)]))
    assert weight == 0.0
    np.testing.assert_array_equal(mean, np.zeros(SIZE - 1, np.float32))


@pytest.mark.parametrize("digits", DIGITS)
def test_sixteen_terms_at_the_limit_do_not_overflow(digits):
    edge = np.nextafter(np.float32(digits.limit), np.float32(0.0))
    terms = np.stack([np.full(exact.LANES, edge), np.full(exact.LANES, -edge)], axis=1)
    found = exact.total([add_up(terms, np.ones(exact.LANES, bool), digits)], digits)
    np.testing.assert_array_equal(found, exact.LANES * np.array([edge, -edge], np.float64))


def test_more_rows_than_fit_are_refused_with_the_number_that_fits():
    with pytest.raises(ValueError, match=f"at most {exact.LANES}"):
        exact.partial_sum(jnp.zeros((exact.LANES + 1, 1)), jnp.zeros(exact.LANES + 1, bool))


def test_hundred_thousand_agents_do_not_overflow_the_host():
    sums = add_up(np.full((AGENTS, SIZE), 2.0**62, np.float32), EVERYBODY, exact.UPDATES)
    np.testing.assert_array_equal(exact.total([sums] * 10_000), 2.0**62 * AGENTS * 10_000)


def test_the_largest_entry_of_each_leaf_tells_of_what_is_not_finite():
    tree = {"a": jnp.array([1.0, -3.0]), "b": jnp.array([[np.nan, 1.0]]), "c": jnp.array([-np.inf]), "d": jnp.zeros(0)}
    np.testing.assert_array_equal(exact.largest(tree), [3.0, np.nan, np.inf, 0.0])


@given(st.floats(0.5, 1e9))
def test_scales_are_powers_of_two_and_near(size):
    scale = exact.nearest_power_of_two(size)
    assert np.frexp(scale)[0] == 0.5
    assert scale / max(size, 1.0) < 1.5
    assert max(size, 1.0) / scale < 1.5


def test_flatten_lays_leaves_out_in_order():
    tree = {"b": np.array([[3.0, 4.0]], np.float32), "a": np.float32(1.0)}
    assert exact.flatten(tree).tolist() == [1.0, 3.0, 4.0]


def test_how_a_sum_is_taken_is_a_value_that_a_federation_carries():
    """Another summation takes the place of the exact one: this one rounds terms to whole numbers."""
    coarse = Summation(
        lambda terms, accepted: jnp.where(accepted[:, None], jnp.round(terms), 0.0).sum(0)[None].astype(jnp.int32),
        lambda partials: np.sum(np.asarray(partials), 0, np.float64)[0],
        2.0**20,
    )
    ends = []
    for summation in (exact_sum(), coarse):
        federation = federate(quadratic(sgd(0.1)), mean(), summation=summation)
        simulation = simulate(federation, FLEET, devices=jax.devices()[:1])
        run_state, seen = simulation.round(simulation.init(0))
        assert not seen.rejected
        ends.append(flat(run_state.server.params) - flat(simulation.init(0).server.params))
    assert np.abs(ends[0]).max() > 0.05
    np.testing.assert_array_equal(ends[1], np.round(4 * ends[1]) / 4)  # a mean of four whole numbers
    assert not np.array_equal(ends[0], ends[1])
