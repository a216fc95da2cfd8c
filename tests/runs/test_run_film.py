"""The film of a run: in its folder and on its page, never the reason for a failure."""

import base64
import dataclasses
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image

import fedrl
from fedrl.config import load
from fedrl.config.build import build
from fedrl.core.environment import Picture
from fedrl.environments.adapters import gymnasium
from fedrl.records.folder import FILM_BYTES
from fedrl.report import write_report
from fedrl.runs import run as runs
from fedrl.runs import run_film
from fedrl.studies import sweep
from tests.support.made_runs import make_run

CONFIG = {
    "name": "film",
    "environment": {"name": "gridworld", "layout": "S..G", "max_steps": 10},
    "learner": "q_table",
    "federation": {"agents": 2},
    "evaluation": {"episodes": 2},
    "rounds": 2,
    "seeds": [3],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "run"
    fedrl.run(CONFIG, path)
    return path


def summary_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "summary.json").read_text())
    return found


def page_of(path: Path) -> str:
    return (path / "report.html").read_text().split("<script")[0]


def test_a_run_has_a_film_on_its_page_of_the_episode_that_an_evaluation_plays(folder):
    told = summary_of(folder)["film"]
    played = fedrl.load(folder, agent=0).evaluate(episodes=1, seed=3)
    assert told == {
        "seed": 3,
        "agent": 0,
        "return": pytest.approx(played.returns[0]),
        "steps": played.lengths[0],
    }
    content = (folder / "film.gif").read_bytes()
    with Image.open(folder / "film.gif") as gif:
        assert gif.size == (160, 40)
    shown = re.findall(r'<img src="data:image/gif;base64,([^"]+)" alt="[^"]+"', page_of(folder))
    assert [base64.b64decode(text) for text in shown] == [content]
    assert "policy of seed 3 in the environment of agent 0" in page_of(folder)


def test_equal_runs_have_equal_films_and_a_report_that_is_written_again_keeps_it(folder, tmp_path):
    fedrl.run(CONFIG, tmp_path / "again")
    assert (tmp_path / "again/film.gif").read_bytes() == (folder / "film.gif").read_bytes()
    write_report([folder], tmp_path / "page.html")
    assert "data:image/gif" in (tmp_path / "page.html").read_text()


def test_no_film_where_none_is_wanted_nor_in_a_study(tmp_path):
    off = {**CONFIG, "evaluation": {"episodes": 2, "film": False}}
    fedrl.run(off, tmp_path / "off")
    assert "film" not in summary_of(tmp_path / "off")
    assert not (tmp_path / "off/film.gif").exists()
    assert "Film" not in page_of(tmp_path / "off")
    sweep(CONFIG, {"rounds": [1]}, tmp_path / "study")
    assert list((tmp_path / "study").rglob("records.jsonl"))
    assert not list((tmp_path / "study").rglob("film.gif"))


def with_environment(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Let runs have an environment that is altered for the film alone."""
    of_run = run_film.film_of_run

    def altered(experiment: Any, *rest: Any) -> Any:
        return of_run(
            dataclasses.replace(experiment, environment=dataclasses.replace(experiment.environment, **changes)), *rest
        )

    monkeypatch.setattr(runs, "film_of_run", altered)


def exits(*_: Any) -> Any:
    sys.exit(3)


def hangs(*_: Any) -> Any:
    time.sleep(3.0)


@pytest.mark.parametrize(
    ("frame", "told"),
    [
        (lambda state, params: 1 / 0, "failed after step 0: ZeroDivisionError"),
        (exits, "SystemExit: 3"),
        (hangs, r"more than 0\.5 s"),
        (None, "There is no picture of"),
    ],
)
def test_a_film_that_can_not_be_drawn_leaves_a_complete_run_and_a_sentence(tmp_path, monkeypatch, frame, told):
    with_environment(monkeypatch, picture=frame and Picture(frame, 20))
    monkeypatch.setattr(run_film, "LONGEST_S", 0.5 if frame is hangs else 60.0)
    fedrl.run(CONFIG, tmp_path / "run")
    film = summary_of(tmp_path / "run")["film"]
    assert film.keys() == {"skipped"}
    assert re.search(told, film["skipped"])
    assert not (tmp_path / "run/film.gif").exists()
    assert not (tmp_path / "run/checkpoints").exists()
    assert "There is no film: " in page_of(tmp_path / "run")


def test_without_pillow_a_run_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    fedrl.run(CONFIG, tmp_path / "run")
    assert "pip install 'fedrl[render]'" in summary_of(tmp_path / "run")["film"]["skipped"]


def test_the_film_of_an_environment_of_gymnasium_is_small(tmp_path):
    experiment = build(load({**CONFIG, "environment": {"name": "gymnasium", "id": "FrozenLake-v1"}}))
    assert experiment.environment == gymnasium("FrozenLake-v1")
    table = {"q": np.zeros((16, 4), np.float32)}
    result = run_film.SeedResult(0, 1, table, False, [0.0, 0.0], [])
    content, told = run_film._filmed(experiment, result)
    assert told["steps"] > 0
    assert 0 < len(content) <= FILM_BYTES
    assert content.startswith(b"GIF89a")
    assert gym.make("FrozenLake-v1").spec is not None


@pytest.mark.parametrize("content", [None, b"<svg onload='alert(1)'>", b"GIF89a" + bytes(FILM_BYTES)])
def test_a_film_that_is_missing_damaged_or_too_large_is_not_shown(tmp_path, content):
    path = make_run(tmp_path / "run")
    summary = summary_of(path) | {"film": {"seed": 0, "agent": 0, "return": 1.0, "steps": 2}}
    (path / "summary.json").write_text(json.dumps(summary))
    if content is not None:
        (path / "film.gif").write_bytes(content)
    page = write_report([path], tmp_path / "page.html").read_text().split("<script")[0]
    assert "film.gif is missing or damaged." in page
    assert "<img" not in page
