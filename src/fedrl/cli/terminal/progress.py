"""Show a run while it goes on: live on a terminal, a line now and then elsewhere, or not at all.

with progress() as sink:
    run(config, sinks=[sink])
"""

from __future__ import annotations

import io
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fedrl.cli.terminal.final_summary import closing
from fedrl.cli.terminal.tally import Tally, sparkline
from fedrl.records import Compile, End, Event, Refused, RoundRecord, Sink, Start
from fedrl.records.formatting import NOTHING, count, duration, short, size, with_unit
from fedrl.records.notices import named
from fedrl.report.tables import words

WIDE, BAR, SPARK = 104, 20, 24
NARROW_BAR, NARROW_SPARK = 8, 14
EVERY_S = 5.0


@contextmanager
def progress(*, quiet: bool = False, console: Console | None = None, measures: Sequence[str] = ()) -> Iterator[Sink]:
    """A sink for the run inside the `with`; the terminal is left in order however the run ends.

    A run that does not measure what is asked for is refused before it trains, with the names that there are.

    Args:
        quiet: Show nothing.
        console: Where to; standard output by default.
        measures: What is told beside the return, by name.
    """
    place = Console(highlight=False) if console is None else console
    if quiet:
        yield silent
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
    """A sink that writes a line when a method begins or ends and every few seconds, without control characters."""
    state: list[Tally] = []
    said = -every_s

    def say(text: str) -> None:
        clean = "".join(c if c.isprintable() else "?" for c in text)
        console.print(Text(_encodable(clean, console)), soft_wrap=True, no_wrap=True)

    def sink(event: Event) -> None:
        nonlocal said
        kind = event.get("event")
        if kind == "start":
            start = cast(Start, event)
            state[:] = [Tally(start, clock, measures)]
            say(_headline(start))
        elif kind == "compile":
            compiling = cast(Compile, event)
            for tally in state:
                tally.compile(compiling)
            say(f"{words(compiling['method'])}: compiling")
        elif kind == "refused":
            say(warning(cast(Refused, event)))
        elif kind == "end":
            bare = Console(file=io.StringIO(), width=console.width, color_system=None)
            with bare.capture() as capture:
                bare.print(closing(cast(End, event)))
            for line in capture.get().splitlines():
                say(line.rstrip())
        elif state:
            (tally,) = state
            record = cast(RoundRecord, event)
            before = tally.share(record["method"])
            tally.add(record)
            edge = before == 0.0 or tally.share(record["method"]) == 1.0
            if edge or clock() - said >= every_s:
                said = clock()
                say(_line(tally, record))

    return sink


@contextmanager
def live(console: Console, clock: Callable[[], float] = time.monotonic, measures: Sequence[str] = ()) -> Iterator[Sink]:
    """A sink that redraws a small picture of the run a few times a second."""
    state: list[Tally] = []
    lock = threading.Lock()

    def picture() -> RenderableType:
        with lock:
            return view(state[0], console.width) if state else Text("")

    display = Live(console=console, get_renderable=picture, refresh_per_second=6, transient=True)

    def sink(event: Event) -> None:
        kind = event.get("event")
        if kind == "end":
            display.stop()
            console.print(closing(cast(End, event)))
            return
        if kind == "refused":
            console.print(Text(warning(cast(Refused, event)), style="yellow"), soft_wrap=True)
            return
        with lock:
            if kind == "start":
                state[:] = [Tally(cast(Start, event), clock, measures)]
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


def warning(event: Refused) -> str:
    """What is said when agents were refused twice in a row."""
    where = f"{words(event['method'])}, seed {event['seed']}, round {event['round']}"
    who = "" if event["method"] == "centralised" else f"{named(event['agents'])} "
    text = f"warning: {where}: {who}refused twice in a row: {event['reason']}"
    return "".join(c if c.isprintable() else "?" for c in text)


@contextmanager
def warnings_only(console: Console | None = None) -> Iterator[Sink]:
    """A sink that writes nothing but warnings; by default to standard error."""
    place = Console(stderr=True, highlight=False) if console is None else console

    def sink(event: Event) -> None:
        if event.get("event") == "refused":
            place.print(Text(_encodable(warning(cast(Refused, event)), place)), soft_wrap=True)

    yield sink


def view(tally: Tally, width: int = WIDE) -> RenderableType:
    """The picture: a row for each method, and a line on the pace of it all. It fits in 80 columns."""
    bar, spark = (BAR, SPARK) if width >= WIDE else (NARROW_BAR, NARROW_SPARK)
    curves = {method: tally.curve(method) for method in tally.methods}
    known = [value for curve in curves.values() for value in curve]
    low, high = min(known, default=0.0), max(known, default=1.0)
    rows = Table.grid(padding=(0, 2))
    for _ in range(5):
        rows.add_column(no_wrap=True)
    for method, curve in curves.items():
        share = tally.share(method)
        current = method == tally.method and share < 1.0
        rows.add_row(
            Text(words(method), style="bold" if current else "" if share else "dim"),
            ProgressBar(total=1.0, completed=share, width=bar, complete_style="cyan"),
            Text(sparkline(curve, spark, low, high).ljust(spark), style="cyan"),
            Text(f"return {short(curve[-1])}" if curve else "", style="bold" if current else ""),
            Text(_where(tally) if current else "", style="dim"),
        )
    return Group(Text(_headline(tally.start), style="dim"), rows, Text(_pace(tally), style="dim"))


def _where(tally: Tally) -> str:
    if tally.compiling:
        return "compiling"
    return f"seed {tally.seed}, round {tally.round}/{tally.start['rounds']}" if tally.round else ""


def _headline(start: Start) -> str:
    seeds = len(start["seeds"])
    sizes = ((start["agents"], "agent"), (seeds, "seed"), (start["rounds"], "round"))
    name = "".join(c if c.isprintable() else "?" for c in start["name"])
    return f"{name}: " + ", ".join(f"{many:,} {what}{'' if many == 1 else 's'}" for many, what in sizes)


def _pace(tally: Tally) -> str:
    speed, left = count(tally.speed), duration(tally.left_s)
    parts = [f"{speed} steps/s"] if speed != NOTHING else []
    parts += [f"{size(tally.bytes_up)} up", f"{size(tally.bytes_down)} down", f"{duration(tally.elapsed_s)} so far"]
    parts += [f"about {left} left"] if tally.left_s > 0 else []
    parts += [f"{duration(tally.time_s)} on the virtual clock"] if math.isfinite(tally.time_s) else []
    parts += [f"{words(name)} {with_unit(value, tally.units[name])}" for name, value in tally.shown.items()]
    return ", ".join(parts)


def _line(tally: Tally, record: RoundRecord) -> str:
    where = f"{words(record['method'])}, seed {record['seed']}, round {record['round']}/{tally.start['rounds']}"
    return f"{where}: return {short(record['return'])}, {_pace(tally)}"


def _encodable(text: str, console: Console) -> str:
    return text.encode(console.encoding, "replace").decode(console.encoding)
