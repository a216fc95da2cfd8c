"""Weights and statistics inside a hidden sum: as in the clear, up to the grid of weights, and exactly."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrl.aggregators import mean, median
from fedrl.core import exact
from fedrl.core.errors import UnsoundError
from fedrl.engines.simulate import simulate
from fedrl.environments import cartpole
from fedrl.environments.fleet import fleet
from fedrl.federation.federate import federate
from fedrl.federation.soundness import outgoing
from fedrl.learners import add_correction, chain, mlp, normalize, ppo, sgd
from fedrl.privacy import central_gaussian
from fedrl.secure.grid import LARGEST_WEIGHT, bits_below, ring_sum
from fedrl.secure.vector import codes_and_digits, vector_of, vector_size
from fedrl.stages import clip, scaffold, weight_by_capacity
from tests.support.quadratic import FLEET, quadratic

STEPS = [1, 2, 3, 5]


def final(federation, where=FLEET, rounds: int = 3, **options):
    with simulate(federation, where, **options) as simulation:
        state = simulation.init(0)
        for _ in range(rounds):
            state, seen = simulation.round(state)
    return jax.tree.map(np.asarray, state.server), seen


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(0, 5), st.integers(0, 3))
def test_a_vector_holds_codes_and_statistics_and_its_sum_holds_theirs(seed: int, agents: int, size: int, count: int):
    draws = np.random.default_rng(seed)
    codes = draws.integers(-(2**31), 2**31, (agents, size)).astype(np.int32)
    terms = (draws.normal(size=(agents, count)) * 10.0 ** draws.uniform(-30, 36, (agents, count))).astype(np.float32)
    digits = np.stack(
        [np.asarray(exact.partial_sum(jnp.asarray(row[None]), jnp.ones(1, bool), exact.STATISTICS)) for row in terms]
    )
    vectors = vector_of(codes, digits)
    assert vectors.shape == (agents, vector_size(size, count))
    found, counted = codes_and_digits(vectors.sum(axis=0, dtype=np.int32), size)
    np.testing.assert_array_equal(found, codes.sum(axis=0, dtype=np.int32))
    np.testing.assert_array_equal(counted, digits.sum(axis=0, dtype=np.int64))
    plain = exact.total(list(digits), exact.STATISTICS)
    np.testing.assert_array_equal(exact.total([counted], exact.STATISTICS), plain)


@pytest.mark.parametrize("low", [True, False])
def test_the_largest_digits_of_as_many_agents_as_there_may_be_do_not_overflow(low: bool) -> None:
    most = np.full((1, 9, 1), 2**26 if low else -(2**26), np.int32) - np.int32(low)
    vector = vector_of(np.zeros((1, 0), np.int32), most).astype(np.int64) * 2**17
    assert np.abs(vector).max() < 2**31
    _, counted = codes_and_digits(vector[0].astype(np.int32), 0)
    assert (counted == most[0].astype(np.int64) * 2**17).all()


@pytest.mark.parametrize("protocol", ["none", "masks", "additive"])
def test_weights_of_samples_are_inside_the_sum(protocol: str) -> None:
    def federation(summation=None):
        return federate(quadratic(sgd(0.1)), mean("samples"), local_steps=5, summation=summation)

    plain, before = final(federation(), local_steps=STEPS)
    hidden, seen = final(federation(ring_sum(4, 8.0, protocol=protocol)), local_steps=STEPS)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-6), plain.params, hidden.params)
    assert seen.weight == pytest.approx(before.weight, rel=1e-6)
    equal, _ = final(federate(quadratic(sgd(0.1)), mean("uniform"), local_steps=5), local_steps=STEPS)
    assert abs(equal.params["head"] - hidden.params["head"]).max() > 1e-3  # weights make a difference


def test_a_weight_beyond_the_grid_of_weights_is_rejected_by_its_own_agent() -> None:
    terms = jnp.array([[0.0, 3.3], [0.0, LARGEST_WEIGHT - 1e-5]], jnp.float32)
    summation, unit = ring_sum(1000, 1.0), 2.0 ** -bits_below(1000, LARGEST_WEIGHT)
    found = summation.total([summation.quantize(terms, jnp.ones(2, bool))])[-1]
    assert found == pytest.approx(3.3 + LARGEST_WEIGHT, abs=2 * unit)
    assert 1000 * LARGEST_WEIGHT / unit < 2**31
    assert summation.weight_limit == LARGEST_WEIGHT
    heavy = federate(quadratic(sgd(0.1)), mean(), weight_by_capacity([1.0, 2.0, 3.0, 4.0]), summation=ring_sum(4, 8.0))
    light, _ = final(federate(quadratic(sgd(0.1)), mean(), weight_by_capacity([1.0, 2.0, 3.0, 4.0])))
    hidden, _ = final(heavy)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-6), light.params, hidden.params)


@pytest.mark.parametrize("protocol", ["none", "masks"])
def test_statistics_of_observations_are_inside_the_sum_and_stay_exact(protocol: str) -> None:
    learner = normalize(ppo(cartpole(max_steps=20), num_envs=2, num_steps=8, network=mlp([4])))

    def moments(summation=None):
        server, _ = final(
            federate(learner, mean("uniform"), summation=summation), fleet(cartpole(max_steps=20), 3), rounds=1
        )
        return server.params["moments"] if isinstance(server.params, dict) else server.params.moments

    plain, hidden = moments(), moments(ring_sum(3, 64.0, protocol=protocol))
    jax.tree.map(np.testing.assert_array_equal, plain, hidden)
    assert max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(hidden)) > 0.0


def test_scaffold_works_inside_a_hidden_sum() -> None:
    def federation(summation=None):
        learner = quadratic(chain(add_correction(), sgd(0.1)))
        return federate(learner, mean("uniform"), scaffold(0.1), local_steps=2, summation=summation)

    plain, _ = final(federation())
    hidden, _ = final(federation(ring_sum(4, 8.0, protocol="masks")))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), plain, hidden)


def test_what_is_inside_is_said_to_be_hidden() -> None:
    learner = normalize(ppo(cartpole(max_steps=20), num_envs=2, num_steps=8, network=mlp([4])))
    found = {
        each.name.partition("/")[0]: each.protection
        for each in outgoing(federate(learner, mean(), summation=ring_sum(3, 64.0)))
    }
    assert {found[name] for name in ("value", "statistics", "weight")} == {"a hidden sum"}


def test_beside_noise_weights_and_statistics_are_refused_as_before() -> None:
    private = (clip(1.0), central_gaussian(clip=1.0, noise_multiplier=1.0, expected=4))
    with pytest.raises(UnsoundError, match="noise is for a sum of updates with equal weights"):
        federate(quadratic(sgd(0.1)), mean(), *private, summation=ring_sum(4, 8.0))
    learner = normalize(ppo(cartpole(max_steps=20), num_envs=2, num_steps=8, network=mlp([4])))
    with pytest.raises(UnsoundError, match="counts statistics, which are sent unprotected"):
        federate(learner, mean("uniform"), *private, summation=ring_sum(4, 8.0))


def test_statistics_are_refused_beside_the_sums_of_groups_which_have_none() -> None:
    learner = normalize(ppo(cartpole(max_steps=20), num_envs=2, num_steps=8, network=mlp([4])))
    with pytest.raises(UnsoundError, match="counts statistics, which are sent unprotected"):
        federate(learner, median(), summation=ring_sum(6, 8.0, group_size=3))


def test_a_rule_that_is_not_known_to_be_a_mean_is_refused() -> None:
    unknown = replace(mean("uniform"), divides_by=None)
    with pytest.raises(UnsoundError, match="from which no more than a mean follows"):
        federate(quadratic(sgd(0.1)), unknown, summation=ring_sum(4, 8.0))
