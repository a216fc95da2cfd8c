"""The tables of the page: agents, methods, runs and their costs, and the settings in which runs differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fedrl.records.formatting import NOTHING, count, duration, number, short, size, with_unit
from fedrl.records.measured import title_of
from fedrl.records.statistics import probability_of_improvement
from fedrl.report.figures import COLOURS, style
from fedrl.report.markup import Markup, element
from fedrl.report.run import NAMES_OF_TIME, Run

CLOSE = 1e-9


def readable(method: str) -> str:
    """Return the name of a method as words of a sentence."""
    return method.replace("_", " ")


def agents_table(run: Run) -> Markup:
    """Return the table of agents: their environments, and their greedy returns by each method, the best marked."""
    settings = {int(agent["id"]): agent.get("env_params") or {} for agent in run.summary.get("agents") or ()}
    own, shared = varying(settings)
    marked = troubled({**run.summary, "rejections": run.rejections})
    columns = {method: run.agent_returns(method) for method in run.methods}
    columns = {method: values for method, values in columns.items() if any(map(math.isfinite, values.values()))}
    ids = sorted({*settings, *(agent for values in columns.values() for agent in values)})
    head = [element("th", "agent", scope="col")]
    head += [element("th", name.replace("_", " "), scope="col", class_="number") for name in own]
    head += [element("th", keyed(method), scope="col", class_="number") for method in columns]
    measured = _measured_by_agent(run)
    head += [element("th", title_of(name, run.measures[name]), scope="col", class_="number") for name in measured]
    rows = []
    for agent in ids:
        values = {method: found.get(agent, math.nan) for method, found in columns.items()}
        best = max((value for value in values.values() if math.isfinite(value)), default=math.nan)
        mark = element("b", " !", title="rejected or left out, see above") if agent in marked else None
        cells = [element("th", agent, mark, scope="row")]
        cells += [element("td", shown(settings.get(agent, {}).get(name)), class_="number") for name in own]
        cells += [_return(value, best, len(columns)) for value in values.values()]
        cells += [element("td", each.get(agent, NOTHING), class_="number") for each in measured.values()]
        rows.append(element("tr", cells))
    common = ", ".join(f"{name.replace('_', ' ')} {shown(value)}" for name, value in shared.items())
    note = element("p", f"The same for all agents: {common}.", class_="note") if common else None
    return Markup(table(head, rows) + (note or ""))


def _measured_by_agent(run: Run) -> dict[str, dict[int, str]]:
    """Return the measures of each federated agent's greedy episodes, besides the return."""
    agents = {name: measure.get("agents", {}).get("federated") for name, measure in run.measures.items()}
    return {
        name: {k: with_unit(value, run.measures[name]["unit"]) for k, value in enumerate(values)}
        for name, values in agents.items()
        if values
    }


def methods_table(run: Run) -> Markup:
    """Return the table of methods: final return, worst agent, and the probability that the federation does better."""
    names = ["method", "final greedy return", "95 % interval", "worst agent"]
    counts = {m: sum(map(math.isfinite, run.agent_returns(m).values())) for m in run.methods}
    # The column is shown only if some method lacks agents, when means are over different agents.
    counted = set(counts.values()) != {run.agents}
    names += ["agents"] if counted else []
    if len(run.methods) > 1:
        names.append("federated is better with probability")
    head = [element("th", name, scope="col", class_="number" if i else None) for i, name in enumerate(names)]
    rows = []
    for method in run.methods:
        found = run.final_range(method)
        each = [value for value in run.agent_returns(method).values() if math.isfinite(value)]
        # Over the common agents, while the returns beside it are over each method's own.
        chance = probability_of_improvement(*run.compared_returns(method))
        # A method is not compared with itself.
        known = method != "federated" and math.isfinite(chance.mean)
        better = f"{chance.mean:.2f} ({chance.low:.2f} to {chance.high:.2f})" if known else NOTHING
        of = [f"{counts[method]:,} of {run.agents:,}"] if counted else []
        cells = [short(found["mean"]), run.spread(method), short(min(each, default=math.nan)), *of, better]
        name = element("th", keyed(method), scope="row")
        rows.append(element("tr", name, [element("td", cell, class_="number") for cell in cells[: len(names) - 1]]))
    return table(head, rows)


def rejections_table(run: Run) -> Markup | None:
    """Return the table of rejected updates, by method and agent, with reasons; None without any."""
    names = ["method", "agent", "updates", "rounds", "last reason"]
    head = [element("th", name, scope="col", class_="number" if 0 < i < 4 else None) for i, name in enumerate(names)]
    rows = []
    for method, found in run.rejections.items():
        for agent in found["agents"]:
            who = "all data" if method == "centralised" else agent["id"]
            often = f"{agent['rounds']:,} of {found['rounds']:,}"
            cells = [element("td", cell, class_="number") for cell in (who, f"{agent['updates']:,}", often)]
            name = element("th", keyed(method), scope="row")
            rows.append(element("tr", name, cells, element("td", agent["reason"])))
    return table(head, rows) if rows else None


def troubled(summary: Mapping[str, Any]) -> set[int]:
    """Return the agents with rejected updates or missing returns."""
    rejected = {
        agent["id"]
        for method, found in (summary.get("rejections") or {}).items()
        for agent in found["agents"]
        if method != "centralised"
    }
    omitted = summary.get("left_out") or {}
    return rejected | {k for name, items in omitted.items() if name != "held_out" for x in items for k in x["agents"]}


