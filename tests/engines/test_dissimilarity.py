"""How much updates differ: against plain NumPy, and through the engines against a closed form."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedrl.aggregators import mean
from fedrl.engines.dissimilarity import dissimilarity, update_dissimilarity
from fedrl.engines.simulate import simulate
from fedrl.engines.topologies.choices import gossip
from fedrl.federation.federate import federate
from fedrl.learners import personal, sgd
from fedrl.topologies import metropolis, ring
from tests.support.quadratic import FLEET, Valley, quadratic

RATE, STEPS = 0.1, 3


def by_hand(deltas):
    """Dispersion and mean cosine over pairs, one pair at a time."""
    centre = deltas.mean(0)
    dispersion = np.mean([np.sum((d - centre) ** 2) for d in deltas]) / np.sum(centre**2)
    pairs = [(a, b) for i, a in enumerate(deltas) for j, b in enumerate(deltas) if i != j]
    return dispersion, np.mean([a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs])


@given(arrays(np.float64, (4, 3), elements=st.floats(-3, 3)))
def test_it_is_what_pairs_of_agents_say(deltas):
    if min(np.linalg.norm(deltas, axis=1)) < 1e-3 or np.linalg.norm(deltas.mean(0)) < 1e-3:
        return
    np.testing.assert_allclose(dissimilarity(deltas), by_hand(deltas), rtol=1e-6, atol=1e-9)


def test_agents_that_move_alike_have_none():
    np.testing.assert_allclose(dissimilarity(np.ones((5, 3))), (0.0, 1.0), atol=1e-12)


@pytest.mark.parametrize(
    "deltas", [np.ones((1, 3)), np.zeros((3, 3)), np.array([[1.0], [-1.0]]), np.array([[np.inf], [1.0]])]
)
def test_without_a_common_direction_there_is_no_measure(deltas):
    assert dissimilarity(np.array(deltas)) is None


def expected(start):
    """H steps of gradient descent from `start`: m + (1 - eta a)^H (x - m)."""
    end = FLEET.minimum + (1 - RATE * FLEET.curvature) ** STEPS * (start - FLEET.minimum)
    return by_hand(np.asarray(end - start, np.float64))


def measured(simulation):
    """Of the first round."""
    run_state = simulation.init(0)
    begun = simulation.held(simulation.adopt(run_state))
    after, _ = simulation.round(run_state)
    return update_dissimilarity(begun, simulation.held(after))


@pytest.mark.parametrize("neighbours", [False, True], ids=["server", "neighbours"])
def test_it_is_measured_on_what_agents_learned_in_a_round(neighbours):
    federation = federate(quadratic(sgd(RATE)), mean(), local_steps=STEPS)
    fleet = Valley(*map(np.asarray, FLEET))
    topology = gossip(ring(), metropolis()) if neighbours else None
    simulation = simulate(federation, fleet, topology=topology, block=3)
    np.testing.assert_allclose(measured(simulation), expected(np.zeros(3)), rtol=1e-4)


def test_only_what_is_shared_counts():
    learner = personal(quadratic(sgd(RATE)), local=["head"])
    simulation = simulate(federate(learner, mean(), local_steps=STEPS), Valley(*map(np.asarray, FLEET)))
    end = FLEET.minimum - (1 - RATE * FLEET.curvature) ** STEPS * FLEET.minimum
    np.testing.assert_allclose(measured(simulation), by_hand(end[:, 1:].astype(float)), rtol=1e-4)
