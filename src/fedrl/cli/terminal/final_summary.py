"""Final summary of a run on a terminal: the return of each agent by each method, warnings, costs and paths."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fedrl.records import AgentResult, End, MeasureResult, Range, Summary
from fedrl.records.formatting import NOTHING, duration, ends, number, short, with_unit
from fedrl.records.notices import notices_of
from fedrl.records.statistics import best_of
from fedrl.report.tables import readable, shown, troubled, varying

MOST_AGENTS = 20


def final_summary(event: End) -> RenderableType:
    """Return the tables of agents and measures, warnings, the run's cost, and the paths of run folder and report."""
    summary = event["summary"]
    parts: list[RenderableType] = [
        agents_table(summary) if summary["agents"] else Text("  Interrupted before a seed had a result.")
    ]
    if summary.get("measures"):
        parts.append(measures_table(summary["measures"]))
    hidden = len(summary["agents"]) - MOST_AGENTS
    if hidden > 0:
        parts.append(Text(f"  and {hidden:,} more agents, all of them in the report", style="dim"))
    for warning in summary.get("warnings", []):
        parts.append(Text(f"  ! {warning['message']}", style="bold red"))
        parts += [Text(f"    {cure}", style="red") for cure in warning["remedies"]]
    for note in summary.get("notes", []):
        parts.append(_plain(f"  ! {note}"))
    notices = notices_of(summary)
    if notices:
        lines = Table.grid(padding=(0, 1))
        lines.add_column(no_wrap=True)
        lines.add_column()
        for notice in notices:
            lines.add_row(Text("  !", style="bold yellow"), _plain(notice))
        parts += [lines, Text()]
    parts.append(Text(f"  {_costs(summary)}", style="dim"))
    parts.append(_path("run folder", event["folder"]))
    if event["report"]:
        parts.append(_path("report", event["report"]))
    return Group(*parts)


def agents_table(summary: Summary) -> Table:
    """Return the table of greedy returns: a row for each agent, a column for each method, and a last row for all.

    The best return of a row is bold and starred. An exclamation mark precedes agents that federation hurts, whose
    updates were rejected, or that are left out. Where methods have different agents, a row shows their numbers.
    """
    agents = summary["agents"]
    columns: dict[str, Mapping[int, float]] = {"federated": _by_agent(agents)}
    ranges: dict[str, Range] = {"federated": summary["final_return"]}
    for method, found in summary["baselines"].items():
        columns[method] = _by_agent(summary.get("baseline_agents", {}).get(method, []))
        ranges[method] = found
    settings = {agent["id"]: agent.get("env_params", {}) for agent in agents}
    marked = {agent["id"] for warning in summary.get("warnings", []) for agent in warning["agents"]} | troubled(summary)
    own, _ = varying(settings)
    table = Table(
        box=SIMPLE_HEAD, pad_edge=False, title=_plain(f"{summary['name']}: greedy returns"), title_justify="left"
    )
    table.add_column("agent", justify="right", no_wrap=True)
    for name in own:
        width = max(len(word) for word in name.split("_"))
        table.add_column(_plain(name.replace("_", " ")), justify="right", style="dim", min_width=width)
    for method in columns:
        width = max(len(word) for word in readable(method).split())  # where it is narrow, intervals take two lines
        table.add_column(_plain(readable(method)), justify="right", min_width=width)
    for agent in agents[:MOST_AGENTS]:
        # An agent that a method leaves out has no return there, and can't be the best.
        values = [found.get(agent["id"], math.nan) for found in columns.values()]
        best = max((value for value in values if math.isfinite(value)), default=math.nan)
        cells = [_return(value, len(values) > 1 and value == best) for value in values]
        name = f"! {agent['id']}" if agent["id"] in marked else str(agent["id"])
        table.add_row(name, *(_plain(_setting(settings[agent["id"]].get(name))) for name in own), *cells)
    table.add_section()
    blanks = [""] * len(own)
    table.add_row("all", *blanks, *(Text(short(found["mean"]), style="bold") for found in ranges.values()))
    # Means over different agents must not be compared unnoticed.
    counts = [sum(map(math.isfinite, found.values())) for found in columns.values()]
    if set(counts) != {len(agents)}:
        table.add_row("of", *blanks, *(f"{many:,}" for many in counts), style="dim")
    if len(summary["seeds"]) > 1:
        spread = [ends(found["low"], found["high"]) for found in ranges.values()]
        table.add_row("95 %", *blanks, *spread, style="dim")
    return table


def measures_table(measures: Mapping[str, MeasureResult]) -> Table:
    """Return the table of measures: a row each, a column for each method; the best is bold and starred, if defined."""
    methods = list(dict.fromkeys(method for measure in measures.values() for method in measure["methods"]))
    table = Table(box=SIMPLE_HEAD, pad_edge=False, title=Text("measures"), title_justify="left")
    table.add_column("", no_wrap=True)
    for method in methods:
        table.add_column(_plain(readable(method)), justify="right")
    for name, measure in measures.items():
        found = [measure["methods"].get(method) for method in methods]
        values = [math.nan if each is None else number(each["mean"]) for each in found]
        best = best_of(values, measure["better"])
        cells = [with_unit(value, measure["unit"]) for value in values]
        marked = [Text(f"* {cell}", style="bold green") if i == best else Text(cell) for i, cell in enumerate(cells)]
        table.add_row(_plain(readable(name)), *marked)
    return table


def _by_agent(agents: list[AgentResult]) -> dict[int, float]:
    return {agent["id"]: number(agent["return"]) for agent in agents}


def _setting(value: Any) -> str:
    """Return an environment parameter with three digits, so that the table fits 80 columns; the report has all."""
    return short(value, 3) if isinstance(value, float) else shown(value)


def _return(value: float, best: bool) -> Text:
    return Text(f"* {short(value)}", style="bold green") if best else Text(short(value))


def _costs(summary: Summary) -> str:
    compiled = duration(summary["compile_s"])
    parts = [f"{short(summary['environment_steps'])} environment steps in {duration(summary['wall_s'])}"]
    if compiled != NOTHING:
        parts.append(f"{compiled} of it compilation")
    if "virtual_time" in summary:
        seen = summary["virtual_time"]
        parts.append(f"{duration(seen['time_s'])} on the virtual clock")
        wrong = {"hung": "jobs hung", "restarted": "restarts", "duplicates": "duplicates", "malformed": "unreadable"}
        parts += [f"{short(seen[name])} {readable}" for name, readable in wrong.items() if name in seen]  # type: ignore[literal-required]
    return ", ".join(parts)


def _path(what: str, path: str) -> Text:
    return Text.assemble((f"  {what:<12}", "dim"), _plain(path), no_wrap=True, overflow="ignore")


def _plain(text: str) -> Text:
    """Return text from a configuration without markup and control characters."""
    return Text("".join(c if c.isprintable() else "?" for c in text))
