"""Progress of a study: the number of the current setting, its run as `fedrl run` shows it, and its result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import cast

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedrl.cli.terminal.progress import progress, silent
from fedrl.records import End, Event, SettingStart, Sink, StudyEnd
from fedrl.records.formatting import NOTHING, duration, ends, short, size, with_unit
from fedrl.studies.grid import in_words, short_names
from fedrl.studies.quantity import compared, outcome_of, rounds_to, title_of
from fedrl.studies.records import Result, Study
from fedrl.studies.result import study_notices

MOST_SETTINGS = 40


@contextmanager
def study_progress(*, quiet: bool = False, console: Console | None = None) -> Iterator[Sink]:
    """Yield a sink for the study inside the `with`; the terminal is restored however the study ends.

    Args:
        quiet: Show nothing.
        console: Console to write to; standard output by default.
    """
    if quiet:
        yield silent
        return
    place = Console(highlight=False) if console is None else console
    run: Sink = silent

    def say(text: str, style: str = "") -> None:
        place.print(Text("".join(c if c.isprintable() else "?" for c in text), style=style), soft_wrap=True)

    # The display of a setting's run opens and closes inside that of the study, also if an error ends the setting.
    with ExitStack() as shown:

        def sink(event: Event) -> None:
            nonlocal run
            kind = event.get("event")
            if kind == "setting":
                setting = cast(SettingStart, event)
                say(f"setting {setting['number']} of {setting['of']}: {setting['label']}", "bold")
                run = shown.enter_context(progress(console=place))
            elif kind == "end":
                # The display of the run has to end before anything else is printed.
                shown.close()
                say(f"  {_outcome(cast(End, event))}")
            elif kind == "study":
                _close(place, cast(StudyEnd, event))
            else:
                run(event)

        yield sink


def study_table(study: Study) -> Table:
    """Return the table of settings: a row each, with its values in the grid and its result."""
    names = short_names(list(study["grid"]))
    timed = study["target"] is not None
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("", justify="right")
    for name in names.values():
        table.add_column(Text(name.replace("_", " ")), justify="right", overflow="fold")
    for name in (title_of(compared(study)), "95 %", "bytes up", "wall time"):
        table.add_column(name, justify="right", no_wrap=True)
    if timed:
        table.add_column(f"rounds to {short(study['target'])}", justify="right")
    for i, result in enumerate(study["settings"][:MOST_SETTINGS], 1):
        cells = [
            f"! {i}" if result.get("notices") else str(i),
            *(in_words(value) for value in result["values"].values()),
            *_cells(study, result),
        ]
        cells += [rounds_to(result.get("target"))] if timed else []
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _cells(study: Study, result: Result) -> list[str]:
    found, unit = outcome_of(study, result), compared(study)["unit"]
    if found is None:
        return [result["state"], NOTHING, NOTHING, NOTHING]
    mark = "" if result["state"] == "finished" else f" ({result['state']})"
    spread = ends(found["low"], found["high"], unit) if len(found["seeds"]) > 1 else NOTHING
    return [with_unit(found["mean"], unit) + mark, spread, size(result["bytes_up"]), duration(result["wall_s"])]


def _outcome(event: End) -> str:
    summary = event["summary"]
    found = summary["final_return"]
    spread = ends(found["low"], found["high"])
    text = f"return {short(found['mean'])}" + (f" ({spread})" if len(summary["seeds"]) > 1 else "")
    rejections = summary.get("rejections", {})
    rejected = rejections["federated"]["updates"] if "federated" in rejections else 0
    said = f", {rejected:,} update{'' if rejected == 1 else 's'} rejected" if rejected else ""
    return f"{text}, {size(summary['bytes_up'])} up, {duration(summary['wall_s'])}{said}"


def _close(console: Console, event: StudyEnd) -> None:
    study = cast(Study, event["study"])
    console.print(study_table(study))
    hidden = len(study["settings"]) - MOST_SETTINGS
    if hidden > 0:
        console.print(Text(f"  and {hidden:,} more settings, all of them in the report", style="dim"))
    for i, result in enumerate(study["settings"], 1):
        if "reason" in result:
            text = f"  ! setting {i} ({result['label']}) failed: {result['reason']}"
            console.print(Text("".join(c if c.isprintable() else "?" for c in text), style="bold red"), soft_wrap=True)
    for line in study_notices(study):
        console.print(Text(f"  ! {''.join(c if c.isprintable() else '?' for c in line)}", style="yellow"))
    for what, path in (("study folder", event["folder"]), ("report", event["report"])):
        if path:
            console.print(
                Text.assemble((f"  {what:<14}", "dim"), path, no_wrap=True, overflow="ignore"), soft_wrap=True
            )
