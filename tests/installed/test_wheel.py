"""The wheel works in an empty environment outside of the repository: `make test-wheel`."""

import json
import runpy
import sys
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.installed.environments import empty, said

ROOT = Path(__file__).parents[2]
SHORT = ["--set", "rounds=3", "--set", "seeds=1", "--set", "evaluation.episodes=2", "--set", "baselines={}"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def wheel(place):
    said([sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", place, ROOT], place, empty(place / "home"))
    (found,) = place.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def fedrl(place, wheel):
    """The command line of the installed wheel."""
    venv.create(place / "venv", with_pip=True)
    said([place / "venv" / "bin" / "pip", "install", "--quiet", wheel], place, empty(place / "home"))
    return lambda *words: said([place / "venv" / "bin" / "fedrl", *words], place, empty(place / "home"))


@pytest.fixture(scope="module")
def run(place, fedrl):
    """The folder of a shipped example's run, with few rounds."""
    fedrl("run", "cartpole", *SHORT, "--out", "r")
    return place / "r"


def test_the_wheel_has_every_file_of_the_package(wheel):
    folder = ROOT / "src" / "fedrl"
    files = {str(p.relative_to(folder.parent)) for p in folder.rglob("*") if p.is_file() and p.suffix != ".pyc"}
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == files
    assert {"fedrl/examples/cartpole.toml", "fedrl/report/page.css", "fedrl/py.typed"} <= packed


def test_it_is_installed_outside_of_the_repository(place, fedrl):
    assert fedrl("--version").startswith("fedrl ")
    code = "import fedrl; print(fedrl.__file__)"
    where = said([place / "venv" / "bin" / "python", "-c", code], place, empty(place / "home"))
    assert where.startswith(str(place))


def test_a_shipped_example_runs(run):
    summary = json.loads((run / "summary.json").read_text())
    assert summary["rounds"] == 3
    assert len(summary["agents"]) == 10


def test_the_policy_is_exported_and_acts(run, fedrl):
    fedrl("export", "r", "--to", "numpy")
    predict = runpy.run_path(str(run / "policy.py"))["predict"]
    assert predict(np.zeros(4)) in (0, 1)


def test_a_report_is_written(run, fedrl):
    (run / "report.html").unlink()
    fedrl("report", "r")
    assert "<svg" in (run / "report.html").read_text() or "plotly" in (run / "report.html").read_text()


def test_it_evaluates(run, fedrl):
    assert len(json.loads(fedrl("evaluate", "r", "--json"))["seeds"]["0"]) == 10


def test_examples_and_templates_come_with_it(place, fedrl):
    assert "cartpole.py" in fedrl("examples")
    fedrl("examples", "ring", "--copy", "mine")
    fedrl("init", "mine")
    fedrl("run", "mine/experiment.toml", *SHORT, "--out", "own", "--quiet")
    assert (place / "own" / "report.html").is_file()
    assert json.loads(fedrl("schema"))["properties"]["rounds"]
    assert "Schulman" in fedrl("list", "ppo")
