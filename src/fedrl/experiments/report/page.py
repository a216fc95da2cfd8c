"""Put the page together: header, headline numbers, charts, tables, configuration, sources."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from fedrl.core.errors import ConfigError
from fedrl.experiments.quantities import NOTHING, count, duration, ends, short, size
from fedrl.experiments.report.curves import Curve, curve
from fedrl.experiments.report.exchange import consensus_table, heterogeneity_table, hierarchy_table
from fedrl.experiments.report.figures import Figure, consensus_figure, learning_figure, traffic_figure
from fedrl.experiments.report.highlight import highlighted
from fedrl.experiments.report.markup import Markup, element, embedded, linked
from fedrl.experiments.report.run import Run, read_run
from fedrl.experiments.report.tables import (
    agents_table,
    costs_table,
    differences_table,
    methods_table,
    outcomes_table,
    table,
    words,
)

POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"


def write_report(folders: Sequence[Path], target: Path) -> Path:
    """Write one self-contained HTML page about a run, or about several compared.

    Args:
        folders: Of the runs; complete or not, with or without baselines.
        target: The page to write, about 5 MB.

    Returns:
        `target`.

    Raises:
        ConfigError: No folder is given, or one holds no records.
    """
    if not folders:
        raise ConfigError("folders is empty. A report is about at least one run. Name the folder of a run.")
    runs = [read_run(Path(folder)) for folder in folders]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(_page(runs), "utf-8")
    return target


def _page(runs: Sequence[Run]) -> str:
    from plotly.offline import get_plotlyjs

    title, sections, charts = _one(runs[0]) if len(runs) == 1 else _several(runs)
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{title} · fedrl"),
        element("style", Markup(_asset("page.css"))),
    )
    scripts = [embedded(charts, "charts")]
    scripts += [element("script", Markup(code)) for code in (get_plotlyjs(), _asset("page.js"))]
    page = element("html", head, element("body", element("main", sections), scripts), lang="en")
    return f"<!doctype html>\n{page}\n"


def _one(run: Run) -> tuple[str, list[object], dict[str, Figure]]:
    """The page of a single run."""
    curves = [curve(run, method) for method in run.methods]
    names = [words(method) for method in run.methods]
    about = f"{_plural(run.agents, 'agent')} · {_plural(len(run.seeds), 'seed')} · {_rounds(curves)}"
    charts = {
        "learning": learning_figure(curves, names, agents=True),
        "traffic": traffic_figure(curves, names, methods=True),
    }
    switch = element(
        "label",
        element("input", type="checkbox", checked=True, data_chart="learning"),
        "single agents",
        class_="switch",
    )
    centralised = (
        " A centralised learner would have to move the experience itself, which is not counted here."
        if "centralised" in run.methods
        else ""
    )
    best = "; the best of each row is marked" if len(run.methods) > 1 else ""
    sections: list[object] = [
        _header("Run report", run.name, f"{about} · {', '.join(names)}"),
        _notes([run]),
        _alarms(run),
        _tiles(run),
        _card("Learning", _chart("learning", "Training return against environment steps"), _caption(curves), switch),
        _card("Final returns", methods_table(run), "Of the greedy policy, each agent in its own environment."),
        _card("Agents", agents_table(run), f"Final greedy return of each agent{best}."),
        _card(
            "Communication",
            _chart("traffic", "Training return against bytes sent"),
            f"A method that sends nothing is a level line at its last return.{centralised}",
        ),
        *_exchange(run, charts),
        _heterogeneity(run),
        _card("Configuration", _configuration([run], [run.name])),
        _card("Sources", _citations([run])),
        _card("Made with", _origin([run], [run.name])),
    ]
    return run.name, sections, charts


def _heterogeneity(run: Run) -> Markup | None:
    """How different the agents are."""
    known = heterogeneity_table(run)
    about = "Of updates, over the rounds in which they were compared; of finite environments, from the mean of all."
    return None if known is None else _card("Heterogeneity", known, about)


def _exchange(run: Run, charts: dict[str, Figure]) -> list[Markup]:
    """How agents met where there is no server, or a tree of them."""
    cards = []
    agreement, levels = consensus_table(run), hierarchy_table(run)
    if agreement is not None:
        charts["consensus"] = consensus_figure(run)
        chart = _chart("consensus", "Distance of the agents from their mean against rounds")
        cards.append(
            _card("Without a server", [chart, agreement], "Agents train apart and agree with their neighbours.")
        )
    if levels is not None:
        cards.append(_card("Tree of servers", levels, "Over the links of each level, all rounds of one seed."))
    return cards


def _several(runs: Sequence[Run]) -> tuple[str, list[object], dict[str, Figure]]:
    """The page that compares runs, a line for each."""
    labels = _labels(runs)
    shown = [(run, label) for run, label in zip(runs, labels, strict=True) if run.methods]
    curves = [curve(run, run.methods[0]) for run, _ in shown]
    names = [label for _, label in shown]
    charts = {
        "learning": learning_figure(curves, names, agents=False),
        "traffic": traffic_figure(curves, names, methods=False),
    }
    sections: list[object] = [
        _header("Comparison", f"{len(runs)} runs", ", ".join(labels)),
        _notes(runs),
        _card("Final returns", outcomes_table(runs, labels), "Of the federated agents, each in its own environment."),
        _card("Learning", _chart("learning", "Training return against environment steps"), _caption(curves)),
        _card("Communication", _chart("traffic", "Training return against bytes sent")),
        _card("Costs", costs_table(runs, labels), "Bytes are those of one seed, steps those of all."),
        _card("Settings that differ", differences_table(runs, labels) or element("p", "None.", class_="note")),
        _card("Configurations", _configuration(runs, labels)),
        _card("Sources", _citations(runs)),
        _card("Made with", _origin(runs, labels)),
    ]
    return f"{len(runs)} runs", sections, charts


def _header(kind: str, title: str, about: str) -> Markup:
    return element("header", element("p", kind, class_="kind"), element("h1", title), element("p", about))


def _notes(runs: Sequence[Run]) -> list[Markup]:
    """What is missing or wrong, said before any number."""
    several = len(runs) > 1
    return [
        element("p", f"{run.name}: {note}" if several else note, class_="warning", role="status")
        for run in runs
        for note in run.notes
    ]


def _alarms(run: Run) -> list[Markup]:
    """What needs attention, and what may help."""
    return [
        element(
            "div",
            element("p", element("b", alarm.get("message"))),
            element("ul", [element("li", cure) for cure in alarm.get("cures") or ()]),
            class_="warning",
            role="alert",
        )
        for alarm in run.summary.get("alarms") or ()
    ]


def _tiles(run: Run) -> Markup:
    """The headline numbers."""
    summary, spread = run.costs, run.spread("federated")
    held_out = summary.get("held_out") or {}
    seeds = "one seed, no interval" if spread == NOTHING else f"95 % interval {spread}"
    compiled = duration(summary.get("compile_s"))
    tiles = [
        ("final return", short(run.final_range("federated")["mean"]), seeds),
        ("held-out return", short(held_out.get("mean")), ends(held_out.get("low"), held_out.get("high"))),
        ("steps per second", count(summary.get("steps_per_second")), "of the environment, all agents"),
        ("environment steps", count(summary.get("environment_steps")), "all agents, seeds and methods"),
        ("sent by the agents", size(summary.get("bytes_up")), f"{size(summary.get('bytes_down'))} sent to them"),
        ("wall time", duration(summary.get("wall_s")), "" if compiled == NOTHING else f"compilation {compiled}"),
        ("privacy loss ε", short(summary.get("epsilon")), ""),
    ]
    shown = [tile for tile in tiles if not tile[1].startswith(NOTHING)]
    terms = [
        element("div", element("dt", name), element("dd", value, class_="value"), element("dd", about))
        for name, value, about in shown
    ]
    return element("dl", terms, class_="tiles")


def _card(title: str, body: object, about: str = "", aside: Markup | None = None) -> Markup:
    head = element("div", element("h2", title), aside, class_="head")
    return element("section", head, element("p", about, class_="note") if about else None, body, class_="card")


def _chart(name: str, about: str) -> Markup:
    fallback = element("noscript", "The charts need JavaScript; the numbers are in the tables.")
    return element("div", fallback, id=name, class_="chart", role="img", aria_label=about)


def _caption(curves: Sequence[Curve]) -> str:
    seeds = {c.seeds for c in curves if c.seeds}
    if not seeds:
        return "No round has ended yet."
    if seeds == {1}:
        return "One seed, so there is no interval."
    few = " (their range where there are only two)" if min(seeds) < 3 else ""
    return f"Interquartile mean over seeds; the band is its 95 % bootstrap interval{few}."


def _configuration(runs: Sequence[Run], labels: Sequence[str]) -> list[Markup]:
    return [
        element(
            "details",
            element("summary", f"config.toml of {label}"),
            element("pre", element("code", highlighted(run.config))) if run.config else element("p", "Not recorded."),
        )
        for run, label in zip(runs, labels, strict=True)
    ]


def _citations(runs: Sequence[Run]) -> Markup:
    lines = dict.fromkeys(str(line) for run in runs for line in run.summary.get("citations") or ())
    if not lines:
        return element("p", "No component of this page names one.", class_="note")
    return element("ol", [element("li", linked(line)) for line in lines], class_="sources")


def _origin(runs: Sequence[Run], labels: Sequence[str]) -> Markup:
    """Revision, versions and folder of each run, a column each."""
    names = dict.fromkeys(name for run in runs for name in run.summary.get("versions") or {})
    lines: list[tuple[str, list[object]]] = [
        ("revision", [run.summary.get("revision") for run in runs]),
        ("folder", [run.folder for run in runs]),
    ]
    lines += [(name, [(run.summary.get("versions") or {}).get(name) for run in runs]) for name in names]
    head = [element("th", ""), *(element("th", label, scope="col") for label in labels)]
    rows = [
        element("tr", element("th", name, scope="row"), [element("td", value or NOTHING) for value in values])
        for name, values in lines
    ]
    return table(head, rows)


def _labels(runs: Sequence[Run]) -> list[str]:
    """A name for each run, with its folder or its place where names repeat."""
    names = [run.name for run in runs]
    told = [n if names.count(n) == 1 else f"{n} ({run.folder.name})" for n, run in zip(names, runs, strict=True)]
    return [t if told.count(t) == 1 else f"{t} #{i + 1}" for i, t in enumerate(told)]


def _plural(many: int, what: str) -> str:
    return f"{many:,} {what}" + ("" if many == 1 else "s")


def _rounds(curves: Sequence[Curve]) -> str:
    return _plural(max((int(c.rounds[-1]) for c in curves if c.rounds.size), default=0), "round")


def _asset(name: str) -> str:
    return (files("fedrl.experiments.report") / name).read_text("utf-8")
