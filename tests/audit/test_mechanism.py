"""Verdicts about mechanisms: right ones of every kind, and wrong ones, which are planted (tests/audit/faults.py).

`make audit` counts alarms over twenty seeds; here are two of them.
"""

from functools import partial

import jax
import pytest

from fedrl.aggregators import mean
from fedrl.audit import audit_mechanism, audited
from fedrl.audit.driver import Driver
from fedrl.core.errors import ConfigError
from fedrl.federation.federate import federate
from fedrl.privacy import adaptive_gaussian, central_gaussian, central_laplace, local_gaussian, local_laplace
from fedrl.server.scheduler import Scheduler
from fedrl.stages.clip import clipped, l1_norm_of
from tests.audit import faults
from tests.audit.faults import AGENTS, ALWAYS_SAMPLED, CORRECT, ONE_KEY, STAGES, mechanism, unchecked

SEEDS, RUNS = (0, 1), 8000
LEARNER = faults.small_learner()
FLEET = faults.settings(LEARNER)


def verdicts(found, rounds: int = 1, runs: int = RUNS, delta: float = 1e-3) -> set[str]:
    driver = Driver(found)
    return {audit_mechanism(found, rounds, delta, runs=runs, seed=seed, driver=driver).verdict for seed in SEEDS}


@pytest.mark.parametrize("fault", [name for name in STAGES if name != faults.SHARED])
def test_a_fault_of_the_stage_is_caught_and_a_right_stage_is_not(fault: str) -> None:
    assert verdicts(mechanism(fault, 1.0)) == {"not refuted" if fault == CORRECT else "refuted"}


@pytest.mark.parametrize("fault", [CORRECT, ALWAYS_SAMPLED])
def test_a_sample_of_everybody_is_caught(fault: str) -> None:
    assert verdicts(mechanism(fault, 1.0, 0.5)) == {"not refuted" if fault == CORRECT else "refuted"}


def test_noise_that_rounds_or_arrays_share_is_caught_by_the_tests_for_it_alone() -> None:
    found = mechanism(CORRECT, 1.5)
    with faults.one_key_for_all_rounds():
        shared = audit_mechanism(found, 4, 1e-3, runs=4000)
    assert [check.refuted for check in shared.checks] == [False, True, True], ONE_KEY
    assert "two rounds" in shared.checks[2].finding
    arrays = audit_mechanism(mechanism(faults.SHARED, 1.0), 1, 1e-3, runs=4000)
    assert [check.refuted for check in arrays.checks] == [False, True]
    assert "two arrays" in arrays.checks[1].finding


def on_agents(stage, factor: float):
    """A local mechanism with so much of its noise: the stage's own, as the difference from what it clips."""
    silent = central_gaussian(1.0, 1.0, 1) if "gaussian" in repr(stage) else central_laplace(1.0, 1.0, 1)

    def encode(key, context, server_state, agent_state, update):
        noisy, after = stage.encode(key, context, server_state, agent_state, update)
        clean, _ = silent.encode(key, context, server_state, agent_state, update)
        value = jax.tree.map(lambda x, y: x + factor * (y - x), clean.value, noisy.value)
        return update._replace(value=value), after

    return faults.replace(stage, encode=encode)


def each_array_alone(stage):
    """An L1 clip of each array, so that all together may have four times as much."""

    def encode(key, context, server_state, agent_state, update):
        return update._replace(
            value=jax.tree.map(lambda leaf: clipped(leaf, 1.0, l1_norm_of), update.value)
        ), agent_state

    return faults.replace(stage, encode=encode)


