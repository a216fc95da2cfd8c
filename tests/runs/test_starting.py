"""Runs that start from an earlier one, and what is refused before there is a folder."""

import json
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy

import fedrl
from fedrl.config import load as load_config
from fedrl.config.build import build
from fedrl.core.errors import ConfigError, RunError
from fedrl.core.learner import policy_shapes
from fedrl.records import checkpoint
from fedrl.records.folder import RunFolder
from fedrl.runs.policy import load
from fedrl.runs.run import resume, run
from fedrl.runs.simulations import simulation_of
from fedrl.runs.starting import first_state, origins, read_start
from tests.support.made_policies import made_policy

TABLES: dict[str, Any] = {
    "name": "corridor",
    "rounds": 3,
    "seeds": 2,
    "checkpoint_s": 0,
    "environment": {"name": "gridworld", "layout": "S..G", "max_steps": 20},
    "fleet": {"slip": [0.0, 0.1, 0.2]},
    "learner": {"name": "q_table", "num_envs": 2, "num_steps": 8, "learning_rate": 0.5, "epsilon": 0.3},
    "federation": {"agents": 3, "server_optimizer": {"name": "fedavgm", "momentum": 0.9}},
    "baselines": {"independent": True, "centralised": True},
    "evaluation": {"episodes": 2},
}


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has ended."""
    out = tmp_path_factory.mktemp("earlier") / "run"
    run(TABLES, out)
    return out


@pytest.fixture
def copied(earlier: Path, tmp_path: Path) -> Path:
    return shutil.copytree(earlier, tmp_path / "x")


def first_of(place: Path, init: Any, seed: int, **changes: Any) -> dict[str, Any]:
    """The first state of each method, with its simulation."""
    experiment, start = read_start(build(load_config({**TABLES, **changes, "init": init})))
    assert start is not None
    folder = RunFolder(place)
    (place / "checkpoints").mkdir(parents=True)
    start.write(folder)
    found = {}
    for method in experiment.methods:
        with simulation_of(experiment, method) as simulation:
            found[method.name] = (simulation, first_state(folder, experiment, method, simulation, seed))
    return found


def table(place: Path, name: str) -> np.ndarray:
    return np.asarray(safetensors.numpy.load_file(place / "params.safetensors")[name])


def test_every_method_starts_from_the_parameters_of_the_seed_of_the_same_number(earlier: Path, tmp_path: Path) -> None:
    for init in (str(earlier), {"run": str(earlier / "params.safetensors")}):
        for name, (simulation, run_state) in first_of(tmp_path / f"{type(init)}", init, 1).items():
            for row in simulation.params_of(run_state)["q"]:
                np.testing.assert_array_equal(row, table(earlier, "seed1/q"), err_msg=name)


def test_seeds_start_from_the_first_if_there_is_none_of_their_number_and_it_is_said(
    earlier: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    changes = {**TABLES, "rounds": 1, "baselines": {}}
    summary = run(changes | {"seeds": [1, 4, 7]}, out, init=earlier)
    assert summary["notes"] == [
        f"Seeds 4, 7 start from seed 0 of {earlier}, which has no seed of these numbers.",
    ]
    assert not (out / "checkpoints").exists()
    summary = run(changes | {"seeds": [1, 4]}, tmp_path / "chosen", init={"run": str(earlier), "seed": 1})
    assert "notes" not in summary


def test_the_digest_of_what_was_read_is_recorded_and_another_content_refused(copied: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run({**TABLES, "rounds": 1, "baselines": {}}, out, init=copied)
    told = tomllib.loads((out / "config.toml").read_text())["init"]
    assert told["run"] == str(copied)
    assert list(told["sha256"]) == ["params.safetensors"]
    run(out / "config.toml", tmp_path / "again")
    assert (out / "params.safetensors").read_bytes() == (tmp_path / "again" / "params.safetensors").read_bytes()
    arrays = safetensors.numpy.load_file(copied / "params.safetensors")
    metadata = load(copied).facts
    assert metadata.agents == 3
    with safetensors.safe_open(copied / "params.safetensors", "numpy") as file:
        words = file.metadata()
    arrays["seed0/q"][0] += 1.0
    safetensors.numpy.save_file(arrays, copied / "params.safetensors", words)
    with pytest.raises(ConfigError, match=r"init\.sha256 has [0-9a-f]{64} for params\.safetensors, .* it was changed"):
        run(out / "config.toml", tmp_path / "changed")
    assert not (tmp_path / "changed").exists()


@pytest.mark.parametrize("state", ["parameters", "all"])
def test_a_resumed_run_does_not_need_the_earlier_one(copied: Path, tmp_path: Path, state: str) -> None:
    import threading

    tables = {**TABLES, "init": {"run": str(copied), "state": state}}
    run(tables, tmp_path / "whole")
    stop = threading.Event()
    run(tables, tmp_path / "stopped", sinks=[lambda event: stop.set()], stop=stop)
    shutil.rmtree(copied)
    resume(tmp_path / "stopped")
    one, other = ((tmp_path / name / "params.safetensors").read_bytes() for name in ("whole", "stopped"))
    assert one == other
    resume(tmp_path / "stopped", rounds="+1")
    assert load(tmp_path / "stopped").params


def test_a_whole_state_is_that_of_servers_and_agents(earlier: Path, tmp_path: Path) -> None:
    found = first_of(tmp_path / "run", {"run": str(earlier), "state": "all"}, 1)
    simulation, run_state = found["federated"]
    last = checkpoint.load(earlier / "final" / "federated-1.safetensors", simulation.init(1))
    for one, other in (
        (run_state.server._replace(version=0), last.server._replace(version=0)),
        (simulation.states_of(run_state), simulation.states_of(last)),
    ):
        jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), one, other)
    momentum = jax.tree.leaves(run_state.server.optimizer)
    assert any(np.any(np.asarray(leaf) != 0) for leaf in momentum)
    alone, alone_state = found["independent"]
    wanted = simulation.states_of(simulation.adopt(last))
    jax.tree.map(np.testing.assert_array_equal, alone.states_of(alone_state), wanted)
    central, central_state = found["centralised"]
    np.testing.assert_array_equal(central.params_of(central_state)["q"][0], table(earlier, "seed1/q"))


def test_personal_policies_start_agents_by_choice_and_those_of_servers_by_default(tmp_path: Path) -> None:
    personal, shared = (made_policy(tmp_path / name, name) for name in ("personal", "interpolated"))
    site = {"name": "site", "environment": "cartpole", "federation": {"agents": 1}, "seeds": 1}
    plain = load(personal, agent=2).facts.learner["learner"]

    def start(init: Any, learner: Any = plain) -> Any:
        _, found = read_start(build(load_config(site | {"learner": learner, "init": init})))
        assert found is not None
        return checkpoint.unnamed(dict(found.arrays[0]), "policy", shapes)

    shapes = policy_shapes(load(personal, agent=0).learner)
    same: Callable[[Any, Any], Any] = lambda x, y: jax.tree.map(np.testing.assert_array_equal, x, y)  # noqa: E731
    same(start({"run": str(personal), "agent": 2}), load(personal, agent=2).params)
    same(start({"run": str(shared)}), load(shared).params)
    same(start({"run": str(shared), "agent": 1}), load(shared, agent=1).params)
    frozen = {"name": "freeze_except", "learner": plain, "trainable": ["actor/-1"]}
    same(start({"run": str(personal), "agent": 1}, frozen), load(personal, agent=1).params)
    with pytest.raises(ConfigError, match=r"^init\.agent is not given, and agents 0 to 2 of .* have a policy each"):
        start(str(personal))


REFUSED: list[tuple[str, Any, dict[str, Any], str]] = [
    ("no run", {"run": "nowhere"}, {}, r"^init\.run: nowhere does not exist\. Give the folder"),
    ("no seed", {"seed": 7}, {}, r"^init\.seed is 7, and .* holds seeds 0, 1\. Choose one of them\."),
    ("no agent", {"agent": 3}, {}, r"^init\.agent is 3, and the run has agents 0 to 2\. Choose one of them\."),
    (
        "other spaces",
        {},
        {"environment": {"name": "gridworld", "layout": "S...G"}},
        r"has the array q as float32\[4, 4\], and this run needs it as float32\[5, 4\]\. Use the network",
    ),
    (
        "another learner",
        {},
        {"learner": {"name": "ppo", "network": {"name": "mlp", "hidden": [8]}}},
        r"has no array actor/0/bias, which this run needs as float32\[8\]\. Use the network",
    ),
    (
        "other agents",
        {"state": "all"},
        {"federation": {"agents": 2}, "fleet": {}},
        r"has 3 agents, and this run has 2\. .* Use init\.state = 'parameters', or as many agents",
    ),
    (
        "other parts",
        {"state": "all"},
        {"federation": {"agents": 3, "aggregator": "median"}},
        r"another federation\.aggregator\.name \('mean' there, 'median' here\)\. .* Use init\.state = 'parameters'",
    ),
    (
        "other copies",
        {"state": "all"},
        {"learner": {**TABLES["learner"], "num_envs": 4}},
        r"has the array \S+/cell as int32\[2, 2\], and the experiment as int32\[2, 4\]: .* A whole state",
    ),
]


@pytest.mark.parametrize(("init", "changes", "sentence"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_does_not_fit_is_refused_before_there_is_a_folder(
    earlier: Path, tmp_path: Path, init: dict[str, Any], changes: dict[str, Any], sentence: str
) -> None:
    tables = {**TABLES, "baselines": {}, **changes, "init": {"run": str(earlier), **init}}
    if "federation" in changes and changes["federation"].get("aggregator") == "median":
        tables["federation"] = {**TABLES["federation"], **changes["federation"]}
    with pytest.raises((ConfigError, RunError), match=sentence):
        run(tables, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_whole_state_that_was_not_kept_is_refused(copied: Path, tmp_path: Path) -> None:
    shutil.rmtree(copied / "final")
    with pytest.raises(RunError, match=r"has no state of seed 0: .* with keep_checkpoints = true"):
        run(TABLES, tmp_path / "run", init={"run": str(copied), "state": "all"})


def test_a_network_of_other_words_is_refused_although_its_arrays_fit(tmp_path: Path) -> None:
    place = made_policy(tmp_path / "x", "softmax")
    learner = {"name": "ppo", "network": {"name": "mlp", "hidden": [16, 16], "activation": "relu"}}
    tables = {"name": "y", "environment": "cartpole", "learner": learner, "federation": {"agents": 2}, "seeds": 1}
    with pytest.raises(ConfigError, match=r"another network: network\.activation \('tanh' there, 'relu' here\)"):
        run(tables, tmp_path / "y", init=place)


def test_nothing_that_the_earlier_run_names_is_executed(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trap.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'sprung')!r}).touch()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with safetensors.safe_open(copied / "params.safetensors", "numpy") as file:
        words = dict(file.metadata())
    told = json.loads(words["fedrl"])
    told["learner"] = {"name": "trap:make"}
    arrays = safetensors.numpy.load_file(copied / "params.safetensors")
    safetensors.numpy.save_file(arrays, copied / "params.safetensors", {"fedrl": json.dumps(told)})
    config = (copied / "config.toml").read_text()
    assert "imports = []" in config
    changed = config.replace("imports = []", 'imports = ["trap"]').replace('"gridworld"', '"trap:make"')
    (copied / "config.toml").write_text(changed)
    for state in ("parameters", "all"):
        run({**TABLES, "rounds": 1, "baselines": {}}, tmp_path / state, init={"run": str(copied), "state": state})
    assert not (tmp_path / "sprung").exists()


def test_a_run_of_gymnasium_starts_from_another_one(tmp_path: Path) -> None:
    tables = {
        "name": "hosted",
        "rounds": 1,
        "seeds": 1,
        "environment": {"name": "gymnasium", "id": "CartPole-v1"},
        "fleet": {},
        "learner": {"name": "a2c", "num_envs": 1, "num_steps": 4, "network": {"name": "mlp", "hidden": [4]}},
        "federation": {"agents": 2},
        "evaluation": {"episodes": 1},
    }
    run(tables, tmp_path / "x")
    before = load(tmp_path / "x").params
    experiment, start = read_start(build(load_config({**tables, "init": {"run": str(tmp_path / "x"), "state": "all"}})))
    assert start is not None
    folder = RunFolder(tmp_path / "y")
    (tmp_path / "y" / "checkpoints").mkdir(parents=True)
    start.write(folder)
    assert origins(folder, experiment) == []
    with simulation_of(experiment, experiment.methods[0]) as simulation:
        run_state = first_state(folder, experiment, experiment.methods[0], simulation, 0)
        jax.tree.map(np.testing.assert_array_equal, run_state.server.params, before)
        simulation.round(run_state)


def test_init_is_a_path_or_a_table() -> None:
    for wrong, sentence in (
        (3, r"init is 3\. It needs to be a string or a table\."),
        ({"run": "x", "sed": 1}, r"init\.sed is 1, .*Did you mean 'seed'"),
        ({"seed": 1}, r"init\.run is missing"),
        ({"run": "x", "seed": -1}, r"init\.seed is -1\. It needs to be a whole number, 0 or more"),
        ({"run": "x", "state": "whole"}, r"init\.state is 'whole', which is not known\. .*all, parameters"),
        ({"run": "x", "state": "all", "agent": 1}, r"init\.agent is 1, and with init\.state = 'all' every agent"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            load_config({**TABLES, "init": wrong})
    federation = fedrl.FederationConfig(agents=2)
    assert load_config(
        fedrl.Config(name="y", environment="cartpole", learner="ppo", federation=federation, init="x")
    ).init
