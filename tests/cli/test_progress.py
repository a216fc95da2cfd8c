"""What people see of a run while it goes on, and at its end."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fedrl.sinks.display import live, plain, progress, view
from fedrl.sinks.final_summary import MOST_AGENTS, final_summary
from fedrl.sinks.run_progress import RunProgress, sparkline
from tests.support.made_runs import make_run

METHODS = ("federated", "independent")


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"), methods=METHODS, seeds=2, rounds=20)


def start(**changes: Any) -> dict[str, Any]:
    plan = {"name": "poles", "rounds": 20, "seeds": [0, 1], "methods": list(METHODS), "agents": 10}
    return {"event": "start", "environment_steps_per_round": 10_240} | plan | changes


def events(folder: Path, **changes: Any) -> Iterator[dict[str, Any]]:
    """A whole run; the seeds go side by side."""
    yield start(**changes)
    lines = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    for method in METHODS:
        yield {"event": "compile", "method": method}
        yield from sorted((r for r in lines if r["method"] == method), key=lambda r: (r["round"], r["seed"]))
    summary = json.loads((folder / "summary.json").read_text()) | {"name": changes.get("name", "poles")}
    yield {"event": "end", "summary": summary, "folder": "runs/one", "report": "runs/one/report.html"}


def console_on(out: Any, *, terminal: bool = False, width: int = 100) -> Console:
    """A console that is the same in any surroundings."""
    return Console(file=out, force_terminal=terminal, width=width, _environ={"TERM": "xterm"})


def text_of(item: Any, width: int = 120) -> str:
    console = console_on(io.StringIO(), width=width)
    console.print(item)
    return console.file.getvalue()  # type: ignore[attr-defined]


def row(method: str, seed: int, number: int, returned: float | None = 1.0) -> dict[str, Any]:
    return {"method": method, "seed": seed, "round": number, "return": returned, "bytes_up": 3, "bytes_down": 5}


def played(clock: Clock, rounds: int, pace_s: float = 1.0) -> RunProgress:
    """A run whose compilation took 30 s and whose rounds take a second each."""
    tally = RunProgress(start(), clock)
    tally.compile({"event": "compile", "method": "federated"})
    clock.now += 30
    tally.add(row("federated", 0, 1))
    for number in range(2, rounds + 1):
        clock.now += pace_s
        tally.add(row("federated", 0, number))
    return tally


def test_time_left_is_that_of_the_remaining_rounds_without_compilation() -> None:
    tally = played(Clock(), rounds=11)
    assert tally.left_s == pytest.approx(1.0 * (80 - 11))
    assert tally.elapsed_s == 40


def test_time_left_stands_still_while_another_method_compiles() -> None:
    clock = Clock()
    tally = played(clock, rounds=20)
    for number in range(1, 21):
        clock.now += 1
        tally.add(row("federated", 1, number))
    tally.compile({"event": "compile", "method": "independent"})
    before = tally.left_s
    clock.now += 50
    assert before == tally.left_s == pytest.approx(40, rel=0.05)
    assert tally.share("federated") == 1.0


def test_speed_is_that_of_the_last_seconds() -> None:
    clock = Clock()
    tally = played(clock, rounds=3)
    assert tally.speed == pytest.approx(10_240)
    for number in range(4, 30):
        clock.now += 0.5
        tally.add(row("federated", 0, number))
    assert tally.speed == pytest.approx(20_480)


def test_bytes_and_returns_of_seeds_side_by_side_are_put_together() -> None:
    tally = RunProgress(start(), Clock())
    for number, seed, returned in ((1, 0, 10.0), (1, 1, 20.0), (2, 0, None), (3, 0, math.nan), (4, 1, 40.0)):
        tally.add(row("federated", seed, number, returned))
    assert tally.curve("federated") == [15.0, 40.0]
    assert (tally.bytes_up, tally.bytes_down) == (15, 25)
    assert tally.share("federated") == (3 + 4) / 40


def test_a_resumed_run_counts_the_rounds_done_before() -> None:
    clock = Clock()
    tally = RunProgress(start(seeds=[0]), clock)
    for number in (16, 17, 18):
        clock.now += 1
        tally.add(row("independent", 0, number))
    assert tally.share("federated") == 1.0
    assert tally.left_s == pytest.approx(2.0)


def test_averaging_once_takes_no_rounds_of_its_own() -> None:
    tally = RunProgress(start(methods=[*METHODS, "average_once"]), Clock())
    tally.add(row("average_once", 0, 20))
    assert tally.methods == list(METHODS)
    assert tally.share("federated") == 0.0


@pytest.mark.parametrize(
    ("values", "low", "high", "drawn"),
    [([], 0, 1, ""), ([5.0] * 3, 5, 5, "▁▁▁"), ([0, 7], 0, 7, "▁█"), ([-9, 99], 0, 7, "▁█"), (range(64), 0, 63, 8)],
)
def test_sparkline_keeps_its_width_and_scale(values: list[float], low: float, high: float, drawn: str | int) -> None:
    line = sparkline(values, 8, low, high)
    assert line == drawn if isinstance(drawn, str) else len(line) == drawn
    assert list(line) == sorted(line)


def test_picture_shows_every_method_where_it_stands(folder: Path) -> None:
    tally = RunProgress(start(), Clock())
    for event in list(events(folder))[2:12]:
        tally.add(event)
    lines = text_of(view(tally)).splitlines()
    assert lines[0] == "poles: 10 agents, 2 seeds, 20 rounds"
    assert "seed 1, round 5/20" in lines[1]
    assert "▁" in lines[1]
    assert f"return {tally.curve('federated')[-1]:.4g}" in lines[1]
    assert lines[2].split()[0] == "independent"
    assert "3.69 MB up, 3.69 MB down" in lines[3]
    narrow = text_of(view(tally), 80)
    assert "…" not in narrow
    assert "seed 1, round 5/20" in narrow


def test_elsewhere_than_on_a_terminal_there_are_few_lines_and_no_control_characters(folder: Path) -> None:
    out, clock = io.StringIO(), Clock()
    sink = plain(console_on(out), clock=clock)
    for event in events(folder, name="po\x1b[31mles\r [bold]"):
        sink(event)
        clock.now += 0.7
    text = out.getvalue()
    assert all(c.isprintable() or c == "\n" for c in text)
    assert "po?[31mles? [bold]: 10 agents, 2 seeds, 20 rounds" in text
    said = [line for line in text.splitlines() if "round " in line]
    assert 2 * 4 <= len(said) <= 80 * 0.7 / 5 + 4
    assert any(line.startswith("federated, seed 1, round 20/20: return ") and "steps/s" in line for line in said)
    assert "independent: compiling" in text
    assert "runs/one/report.html" in text


def test_a_console_that_knows_only_ascii_gets_ascii(folder: Path) -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
    with progress(console=Console(file=out, width=100, force_terminal=True)) as sink:
        for event in events(folder, name="pôles"):
            sink(event)
    assert b"p?les: 10 agents" in raw.getvalue()


def test_a_live_display_leaves_the_terminal_in_order_whatever_happens(folder: Path) -> None:
    out = io.StringIO()
    console = console_on(out, terminal=True)

    def interrupted() -> None:
        with live(console) as sink:
            for event in list(events(folder))[:10]:
                sink(event)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    hide, show = "\x1b[?25l", "\x1b[?25h"
    assert out.getvalue().rindex(show) > out.getvalue().rindex(hide)


def test_a_live_display_ends_with_the_table(folder: Path) -> None:
    out = io.StringIO()
    with progress(console=console_on(out, terminal=True)) as sink:
        for event in events(folder):
            sink(event)
    assert "poles: greedy returns" in out.getvalue()
    assert out.getvalue().count("\x1b[?25l") == out.getvalue().count("\x1b[?25h") == 1


def test_quiet_is_quiet(folder: Path) -> None:
    out = io.StringIO()
    with progress(quiet=True, console=console_on(out, terminal=True)) as sink:
        for event in events(folder):
            sink(event)
    assert out.getvalue() == ""


def test_last_table_has_every_agent_and_stars_the_best(folder: Path) -> None:
    *_, end = events(folder)
    lines = text_of(final_summary(end)).splitlines()
    for agent in end["summary"]["agents"]:
        ours, theirs = agent["return"], end["summary"]["baseline_agents"]["independent"][agent["id"]]["return"]
        cells = next(line.split() for line in lines if line.split()[:1] == [str(agent["id"])])
        star = cells.index("*")
        assert float(cells[star + 1]) == pytest.approx(max(ours, theirs), rel=1e-3)
        assert float(cells[2]) == pytest.approx(agent["env_params"]["length"], rel=1e-3)
    means = [end["summary"]["final_return"]["mean"], end["summary"]["baselines"]["independent"]["mean"]]
    last = next(line.split() for line in lines if line.split()[:1] == ["all"])
    assert [float(cell) for cell in last[1:]] == pytest.approx(means, rel=1e-3)


def test_last_table_of_four_methods_fits_a_terminal(folder: Path) -> None:
    *_, end = events(folder)
    summary = end["summary"]
    names = ["independent", "fine_tuned", "mixture"]
    summary["baselines"] = {name: {"mean": 321.4, "low": 319.6, "high": 379.7} for name in names}
    summary["baseline_agents"] = {name: [{**agent, "return": 345.6} for agent in summary["agents"]] for name in names}
    lines = text_of(final_summary(end), width=80).splitlines()
    (head,) = (line for line in lines if "mixture" in line)
    assert "independent" in head
    (first,) = (line for line in lines if line.split()[:1] == ["0"])
    assert first.count("345.6") == len(names)


def test_last_table_stays_short_for_many_agents_and_whole_without_results(folder: Path, tmp_path: Path) -> None:
    crowd = make_run(tmp_path / "crowd", agents=MOST_AGENTS + 13, seeds=1, rounds=2, methods=("federated",))
    *_, end = events(crowd)
    assert "and 13 more agents" in text_of(final_summary(end))
    assert "95 %" not in text_of(final_summary(end)), "one seed has no interval"
    end["summary"] |= {"agents": [], "final_return": {"mean": None, "low": None, "high": None}}
    assert "Interrupted before a seed had a result." in text_of(final_summary(end | {"report": None}))