def outcomes_table(runs: Sequence[Run], labels: Sequence[str]) -> Markup:
    """Return the table of runs: final return of the agents, and the best baseline."""
    return _by_run(runs, labels, [_outcome(run) for run in runs])


def costs_table(runs: Sequence[Run], labels: Sequence[str]) -> Markup:
    """Return the table of runs with their costs."""
    return _by_run(runs, labels, [_cost(run) for run in runs])


def _outcome(run: Run) -> dict[str, str]:
    found = run.final_range("federated")
    others = {method: number(run.final_range(method)["mean"]) for method in run.methods if method != "federated"}
    others = {method: value for method, value in others.items() if math.isfinite(value)}
    best = max(others, key=lambda method: others[method], default=None)
    each = [value for value in run.agent_returns("federated").values() if math.isfinite(value)]
    return {
        "final greedy return": short(found["mean"]),
        "95 % interval": run.spread("federated"),
        "worst agent": short(min(each, default=math.nan)),
        "best baseline": f"{short(others[best])} ({readable(best)})" if best else NOTHING,
        "agents": f"{run.agents:,}",
        "seeds": f"{len(run.seeds):,}",
    }


def _cost(run: Run) -> dict[str, str]:
    summary = run.costs
    return {
        "environment steps": count(summary.get("environment_steps")),
        "steps per second": count(summary.get("steps_per_second")),
        "bytes up": size(summary.get("bytes_up")),
        "bytes down": size(summary.get("bytes_down")),
        **dict.fromkeys(NAMES_OF_TIME, NOTHING),
        run.name_of_time: duration((summary.get("virtual_time") or {}).get("time_s")),
        "wall time": duration(summary.get("wall_s")),
        "compilation": duration(summary.get("compile_s")),
        "privacy loss ε": short(summary.get("epsilon")),
    }


def _by_run(runs: Sequence[Run], labels: Sequence[str], cells: Sequence[dict[str, str]]) -> Markup:
    """Return a table with a row for each run, without columns that are empty for all of them."""
    names = [name for name in cells[0] if any(row[name] != NOTHING for row in cells)]
    head = [element("th", "run", scope="col")]
    head += [element("th", name, scope="col", class_="number") for name in names]
    rows = [
        element(
            "tr",
            element("th", key(place), label, scope="row", title=run.folder),
            [element("td", row[name], class_="number") for name in names],
        )
        for place, (run, label, row) in enumerate(zip(runs, labels, cells, strict=True))
    ]
    return table(head, rows)


def differences_table(runs: Sequence[Run], labels: Sequence[str]) -> Markup | None:
    """Return the table of settings in which the runs differ, other than the name; None if there are none."""
    flat = [_flat(run.settings) for run in runs]
    names = dict.fromkeys(name for settings in flat for name in settings if name != "name")
    # By their texts, since lists and tables of a configuration can't be members of a set.
    differing = [name for name in names if len({repr(settings.get(name)) for settings in flat}) > 1]
    if not differing:
        return None
    head = [element("th", "setting", scope="col"), *(element("th", label, scope="col") for label in labels)]
    rows = [
        element(
            "tr",
            element("th", element("code", name), scope="row"),
            [element("td", shown(settings.get(name))) for settings in flat],
        )
        for name in differing
    ]
    return table(head, rows)


def table(head: list[Markup], rows: list[Markup]) -> Markup:
    """Return a table that scrolls horizontally where it does not fit."""
    body = element("table", element("thead", element("tr", head)), element("tbody", rows))
    return element("div", body, class_="scroll", tabindex=0)


def key(look: int) -> Markup:
    """Return a dot in the colour of a line."""
    return element("i", class_=f"key key-{look % COLOURS}")


def keyed(method: str) -> Markup:
    """Return the name of a method after a dot in the colour of its line."""
    return element("span", key(style(method)), readable(method), class_="keyed")


def shown(value: Any) -> str:
    """Return a setting as text for people."""
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return short(value) if math.isfinite(value) else str(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(shown, value)) + "]"
    return str(value)


def _return(value: float, best: float, rivals: int) -> Markup:
    # Equal returns are all marked, up to rounding: means over seeds are rounded differently in summary and records.
    wins = rivals > 1 and math.isfinite(value) and value >= best - CLOSE * abs(best)
    text: object = [element("b", short(value)), element("span", " (best)", class_="unseen")] if wins else short(value)
    return element("td", text, class_="number best" if wins else "number")


def varying(settings: Mapping[int, Mapping[str, Any]]) -> tuple[list[str], dict[str, Any]]:
    """Return the parameters in which agents differ, and the values of those that they share."""
    names = list(dict.fromkeys(name for values in settings.values() for name in values))
    own = [n for n in names if len({repr(values.get(n)) for values in settings.values()}) > 1]
    first: Mapping[str, Any] = next(iter(settings.values()), {})
    return own, {name: first[name] for name in names if name not in own}


def _flat(settings: dict[str, Any], within: str = "") -> dict[str, Any]:
    """Return nested tables as one table with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{within}{name}.")
        else:
            flat[f"{within}{name}"] = value
    return flat
