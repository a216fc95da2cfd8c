"""Nothing that a run folder names is imported or called, whoever reads it, unless the user trusts it."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.numpy
import tomli_w

from fedrl.config import load as load_config
from fedrl.core.component import CATALOGUE
from fedrl.core.errors import ConfigError, FedrlError, RunError
from fedrl.records import folder
from fedrl.report import write_report
from fedrl.runs.policy import load
from fedrl.runs.reading import trained
from fedrl.runs.run import resume
from fedrl.studies import StudyResult, resume_sweep
from fedrl.studies.page import write_study_report
from tests.support.made_policies import made_policy

CANARY = """
import pathlib
pathlib.Path(__file__).with_name("sang").touch()
def sing(*args, **kwargs):
    pathlib.Path(__file__).with_name("sang").touch()
"""
COMMAND = "{'name': 'os:system', 'command': 'touch sang'}"
LEARNER = {"name": "ppo", "network": {"name": "mlp", "hidden": [16, 16]}}


def planted(path: Path, name: str) -> dict[str, dict[str, Any]]:
    """Changes of a configuration that name the canary, each in another place."""
    sing, touch = f"{name}:sing", {"name": "os:system", "command": f"touch {path / 'sang'}"}
    return {
        "imports": {"imports": [name]},
        "environment": {"environment": sing},
        "gymnasium": {"environment": {"name": "gymnasium", "id": sing, "max_steps": 5}},
        "registered": {"environment": {"name": "gymnasium", "id": f"{name}:Walk-v0"}},
        "doubled": {"environment": {"name": "gymnasium", "id": f"os:{name}:Walk-v0"}},
        "learner": {"learner": {"name": sing}},
        "network": {"learner": {**LEARNER, "network": sing}},
        "optimizer": {"learner": {**LEARNER, "optimizer": {"name": sing}}},
        "wrapped": {"learner": {"name": "normalize", "learner": {**LEARNER, "network": sing}}},
        "stage": {"federation": {"agents": 3, "stages": [sing]}},
        "down": {"federation": {"agents": 3, "down_stages": [sing]}},
        "aggregator": {"federation": {"agents": 3, "aggregator": sing}},
        "server": {"federation": {"agents": 3, "server_optimizer": sing}},
        "part": {"federation": {"agents": 3, "parts": {"actor": {"aggregator": sing}}}},
        "selection": {"federation": {"agents": 3, "selection": sing}},
        "clock": {"federation": {"agents": 3, "clock": sing}},
        "imported": {"environment": touch},  # a module that every process has imported
        "called": {"learner": {**LEARNER, "optimizer": touch}},
    }


NAMES = list(planted(Path(), ""))
READERS: dict[str, Callable[[Path], Any]] = {
    "load": load,
    "load file": lambda path: load(path / folder.PARAMS),
    "evaluate": trained,
    "evaluate policy": lambda path: load(path).evaluate(episodes=1),
    "resume": resume,
    "report": lambda path: write_report([path], path / "report.html"),
}


@pytest.mark.parametrize("where", NAMES)
def test_a_folder_runs_no_code(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"canary_{os.getpid()}_{where}"
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"{name}.py").write_text(CANARY)
    monkeypatch.syspath_prepend(str(tmp_path))
    path = made_policy(tmp_path / "run", "softmax")
    _alter(path, planted(tmp_path, name)[where])
    for reader, read in READERS.items():
        with contextlib.suppress(FedrlError):
            read(path)
        assert name not in sys.modules, reader
        assert not (tmp_path / "sang").exists(), reader
    study = tmp_path / "study"
    study.mkdir()
    tables = tomllib.loads((path / folder.CONFIG).read_text())
    (study / "study.toml").write_text(tomli_w.dumps({**tables, "study": {"grid": {"rounds": [1, 2]}}}))
    for read_study in (resume_sweep, write_study_report):
        with contextlib.suppress(FedrlError):
            read_study(study)
        assert name not in sys.modules
        assert not (tmp_path / "sang").exists()


def test_a_trusted_folder_and_an_imported_module_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"trusted_{os.getpid()}"
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"{name}.py").write_text(
        "import fedrl\nfrom fedrl.learners import mlp\n"
        "@fedrl.component('network')\n"
        f"def {name}():\n    return mlp([16, 16])\n"
    )
    path = made_policy(tmp_path / "run", "softmax")
    _alter(path, {"imports": [name], "learner": {**LEARNER, "network": name}})
    for read in (load, trained):
        with pytest.raises(ConfigError, match="--trust"):
            read(path)
    assert name not in sys.modules
    assert load(path, trust=True).predict([0.0, 0.0, 0.0, 0.0]) in (0, 1)
    assert name in sys.modules
    assert load(path).predict([0.0, 0.0, 0.0, 0.0]) in (0, 1)  # imported with the user's consent
    assert trained(path).params
    del CATALOGUE["network", name]


def test_a_folder_that_was_read_lends_no_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An import that the user allows later finds the user's own module, not that of someone else's folder."""
    name = f"lent_{os.getpid()}"
    theirs, study, mine = made_policy(tmp_path / "theirs", "softmax"), tmp_path / "study", tmp_path / "mine"
    study.mkdir()
    mine.mkdir()
    tables = tomllib.loads((theirs / folder.CONFIG).read_text())
    (study / "study.toml").write_text(tomli_w.dumps({**tables, "study": {"grid": {"rounds": [1, 2]}}}))
    (mine / "experiment.toml").write_text(tomli_w.dumps({**tables, "imports": [name]}))
    (mine / f"{name}.py").touch()
    monkeypatch.chdir(mine.parent)
    for path, readers in ((theirs, READERS.values()), (study, (resume_sweep, write_study_report, StudyResult.read))):
        (path / f"{name}.py").write_text(CANARY)
        for read in readers:
            monkeypatch.setattr("fedrl.core.imports._folders", [])
            with contextlib.suppress(FedrlError):
                read(path)
            monkeypatch.setattr("sys.path", [each for each in sys.path if Path(each) not in (theirs, study, mine)])
            load_config(mine / "experiment.toml")
            assert sys.modules.pop(name).__file__ == str(mine / f"{name}.py")
    assert not (theirs / "sang").exists()


def test_the_lock_follows_no_link(tmp_path: Path) -> None:
    path, mine = made_policy(tmp_path / "run", "softmax"), tmp_path / "mine"
    mine.write_text("mine")
    (path / ".lock").symlink_to(mine)
    with pytest.raises(RunError):
        resume(path)
    assert mine.read_text() == "mine"


def test_a_policy_acts_without_the_optimiser_that_trained_it(tmp_path: Path) -> None:
    path = made_policy(tmp_path / "run", "softmax")
    action = load(path).predict([0.1, 0.0, 0.2, 0.0])
    _alter(path, {"learner": {**LEARNER, "optimizer": {"name": "somewhere:else", "learning_rate": 1.0}}})
    assert load(path).predict([0.1, 0.0, 0.2, 0.0]) == action


def _alter(path: Path, changes: dict[str, Any]) -> None:
    """Change the configuration and the metadata of a folder, as an attacker would."""
    tables = tomllib.loads((path / folder.CONFIG).read_text())
    tables.update(changes)
    (path / folder.CONFIG).write_text(tomli_w.dumps(tables))
    file = path / folder.PARAMS
    with safetensors.safe_open(file, "numpy") as opened:
        metadata = json.loads(opened.metadata()["fedrl"])
        arrays = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118  # it has no iterator
    metadata |= {key: value for key, value in changes.items() if key in ("learner", "imports")}
    safetensors.numpy.save_file(arrays, file, {"fedrl": json.dumps(metadata)})
