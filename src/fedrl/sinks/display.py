"""Progress of a run: a live display on a terminal or in a notebook, a line every few seconds elsewhere, or nothing.

with progress() as sink:
    run(config, sinks=[sink])
"""

from __future__ import annotations

import io
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import cast

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from fedrl.records import Compile, End, Event, Notice, RejectedEvent, RoundRecord, Sink, Start
from fedrl.records.formatting import NOTHING, count, duration, short, size, with_unit
from fedrl.records.notices import named, notices_of
from fedrl.report.tables import readable
from fedrl.sinks.final_summary import final_summary
from fedrl.sinks.fitting import Column, ColumnTable, FirstFitting, name_values, printable, write
from fedrl.sinks.notebook import html_of, updating
from fedrl.sinks.run_progress import RunProgress, sparkline

EVERY_S = 5.0
REDRAWN_S = 0.25


@contextmanager
def progress(*, quiet: bool = False, console: Console | None = None, measures: Sequence[str] = ()) -> Iterator[Sink]:
    """Yield a sink for the run inside the `with`; the terminal is restored however the run ends.

    A run without one of `measures` is refused before it trains; the error lists the measures that it has.

    Args:
        quiet: Show nothing.
        console: Console to write to; standard output by default.
        measures: Names of measures to show beside the return.
    """
    place = Console(highlight=False) if console is None else console
    if quiet:
        yield silent
    elif place.is_jupyter:
        with notebook(measures=measures) as sink:
            yield sink
    elif place.is_terminal and not place.is_dumb_terminal and not place.options.ascii_only:
        with live(place, measures=measures) as sink:
            yield sink
    else:
        yield plain(place, measures=measures)


def silent(event: Event) -> None:
    """A sink that shows nothing."""
    del event


def plain(
    console: Console,
    every_s: float = EVERY_S,
    clock: Callable[[], float] = time.monotonic,
    measures: Sequence[str] = (),
) -> Sink:
    """Return a sink that writes a line at the start and end of a method and every few seconds.

    Lines contain no control characters, so they can be written to a log file.

    Args:
        console: Console to write to.
        every_s: Seconds between two lines of a method, at least.
        clock: Seconds of a monotonic clock.
        measures: Names of measures to show beside the return.
    """
    state: list[RunProgress] = []
    said = -every_s

    def say(text: str) -> None:
        # Names come from a configuration file, and control characters in them could rewrite the terminal.
        console.print(Text(_encodable(printable(text).plain, console)), soft_wrap=True, no_wrap=True)

    def sink(event: Event) -> None:
        nonlocal said
        kind = event.get("event")
        if kind == "start":
            start = cast(Start, event)
            state[:] = [RunProgress(start, clock, measures)]
            say(_headline(start))
        elif kind == "compile":
            compiling = cast(Compile, event)
            for run_progress in state:
                run_progress.compile(compiling)
            say(f"{readable(compiling['method'])}: {_waiting(*state)}")
        elif kind in WARNINGS:
            for line in warning(event).splitlines():
                say(line)
        elif kind == "end":
            # The summary has colours and boxes: render it without colours, then clean and encode each line.
            bare = Console(file=io.StringIO(), width=console.width, color_system=None)
            with bare.capture() as capture:
                bare.print(final_summary(cast(End, event)), crop=False)
            for line in capture.get().splitlines():
                say(line.rstrip())
        elif state:
            (run_progress,) = state
            record = cast(RoundRecord, event)
            before = run_progress.share(record["method"])
            run_progress.add(record)
            edge = before == 0.0 or run_progress.share(record["method"]) == 1.0
            # The first and the last round of a method are always shown.
            if edge or clock() - said >= every_s:
                said = clock()
                say(_line(run_progress, record))

    return sink


