"""Progress of a study: the number of the current setting, its run as `fedrl run` shows it, and its result.

Where several settings run at the same time, `fedrl.studies.several` shows a row for each.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import cast

from rich.console import Console, RenderableType
from rich.text import Text

from fedrl.records import End, Event, Notice, SettingStart, Sink, StudyEnd
from fedrl.records.formatting import NOTHING, duration, ends, short, size, with_unit
from fedrl.sinks.display import progress, silent
from fedrl.sinks.fitting import Column, print_paths, printable, table_of_rows, write
from fedrl.sinks.notebook import recorded, recording
from fedrl.studies.grid import in_words, short_names
from fedrl.studies.quantity import compared, outcome_of, rounds_to, title_of
from fedrl.studies.records import Result, Study
from fedrl.studies.result import study_notices
from fedrl.studies.several import several

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
    together = False

    def say(text: str, style: str = "") -> None:
        write(place, printable(text, style))

    # The display of a setting's run opens and closes inside that of the study, also if an error ends the setting.
    with ExitStack() as shown:

        def sink(event: Event) -> None:
            nonlocal run, together
            kind = event.get("event")
            if kind == "setting" and "at_once" in event and not together:
                together = True
                run = shown.enter_context(several(place, _outcome))
            if kind == "study":
                shown.close()
                _close(place, cast(StudyEnd, event))
            elif together:
                run(event)
            elif kind == "setting":
                shown.close()  # of a setting that ended without a result
                setting = cast(SettingStart, event)
                say(f"setting {setting['number']} of {setting['of']}: {setting['label']}", "bold")
                run = shown.enter_context(progress(console=place))
            elif kind == "end":
                # The display of the run has to end before anything else is printed.
                shown.close()
                say(f"  {_outcome(cast(End, event))}")
            elif kind == "notice":
                say(f"  ! {cast(Notice, event)['text']}", "yellow")
            elif kind != "setting-end":
                run(event)

        yield sink


def study_html(event: StudyEnd) -> str:
    """Return what is shown at the end of a study, as HTML."""
    console = recording()
    _close(console, event)
    return recorded(console)


def study_table(study: Study, where: str = "study.json") -> RenderableType:
    """Return the table of settings: a row each, with its values in the grid and its result.

    Args:
        study: The study.
        where: The file that has the columns for which there is no room.
    """
    results = study["settings"][:MOST_SETTINGS]
    marks = ["! " if result.get("notices") else "" for result in results]
    values = [[in_words(value) for value in result["values"].values()] for result in results]
    found = [_cells(study, result) for result in results]
    outcomes = (title_of(compared(study)), "95 %", "bytes up", "wall time")
    columns = [Column("", [Text(f"{mark}{i}") for i, mark in enumerate(marks, 1)])]
    for i, name in enumerate(short_names(list(study["grid"])).values()):
        columns.append(Column(name.replace("_", " "), [printable(each[i]) for each in values], wraps=True))
    for i, name in enumerate(outcomes):
        columns.append(Column(name, [printable(each[i]) for each in found], optional=i > 1))
    if study["target"] is not None:
        times = [Text(rounds_to(result.get("target"))) for result in results]
        columns.append(Column(f"rounds to {short(study['target'])}", times, wraps=True))
    headings = [Text(f"{mark}setting {i}", style="bold") for i, mark in enumerate(marks, 1)]
    return table_of_rows(columns, headings, where)


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
    console.print(study_table(study, "report.html" if event["report"] else "study.json"))
    hidden = len(study["settings"]) - MOST_SETTINGS
    if hidden > 0:
        console.print(Text(f"  and {hidden:,} more settings, all of them in the report", style="dim"))
    for i, result in enumerate(study["settings"], 1):
        if "reason" in result:
            write(console, printable(f"  ! setting {i} ({result['label']}) failed: {result['reason']}", "bold red"))
    for line in study_notices(study):
        write(console, printable(f"  ! {line}", "yellow"))
    print_paths(console, study_folder=event["folder"], report=event["report"])