@pytest.mark.parametrize(
    ("stage", "wrong"),
    [
        (central_laplace(1.0, 1.0, AGENTS), partial(faults.noise_times, expected=AGENTS, factor=0.6)),
        (central_laplace(1.0, 1.0, AGENTS), each_array_alone),
        (local_gaussian(1.0, 2.0), partial(on_agents, factor=0.7)),
        (local_laplace(1.0, 2.0), partial(on_agents, factor=0.6)),
        (central_gaussian(1.0, 1.0, AGENTS, clipping="per_layer"), partial(faults.clip_of_each_layer, expected=0.0)),
        (
            central_gaussian((1.0, 0.25, 1.0, 1.0), 1.0, AGENTS),
            lambda stage: faults.replace(stage, encode=central_gaussian(1.0, 1.0, AGENTS).encode),
        ),
    ],
    ids=["laplace noise", "laplace clip", "local gaussian", "local laplace", "per layer", "own clips"],
)
def test_every_mechanism_is_audited_and_a_wrong_one_of_its_kind_is_caught(stage, wrong) -> None:
    right = audited(federate(LEARNER, mean(weighting="uniform"), stage), FLEET)
    assert audit_mechanism(right, 2, 1e-3, runs=4000).verdict == "not refuted"
    assert audit_mechanism(audited(unchecked(wrong(stage)), FLEET), 2, 1e-3, runs=4000).verdict == "refuted"


def with_half_noise_for_updates(stage):
    """An adaptive clip whose updates have half of their noise; the count has all of its own."""

    def finish(key, server_state, update):
        noisy, after = stage.finish(key, server_state, update)
        summed = jax.tree.map(lambda x: x * (update.weight / AGENTS), update.value.value)
        return noisy._replace(value=jax.tree.map(lambda x, y: x + 0.5 * (y - x), summed, noisy.value)), after

    return faults.replace(stage, finish=finish)


def test_a_clip_that_the_server_adapts_is_audited() -> None:
    stage = adaptive_gaussian(1.0, 1.0, AGENTS)
    right = audited(federate(LEARNER, mean(weighting="uniform"), stage), FLEET)
    assert audit_mechanism(right, 3, 1e-3, runs=4000).verdict == "not refuted"
    wrong = audited(unchecked(with_half_noise_for_updates(stage)), FLEET)
    assert audit_mechanism(wrong, 3, 1e-3, runs=4000).verdict == "refuted"


@pytest.mark.parametrize("at", ["server", "agent"])
def test_noise_for_a_trajectory_is_audited_in_one_round(at: str) -> None:
    stage = (
        central_gaussian(1.0, 1.0, AGENTS, unit="trajectory")
        if at == "server"
        else local_gaussian(1.0, 1.0, unit="trajectory")
    )
    learner = faults.replace(LEARNER, clips_trajectories=1.0)
    federation = federate(learner, mean(weighting="uniform"), stage, payload="gradient")
    found = audit_mechanism(audited(federation, FLEET), 20, 1e-3, runs=4000)
    assert (found.verdict, found.rounds) == ("not refuted", 1)
    assert found.protects.startswith("one episode of one agent")


def test_few_runs_say_that_they_have_no_power() -> None:
    found = audit_mechanism(mechanism("no noise", 1.0), 1, 1e-3, runs=12)
    assert (found.verdict, found.detected) == ("no power", None)
    assert found.measured <= found.measurable < 1.0


def test_equal_seeds_are_equal_audits() -> None:
    found = mechanism(CORRECT, 1.0)
    driver = Driver(found)
    one, other, third = (audit_mechanism(found, 1, 1e-3, runs=300, seed=seed, driver=driver) for seed in (4, 4, 5))
    assert one.checks == other.checks
    assert one.checks != third.checks


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"delta": 0.0}, "nothing that an audit could refute"),
        ({"delta": 1.0}, "delta is 1"),
        ({"rounds": 0}, "rounds"),
        ({"runs": 0}, "runs"),
        ({"alpha": 0.0}, "alpha is 0"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict, words: str) -> None:
    given = {"rounds": 1, "delta": 1e-3, "runs": 100} | arguments
    with pytest.raises(ConfigError, match=words):
        audit_mechanism(mechanism(CORRECT, 1.0), given.pop("rounds"), given.pop("delta"), **given)


def test_a_claim_without_a_price_is_refused() -> None:
    federation = federate(LEARNER, mean(weighting="uniform"), central_gaussian(1.0, 1e-9, AGENTS))
    with pytest.raises(ConfigError, match="nothing that an audit could refute"):
        audit_mechanism(audited(federation, FLEET, Scheduler()), 1, 1e-3, runs=100)
