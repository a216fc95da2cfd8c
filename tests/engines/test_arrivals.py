"""Who sent what, and how stale it is, comes from the engine: no word of an agent changes it."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrl.aggregators import afl
from fedrl.aggregators.namespace import namespace, weighted_mean
from fedrl.clocks import clock
from fedrl.core.aggregator import NOBODY, Aggregator
from fedrl.core.component import component
from fedrl.core.types import Update
from fedrl.engines.simulate import simulate
from fedrl.federation.federate import federate
from fedrl.learners import sgd
from fedrl.server.schedules import fed_buff
from fedrl.topologies import tree
from tests.support.quadratic import FLEET, flat, quadratic

DEVICE = jax.devices()[:1]
SEEN = []


@component("test double")
def watching(needs: str = "each") -> Aggregator:
    """A mean that writes down what it is shown."""

    def update(key, view, arrivals, state, updates):
        if namespace(updates) is np:
            SEEN.append((int(view.version), arrivals.sender.tolist(), arrivals.staleness.tolist(), updates.value))
        value = weighted_mean(updates.weight, updates.value)
        return Update(value, updates.weight.sum(), updates.version.max()), state

    return Aggregator(update=update, needs=needs)


def lying(federation):
    """Agents whose updates claim to start from a version that is not there yet."""

    def agent(*given):
        update, after, metrics = federation.agent(*given)
        return update._replace(version=update.version + 100), after, metrics

    return replace(federation, agent=agent)


@pytest.fixture(autouse=True)
def nothing_seen():
    SEEN.clear()


def test_rows_are_in_the_order_of_their_senders():
    federation = federate(quadratic(sgd(0.1)), watching())
    simulation = simulate(federation, FLEET, order=[3, 1, 0, 2], devices=DEVICE)
    run_state, seen = simulation.round(simulation.init(0))
    run_state, _ = simulation.round(run_state, cohort=[1, 3])
    assert [row[:3] for row in SEEN] == [(0, [0, 1, 2, 3], [0] * 4), (1, [1, 3], [0, 0])]
    moved = 0.1 * FLEET.curvature * FLEET.minimum  # from zero
    np.testing.assert_allclose(SEEN[0][3]["head"][:, 0], moved[:, 0], rtol=1e-6)
    assert sorted(seen.arrivals.sender.tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("altered", [lambda federation: federation, lying], ids=["honest", "lying"])
def test_staleness_is_what_the_engine_knows(altered):
    federation = altered(federate(quadratic(sgd(0.1)), watching()))
    timing = {"scheduler": fed_buff(2), "clock": clock(step_s=[1.0, 1.4, 3.1, 7.3]), "merges": 1}
    simulation = simulate(federation, FLEET, **timing, devices=DEVICE)
    run_state = simulation.init(0)
    told = []
    for _ in range(5):
        run_state, seen = simulation.round(run_state)
        told.append((seen.arrivals.sender.tolist(), seen.arrivals.staleness.tolist()))
    assert [row[1:3] for row in SEEN] == [
        ([0, 1], [0, 0]),  # at 1.0 and 1.4
        ([0, 1], [1, 0]),  # at 2.0, which began before the first merge, and 2.8
        ([0, 2], [1, 2]),  # at 3.0 and 3.1
        ([0, 1], [1, 1]),  # at 4.0 and 4.2
        ([0, 1], [1, 0]),  # at 5.0 and 5.6
    ]
    for (senders, staleness), (_, sorted_senders, sorted_staleness, _) in zip(told, SEEN, strict=True):
        order = np.argsort(senders, kind="stable")
        assert [senders[i] for i in order] == sorted_senders
        assert [staleness[i] for i in order] == sorted_staleness


def test_a_rule_that_remembers_agents_knows_them_in_every_engine():
    federation = federate(quadratic(sgd(0.1)), afl(4, step=0.05))
    one = simulate(federation, FLEET, devices=DEVICE)
    relayed = simulate(federation, FLEET, topology=tree([2]), devices=DEVICE)
    after = [simulation.round(simulation.init(0), cohort=[0, 3])[0].server for simulation in (one, relayed)]
    weights = after[0].aggregator.weights
    assert weights[1] == weights[2] < min(weights[0], weights[3])  # only those who took part had a loss
    np.testing.assert_array_equal(weights, after[1].aggregator.weights)
    np.testing.assert_array_equal(flat(after[0].params), flat(after[1].params))


def test_a_rule_of_the_sum_is_shown_a_mean_of_nobody_in_particular():
    def update(key, view, arrivals, state, updates):
        named = jnp.where(arrivals.sender == NOBODY, 1.0, jnp.nan)
        return Update(jax.tree.map(lambda x: x[0] * named, updates.value), updates.weight[0], updates.version[0]), state

    simulation = simulate(federate(quadratic(sgd(0.1)), Aggregator(update=update, needs="sum")), FLEET, devices=DEVICE)
    run_state, seen = simulation.round(simulation.init(0))
    assert not seen.skipped
    assert np.abs(flat(run_state.server.params)).max() > 0.0


def test_the_key_of_a_rule_is_new_in_every_round():
    keys = []

    def update(key, view, arrivals, state, updates):
        keys.append(np.asarray(jax.random.key_data(key)).tolist())
        value = jax.tree.map(lambda x: x.mean(0), updates.value)
        return Update(value, updates.weight.sum(), updates.version.max()), state

    simulation = simulate(federate(quadratic(sgd(0.1)), Aggregator(update=update)), FLEET, devices=DEVICE)
    run_state = simulation.init(0)
    for _ in range(3):
        run_state, _ = simulation.round(run_state)
    assert len({tuple(key) for key in keys}) == len(keys) == 3
