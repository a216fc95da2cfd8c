"""A federation whose agents are worlds runs in every engine, and its runs are evaluated, filmed and loaded again."""

import math
import tomllib
from pathlib import Path

import jax
import numpy as np
import pytest

import fedrl
from fedrl.config import load
from fedrl.config.build import build
from fedrl.environments import navigation
from fedrl.records.folder import open_folder
from fedrl.runs.simulations import simulation_of

WORLD = """
name = "worlds"
rounds = 2
seeds = 1
environment = { name = "navigation", max_steps = 6 }
fleet.damping = { range = [0.2, 0.3] }
federation.agents = 4
evaluation = { episodes = 2, every = 0 }
"""
SIZES = "num_envs = 2, num_steps = 6, num_epochs = 1, num_minibatches = 2"
SMALL = '{ name = "mlp", hidden = [4] }'
IPPO = f'learner = {{ name = "ppo", network = {SMALL}, {SIZES} }}'
OWN = f'{{ name = "per_player", network = {SMALL}, players = 3 }}'
MAPPO = f'learner = {{ name = "mappo", network = {OWN}, critic = {SMALL}, {SIZES} }}'
VALUES = "num_updates = 2, batch_size = 8, buffer_size = 24, learning_starts = 12"
VDN = f'learner = {{ name = "vdn", network = {OWN}, num_envs = 2, num_steps = 6, {VALUES} }}'
ENGINES = {
    "server": IPPO,
    "mappo": MAPPO,
    "normalize": f'learner = {{ name = "normalize", learner = {{ name = "mappo", critic = {SMALL}, {SIZES} }} }}',
    "vdn": VDN,
    "dqn, gossip": f'{VDN.replace("vdn", "dqn")}\nfederation.topology = "ring"',
    "self_play": f'learner = {{ name = "self_play", pool_size = 2, {IPPO} }}',
    "gossip": f'{IPPO}\nfederation.topology = "ring"',
    "tree": f'{IPPO}\nfederation.hierarchy = {{ name = "tree", branching = [2] }}',
    "clock": f'{IPPO}\nfederation.clock.jitter = 0.2\nfederation.schedule = {{ name = "fed_async" }}',
}


@pytest.mark.parametrize("name", ENGINES)
def test_worlds_are_trained_in_every_engine(name: str) -> None:
    experiment = build(load(tomllib.loads(f"{WORLD}\n{ENGINES[name]}")))
    with simulation_of(experiment, experiment.methods[0]) as simulation:
        state = simulation.init(0)
        before = jax.tree.leaves(simulation.params_of(state))
        state, seen = simulation.round(state)
        after = jax.tree.leaves(simulation.params_of(state))
    assert not seen.rejected
    assert all(np.isfinite(x).all() for x in after)
    assert any((np.asarray(x) != np.asarray(y)).any() for x, y in zip(before, after, strict=True))


def test_a_run_of_worlds_is_complete_and_its_policy_acts_for_all_players(tmp_path: Path) -> None:
    table = tomllib.loads(f"{WORLD}\n{MAPPO}\nbaselines = {{ independent = true }}")
    fedrl.run(table, tmp_path / "run")
    folder = open_folder(tmp_path / "run")
    summary = folder.summary()
    assert set(summary["baselines"]) == {"independent"}
    assert all(agent["return"] is not None for agent in summary["agents"])
    assert {"covered", "collisions"} <= set(summary["measures"])
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {"report.html", "film.gif", "params.safetensors"}
    policy = fedrl.load(tmp_path / "run")
    evaluation = policy.evaluate(episodes=3)
    assert all(math.isfinite(x) for x in evaluation.returns)
    assert policy.evaluate(navigation(), episodes=3).returns is not None
    for deterministic in (True, False):
        with pytest.raises(
            fedrl.ConfigError, match="parameters for each of 3 players, and an observation does not say"
        ):
            policy.predict(np.zeros((3, 14), np.float32), deterministic)
    with pytest.raises(fedrl.ConfigError, match="parameters for each of 3 players"):
        policy.export(tmp_path / "policy.py")


PLAYS = """
name = "plays"
rounds = 3
seeds = 1
environment = "rock_paper_scissors"
federation = { agents = 2, local_steps = 3 }
evaluation = { episodes = 4, every = 1 }

[learner]
name = "measure_exploitability"

[learner.learner]
name = "self_play"
pool_size = 4

[learner.learner.learner]
name = "a2c"
network = { name = "mlp", hidden = [] }
num_envs = 4
num_steps = 1
"""


def test_a_run_of_self_play_reports_exploitability_and_its_policy_is_the_average(tmp_path: Path) -> None:
    fedrl.run(tomllib.loads(PLAYS), tmp_path / "run")
    folder = open_folder(tmp_path / "run")
    measured = folder.summary()["measures"]["exploitability"]
    assert measured["better"] == "lower"
    assert 0.0 <= measured["methods"]["federated"]["mean"] < 1.0
    assert all(0.0 <= record["measures"]["exploitability"] < 1.0 for record in folder.records())
    page = (tmp_path / "run" / "report.html").read_text()
    assert {"exploitability", "explained variance", "data:image/gif;base64,"} <= {
        text for text in ("exploitability", "explained variance", "data:image/gif;base64,") if text in page
    }
    policy = fedrl.load(tmp_path / "run", agent=1)
    assert policy.evaluate(episodes=3).returns is not None
    chosen = policy.predict(np.ones((300, 1), np.float32), deterministic=False)
    assert set(np.asarray(chosen).tolist()) == {0, 1, 2}
