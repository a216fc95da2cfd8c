"""The driver computes what a run computes, to the bit, and its canary is what it says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrl.aggregators import mean
from fedrl.audit.canary import audited, canary_update
from fedrl.audit.driver import Driver, World, run_keys
from fedrl.core.aggregator import on_time
from fedrl.core.errors import ConfigError
from fedrl.core.keys import keys_of, server_noise, server_secret, turn_keys, turns, turns_noise
from fedrl.core.reports import nothing_measured
from fedrl.engines.aggregation import merge_blocks, partial_sums
from fedrl.federation.federate import federate
from fedrl.privacy import (
    adaptive_gaussian,
    central_gaussian,
    central_laplace,
    factorised_gaussian,
    local_gaussian,
)
from fedrl.server import fedadam, poisson, uniform
from fedrl.server.scheduler import Scheduler
from fedrl.stages import quantize
from tests.audit.faults import AGENTS, mechanism, settings, small_learner

LEARNER = small_learner()
FLEET = settings(LEARNER)


def driver_of(stage, scheduler=None, **options) -> Driver:
    return Driver(audited(federate(LEARNER, mean(weighting="uniform"), stage, **options), FLEET, scheduler))


def by_merge(driver: Driver, keys, pushes) -> list:
    """The same releases by the functions that a simulation calls, one agent and one run at a time."""
    federation, server, found = driver.federation, driver.start, []
    merge = merge_blocks(federation, driver.like, driver.mechanism.agents)
    summed = jax.jit(lambda updates, here: jax.tree.map(lambda x: x[None], partial_sums(federation, updates, here)))
    agents = [jax.tree.map(lambda leaf, i=i: leaf[i], driver.agents) for i in range(2)]
    for number, push in enumerate(pushes):
        updates, ids, zero = [], driver.ids.tolist(), [0, 0]
        own, noise = turns(keys_of(0), ids, [number] * 2, zero), turns_noise(keys, ids, [number] * 2, zero)
        sent = federation.broadcast(server)
        for i, agent in enumerate(agents):
            before = federation.remember(agent)
            task, begun = federation.begin(turn_keys(own[i], noise[i]), sent, agent, jnp.int32(2))
            params = jax.tree.map(
                lambda x, p, amount=push * (i == 0): x + amount * p, LEARNER.params(begun.learner), driver.push
            )
            begun = begun._replace(learner=LEARNER.adopt(begun.learner, params))
            update, after, _ = federation.report(task, before, begun, federation.descent(params), nothing_measured())
            agents[i] = agent._replace(stage_states=after.stage_states)
            updates.append(federation.decode(sent, update))
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *updates)
        here = np.ones(2, bool)
        sums = jax.tree.map(lambda x: x[0], summed(stacked, here))
        merged = merge(
            server_secret(run_keys(0, 0, 1)[0]), server, [(sums, here)], on_time(driver.ids), server_noise(keys, number)
        )
        assert merged.weight == 2.0
        found.append(jax.tree.map(np.asarray, merged.server.params))
        server = driver.start._replace(stage_states=merged.server.stage_states, version=merged.server.version)
    return found


@pytest.mark.parametrize(
    ("stage", "tolerance"),
    # A clip that changes is an input of the program, which rounds differently for one run and for a thousand.
    [(central_gaussian(1.0, 1.0, AGENTS), 0.0), (adaptive_gaussian(1.0, 1.0, AGENTS), 1e-6)],
)
def test_releases_are_those_of_a_merge(stage, tolerance: float) -> None:
    driver, keys = driver_of(stage), run_keys(3, 1, 3)
    found = driver.releases(World((1.0, -1.0)), keys)
    for run, each in enumerate(keys):
        for number, expected in enumerate(by_merge(driver, each, (1.0, -1.0))):
            released = jax.tree.map(lambda leaf, run=run: np.asarray(leaf)[run, 0], found[number])
            jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, tolerance, tolerance), released, expected)


def test_what_a_clip_lets_through_of_the_canary_has_the_norm_of_the_clip() -> None:
    driver = driver_of(central_gaussian(1.5, 1.0, AGENTS))
    assert np.sqrt(sum(float((x**2).sum()) for x in jax.tree.leaves(driver.push))) == pytest.approx(50 * 1.5)
    moved = driver.directions(run_keys(0, 0, 1)[0]).moved
    assert moved == pytest.approx([1.5 / 2 / AGENTS] * 4, rel=1e-4)
    assert driver_of(local_gaussian(1.0, 1.0)).directions(run_keys(0, 0, 1)[0]).moved == pytest.approx(
        [1.0] * 4, rel=1e-4
    )


def test_of_laplace_noise_one_entry_of_each_array_moves() -> None:
    driver = driver_of(central_laplace(1.0, 1.0, AGENTS))
    assert [int((leaf != 0).sum()) for leaf in jax.tree.leaves(driver.push)] == [1] * 4
    assert driver.directions(run_keys(0, 0, 1)[0]).moved == pytest.approx(
        np.array([0.85, 0.05, 0.05, 0.05]) / AGENTS, rel=1e-4
    )


def test_the_canary_is_the_agent_with_the_strongest_guarantee() -> None:
    stage = central_gaussian((1.0, 0.5, 1.0, 0.8), 1.0, AGENTS)
    found = audited(federate(LEARNER, mean(weighting="uniform"), stage), FLEET)
    assert found.canary == 1
    assert np.sqrt(sum(float((x**2).sum()) for x in jax.tree.leaves(canary_update(found)))) == pytest.approx(25.0)


def test_who_is_there_is_what_the_selection_says() -> None:
    driver, keys = Driver(mechanism("correct", 1.0, 0.3)), run_keys(0, 0, 400)
    here = driver.participation(World((1.0, 1.0)), keys)
    assert here.mean((0, 1)) == pytest.approx([0.3, 0.3], abs=0.05)
    assert abs(np.corrcoef(here.reshape(-1, 2), rowvar=False)[0, 1]) < 0.15
    absent = driver.participation(World((0.0, 0.0), takes_part=False), keys)
    assert not absent[:, :, 0].any()
    np.testing.assert_array_equal(absent[:, :, 1], here[:, :, 1])
    assert driver.participation(World((1.0,), sampled=False), keys).all()


def test_a_round_of_nobody_is_noise_and_every_run_has_its_own() -> None:
    driver, keys = Driver(mechanism("correct", 1.0, 0.01)), run_keys(0, 0, 30)
    directions = driver.directions(keys[0])
    found = driver.projections(World((0.0,), takes_part=False), keys, directions)
    assert not driver.participation(World((0.0,), takes_part=False), keys)[:-1].all()
    assert len(np.unique(found[:, 0, 0, 0])) == len(keys)
    again = driver.projections(World((0.0,), takes_part=False), run_keys(1, 0, 30), directions)
    assert not np.isin(again, found).any()


def test_a_server_optimizer_does_not_hide_what_is_released() -> None:
    keys = run_keys(0, 0, 2)
    plain = driver_of(central_gaussian(1.0, 1.0, AGENTS)).releases(World((1.0,)), keys)
    adam = driver_of(central_gaussian(1.0, 1.0, AGENTS), server_optimizer=fedadam(0.01)).releases(World((1.0,)), keys)
    jax.tree.map(np.testing.assert_array_equal, plain, adam)


@pytest.mark.parametrize(
    ("stages", "options", "words"),
    [
        ([], {}, "none adds calibrated noise"),
        ([quantize(4)], {}, "none adds calibrated noise"),
        ([factorised_gaussian(1.0, 1.0, AGENTS, rounds=4, separation=1)], {}, "correlated between 4 rounds"),
        ([central_gaussian(1.0, 1.0, AGENTS), central_gaussian(1.0, 1.0, AGENTS)], {}, "both add noise"),
    ],
)
def test_what_an_audit_cannot_drive_is_refused_with_the_reason(stages, options, words: str) -> None:
    federation = federate(LEARNER, mean(weighting="uniform"), *stages, **options)
    with pytest.raises(ConfigError, match=words):
        audited(federation, FLEET)


def test_a_sample_of_fixed_size_replaces_the_data_of_the_canary() -> None:
    found = audited(
        federate(LEARNER, mean(weighting="uniform"), central_gaussian(1.0, 1.0, 2)),
        FLEET,
        Scheduler(selection=uniform(2)),
    )
    assert (found.worlds, found.sampling) == ((1.0, -1.0), 0.5)
    assert audited(found.federation, FLEET, Scheduler(selection=poisson(0.5))).worlds == (1.0, 0.0)
