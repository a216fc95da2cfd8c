"""What environments of Gymnasium say in `info` is measured by name."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from fedrl import federate, run
from fedrl.aggregators import mean
from fedrl.config import catalogue
from fedrl.core.errors import ConfigError
from fedrl.core.measures import Measure
from fedrl.engines.executors.host_evaluation import played_host
from fedrl.engines.simulate import simulate
from fedrl.environments.adapters import gymnasium
from fedrl.environments.fleet import fleet
from fedrl.learners import a2c, mlp

WALK = "tests.support.walks:Telling-v0"
MEASURES = {
    "way": Measure("episode", "m", "higher", ("moved",)),
    "right": Measure("episode", better="higher", take="last"),
}


def learner(environment):
    return a2c(environment, network=mlp(hidden=(4,)), num_envs=3, num_steps=5)


def rounds(environment, workers):
    with simulate(federate(learner(environment), mean()), fleet(environment, 2), workers=workers) as simulation:
        run_state, found = simulation.init(0), []
        for _ in range(4):
            run_state, seen = simulation.round(run_state)
            found.append(seen.metrics)
    return found


@pytest.mark.parametrize("workers", [1, 2])
def test_infos_are_counted_with_their_episodes(workers):
    """A walk starts at 0, every step moves 1 to the right or 1/2 to the left: hand counts from rewards, which are x."""
    found = rounds(gymnasium(WALK, measures=MEASURES), workers)
    sums = {name: sum(each[name].sum() for each in found) for name in ("moved", "right", "episodes")}
    plain = rounds(gymnasium(WALK), 1)
    assert sums["episodes"] == sum(each["episodes"].sum() for each in plain) > 10
    assert 0 < sums["right"] < sums["episodes"]
    steps = 4 * 2 * 3 * 5
    assert 0.5 * sums["episodes"] < sums["moved"] <= steps  # of episodes that ended, between 1/2 and 1 a step


def test_greedy_episodes_measure_infos_as_gymnasium_has_them():
    environment = gymnasium(WALK, measures=MEASURES)
    agent = learner(environment)
    params = agent.params(agent.init(jax.random.key(0), environment.params))
    returns, sums, *_ = played_host(agent, fleet(environment, 2), params, 4, 0, workers=0)
    assert sums["episodes"].tolist() == [4.0, 4.0]
    for k in range(2):  # the walk is deterministic and so is a greedy policy: all episodes are alike
        assert len(set(returns[k].tolist())) == 1
        assert sums["right"][k] in (0.0, 4.0)
        assert sums["moved"][k] == pytest.approx(sums["steps"][k] * (1.0 if sums["right"][k] else 0.5), rel=0.6)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("measures", "told"),
    [
        ({"success": Measure("episode")}, r"info has no 'success'.*its keys are \['moved', 'name'\]"),
        ({"name": Measure("step")}, r"info\['name'\] is 'walk', and a measure needs one number"),
    ],
)
def test_a_key_that_is_missing_or_no_number_ends_the_run_with_one_clear_error(workers, measures, told):
    with pytest.raises(ConfigError, match=rf"Telling-v0: {told}"):
        rounds(gymnasium(WALK, measures=measures), workers)


def test_measures_are_written_to_a_file_and_read_back():
    environment = gymnasium(WALK, measures=MEASURES)
    table = catalogue.table_of(environment)
    assert table["measures"]["right"] == {"per": "episode", "better": "higher", "take": "last"}
    assert catalogue.build("environment", table, "environment") == environment
    with pytest.raises(ConfigError, match=r"environment.measures.right.bettr is .*Did you mean 'better'"):
        catalogue.build("environment", table | {"measures": {"right": {"per": "episode", "bettr": 1}}}, "environment")


def test_from_a_file_they_reach_summary_and_records(tmp_path):
    config: dict[str, Any] = {
        "name": "walk",
        "rounds": 2,
        "seeds": [0],
        "environment": {
            "name": "gymnasium",
            "id": WALK,
            "measures": {"right": {"per": "episode", "better": "higher", "take": "last"}},
        },
        "learner": {"name": "a2c", "num_envs": 3, "num_steps": 8, "network": {"name": "mlp", "hidden": [4]}},
        "federation": {"agents": 2},
        "evaluation": {"episodes": 2, "film": False},
    }
    summary = run(config, tmp_path / "run")
    assert summary["measures"]["right"]["source"] == "greedy"
    assert summary["measures"]["right"]["agents"]["federated"] in ([1.0, 1.0], [0.0, 0.0], [0.0, 1.0], [1.0, 0.0])
    assert np.isfinite(summary["measures"]["explained_variance"]["methods"]["federated"]["mean"])
