"""The alarm goes off where federation hurts, and seldom where it does not."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from fedrl.core.learner import Learner
from fedrl.environments import gridworld
from fedrl.learners import accept_if_better, q_table
from fedrl.records.statistics import lower_end
from fedrl.report import write_report
from fedrl.runs.warnings import LEVEL, warnings_of
from fedrl.sinks.final_summary import final_summary
from tests.support.made_runs import make_run

SEEDS, AGENTS = 5, 6


@pytest.fixture(scope="module")
def learner() -> Learner:
    return q_table(gridworld("S.G"))


def returns(offset: float, seed: int, seeds: int = SEEDS) -> list[list[float]]:
    draw = np.random.default_rng(seed)
    table = 100 + draw.normal(size=(seeds, 1)) + draw.normal(size=(seeds, AGENTS))
    table += offset * (np.arange(AGENTS) == 2) - offset / AGENTS  # agent 2 gains what the others lose
    return table.tolist()


def test_an_agent_that_does_better_alone_is_named_with_the_cures(learner: Learner) -> None:
    (warning,) = warnings_of(learner, returns(0.0, 0), returns(50.0, 1))
    assert warning["kind"] == "federation_hurts"
    (hurt,) = warning["agents"]
    assert hurt["id"] == 2
    assert 0 < hurt["at_least"] < hurt["independent"] - hurt["federated"]
    assert "agent 2 returns 14" in warning["message"]
    named = [remedy.partition("(")[0] for remedy in warning["remedies"]]
    assert named[:3] == ["personal", "interpolate", "accept_if_better"]
    assert "evaluation.fine_tune" in named[3]


def test_a_cure_that_is_taken_is_not_advised() -> None:
    (warning,) = warnings_of(
        accept_if_better(q_table(gridworld("S.G"))), returns(0.0, 0), returns(50.0, 1), fine_tuned=True
    )
    assert [remedy.partition("(")[0] for remedy in warning["remedies"]] == ["personal", "interpolate"]


def test_where_federation_helps_or_makes_no_difference_there_is_none(learner: Learner) -> None:
    better = (np.array(returns(0.0, 0)) + 20.0).tolist()
    assert warnings_of(learner, better, returns(0.0, 1)) == []
    false = sum(bool(warnings_of(learner, returns(0.0, 2 * i), returns(0.0, 2 * i + 1))) for i in range(400))
    assert false / 400 <= 1 - LEVEL + 0.03  # 0.05, and chance


def test_harm_to_everybody_a_little_each_is_seen_in_the_mean(learner: Learner) -> None:
    draw = np.random.default_rng(0)
    ours = draw.normal(size=(SEEDS, 40))
    theirs = ours + 1.0 + 1.5 * draw.normal(size=(SEEDS, 40))
    (warning,) = warnings_of(learner, ours.tolist(), theirs.tolist())
    assert warning["everybody"]
    assert not warning["agents"]


@pytest.mark.parametrize("seeds", [1, 2])
def test_with_few_seeds_there_is_no_telling(seeds: int, learner: Learner) -> None:
    assert warnings_of(learner, returns(0.0, 0, seeds), returns(50.0, 1, seeds)) == []


def test_a_return_that_is_missing_raises_no_alarm(learner: Learner) -> None:
    ours: list[list[float | None]] = [[None, 1.0]] * 3
    assert warnings_of(learner, ours, [[9.0, 1.0]] * 3) == []


def test_the_lower_end_covers_as_it_says() -> None:
    draw = np.random.default_rng(0)
    for seeds in (3, 5):
        above = np.mean([lower_end(draw.normal(size=seeds), 0.95) > 0 for _ in range(4000)])
        assert above == pytest.approx(0.05, abs=0.012)


def test_an_alarm_is_seen_on_the_page_and_on_the_terminal(learner: Learner, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", agents=AGENTS)
    path = folder / "summary.json"
    summary: Any = json.loads(path.read_text())
    assert 'role="alert"' not in write_report([folder], tmp_path / "calm.html").read_text()
    summary["warnings"] = warnings_of(learner, returns(0.0, 0), returns(50.0, 1))
    summary["heterogeneity"] = {"dispersion": 3.25, "cosine": 0.125}
    path.write_text(json.dumps(summary))
    page = write_report([folder], tmp_path / "page.html").read_text()
    assert 'role="alert"' in page
    assert "Federation hurts: agent 2 returns" in page
    assert "3.25" in page
    console = Console(file=io.StringIO(), width=100)
    console.print(final_summary({"event": "end", "summary": summary, "folder": "runs/x", "report": None}))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "! Federation hurts" in shown
    assert "! 2" in shown