@contextmanager
def live(console: Console, clock: Callable[[], float] = time.monotonic, measures: Sequence[str] = ()) -> Iterator[Sink]:
    """Yield a sink that redraws the state of the run a few times a second."""
    state: list[RunProgress] = []
    # Rich renders in a thread of its own, so a redraw must not see a half-updated state.
    lock = threading.Lock()

    def picture() -> RenderableType:
        with lock:
            return view(state[0]) if state else Text("")

    # Transient: the final summary takes the place of the live display.
    display = Live(console=console, get_renderable=picture, refresh_per_second=6, transient=True)

    def sink(event: Event) -> None:
        kind = event.get("event")
        if kind == "end":
            display.stop()
            # Uncropped: a path that is longer than the terminal is wide is wrapped by the terminal.
            console.print(final_summary(cast(End, event)), crop=False)
            return
        if kind in WARNINGS:
            write(console, Text(warning(event), style="yellow"))
            return
        with lock:
            if kind == "start":
                state[:] = [RunProgress(cast(Start, event), clock, measures)]
            elif state and kind == "compile":
                state[0].compile(cast(Compile, event))
            elif state:
                state[0].add(cast(RoundRecord, event))
        if kind == "start":
            display.start()

    try:
        yield sink
    finally:
        display.stop()


@contextmanager
def notebook(clock: Callable[[], float] = time.monotonic, measures: Sequence[str] = ()) -> Iterator[Sink]:
    """Yield a sink that redraws the state of the run a few times a second in an output of a notebook.

    The last state stays, with the sentences about the results; without an end of the run nothing stays.
    """
    state: list[RunProgress] = []
    said: list[RenderableType] = []
    show: list[Callable[[str], None]] = []
    drawn, ended = -math.inf, False

    def sink(event: Event) -> None:
        nonlocal drawn, ended
        kind = event.get("event")
        if kind == "start":
            state[:] = [RunProgress(cast(Start, event), clock, measures)]
            show[:] = show or [updating()]
        elif kind in WARNINGS:
            said.append(Text(warning(event), style="yellow"))
        elif kind == "end":
            ended = True
            said.extend(_sentences(cast(End, event)))
        elif state and kind == "compile":
            state[0].compile(cast(Compile, event))
        elif state:
            state[0].add(cast(RoundRecord, event))
        # Browsers are slower than terminals, and rounds may take a few milliseconds.
        if show and (kind is not None or clock() - drawn >= REDRAWN_S):
            drawn = clock()
            show[0](html_of(view(state[0]), *said))

    try:
        yield sink
    finally:
        if show and not ended:
            show[0]("")


def _sentences(event: End) -> list[RenderableType]:
    """Return the sentences about the results of a run: warnings, notes and notices."""
    summary = event["summary"]
    found = [
        (f"{item['message']} {' '.join(item['remedies'])}".strip(), "bold red") for item in summary.get("warnings", [])
    ]
    found += [(text, "yellow") for text in (*summary.get("notes", []), *notices_of(summary))]
    return [Text(f"! {''.join(c if c.isprintable() else '?' for c in text)}", style=style) for text, style in found]


WARNINGS = ("rejected", "notice")
"""Events that are warnings."""


def warning(event: Event) -> str:
    """Return the warning about agents that were rejected twice in a row or whose environment failed, or a notice."""
    if event.get("event") == "notice":
        return printable(f"warning: {cast(Notice, event)['text']}").plain
    return _rejected(cast(RejectedEvent, event))


def _rejected(event: RejectedEvent) -> str:
    where = f"{readable(event['method'])}, seed {event['seed']}, round {event['round']}"
    who = "" if event["method"] == "centralised" else f"{named(event['agents'])} "
    what = event.get("handled", "rejected twice in a row")
    text = f"warning: {where}: {who}{what}: {event['reason']}\n{event.get('traceback', '')}".rstrip()
    return "\n".join(printable(line).plain for line in text.splitlines())


@contextmanager
def warnings_only(console: Console | None = None) -> Iterator[Sink]:
    """Yield a sink that writes only warnings, by default to standard error."""
    place = Console(stderr=True, highlight=False) if console is None else console

    def sink(event: Event) -> None:
        if event.get("event") in WARNINGS:
            place.print(Text(_encodable(warning(event), place)), soft_wrap=True)

    yield sink


def view(run_progress: RunProgress) -> RenderableType:
    """Return the live display: a row for each method, and a line with speed and costs.

    Where it is narrow, sparklines are left out, the round of the current method moves to the last line, and in the end
    bars are left out and returns stand below long names.
    """
    curves = {method: run_progress.curve(method) for method in run_progress.methods}
    wide = [_view(run_progress, curves, bar, spark) for bar, spark in ((20, 24), (8, 14), (8, 0))]
    return FirstFitting([*wide, *(_view(run_progress, curves, bar, 0, placed=False) for bar in (8, 0))])


