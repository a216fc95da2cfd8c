"""Sinks: a table of rounds, a function of rounds, and the display in a notebook."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from rich.console import Group
from rich.text import Text

import fedrl
from fedrl import RunError
from fedrl.records.folder import RunFolder
from fedrl.records.table import row_of, table_of, text_of
from fedrl.sinks import csv_file, on_round
from fedrl.sinks import display as shown
from fedrl.sinks.notebook import html_of
from tests.cli.test_progress import Clock, events, row
from tests.support.made_runs import make_run

CORRIDOR: dict[str, Any] = {
    "name": "corridor",
    "rounds": 40,
    "seeds": 1,
    "environment": {"name": "gridworld", "layout": "S..G", "max_steps": 20},
    "learner": {"name": "q_table", "num_envs": 2, "num_steps": 8},
    "federation": {"agents": 2},
    "evaluation": {"episodes": 2, "every": 3, "film": False},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"), methods=("federated", "independent"), seeds=2, rounds=20)


def test_a_sink_stops_a_run_early_and_the_rest_can_follow(tmp_path: Path) -> None:
    stop, seen = threading.Event(), []

    def enough(record: Any) -> None:
        seen.append(record["round"])
        if record["round"] == 5:
            stop.set()

    write = csv_file(tmp_path / "rounds.csv")
    short = fedrl.run(CORRIDOR, tmp_path / "run", sinks=[on_round(enough), write], stop=stop, verbose=0)
    assert seen == [1, 2, 3, 4, 5]
    assert list(short.curves()["round"]) == seen
    # Those of the evaluations begin in the third round.
    with (tmp_path / "rounds.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["greedy_success"] != "" for row in rows] == [False, False, True, False, False]
    assert {tuple(row.items()) for row in rows} == {
        tuple(row.items()) for row in csv.DictReader(text_of(table_of(RunFolder(short.folder).read())).splitlines())
    }
    whole = fedrl.resume(tmp_path / "run", verbose=0)
    assert len(whole.curves()) == CORRIDOR["rounds"]


def test_lines_are_in_the_file_as_soon_as_a_round_ends(tmp_path: Path) -> None:
    file = tmp_path / "rounds.csv"
    file.write_text("older\n")
    write = csv_file(str(file))
    assert file.read_text() == ""
    for number, more in enumerate(({}, {}, {"measures": {"a, b": 1.5}}, {}), 1):
        write({**row("federated", 0, number), "environment_steps": 64 * number, "seconds": 0.5, **more})
        lines = list(csv.DictReader(file.read_text().splitlines()))
        assert [line["round"] for line in lines] == [str(i) for i in range(1, number + 1)]
    assert [line["a, b"] for line in lines] == ["", "", "1.5", ""]
    write({"event": "compile", "method": "federated"})
    assert len(file.read_text().splitlines()) == 5


def test_a_file_that_cannot_be_written_is_refused_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="can't be written to"):
        csv_file(tmp_path / "file" / "rounds.csv")


def test_a_measure_that_is_called_like_a_column_loses_nothing() -> None:
    found = row_of({**row("federated", 0, 3), "seconds": 0.5, "measures": {"seconds": 7.0, "round": 9.0}})
    assert (found["seconds"], found["measure_seconds"], found["round"], found["measure_round"]) == (0.5, 7.0, 3, 9.0)


class Output:
    """An output of a notebook."""

    def __init__(self) -> None:
        self.pages: list[str] = []

    def __call__(self, html: str) -> None:
        self.pages.append(html)


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch) -> Output:
    made = Output()
    monkeypatch.setattr(shown, "updating", lambda: made)
    return made


def test_in_a_notebook_one_output_is_redrawn_a_few_times_a_second(folder: Path, output: Output) -> None:
    clock = Clock()
    with shown.notebook(clock) as sink:
        for event in events(folder, name="<b>poles"):
            sink(event)
            clock.now += 0.05
    assert 80 * 0.05 / shown.REDRAWN_S * 0.5 <= len(output.pages) <= 80 * 0.05 / shown.REDRAWN_S + 5
    assert "&lt;b&gt;poles: 10 agents, 2 seeds, 20 rounds" in output.pages[0]
    assert "<b>poles" not in "".join(output.pages)
    assert "compiling" in output.pages[1]
    *_, end = events(folder)
    assert output.pages[-1].count("return ") == 2, "the last state stays"
    assert len(end["summary"]["agents"]) == 10


def test_in_a_notebook_warnings_stay_and_the_view_of_a_run_that_failed_goes(folder: Path, output: Output) -> None:
    first, *_, end = events(folder)
    end["summary"]["warnings"] = [{"kind": "", "agents": [], "everybody": True, "message": "It hurts.", "remedies": []}]
    end["summary"]["notes"] = ["1 line is lost."]
    with shown.notebook() as sink:
        sink(first)
        sink({"event": "rejected", "method": "federated", "seed": 0, "round": 3, "agents": [1], "reason": "nan"})
        sink(end)
    for text in ("It hurts.", "1 line is lost.", "rejected twice in a row"):
        assert text in output.pages[-1]

    def failing() -> None:
        with shown.notebook() as sink:
            sink(first)
            raise RunError("gone")

    with pytest.raises(RunError, match="gone"):
        failing()
    assert output.pages[-1] == ""


def test_html_has_the_whole_line_and_no_tags_of_its_text() -> None:
    assert "x" * 500 in html_of(Group(Text("x" * 500, no_wrap=True, overflow="ignore")))
    assert "&lt;script&gt;" in html_of("<script>")


def test_a_silent_run_imports_neither_rich_nor_pandas_nor_plotly(tmp_path: Path) -> None:
    program = (
        f"import sys, fedrl; fedrl.run({CORRIDOR | {'rounds': 1, 'seeds': 1}!r}, {str(tmp_path / 'run')!r}, verbose=0);"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'rich', 'pandas', 'matplotlib', 'IPython'}),"
        "'plotly.graph_objects' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[] False\n"


def test_in_a_pipe_a_run_writes_a_line_a_round_at_most(tmp_path: Path) -> None:
    program = f"import fedrl; fedrl.run({CORRIDOR!r}, {str(tmp_path / 'run')!r})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if ", round " in line]
    assert 2 <= len(lines) <= CORRIDOR["rounds"]
    assert len(lines) == len(set(lines))
    assert "\x1b" not in done.stdout
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["rounds"] == CORRIDOR["rounds"]


def test_a_run_goes_on_when_nobody_reads_its_output(tmp_path: Path) -> None:
    program = f"import fedrl; fedrl.run({CORRIDOR | {'rounds': 3}!r}, {str(tmp_path / 'run')!r})"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b"corridor: ")
        process.stdout.close()
        said = process.stderr.read()
        assert process.wait() == 0, said
    assert said == b""
    assert (tmp_path / "run" / "report.html").is_file()
    assert not (tmp_path / "run" / "checkpoints").exists()
