"""Settings that run at the same time are shown side by side, in few lines, at any width."""

import io
import itertools
from typing import Any

import pytest
from rich.console import Console

from fedrl.studies.progress import study_progress
from fedrl.studies.several import several, view


def start(number: int) -> list[Any]:
    return [
        {"event": "setting", "number": number, "of": 8, "label": f"learning_rate 0.{number}, agents 10", "at_once": 2},
        {
            "event": "start",
            "name": "x",
            "rounds": 40,
            "seeds": [0],
            "methods": ["federated"],
            "agents": 10,
            "environment_steps_per_round": 8,
            "measures": {},
            "setting": number,
        },
    ]


def round_of(number: int, which: int, returned: float) -> Any:
    record = {"method": "federated", "seed": 0, "round": which, "return": returned, "bytes_up": 8, "bytes_down": 8}
    return {**record, "environment_steps": 8 * which, "setting": number}


def told(events: list[Any], **options: Any) -> str:
    console = Console(file=io.StringIO(), highlight=False, **options)
    seconds = itertools.count(0.0, 0.5)
    with several(console, lambda end: "return 9", clock=lambda: next(seconds)) as sink:
        for event in events:
            sink(event)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(text, str)
    return text


def test_a_log_has_a_line_every_few_seconds_and_one_for_each_beginning_and_end() -> None:
    rounds = [round_of(number, which, 2.0) for which in range(1, 20) for number in (3, 4)]
    ends: list[Any] = [
        {"event": "notice", "text": "A worker ended."},
        {"event": "setting-end", "number": 4, "state": "failed", "reason": "No luck."},
    ]
    lines = told([*start(3), *start(4), *rounds, *ends], width=120).splitlines()
    assert lines[:2] == ["setting 3 of 8: learning_rate 0.3, agents 10", "setting 4 of 8: learning_rate 0.4, agents 10"]
    between = lines[2:-2]
    assert 2 <= len(between) < len(rounds)
    assert all(line.startswith("setting 3: federated, seed 0, round ") and "; setting 4: " in line for line in between)
    assert lines[-2:] == ["  ! A worker ended.", "  setting 4 of 8 failed: No luck."]


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_each_row_fits_the_terminal(width: int) -> None:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    with several(Console(file=io.StringIO()), lambda end: "") as sink:
        for event in [*start(3), *start(4), round_of(3, 5, 1.5)]:
            sink(event)
        console.print(view(sink.__self__._settings))  # type: ignore[attr-defined]
    shown = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert all(len(line) <= width for line in shown)
    assert "round 5/40" in " ".join(" ".join(shown).split())


def test_a_terminal_is_restored_and_a_study_of_one_at_a_time_is_shown_as_before() -> None:
    text = told([*start(3), *start(4)], width=100, force_terminal=True, legacy_windows=False)
    assert text.rstrip().endswith("\x1b[?25h") or "\x1b[?25h" in text
    console = Console(file=io.StringIO(), width=80, highlight=False)
    alone = start(1)
    del alone[0]["at_once"]
    with study_progress(console=console) as sink:
        for event in [*alone, {"event": "setting-end", "number": 1, "state": "finished"}]:
            sink(event)
        sink({"event": "notice", "text": "A worker ended."})
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[0] == "setting 1 of 8: learning_rate 0.1, agents 10"
    assert lines[-1] == "  ! A worker ended."
