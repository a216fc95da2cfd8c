"""What `fedrl.sweep` returns: study.json as a mapping, and with it the curves of all settings, a chart, the runs."""

from __future__ import annotations

import csv
import json
import sys
import threading
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fedrl import ConfigError, RunError, StudyResult, sweep
from fedrl.cli import main
from fedrl.records import Event
from fedrl.sinks import csv_file
from fedrl.studies.folder import open_folder
from fedrl.studies.result import study_in
from tests.studies.test_page import make_study

BOTH = ["federation.agents", "federation.stages.quantize.bits"]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    """Six settings, of which the last has not run."""
    return StudyResult.read(make_study(tmp_path_factory.mktemp("studies") / "study", skip=1))


def test_a_result_is_the_mapping_of_the_study(result: StudyResult) -> None:
    assert result == study_in(open_folder(result.folder))
    assert json.loads(json.dumps(result.study)) == result
    assert [each["state"] for each in result["settings"]] == ["finished"] * 5 + ["waiting"]
    assert repr(result) == f"<StudyResult of {result.folder}: 5 of 6 settings finished>"


def test_curves_have_the_rounds_of_every_setting_with_its_values(result: StudyResult) -> None:
    frame = result.curves()
    assert list(frame.columns[:6]) == ["setting", *BOTH, "method", "seed", "round"]
    assert len(frame) == 5 * 3 * 4
    assert list(frame.setting.unique()) == [1, 2, 3, 4, 5]
    last = frame[(frame.setting == 4) & (frame["round"] == 4) & (frame.seed == 2)].iloc[0]
    assert (last["federation.agents"], last["federation.stages.quantize.bits"]) == (20, 8)
    assert last["return"] == pytest.approx(4.2)
    assert last.environment_steps == 8000


def test_export_writes_the_same_table_without_pandas(
    result: StudyResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = result.curves()
    monkeypatch.setitem(sys.modules, "pandas", None)
    monkeypatch.setattr(sys, "argv", ["fedrl", "export", str(result.folder), "--csv", "--out", str(tmp_path / "c.csv")])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code
    assert capsys.readouterr().out == f"{tmp_path / 'c.csv'}: 60 rounds, {len(frame.columns)} columns\n"
    with (tmp_path / "c.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == list(frame.columns)
    for line, row in zip(lines, frame.itertuples(index=False), strict=True):
        for text, value in zip(line.values(), row, strict=True):
            assert text == ("" if pd.isna(value) else str(value))


def test_the_chart_has_a_line_for_each_setting_that_has_begun(result: StudyResult) -> None:
    lines = [trace for trace in result.plot().data if trace.showlegend is not False]
    assert [line.name for line in lines] == [each["label"] for each in result["settings"][:5]]
    assert lines[1].y == pytest.approx([1.1, 2.1, 3.1, 4.1])


def test_a_setting_is_reached_by_its_number(result: StudyResult) -> None:
    assert result.run(4).folder == result.folder / result["settings"][3]["folder"]
    assert result.run(4)["final_return"]["mean"] == pytest.approx(4.1)
    with pytest.raises(RunError, match="is not a run folder"):
        result.run(6)
    with pytest.raises(ConfigError, match="setting is 0, and the study has settings 1 to 6"):
        result.run(0)


def test_a_notebook_shows_the_table_of_settings(result: StudyResult) -> None:
    shown = result._repr_html_()
    assert shown.startswith("<pre")
    for word in ("waiting", "640 B", str(result.folder)):
        assert word in shown


def test_a_sweep_shows_its_settings_and_a_sink_may_stop_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small: dict[str, Any] = {
        "name": "corridor",
        "rounds": 3,
        "seeds": 1,
        "environment": {"name": "gridworld", "layout": "S.G", "max_steps": 10},
        "learner": {"name": "q_table", "num_envs": 2, "num_steps": 8},
        "federation": {"agents": 2},
        "evaluation": {"episodes": 2, "film": False},
    }
    stop = threading.Event()

    def second(event: Event) -> None:
        if event.get("event") == "setting" and event["number"] == 2:
            stop.set()

    write = csv_file(tmp_path / "rounds.csv")
    result = sweep(small, {"learner.epsilon": [0.1, 0.2, 0.3]}, tmp_path / "study", sinks=[second, write], stop=stop)
    said = capsys.readouterr().out
    assert [f"setting {i} of 3: epsilon" in said for i in (1, 2, 3)] == [True, True, False]
    assert str(tmp_path / "study") in said
    assert [each["state"] for each in result["settings"]] == ["finished", "interrupted", "waiting"]
    assert not result["complete"]
    with (tmp_path / "rounds.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["setting"], row["round"]) for row in rows] == [("1", "1"), ("1", "2"), ("1", "3")]
    sweep(small, {"learner.epsilon": [0.1]}, tmp_path / "silent", verbose=0)
    assert capsys.readouterr() == ("", "")
