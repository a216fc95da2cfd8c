"""What the federation is compared with is trained as it would be on its own."""

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from fedrl.aggregators import mean
from fedrl.config import load
from fedrl.config.build import build
from fedrl.config.coordination import all_act_alike
from fedrl.config.methods import Method
from fedrl.config.objects import Experiment
from fedrl.core.component import CATALOGUE, component
from fedrl.core.learner import Learner
from fedrl.engines.simulate import simulate
from fedrl.engines.topologies.choices import isolated
from fedrl.environments import cartpole, probe_constant
from fedrl.environments.fleet import fleet
from fedrl.federation.federate import federate
from fedrl.learners import a2c, mlp, sgd
from fedrl.records.folder import RunFolder
from fedrl.runs.evaluate import greedy_returns
from fedrl.runs.heterogeneity import heterogeneity_of
from fedrl.runs.run import run
from tests.support.small import TOML

NETWORK = {"name": "mlp", "hidden": [4]}
POLES: dict[str, Any] = {
    "name": "poles",
    "environment": "cartpole",
    "learner": {"name": "a2c", "num_envs": 2, "num_steps": 8, "network": NETWORK},
    "federation": {"agents": 3, "local_steps": 2},
    "baselines": {"independent": True, "centralised": True},
}
PULLED = "learner.optimizer=[{name='fedprox', strength=5.0}, {name='sgd', learning_rate=0.1}]"


def method(experiment: Experiment, name: str) -> Method:
    return next(method for method in experiment.methods if method.name == name)


def test_independent_agents_are_not_pulled_back_to_where_their_round_began() -> None:
    experiment = build(load(POLES, [PULLED]))
    alone = method(experiment, "independent").federation
    plain = federate(
        a2c(cartpole(), num_envs=2, num_steps=8, network=mlp([4]), optimizer=sgd(0.1)), mean(), local_steps=2
    )
    held = []
    for federation in (alone, plain):
        simulation = simulate(federation, experiment.fleet, topology=isolated(), block=3)
        run_state, _ = simulation.round(simulation.init(0))
        held.append(simulation.params_of(run_state))
    jax.tree.map(lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=1e-6), *held)


def test_without_a_pull_independent_agents_share_the_program_of_the_federation() -> None:
    experiment = build(load(POLES))
    assert method(experiment, "independent").federation is experiment.federation


@pytest.mark.parametrize(
    "wrapper", ["name='accept_if_better', trials=1", "name='apfl'", "name='personal', local=['actor']"]
)
def test_one_learner_of_all_data_keeps_nothing_apart(wrapper: str) -> None:
    inner = "{name='a2c', num_envs=2, num_steps=8, network={name='mlp', hidden=[4]}}"
    experiment = build(load(POLES, [f"learner={{{wrapper}, learner={inner}}}"]))
    central = method(experiment, "centralised")
    assert central.federation.learner.policy is None
    assert not central.federation.learner.personalised
    assert central.steps_per_round == experiment.methods[0].steps_per_round


def test_a_wrapper_of_ones_own_that_sets_agents_apart_is_left_out_of_the_baselines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(CATALOGUE, ("learner", "aloof"), CATALOGUE["learner", "apfl"])  # is taken out at the end

    @component("learner")
    def aloof(learner: Learner) -> Learner:
        return replace(learner, policy=learner.params, personalised=("aloof",))

    inner = "{name='a2c', num_envs=2, num_steps=8, network={name='mlp', hidden=[4]}}"
    experiment = build(load(POLES, [f"learner={{name='normalize', learner={{name='aloof', learner={inner}}}}}"]))
    assert "aloof" in repr(experiment.learner)
    assert "aloof" not in repr(method(experiment, "centralised").federation.learner)
    assert "normalize" in repr(method(experiment, "centralised").federation.learner)
    assert not all_act_alike(experiment.learner, experiment.coordination)


def test_environments_that_draw_no_noise_are_evaluated() -> None:
    environment = probe_constant()
    learner = a2c(environment, num_envs=2, num_steps=4, network=mlp([4]))
    params = learner.params(learner.init(jax.random.key(0), environment.params))
    assert greedy_returns(learner, fleet(environment, 2, {}), params, 3, 0).shape == (2, 3)


def test_the_heterogeneity_of_a_run_is_in_its_records_and_its_summary(tmp_path: Path) -> None:
    summary = run(tomllib.loads(TOML.format(rounds=12)), tmp_path / "run", overrides=["baselines={independent=true}"])
    found = summary["heterogeneity"]
    assert found["transition"] > 0.02
    assert found["value"] > 0.0
    assert found["reward"] == pytest.approx(0.0, abs=0.05)
    records = [r for r in RunFolder(tmp_path / "run").records() if r["seed"] == 0]
    measured = [r["round"] for r in records if "heterogeneity" in r]
    assert len(measured) <= 10
    assert 12 in measured
    assert all(r["method"] == "federated" for r in records if "heterogeneity" in r)
    assert -1 <= found["cosine"] <= 1
    assert summary["warnings"] == []  # two seeds


@pytest.mark.parametrize(("gamma", "known"), [(0.9, True), (1.0, False)])
def test_environments_are_compared_by_value_only_if_there_is_a_discount(gamma: float, known: bool) -> None:
    experiment = build(load(tomllib.loads(TOML.format(rounds=1)), [f"learner.gamma={gamma}"]))
    assert ("value" in heterogeneity_of(experiment, [])) == known
