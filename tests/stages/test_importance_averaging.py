"""Importance averaging against its formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrl.aggregators import mean
from fedrl.core.errors import ConfigError
from fedrl.core.types import Update, UpdateContext
from fedrl.engines.simulate import simulate
from fedrl.environments import random_mdp
from fedrl.federation.federate import federate
from fedrl.learners import q_table
from fedrl.stages import importance_averaging
from tests.support.rules import traced

CONTEXT = UpdateContext(jnp.int32(0), jnp.int32(0), jnp.int32(2), jnp.int32(1))
RATE = 0.2


def averaged(stage, server_state, q, visits):
    """One round of the stage under a uniform mean."""
    encode = jax.vmap(lambda value: stage.encode(jax.random.key(0), CONTEXT, server_state, (), value)[0])
    agents = q.shape[0]
    updates = encode(Update({"q": q, "visits": visits}, jnp.ones(agents), jnp.zeros(agents, jnp.int32)))
    merged, _ = traced(mean("uniform"), updates)
    return stage.finish(jax.random.key(0), server_state, merged)


def by_formula(q, visits):
    weight = (1.0 - RATE) ** -np.asarray(visits, np.float64)
    return (weight * np.asarray(q)).sum(0) / weight.sum(0)


def start(shape):
    stage = importance_averaging(RATE)
    server_state, _ = stage.init({"q": jnp.zeros(shape), "visits": jnp.zeros(shape)})
    return stage, server_state


def test_entries_are_weighed_by_the_visits_of_each_agent():
    stage, server_state = start((1, 3))
    q, visits = jnp.array([[[1.0, 1.0, 1.0]], [[3.0, 3.0, 3.0]]]), jnp.array([[[2.0, 0.0, 1.0]], [[0.0, 3.0, 1.0]]])
    merged, _ = averaged(stage, server_state, q, visits)
    # (1/.64 + 3) / (1/.64 + 1), (1 + 3/.512) / (1 + 1/.512), 2
    np.testing.assert_allclose(merged.value["q"], [[1.7804878, 2.3227513, 2.0]], rtol=1e-6)
    np.testing.assert_array_equal(merged.value["visits"], 0.0)


def test_weights_stay_in_range_however_large_the_counts():
    stage, server_state = start((4, 2))
    rng = np.random.default_rng(0)
    for _ in range(60):
        visits = jnp.asarray(1000.0 + rng.integers(0, 20, (5, 4, 2)))
        q = jnp.asarray(rng.normal(size=(5, 4, 2)).astype(np.float32))
        merged, server_state = averaged(stage, server_state, q, visits)
    np.testing.assert_allclose(merged.value["q"], by_formula(q, visits - 1000.0), rtol=1e-3, atol=1e-5)


def test_nobodys_visits_leave_an_entry_alone():
    stage, server_state = start((1, 1))
    merged, server_state = averaged(stage, server_state, jnp.zeros((3, 1, 1)), jnp.zeros((3, 1, 1)))
    assert merged.value["q"].item() == 0.0
    assert server_state.item() == 0.0


def test_a_federated_round_is_the_formula_of_the_agents_tables():
    learner = q_table(random_mdp(), learning_rate=RATE, gamma=0.9, epsilon=1.0, num_steps=40, count_visits=True)
    federation = federate(learner, mean("uniform"), importance_averaging(RATE))
    fleet = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (3, *leaf.shape)), random_mdp().params)
    simulation = simulate(federation, fleet, block=3)
    run_state, seen = simulation.round(simulation.init(0))
    held = simulation.params_of(run_state)
    assert seen.rejected == ()
    assert np.ptp(held["visits"], axis=0).max() > 0
    np.testing.assert_allclose(run_state.server.params["q"], by_formula(held["q"], held["visits"]), rtol=1e-4)
    np.testing.assert_array_equal(run_state.server.params["visits"], 0.0)
    run_state, _ = simulation.round(run_state)
    assert simulation.params_of(run_state)["visits"].sum() == 3 * 40  # counted anew


def test_parameters_without_visits_are_refused():
    with pytest.raises(ConfigError, match="count_visits=True"):
        federate(q_table(random_mdp()), mean("uniform"), importance_averaging(RATE))
    with pytest.raises(ConfigError, match=r"learning_rate is 1\.0"):
        importance_averaging(1.0)
