"""Final summary of a run on a terminal: the return of each agent by each method, warnings, costs and paths."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fedrl.records import AgentResult, End, MeasureResult, PrivacyResult, Range, Summary
from fedrl.records.formatting import NOTHING, duration, ends, number, short, with_unit
from fedrl.records.notices import notices_of
from fedrl.records.statistics import best_of
from fedrl.report.tables import readable, shown, troubled, varying
from fedrl.sinks.fitting import (
    Column,
    ColumnTable,
    FirstFitting,
    fewer_columns,
    in_parts,
    path_line,
    printable,
    swapped,
)

MOST_AGENTS = 20


def final_summary(event: End) -> RenderableType:
    """Return the tables of agents and measures, warnings, the run's cost, and the paths of run folder and report."""
    summary = event["summary"]
    where = "report.html" if event["report"] else "summary.json"
    parts: list[RenderableType] = [
        agents_table(summary, where) if summary["agents"] else Text("  Interrupted before a seed had a result.")
    ]
    if summary.get("measures"):
        parts.append(measures_table(summary["measures"]))
    hidden = len(summary["agents"]) - MOST_AGENTS
    if hidden > 0:
        parts.append(Text(f"  and {hidden:,} more agents, all of them in the report", style="dim"))
    for warning in summary.get("warnings", []):
        parts.append(Text(f"  ! {warning['message']}", style="bold red"))
        parts += [Text(f"    {cure}", style="red") for cure in warning["remedies"]]
    if summary.get("privacy"):
        parts += [*privacy_lines(summary["privacy"]), Text()]
    for note in summary.get("notes", []):
        parts.append(printable(f"  ! {note}"))
    notices = notices_of(summary)
    if notices:
        lines = Table.grid(padding=(0, 1))
        lines.add_column(no_wrap=True)
        lines.add_column()
        for notice in notices:
            lines.add_row(Text("  !", style="bold yellow"), printable(notice))
        parts += [lines, Text()]
    parts.append(Text(f"  {_costs(summary)}", style="dim"))
    parts.append(path_line("run folder", event["folder"]))
    if event["report"]:
        parts.append(path_line("report", event["report"]))
    return Group(*parts)


def privacy_lines(privacy: PrivacyResult) -> list[Text]:
    """Return what a run promises and has spent, a sentence each; a run that is not certified says so first."""
    lines = [f"Not certified: {privacy['not_certified']}."] if "not_certified" in privacy else []
    lines.append(privacy["claim"])
    left = max(privacy["budget"] - privacy["epsilon"], 0.0)
    spent = f"Spent {short(privacy['epsilon'])} of {short(privacy['budget'])}, {short(left)} left"
    if len(privacy["seeds"]) > 1:
        spent += f", in each seed at most; the policies of all seeds together have epsilon {short(privacy['together'])}"
    out = privacy["without_budget"]
    agents = "" if not out else f" {out:,} agent{'' if out == 1 else 's'} ended without budget for another round."
    lines.append(f"{spent}.{agents}")
    if privacy["repeated"]:
        lines.append(f"{privacy['repeated']:,} of the charges are for rounds that were run again.")
    return [printable(f"  {line}") for line in lines]


