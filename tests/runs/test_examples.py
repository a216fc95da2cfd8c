"""The shipped examples run, and what they say of themselves is so."""

import math
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fedrl
from fedrl.config import Config, load
from fedrl.config.build import build
from fedrl.records.folder import open_folder
from fedrl.shipped import examples
from tests.support import short_examples
from tests.support.short_examples import ROUNDS

FILES = [path for path in examples().values() if path.suffix == ".toml"]
QUICK = {  # one device and next to no optimisation: there is much to compile and little to compute
    "XLA_FLAGS": "--xla_force_host_platform_device_count=1 --xla_cpu_prefer_vector_width=256",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
}
COMPLETE = {"config.toml", "records.jsonl", "summary.json", "params.safetensors", "film.gif", "report.html", "final"}


def numbers(value: Any) -> Iterator[float]:
    """All numbers in lists and dictionaries, however deep."""
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from numbers(part)
    elif isinstance(value, float | int):
        yield value


def commands() -> list[Any]:
    """What the examples' comments tell the reader to type."""
    return [
        pytest.param(shlex.split(line), id=f"{path.stem}-{i}")
        for path in FILES
        for i, line in enumerate(
            re.findall(r"^#     fedrl run (.*)$", re.sub(r" \\\n# +", " ", path.read_text()), re.MULTILINE)
        )
    ]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the examples' runs, each named by its file."""
    folder = tmp_path_factory.mktemp("runs")
    command = [sys.executable, short_examples.__file__, str(folder)]
    subprocess.run(command, env=os.environ | QUICK, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return folder


@pytest.mark.parametrize("name", sorted(path.name for path in examples().values()))
def test_an_example_runs(name: str, runs: Path) -> None:
    """Nothing is missing, nothing is infinite, nobody was refused, and agents talked."""
    folder = runs / name.replace(".", "-")
    error = folder.with_suffix(".error")
    assert not error.exists(), error.read_text()
    config, summary, records = (
        load(folder / "config.toml"),
        open_folder(folder).summary(),
        open_folder(folder).records(),
    )
    charged = {"privacy.jsonl"} if config.federation.privacy else set()
    assert {path.name for path in folder.iterdir()} == COMPLETE | charged
    assert all(math.isfinite(x) for x in numbers([summary, records]))
    assert summary["rounds"] == ROUNDS
    assert len(summary["agents"]) == config.federation.agents
    assert all(agent["return"] is not None for agent in summary["agents"])
    asked = {method for method in ("independent", "average_once", "centralised") if getattr(config.baselines, method)}
    assert set(summary["baselines"]) == asked
    trained = {(r["method"], r["round"]) for r in records if r["method"] != "average_once"}
    assert trained == {(m, n) for m in {"federated", *asked} - {"average_once"} for n in range(1, ROUNDS + 1)}
    assert sum(r["rejected"] for r in records) == 0
    assert summary["bytes_up"] > 0


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_example_resolves_to_itself(path: Path) -> None:
    experiment = build(load(path))
    assert experiment.methods[0].communicates
    assert build(experiment.config).federation == experiment.federation


@pytest.mark.parametrize("words", commands())
def test_a_command_in_a_comment_builds(words: list[str]) -> None:
    changes = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    assert build(load(words[0], changes)).methods[0].communicates


def test_there_are_commands_in_every_example() -> None:
    assert {case.id.split("-")[0] for case in commands()} == {path.stem for path in FILES}
    assert sum("--set" in case.values[0] for case in commands()) >= 5


def test_scaffold_is_a_change_of_two_lines() -> None:
    changes = [
        "learner.optimizer=['add_correction', {name='sgd', learning_rate=0.05}]",
        "federation.stages=[{name='scaffold', learning_rate=0.05, gradient_steps=16}]",
    ]
    federation = build(load("heterogeneous", changes)).federation
    assert "scaffold" in repr(federation)


def test_the_example_in_python_is_the_one_in_toml(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Config] = []

    def run(config: Config) -> dict[str, Any]:
        seen.append(config)
        return {"final_return": None}

    monkeypatch.setattr(fedrl, "run", run)
    runpy.run_path(str(examples()["cartpole.py"]))
    assert build(load(seen[0])).config == build(load("cartpole")).config


def test_the_small_network_with_bounded_logits_solves_its_task_for_every_seed(tmp_path: Path) -> None:
    result = fedrl.run("chapter", tmp_path / "chapter", overrides=["evaluation.every=0"])
    assert result["seeds"] == [0, 1, 2, 3, 4]
    for seed in result["seeds"]:
        policy = fedrl.load(tmp_path / "chapter", seed=seed)
        assert policy.evaluate(episodes=30, seed=1).returns.mean() >= 475, seed
