"""The Python that the documents show runs, and the TOML builds."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

import fedrl
from fedrl.aggregators import mean
from fedrl.config import load
from fedrl.config.build import build
from fedrl.config.catalogue import fill
from fedrl.core.component import CATALOGUE
from fedrl.environments import cartpole
from fedrl.learners import ppo
from fedrl.stages import clip, uniform_quantize
from tests.support.made_policies import made_policy

ROOT = Path(__file__).parent.parent


def shown(language: str) -> list[Any]:
    return [
        pytest.param(code, id=f"{path.name}-{i}")
        for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
        for i, code in enumerate(re.findall(rf"```{language}\n(.*?)```", path.read_text(), re.DOTALL))
    ]


@pytest.fixture
def own_catalogue():
    """What the shown code adds to the catalogue is gone afterwards."""
    fill()
    before = dict(CATALOGUE)
    yield
    CATALOGUE.clear()
    CATALOGUE.update(before)


BLOCKS, FRAGMENTS = shown("python"), shown("toml")
SHOWN_RUNS = {"cartpole": "softmax", "pendulum": "normalised", "personal": "personal"}
"""Run folders that shown code loads, and what is made for each."""


@pytest.mark.parametrize("code", BLOCKS)
@pytest.mark.filterwarnings("ignore:JAX's backend already runs:RuntimeWarning")
def test_shown_code_runs(code, capsys, monkeypatch, tmp_path, own_catalogue):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in set(re.findall(r'load\("runs/(\w+)"', code)):
        made_policy(tmp_path / "runs" / name, SHOWN_RUNS[name])
    names = {"federate": fedrl.federate, "mean": mean, "clip": clip, "ppo": ppo, "cartpole": cartpole}
    exec(code.replace("range(60)", "range(1)"), names)
    if "print(" in code:
        assert 10 < float(capsys.readouterr().out) < 60  # what an untrained policy holds out


@pytest.mark.parametrize("fragment", FRAGMENTS)
def test_shown_settings_build(fragment):
    """Each is meant for the first example: the sections it has go over those that are there."""
    data = tomllib.loads((ROOT / "examples" / "cartpole.toml").read_text())
    for section, keys in tomllib.loads(fragment).items():
        data[section] = data[section] | keys if section == "federation" else keys
    assert build(load(data)).methods[0].communicates


def test_where_uniform_quantisation_saturates_is_said_where_it_is_listed():
    row = next(x for x in (ROOT / "docs" / "concepts.md").read_text().splitlines() if "`uniform_quantize(b)`" in x)
    assert "saturates at ±(1/2" in row
    assert "clip(round(2<sup>b</sup> Δ)" in row
    assert "C(x) = clip(round(2^b x), -s, s) / 2^b,     s = 2^(b - 1) - 1" in uniform_quantize.__doc__


def test_there_is_code_to_run():
    assert len(BLOCKS) >= 2
    assert len(FRAGMENTS) >= 10
