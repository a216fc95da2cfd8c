"""The unit in which a user counts is of no consequence; what is beyond the range of exact sums is refused by name."""

import jax
import numpy as np
import pytest

from fedrl.aggregators import mean
from fedrl.core import exact
from fedrl.engines.simulate import simulate
from fedrl.environments import gridworld
from fedrl.environments.fleet import fleet
from fedrl.federation.federate import federate
from fedrl.learners import q_table, sgd
from tests.support.quadratic import FLEET, flat, quadratic, simulated_rounds

ONE = jax.devices()[:1]


def ended(scale: float) -> np.ndarray:
    federation = federate(quadratic(sgd(0.1)), mean(), local_steps=3)
    scaled = FLEET._replace(minimum=(FLEET.minimum * scale).astype(np.float32))
    simulation = simulate(federation, scaled, local_steps=[1, 3, 2, 3], devices=ONE)
    return flat(simulated_rounds(simulation, 5).server.params) / scale


@pytest.mark.parametrize("power", [-60, -40, 40, 60])
def test_parameters_in_units_of_any_power_of_two_end_up_at_the_same_bits(power):
    np.testing.assert_array_equal(ended(2.0**power), ended(1.0))


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_parameters_in_any_unit_end_up_at_the_same_place(scale):
    np.testing.assert_allclose(ended(scale), ended(1.0), rtol=1e-5)


@pytest.mark.parametrize("start", [2e6, 1e12, -1e12])
def test_a_table_of_large_values_is_learned_like_any_other(start):
    learner = q_table(gridworld(), initial=start, learning_rate=1.0, gamma=0.1, num_envs=2, num_steps=8)
    simulation = simulate(federate(learner, mean()), fleet(gridworld(), 3), devices=ONE)
    run_state = simulation.init(0)
    for _ in range(4):
        run_state, seen = simulation.round(run_state)
        assert seen.rejected == ()
    assert (np.abs(run_state.server.params["q"]) < 0.5 * abs(start)).any()


def test_what_is_beyond_the_range_is_refused_by_name_with_its_value_the_range_and_a_cure():
    beyond = FLEET._replace(minimum=FLEET.minimum * np.where(np.arange(4) == 1, 1e25, 1.0)[:, None].astype(np.float32))
    simulation = simulate(federate(quadratic(sgd(0.1)), mean()), beyond, devices=ONE)
    run_state, seen = simulation.round(simulation.init(0))
    assert [agent for agent, _ in seen.rejected] == [1]
    reason = seen.rejected[0].reason
    assert reason.startswith("update['head'], times its weight, reaches 6e+24")
    assert f"below {exact.UPDATES.limit:.3g}: use smaller units" in reason
    assert seen.weight == 3.0
    others = [0, 2, 3]
    step = 0.1 * (FLEET.curvature * FLEET.minimum)[others].mean(0)
    np.testing.assert_allclose(flat(run_state.server.params), step, rtol=1e-6)
