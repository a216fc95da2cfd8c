"""Progress of a scale measurement: what is being measured, a line for each number of agents, and the table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from rich.console import Console, RenderableType
from rich.status import Status
from rich.text import Text

from fedrl.records.formatting import NOTHING, count, duration, size, with_unit
from fedrl.sinks.fitting import Column, print_paths, printable, table_of_rows, write
from fedrl.sinks.notebook import recorded, recording
from fedrl.studies.scaling.cost_model import formula
from fedrl.studies.scaling.limits import QUANTITIES
from fedrl.studies.scaling.records import Probe, Scale
from fedrl.studies.scaling.sentences import failed_sentences, headline, kept_in, many, percent


class ScaleDisplay(NamedTuple):
    """Shows lines on a console, and on a terminal what is being done.

    Attributes:
        console: The console; None to show nothing.
        status: The line that is redrawn; None where lines can't be.
    """

    console: Console | None = None
    status: Status | None = None

    def doing(self, agents: int, what: str) -> None:
        """Show what the process of a number of agents is doing."""
        if self.status is not None:
            self.status.update(printable(f"{many(agents)}: {what}"))

    def probed(self, probe: Probe) -> None:
        """Show the result of a number of agents."""
        if self.console is not None:
            write(self.console, printable(f"{many(probe['agents']):>16}: {_in_short(probe)}"))

    def ended(self, scale: Scale, folder: str, report: str) -> None:
        """Show the whole result."""
        if self.status is not None:
            self.status.stop()
        if self.console is not None:
            _close(self.console, scale, folder, report)


@contextmanager
def scale_progress(*, quiet: bool = False, console: Console | None = None) -> Iterator[ScaleDisplay]:
    """Yield a display for the measurement inside the `with`; the terminal is restored however it ends.

    Args:
        quiet: Show nothing.
        console: Console to write to; standard output by default.
    """
    if quiet:
        yield ScaleDisplay()
        return
    place = Console(highlight=False) if console is None else console
    if not place.is_terminal or place.is_dumb_terminal:
        yield ScaleDisplay(place)
        return
    with place.status("starting") as status:
        yield ScaleDisplay(place, status)


def scale_html(scale: Scale, folder: str, report: str) -> str:
    """Return what is shown at the end of a measurement, as HTML."""
    console = recording()
    _close(console, scale, folder, report)
    return recorded(console)


def scale_table(scale: Scale, where: str = "scale.json") -> RenderableType:
    """Return the table of measured numbers of agents, with the cost model beside the limited quantity.

    Args:
        scale: The content of `scale.json`.
        where: The file that has the columns for which there is no room.
    """
    probes, limit = scale["probes"], scale["limit"]
    shown = "round" if limit is None else limit["quantity"]
    cells = [_cells(probe) for probe in probes]
    columns = [Column("agents", [Text(f"{probe['agents']:,}") for probe in probes])]
    columns += [] if limit is None else [Column("keeps it", [Text(kept_in(probe)) for probe in probes], wraps=True)]
    for i, name in enumerate(("round", "memory", "bytes")):
        columns.append(Column(name, [Text(each[i]) for each in cells]))
        if name == shown and scale["model"]:
            columns.append(Column("model", [Text(_said(probe, shown)) for probe in probes]))
    for i, name in enumerate(("latency", "training", "server", "steps/s"), 3):
        columns.append(Column(name, [Text(each[i]) for each in cells], optional=True))
    headings = [Text(many(probe["agents"]), style="bold") for probe in probes]
    return table_of_rows(columns, headings, where)


def _cells(probe: Probe) -> list[str]:
    if probe["state"] != "measured":
        return [NOTHING] * 7
    return [
        with_unit(probe["round_s"], "s"),
        size(probe["memory_bytes"]),
        size(probe["bytes_up"] + probe["bytes_down"]),
        NOTHING if probe["latency_s"] is None else duration(probe["latency_s"]),
        with_unit(probe["agents_compute_s"], "s"),
        with_unit(probe["server_compute_s"], "s"),
        count(probe["steps_per_second"]),
    ]


def _said(probe: Probe, quantity: str) -> str:
    said = probe.get("model", {}).get(quantity)
    if said is None:
        return NOTHING
    return f"{with_unit(said['value'], QUANTITIES[quantity].unit)} ({percent(said['error'])})"


def _in_short(probe: Probe) -> str:
    if probe["state"] != "measured":
        return f"{probe['state']}. {probe.get('reason', '')}"
    costs = f"{with_unit(probe['round_s'], 's')} a round, {size(probe['memory_bytes'])} of memory"
    total = f"{costs}, {size(probe['bytes_up'] + probe['bytes_down'])} sent a round"
    return total + {True: ": keeps the limit", False: ": breaks the limit", None: ""}[probe["holds"]]


def _close(console: Console, scale: Scale, folder: str, report: str) -> None:
    if scale["probes"]:
        console.print(Text())
        console.print(scale_table(scale, "report.html" if report else "scale.json"))
    for name, cost in scale["model"].items():
        write(console, printable(f"  {formula(name, cost)}"))
    for far in scale["extrapolated"]:
        values = {"round": far["round"], "memory": far["memory"], "bytes": far["bytes"]}
        text = ", ".join(f"{name} {with_unit(x, QUANTITIES[name].unit)}" for name, x in values.items())
        write(console, printable(f"  {far['agents']:,} agents, extrapolated: {text}", "dim"))
    for line in (*scale["notes"], *failed_sentences(scale["probes"])):
        write(console, printable(f"  ! {line}", "yellow"))
    write(console, printable(f"  {headline(scale)}", "bold"))
    print_paths(console, folder=folder, report=report)
