"""A run whose agents are worlds on the host: its records, its policy, its film, and what is said before it."""

import math
from pathlib import Path
from typing import Any

import numpy as np

import fedrl
from fedrl.environments.adapters import pettingzoo
from fedrl.records.folder import open_folder

MORTAL = "tests.support.parallel_worlds:Mortal"
SMALL = {"name": "mlp", "hidden": [4]}
WORLD: dict[str, Any] = {
    "name": "mortal",
    "rounds": 2,
    "seeds": [3],
    "environment": {"name": "pettingzoo", "id": MORTAL, "settings": {"bonus": 1.0}},
    "fleet": {"bonus": {"range": [0.5, 2.0]}},
    "learner": {
        "name": "mappo",
        "num_envs": 2,
        "num_steps": 5,
        "num_epochs": 1,
        "num_minibatches": 1,
        "network": {"name": "per_player", "network": SMALL, "players": 3},
        "critic": SMALL,
    },
    "federation": {"agents": 2},
    "evaluation": {"episodes": 2, "every": 0},
}


def test_a_run_of_worlds_on_the_host_is_complete_and_its_policy_acts_for_all_players(tmp_path: Path) -> None:
    fedrl.run(WORLD, tmp_path / "run")
    folder = open_folder(tmp_path / "run")
    summary = folder.summary()
    assert folder.complete
    # A step of each of three players, in two rounds, of two agents with two copies and five steps.
    assert summary["environment_steps"] == 2 * 2 * 2 * 5 * 3
    assert all(math.isfinite(agent["return"]) for agent in summary["agents"])
    assert (tmp_path / "run" / "film.gif").exists()
    policy = fedrl.load(tmp_path / "run", trust=True)
    evaluation = policy.evaluate(pettingzoo(MORTAL), episodes=2, seed=5)
    assert evaluation.lengths.tolist() == [5, 5]
    film = policy.render(tmp_path / "one.gif", pettingzoo(MORTAL), seed=5)
    np.testing.assert_allclose(film.returned, evaluation.returns[0], rtol=1e-6)
    assert film.steps == 5
