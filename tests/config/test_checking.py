"""What a run would refuse is refused when its experiment is built, and leaves no folder."""

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedrl import federate, run
from fedrl.aggregators import mean, q_ffl
from fedrl.config import checking, load
from fedrl.config.build import build
from fedrl.core.component import component
from fedrl.core.environment import Environment
from fedrl.core.errors import ConfigError, UnsoundError
from fedrl.core.measures import Measure
from fedrl.environments import gridworld
from fedrl.learners import sgd
from fedrl.runs.simulations import simulation_of
from tests.support.quadratic import FLEET, quadratic
from tests.support.small import TOML

PLAIN = ["baselines={}", "evaluation.held_out=0"]
CLOCK = "federation.clock={step_s=[1, 2, 3]}"
GYM = ["environment={name='gymnasium', id='CartPole-v1'}", "fleet={}", "baselines={}", "evaluation.held_out=0"]
A2C = "{name='a2c', num_envs=2, num_steps=4, network={name='mlp', hidden=[4]}}"

REFUSED: dict[str, tuple[list[str], str]] = {
    "fewer agents than there are": (
        ["federation.aggregator={name='afl', agents=2}"],
        r"afl\(2\) stores a number for each of 2 agents, and there are 3",
    ),
    "visits that nobody counts": (
        ["federation.stages=[{name='importance_averaging', learning_rate=0.5}]", "federation.aggregator.name='mean'"],
        "weighs by visits",
    ),
    "a part that is not there": (
        ["federation.stages=[{name='download_only', parts=['critic']}]"],
        "no part of the param",
    ),
    "a clip of codes": (
        ["federation.stages=['quantize', {name='clip', norm=1.0}]"],
        r"clip\(\) finds .* An earlier stage has already",
    ),
    "codes of which error feedback makes no end": (
        ["federation.stages=[{name='error_feedback', stages=[{name='quantize', bits=1}]}]"],
        "whose error may exceed its input for an array of 16 entries",
    ),
    "a rule that asks in a tree with periods": (
        [
            *PLAIN,
            "federation.hierarchy={name='tree', branching=[2], periods=[1, 2]}",
            "federation.aggregator={name='q_ffl', reference_return=1.0}",
        ],
        r"needs \['return'\] from agents, and in this tree it would merge updates of servers",
    ),
    "a look-ahead without a momentum": (
        [*PLAIN, CLOCK, "federation.schedule={name='afedpg', alpha=0.5}"],
        r"server has no optimiser of its own.*normalized_momentum\(learning_rate, alpha=0.5\)",
    ),
    "a look-ahead along another momentum": (
        [
            *PLAIN,
            CLOCK,
            "federation.schedule={name='afedpg', alpha=0.5}",
            "federation.server_optimizer={name='normalized_momentum', alpha=0.3}",
        ],
        r"momentum with alpha = 0.5, and .* has normalized_momentum\(alpha=0.3\)",
    ),
    "experience that only the host can gather": (
        [*GYM, f"learner={{name='accept_if_better', learner={A2C}}}"],
        "is stepped on the host, and accept_if_better|collects its own experience",
    ),
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "corridor.toml"
    path.write_text(TOML.format(rounds=2))
    return path


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_run_would_refuse_is_refused_when_it_is_built(case: str, config: Path, tmp_path: Path) -> None:
    changes, words = REFUSED[case]
    with pytest.raises((ConfigError, UnsoundError), match=words):
        build(load(config, changes))
    with pytest.raises((ConfigError, UnsoundError), match=words):
        run(config, tmp_path / "run", overrides=changes)
    assert not (tmp_path / "run").exists()


def test_an_extra_that_is_not_installed_is_missed_before_there_is_a_folder(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ConfigError, match="tensorboardX is not installed"):
        build(load(config, ["tensorboard=true"]))


@component("environment")
def declaring(measure: str = "bumps") -> Environment:
    """A corridor that declares what its steps do not show."""
    return replace(gridworld("S..G", max_steps=20), measures={measure: Measure("episode")})


def test_a_measure_that_steps_do_not_show_is_missed_before_there_is_a_folder(config: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsoundError, match=r"declares a measure of 'bumps', and its steps return \['success'\]"):
        run(config, tmp_path / "run", overrides=["environment={name='declaring'}"])
    assert not (tmp_path / "run").exists()


def test_a_measure_that_learners_do_not_return_is_missed(config: Path) -> None:
    experiment = build(load(config, ["baselines={}"]))
    learner = replace(experiment.learner, measures={"entropy": Measure("iteration", "nat")})
    method = replace(experiment.methods[0], federation=federate(learner, mean()))
    checking.check_measures(experiment)
    with pytest.raises(UnsoundError, match=r"declares the measure 'entropy', computed from 'entropy'.*among .*'loss'"):
        checking.check_measures(replace(experiment, methods=(method,)))


def test_what_agents_are_asked_for_and_do_not_measure_is_missed(config: Path) -> None:
    experiment = build(load(config, ["baselines={}"]))
    for rule, measured in ((q_ffl(), True), (q_ffl(reference_return=1.0), False)):
        method = replace(experiment.methods[0], federation=federate(quadratic(sgd(0.1)), rule))
        asking = replace(experiment, methods=(method,), fleet=FLEET)
        if measured:
            checking.check_experiment(asking)
            continue
        with pytest.raises(UnsoundError, match="report 'return' is requested, and the learner measures"):
            checking.check_experiment(asking)


def test_two_measures_of_one_name_are_refused_when_an_experiment_is_built(config: Path) -> None:
    with pytest.raises(UnsoundError, match="declares the measure 'agents_compute', which the engine has, too"):
        build(load(config, ["environment={name='declaring', measure='agents_compute'}"]))


STANDS: dict[str, list[str]] = {
    "a look-ahead along the momentum of the server": [
        *PLAIN,
        CLOCK,
        "federation.schedule={name='afedpg', alpha=0.4}",
        "federation.server_optimizer={name='normalized_momentum', alpha=0.4, decay_steps=10}",
    ],
    "as many agents as there are": ["federation.aggregator={name='afl', agents=3, reference_return=1.0}"],
    "Gymnasium with gradients": [*GYM, f"learner={A2C}", "federation.payload='gradient'"],
    "Gymnasium with APFL": [*GYM, f"learner={{name='apfl', learner={A2C}}}"],
    "Gymnasium, interpolated": [*GYM, f"learner={{name='interpolate', learner={A2C}}}"],
}


@pytest.mark.parametrize("case", STANDS)
def test_what_is_built_is_prepared_for_simulation(case: str, config: Path) -> None:
    experiment = build(load(config, STANDS[case]))
    for method in experiment.methods:
        simulation_of(experiment, method).close()


def test_each_method_is_checked(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(checking, "check", lambda federation, agents, *rest: seen.append((federation, agents)))
    experiment = build(load(config))
    assert seen == [(method.federation, len(method.local_steps)) for method in experiment.methods[1:]]
    assert len(seen) == 2


def test_checking_takes_no_time_that_a_run_does_not_save(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = build(load(config))
    began = time.process_time()
    checking.check_experiment(experiment)
    assert time.process_time() - began < 0.1