def agents_table(summary: Summary, where: str) -> RenderableType:
    """Return the table of greedy returns: a row for each agent, a column for each method, and a last row for all.

    The best return of a row is bold and starred. An exclamation mark precedes agents that federation hurts, whose
    updates were rejected, or that are left out. Where methods have different agents, a row shows their numbers.

    Args:
        summary: The results of at least one agent.
        where: The file that has the columns for which there is no room.
    """
    agents = summary["agents"][:MOST_AGENTS]
    returns: dict[str, Mapping[int, float]] = {"federated": _by_agent(summary["agents"])}
    ranges: dict[str, Range] = {"federated": summary["final_return"]}
    for method, found in summary["baselines"].items():
        returns[method] = _by_agent(summary.get("baseline_agents", {}).get(method, []))
        ranges[method] = found
    ids = [agent["id"] for agent in agents]
    marked = {agent["id"] for warning in summary.get("warnings", []) for agent in warning["agents"]} | troubled(summary)
    best = {
        k: max((x[k] for x in returns.values() if math.isfinite(x.get(k, math.nan))), default=math.nan) for k in ids
    }
    cells = {
        # An agent that a method leaves out has no return there, and can't be the best.
        method: [_cell(short(found.get(k)), len(returns) > 1 and found.get(k, math.nan) == best[k]) for k in ids]
        for method, found in returns.items()
    }
    last = {"all": [Text(short(found["mean"]), style="bold") for found in ranges.values()]}
    # Means over different agents must not be compared unnoticed.
    counts = [sum(map(math.isfinite, found.values())) for found in returns.values()]
    if set(counts) != {len(summary["agents"])}:
        last["of"] = [Text(f"{many:,}", style="dim") for many in counts]
    names = [f"! {k}" if k in marked else str(k) for k in ids]
    settings = _settings({agent["id"]: agent.get("env_params", {}) for agent in summary["agents"]}, ids)

    def columns(between: str) -> list[Column]:
        """The columns, with these characters between the ends of intervals."""
        rows = last
        if len(summary["seeds"]) > 1:
            spread = [ends(found["low"], found["high"]).replace(" to ", between) for found in ranges.values()]
            rows = last | {"95 %": [Text(each, style="dim") for each in spread]}
        below = [Text()] * len(rows)
        return [
            Column("agent", [Text(name) for name in (*names, *rows)]),
            *(replace(setting, cells=[*setting.cells, *below]) for setting in settings),
            *(
                Column(readable(method), [*cells[method], *(row[i] for row in rows.values())])
                for i, method in enumerate(returns)
            ),
        ]

    wide, narrow, section = columns(" to "), columns(" to\n"), len(ids)
    forms = [
        ColumnTable(wide, section),
        *fewer_columns(narrow, section, where),
        swapped(wide),
        *in_parts(narrow, section, where),
    ]
    starred = any(cell.plain.startswith("*") for column in cells.values() for cell in column)
    return _under(f"{summary['name']}: greedy returns", forms, "* the best of the methods for this agent" * starred)


def measures_table(measures: Mapping[str, MeasureResult]) -> RenderableType:
    """Return the table of measures: a row each, a column for each method; the best is bold and starred, if defined."""
    methods = list(dict.fromkeys(method for measure in measures.values() for method in measure["methods"]))
    rows, starred = [], False
    for measure in measures.values():
        found = [measure["methods"].get(method) for method in methods]
        values = [math.nan if each is None else number(each["mean"]) for each in found]
        best = best_of(values, measure["better"])
        starred = starred or best is not None
        rows.append([_cell(with_unit(value, measure["unit"]), i == best) for i, value in enumerate(values)])
    columns = [
        Column("", [printable(readable(name)) for name in measures], wraps=True, justify="left"),
        *(Column(readable(method), [row[i] for row in rows]) for i, method in enumerate(methods)),
    ]
    forms = [ColumnTable(columns), swapped(columns), *in_parts(columns, None, "")]
    return _under("measures", forms, "* the best of the methods in this measure" * starred)


def _under(title: str, forms: Sequence[RenderableType], note: str) -> RenderableType:
    """Return a table under its title, and a line about its asterisks, if it has any."""
    lines = [Text(note, style="dim")] if note else []
    return Group(printable(title, "italic"), FirstFitting(forms), *lines, Text())


def _cell(text: str, best: bool) -> Text:
    return Text(f"* {text}", style="bold green") if best else Text(text)


def _settings(settings: Mapping[int, Mapping[str, Any]], ids: Sequence[int]) -> list[Column]:
    """Return the columns of the environment parameters in which agents differ."""
    own, _ = varying(settings)
    return [
        Column(readable(name), [printable(_setting(settings[k].get(name))) for k in ids], True, True, style="dim")
        for name in own
    ]


def _by_agent(agents: list[AgentResult]) -> dict[int, float]:
    return {agent["id"]: number(agent["return"]) for agent in agents}


def _setting(value: Any) -> str:
    """Return an environment parameter with three digits, so that the table fits 80 columns; the report has all."""
    return short(value, 3) if isinstance(value, float) else shown(value)


def _costs(summary: Summary) -> str:
    compiled = duration(summary["compile_s"])
    parts = [f"{short(summary['environment_steps'])} environment steps in {duration(summary['wall_s'])}"]
    if compiled != NOTHING:
        parts.append(f"{compiled} of it compilation")
    if "virtual_time" in summary:
        seen = summary["virtual_time"]
        clock = "the run's clock" if summary.get("real_time") else "the virtual clock"
        parts.append(f"{duration(seen['time_s'])} on {clock}")
        wrong = {"hung": "jobs hung", "restarted": "restarts", "duplicates": "duplicates", "malformed": "unreadable"}
        parts += [f"{short(seen[name])} {what}" for name, what in wrong.items() if name in seen]  # type: ignore[literal-required]
    return ", ".join(parts)
