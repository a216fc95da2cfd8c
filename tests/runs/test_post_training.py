"""Methods that take no rounds: fine-tuning goes on alone from the federation, mixtures act with what others learned."""

import tomllib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from fedrl.config import load
from fedrl.config.build import build
from fedrl.records.folder import RunFolder
from fedrl.runs.post_training import averaged, mixed, tuned
from fedrl.runs.run import run
from fedrl.runs.seed_result import SeedResult
from fedrl.runs.session import Session, Timing
from fedrl.runs.simulations import simulation_of
from tests.support.small import TOML

LEFT, RIGHT = 0, 2
BASE: dict[str, Any] = tomllib.loads(TOML.format(rounds=3)) | {"baselines": {}}
POLES: dict[str, Any] = {
    "name": "poles",
    "environment": "cartpole",
    "learner": {
        "name": "a2c",
        "num_envs": 2,
        "num_steps": 8,
        "network": {"name": "mlp", "hidden": [4]},
        "optimizer": {"name": "sgd", "learning_rate": 0.1},
    },
    "federation": {"agents": 3, "local_steps": 2},
}
SCAFFOLD = [
    "learner.optimizer=['add_correction', {name='sgd', learning_rate=0.1}]",
    "federation.stages=[{name='scaffold', learning_rate=0.1}]",
]
PROX = ["learner.optimizer=[{name='fedprox', strength=5.0}, {name='sgd', learning_rate=0.1}]"]
RING = ["federation.topology=ring"]
TREE = ["federation.hierarchy={name='tree', branching=[2], periods=[1, 2]}"]
ASKED = ["federation.selection={name='round_robin', cohort=1}"]
CLOCK = ["federation.clock={step_s=1.0}"]
WAYS = pytest.mark.parametrize(
    "changes", [SCAFFOLD, PROX, RING, TREE, ASKED, CLOCK], ids=["scaffold", "prox", "ring", "tree", "asked", "clock"]
)


def after(changes: list[str], iterations: int, rounds: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """What agents act with after some rounds of federation, and after some iterations of fine-tuning; a row each."""
    experiment = build(load(POLES, [*changes, f"evaluation.fine_tune={iterations}"]))
    simulation = simulation_of(experiment, experiment.methods[0], jax.devices()[:1])
    run_state = simulation.init(0)
    for _ in range(rounds):
        run_state, _ = simulation.round(run_state)
    run_state = simulation.adopt(run_state)
    before = simulation.params_of(run_state)
    return rows(before), rows(tuned(experiment, simulation.states_of(run_state), 0))


def rows(params: Any) -> np.ndarray:
    return np.concatenate([np.asarray(leaf).reshape(3, -1) for leaf in jax.tree.leaves(params)], axis=1)


@pytest.fixture(scope="module")
def plain() -> np.ndarray:
    return after([], 3)[1]


@WAYS
def test_from_the_same_start_it_is_plain_local_training(changes: list[str], plain: np.ndarray) -> None:
    np.testing.assert_allclose(after(changes, 3)[1], plain, atol=1e-6)


@WAYS
def test_it_goes_on_from_where_the_federation_ended(changes: list[str]) -> None:
    federated, one = after(changes, 1, rounds=5)
    start, _ = after(changes, 1)
    assert np.isfinite(one).all()
    moved = np.linalg.norm(one - federated, axis=1)
    assert (moved > 1e-6).all()  # everybody learned, also who was not asked last
    assert (moved < np.linalg.norm(one - start, axis=1)).all()  # no new start
    assert not np.array_equal(one[0], one[1])


def test_iterations_are_counted_also_where_a_round_has_several(plain: np.ndarray) -> None:
    two = after([], 2)[1]
    assert not np.array_equal(two, plain)
    assert not np.array_equal(two, after([], 1)[1])


def test_a_run_tells_of_it_beside_the_federation(tmp_path: Path) -> None:
    summary = run(BASE, tmp_path / "run", overrides=["evaluation.fine_tune=5"])
    assert summary["baselines"]["fine_tuned"]["mean"] is not None
    assert len(summary["baseline_agents"]["fine_tuned"]) == 3
    assert summary["environment_steps"] == 2 * (3 + 5) * 3 * 16
    lines = [r for r in RunFolder(tmp_path / "run").records() if r["method"] == "fine_tuned"]
    assert [r["environment_steps"] for r in lines] == [(3 + 5) * 3 * 16] * 2
    page = (tmp_path / "run" / "report.html").read_text().split("<script")[0]
    assert "fine tuned" in page
    assert "interrupted" not in page


def test_a_mixture_does_what_most_of_its_policies_would_and_averages_no_parameters(tmp_path: Path) -> None:
    experiment = build(load(BASE, ["baselines.mixture=true", "fleet={}"]))
    right, left = np.eye(4, dtype=np.float32)[[RIGHT, LEFT]]
    tables = np.stack([right, right, 100 * left])[:, None, :].repeat(4, axis=1)  # `[agents, states, actions]`
    alone = [SeedResult(0, 3, {"q": tables}, True, [], [])]
    session = Session(experiment, RunFolder(tmp_path), [], Timing(0.0))
    (together,), (once,) = mixed(session, alone), averaged(session, alone)
    assert np.min(np.array(together.greedy, float)) > 0.9  # the goal, less what its steps cost
    assert np.min(np.array(together.held_out, float)) > 0.9
    assert np.max(np.array(once.greedy, float)) < 0.0
    record = RunFolder(tmp_path).records()[0]
    assert (record["method"], record["bytes_up"], record["bytes_down"]) == ("mixture", tables.nbytes, 3 * tables.nbytes)


def test_a_mixture_needs_no_other_baseline_to_be_asked_for(tmp_path: Path) -> None:
    summary = run(BASE, tmp_path / "run", overrides=["baselines.mixture=true", "seeds=1"])
    assert set(summary["baselines"]) == {"independent", "mixture"}
    assert summary["environment_steps"] == 2 * 3 * 3 * 16