def _view(
    run_progress: RunProgress, curves: Mapping[str, Sequence[float]], bar: int, spark: int, placed: bool = True
) -> RenderableType:
    """Return one form of the live display.

    Args:
        run_progress: The state of the run.
        curves: The training returns of each method.
        bar: Width of the bars; 0 for a list of names and returns.
        spark: Width of the sparklines; 0 for none.
        placed: Whether the round stands beside its method instead of on the last line.
    """
    # All methods share one scale, so that their sparklines can be compared.
    known = [value for curve in curves.values() for value in curve] if spark else []
    low, high = min(known, default=0.0), max(known, default=1.0)
    names, bars, sparks, returns, places = [], [], [], [], []
    where = ""
    for method, curve in curves.items():
        share = run_progress.share(method)
        current = method == run_progress.method and share < 1.0
        where = _where(run_progress) if current else where
        names.append(Text(readable(method), style="bold" if current else "" if share else "dim"))
        bars.append(ProgressBar(total=1.0, completed=share, width=bar, complete_style="cyan"))
        sparks.append(Text(sparkline(curve, spark, low, high).ljust(spark) if spark else "", style="cyan"))
        returns.append(Text(f"return {short(curve[-1])}" if curve else "", style="bold" if current else ""))
        places.append(Text(_where(run_progress) if current else "", style="dim"))
    rows: RenderableType = name_values([(name.plain, value) for name, value in zip(names, returns, strict=True)])
    if bar:
        shown: list[Sequence[RenderableType]] = [names, bars, *[sparks] * (spark > 0), returns, *[places] * placed]
        rows = ColumnTable([Column("", cells, justify="left") for cells in shown], titled=False)
    last = _pace(run_progress) if placed or not where else f"{where}, {_pace(run_progress)}"
    return Group(Text(_headline(run_progress.start), style="dim"), rows, Text(last, style="dim"))


def _where(run_progress: RunProgress) -> str:
    if run_progress.compiling:
        return _waiting(run_progress)
    return (
        f"seed {run_progress.seed}, round {run_progress.round}/{run_progress.start['rounds']}"
        if run_progress.round
        else ""
    )


def _waiting(*known: RunProgress) -> str:
    """Return what the first round of a method waits for; known is nothing before the start of the run."""
    return "waiting for agents" if any(each.start.get("real_time") for each in known) else "compiling"


def _headline(start: Start) -> str:
    seeds = len(start["seeds"])
    sizes = ((start["agents"], "agent"), (seeds, "seed"), (start["rounds"], "round"))
    name = printable(start["name"]).plain
    return f"{name}: " + ", ".join(f"{many:,} {what}{'' if many == 1 else 's'}" for many, what in sizes)


def _pace(run_progress: RunProgress) -> str:
    speed, left = count(run_progress.speed), duration(run_progress.left_s)
    parts = [f"{speed} steps/s"] if speed != NOTHING else []
    parts += [
        f"{size(run_progress.bytes_up)} up",
        f"{size(run_progress.bytes_down)} down",
        f"{duration(run_progress.elapsed_s)} so far",
    ]
    parts += [f"about {left} left"] if run_progress.left_s > 0 else []
    parts += [f"{duration(run_progress.time_s)} on the virtual clock"] if math.isfinite(run_progress.time_s) else []
    if math.isfinite(run_progress.epsilon):
        budget = run_progress.start.get("epsilon", math.nan)
        unspent = max(budget - run_progress.epsilon, 0.0)
        parts.append(f"epsilon {short(run_progress.epsilon)} of {short(budget)} spent, {short(unspent)} left")
    parts += [
        f"{readable(name)} {with_unit(value, run_progress.units[name])}" for name, value in run_progress.shown.items()
    ]
    return ", ".join(parts)


def _line(run_progress: RunProgress, record: RoundRecord) -> str:
    where = (
        f"{readable(record['method'])}, seed {record['seed']}, round {record['round']}/{run_progress.start['rounds']}"
    )
    return f"{where}: return {short(record['return'])}, {_pace(run_progress)}"


def _encodable(text: str, console: Console) -> str:
    # A character that the console lacks must not end the run with an error.
    return text.encode(console.encoding, "replace").decode(console.encoding)
