"""Sums on the grid: exact in the ring, within the rounding of the plain sum, and nothing overflows unseen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrl.aggregators import mean
from fedrl.config import load
from fedrl.config.build import build
from fedrl.core.errors import ConfigError
from fedrl.engines.simulate import simulate
from fedrl.federation.federate import federate
from fedrl.learners import sgd
from fedrl.secure.grid import bits_below, ring_sum
from tests.support.quadratic import FLEET, Valley, quadratic

ROWS = 6


def summed(summation, terms: np.ndarray, groups: list[list[int]]) -> np.ndarray:
    parts = []
    for group in groups:
        mask = jnp.asarray(np.isin(np.arange(len(terms)), group))
        parts.append(summation.quantize(jnp.asarray(terms, jnp.float32), mask))
    return summation.total(parts)


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 100.0), st.integers(ROWS, 1000))
def test_the_sum_is_that_of_the_codes_in_any_grouping(seed: int, largest: float, agents: int) -> None:
    draws = np.random.default_rng(seed)
    terms = draws.uniform(-largest, largest, (ROWS, 9)).astype(np.float32)
    terms[:, -1] = 1.0
    summation, unit = ring_sum(agents, largest), 2.0 ** -bits_below(agents, largest)
    codes = np.trunc(terms[:, :-1].astype(np.float64) / unit).sum(0)
    for groups in ([list(range(ROWS))], [[0, 3], [1], [2, 4, 5]]):
        found = summed(summation, terms, groups)
        np.testing.assert_array_equal(found[:-1], codes * unit)
        assert found[-1] == ROWS
    np.testing.assert_allclose(found[:-1], terms[:, :-1].astype(np.float64).sum(0), atol=ROWS * unit, rtol=0)


def test_rounding_increases_no_norm_for_which_noise_was_calibrated() -> None:
    unit = 2.0 ** -bits_below(100, 1000.0)
    terms = np.zeros((1, 1001), np.float32)
    # Each entry is just above half a unit: to the nearest, each would become a whole one.
    terms[0, :-1], terms[0, -1] = 0.51 * unit * np.where(np.arange(1000) % 2, 1.0, -1.0), 1.0
    terms[0, :3] = -1.7 * unit, 2.9 * unit, 500.0
    found = summed(ring_sum(100, 1000.0), terms, [[0]])[:-1]
    assert (np.abs(found) <= np.abs(terms[0, :-1])).all()
    np.testing.assert_array_equal(found[:3], np.array([-1.0, 2.0, 500.0 / unit]) * unit)


def test_the_largest_sum_does_not_overflow_and_one_bit_more_would() -> None:
    for agents, largest in ((3, 1.0), (10, 0.7), (1000, 4.0), (16, 2.0)):
        bits = bits_below(agents, largest)
        assert agents * largest * 2.0**bits < 2**31 <= agents * largest * 2.0 ** (bits + 1)
        rows = np.full((min(agents, 16), 2), np.nextafter(np.float32(largest), np.float32(0)), np.float32)
        rows[:, -1] = 1.0
        parts = [list(range(len(rows)))] * (agents // len(rows))
        found = summed(ring_sum(agents, largest), rows, parts)
        assert found[0] == pytest.approx(len(parts) * len(rows) * largest, rel=1e-4)


def final(federation, fleet=FLEET, rounds: int = 4):
    with simulate(federation, fleet) as simulation:
        state = simulation.init(0)
        for _ in range(rounds):
            state, seen = simulation.round(state)
    return jax.tree.map(np.asarray, state.server.params), seen


def test_a_federation_learns_as_with_the_plain_sum_within_the_grid() -> None:
    plain, _ = final(federate(quadratic(sgd(0.1)), mean("uniform")))
    hidden, _ = final(federate(quadratic(sgd(0.1)), mean("uniform"), summation=ring_sum(4, 8.0)))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), plain, hidden)


@pytest.mark.parametrize("protocol", ["masks", "additive", "ckks"])
def test_a_protocol_gives_the_numbers_of_the_ring_bit_for_bit(protocol: str) -> None:
    def federation(protocol: str):
        return federate(quadratic(sgd(0.1)), mean("uniform"), summation=ring_sum(4, 8.0, protocol=protocol))

    plain, _ = final(federation("none"))
    run, seen = final(federation(protocol))
    jax.tree.map(np.testing.assert_array_equal, plain, run)
    assert seen.weight == 4.0


@pytest.mark.parametrize("protocol", ["none", "masks", "additive", "ckks"])
def test_a_sum_of_too_few_is_not_opened(protocol: str) -> None:
    minimum = FLEET.minimum.copy()
    minimum[1:, 0] = 1e6
    federation = federate(quadratic(sgd(0.1)), mean("uniform"), summation=ring_sum(4, 8.0, protocol=protocol))
    params, seen = final(federation, Valley(FLEET.curvature, minimum), 1)
    assert seen.weight == 0.0
    assert seen.skipped.startswith("1 of at least 2 updates arrived")
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(params))


def test_an_update_beyond_the_grid_is_rejected_and_the_others_are_added() -> None:
    minimum = FLEET.minimum.copy()
    minimum[1, 0] = 1e6
    federation = federate(quadratic(sgd(0.1)), mean("uniform"), summation=ring_sum(4, 8.0))
    _, seen = final(federation, Valley(FLEET.curvature, minimum), 1)
    assert [(agent, "8" in reason) for agent, reason in seen.rejected] == [(1, True)]
    assert seen.weight == 3.0


def test_a_grid_without_bits_and_a_sum_of_one_are_refused() -> None:
    with pytest.raises(ConfigError, match="largest is 1e"):
        ring_sum(10, 1e60)
    with pytest.raises(ConfigError, match="minimum is 1 of 10"):
        ring_sum(10, 1.0, minimum=1)
    with pytest.raises(ConfigError, match="agents is 100000000"):
        ring_sum(10**8, 1.0)


def test_a_configuration_names_a_summation_and_the_resolved_one_has_its_agents() -> None:
    tables = {
        "name": "secure",
        "rounds": 1,
        "environment": {"name": "cartpole"},
        "learner": {"name": "ppo", "num_envs": 2, "num_steps": 8, "num_minibatches": 1},
        "federation": {
            "agents": 3,
            "aggregator": {"name": "mean", "weighting": "uniform"},
            "summation": {"name": "ring_sum", "largest": 2.0},
        },
    }
    experiment = build(load(tables))
    assert experiment.federation.summation == ring_sum(3, 2.0)
    assert build(experiment.config).federation.summation == ring_sum(3, 2.0)
    assert experiment.config.federation.summation == {
        "name": "ring_sum",
        "agents": 3,
        "largest": 2.0,
        "minimum": 2,
        "group_size": 0,
        "protocol": "none",
        "phase_s": float("inf"),
        "verified": True,
    }
