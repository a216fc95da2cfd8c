"""Progress of settings that run at the same time: a row for each on a terminal, elsewhere a line every few seconds.

A line above says when a setting begins and how it ended, as `fedrl.studies.progress` does for one after the other.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from fedrl.records import Compile, End, Event, Notice, RejectedEvent, RoundRecord, SettingEnd, SettingStart, Sink, Start
from fedrl.records.formatting import short
from fedrl.report.tables import readable
from fedrl.sinks.display import EVERY_S, REDRAWN_S, warning
from fedrl.sinks.fitting import Column, ColumnTable, FirstFitting, name_values, printable, write
from fedrl.sinks.notebook import html_of, updating
from fedrl.sinks.run_progress import RunProgress

BAR = 20


@dataclass
class _Setting:
    """A setting that runs.

    Attributes:
        label: Its values in words.
        run: The state of its run; None before its first event.
        outcome: What its run ended with, in words.
    """

    label: str
    run: RunProgress | None = None
    outcome: str = ""


@contextmanager
def several(
    console: Console, outcome_of: Callable[[End], str], clock: Callable[[], float] = time.monotonic
) -> Iterator[Sink]:
    """Yield a sink for settings that run at the same time; the terminal is restored however they end.

    Args:
        console: Console to write to.
        outcome_of: Function that puts the end of a run into words.
        clock: Seconds of a monotonic clock.
    """
    display = _Display(console, outcome_of, clock)
    try:
        yield display.sink
    finally:
        display.close()


class _Display:
    """Shows the settings that run: drawn again and again on a terminal and in a notebook, else as lines."""

    def __init__(self, console: Console, outcome_of: Callable[[End], str], clock: Callable[[], float]) -> None:
        self._console, self._outcome_of, self._clock = console, outcome_of, clock
        self._settings: dict[int, _Setting] = {}
        self._of, self._drawn = 0, -math.inf
        self._lock = threading.Lock()  # rich draws in a thread of its own
        self._show = updating() if console.is_jupyter else None
        self._live = None
        if console.is_terminal and not console.is_dumb_terminal and not console.options.ascii_only:
            self._live = Live(console=console, get_renderable=self._picture, refresh_per_second=4, transient=True)
            self._live.start()

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
        if self._show is not None:
            self._show("")

    def sink(self, event: Event) -> None:
        kind = event.get("event")
        if kind == "setting":
            self._begin(cast(SettingStart, event))
        elif kind == "setting-end":
            self._end(cast(SettingEnd, event))
        elif kind == "notice":
            self._say(f"  ! {cast(Notice, event)['text']}", "yellow")
        elif kind == "rejected":
            self._say(f"setting {event.get('setting')}: {warning(cast(RejectedEvent, event))}", "yellow")
        else:
            with self._lock:
                self._follow(event)
        self._draw(kind is not None)

    def _say(self, text: str, style: str = "") -> None:
        for line in text.splitlines():
            write(self._console, printable(line, style))

    def _begin(self, event: SettingStart) -> None:
        self._of = event["of"]
        with self._lock:
            self._settings[event["number"]] = _Setting(event["label"])
        self._say(f"setting {event['number']} of {self._of}: {event['label']}", "bold")

    def _end(self, event: SettingEnd) -> None:
        with self._lock:
            ended = self._settings.pop(event["number"])
        words = [event["state"], event.get("reason", ended.outcome)]
        style = "red" if event["state"] == "failed" else ""
        self._say(f"  setting {event['number']} of {self._of} {': '.join(filter(None, words))}", style)

    def _follow(self, event: Event) -> None:
        """Bring the setting of an event up to date."""
        each = self._settings.get(cast(RoundRecord, event).get("setting", 0))
        if each is None:
            return
        kind = event.get("event")
        if kind == "start":
            each.run = RunProgress(cast(Start, event), self._clock)
        elif kind == "end":
            each.outcome = self._outcome_of(cast(End, event))
        elif each.run is not None and kind == "compile":
            each.run.compile(cast(Compile, event))
        elif each.run is not None and "event" not in event:
            each.run.add(event)

    def _picture(self) -> RenderableType:
        with self._lock:
            return view(self._settings)

    def _draw(self, now: bool) -> None:
        """Draw in a notebook, or write a line, unless it was done a moment ago; a terminal is drawn by rich."""
        pause_s = EVERY_S if self._show is None else REDRAWN_S
        if self._live is not None or not (now or self._clock() - self._drawn >= pause_s):
            return
        if self._show is not None:
            self._show(html_of(self._picture()))
        elif now or not self._settings:
            return  # what has happened stands in a line of its own
        else:
            self._say("; ".join(f"setting {number}: {_where(each)}" for number, each in sorted(self._settings.items())))
        self._drawn = self._clock()


def view(settings: Mapping[int, _Setting]) -> RenderableType:
    """Return a row for each setting: its number, values, a bar, and where it is; less where it is narrow."""
    rows = sorted(settings.items())
    if not rows:
        return Text("")
    numbers = [Text(f"setting {number}") for number, _ in rows]
    labels = [printable(each.label) for _, each in rows]
    bars = [ProgressBar(total=1.0, completed=_share(each), width=BAR, complete_style="cyan") for _, each in rows]
    places = [Text(_where(each), style="dim") for _, each in rows]
    forms: list[RenderableType] = [
        ColumnTable([Column("", cells, justify="left") for cells in shown], titled=False)
        for shown in ((numbers, labels, bars, places), (numbers, bars, places), (numbers, places))
    ]
    pairs = list(zip([number.plain for number in numbers], places, strict=True))
    return FirstFitting([*forms, name_values(pairs)])


def _share(setting: _Setting) -> float:
    """Return how much of a setting is done, from 0 to 1."""
    run = setting.run
    return 0.0 if run is None or not run.methods else sum(map(run.share, run.methods)) / len(run.methods)


def _where(setting: _Setting) -> str:
    run = setting.run
    if run is None:
        return "starting"
    if run.compiling:
        return f"{readable(run.method)}, compiling"
    curve = run.curve(run.method)
    returned = f", return {short(curve[-1])}" if curve and math.isfinite(curve[-1]) else ""
    return f"{readable(run.method)}, seed {run.seed}, round {run.round}/{run.start['rounds']}{returned}"
