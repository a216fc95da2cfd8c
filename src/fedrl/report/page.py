"""Assemble the page: header, headline numbers, charts, tables, configuration, references."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedrl.core.errors import ConfigError
from fedrl.records.files import OTHER_FILE, write_atomically
from fedrl.records.formatting import NOTHING, count, duration, ends, short, size
from fedrl.report.communication import (
    consensus_table,
    heterogeneity_table,
    hierarchy_table,
    messages_note,
    reading_note,
    virtual_time_table,
)
from fedrl.report.curves import Curve, curve
from fedrl.report.figures import (
    Figure,
    consensus_figure,
    has_time,
    learning_figure,
    time_figure,
    traffic_figure,
)
from fedrl.report.film import film_card
from fedrl.report.highlight import highlighted
from fedrl.report.markup import Markup, element, linked
from fedrl.report.measures import measures_card, measures_of_runs
from fedrl.report.privacy import privacy_card
from fedrl.report.run import Run, read_run
from fedrl.report.shell import card, chart, document, header
from fedrl.report.tables import (
    agents_table,
    costs_table,
    differences_table,
    methods_table,
    outcomes_table,
    readable,
    rejections_table,
    table,
)


def write_report(folders: Sequence[Path], target: Path, *, public: bool = False) -> Path:
    """Write one self-contained HTML page about a run, or a comparison of several.

    Args:
        folders: Run folders, complete or not, with or without baselines.
        target: Path of the page, of about 5 MB.
        public: Whether to leave out all that the privacy guarantee of the run does not cover: returns, losses, curves,
            films, and the configuration, which has the settings of agents.

    Returns:
        `target`.

    Raises:
        ConfigError: No folder is given, or one has no records; or the public page of several runs is asked for, or of
            one without a privacy budget.
        RunError: The page can't be written.
    """
    if not folders:
        raise ConfigError("folders is empty. A report is about at least one run. Name the folder of a run.")
    runs = [read_run(Path(folder)) for folder in folders]
    if public:
        write_atomically(target, document(*_public(runs)).encode(errors="replace"), OTHER_FILE)
        return target
    write_atomically(target, _page(runs).encode(errors="replace"), OTHER_FILE)
    return target


def _page(runs: Sequence[Run]) -> str:
    return document(*(_one(runs[0]) if len(runs) == 1 else _several(runs)))


def _public(runs: Sequence[Run]) -> tuple[str, list[object], dict[str, Figure]]:
    """Return title, sections and charts of the page of a single run that only shows what its guarantee covers."""
    charts: dict[str, Figure] = {}
    shown = privacy_card(runs[0], charts, public=True)
    if len(runs) > 1 or shown is None:
        cause = f"{len(runs)} runs are" if len(runs) > 1 else f"{runs[0].folder} has no privacy budget and is"
        raise ConfigError(
            f"{cause} to be in a public report, which shows what the privacy guarantee of one run covers. Name one "
            "folder of a run with [federation.privacy], or leave --public out."
        )
    (run,) = runs
    about = f"{_plural(run.agents, 'agent')} · {_plural(len(run.seeds), 'seed')}"
    sections: list[object] = [
        header("Public run report", run.name, about),
        shown,
        card("Sources", _citations(runs)),
    ]
    return run.name, sections, charts


def _one(run: Run) -> tuple[str, list[object], dict[str, Figure]]:
    """Return title, sections and charts of the page of a single run."""
    curves = [curve(run, method) for method in run.methods]
    names = [readable(method) for method in run.methods]
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
        " A centralised learner would have to send the experience itself, which is not counted here."
        if "centralised" in run.methods
        else ""
    )
    best = "; the best of each row is marked" if len(run.methods) > 1 else ""
    sections: list[object] = [
        header("Run report", run.name, f"{about} · {', '.join(names)}"),
        _notes([run]),
        _warnings(run),
        _notices(run),
        _tiles(run),
        card("Learning", chart("learning", "Training return against environment steps"), _caption(curves), switch),
        card("Final returns", methods_table(run), "Of the greedy policy, each agent in its own environment."),
        measures_card(run, charts),
        privacy_card(run, charts),
        card("Agents", agents_table(run), f"Final greedy return of each agent{best}."),
        film_card(run),
        _refused(run),
        *_timed([run], curves, names, charts, virtual_time_table(run), methods=True),
        card(
            "Communication",
            [chart("traffic", "Training return against bytes sent"), *reading_note(run)],
            f"A method that sends nothing is a level line at its last return.{centralised}{messages_note(run)}",
        ),
        *_exchange(run, charts),
        _heterogeneity(run),
        card("Configuration", _configuration([run], [run.name])),
        card("Sources", _citations([run])),
        card("Made with", _origin([run], [run.name])),
    ]
    return run.name, sections, charts


KINDS_OF_TIME = {
    False: "Time is simulated; at each round it is the mean over seeds.",
    True: "With agents at other sites time is real: seconds from the start, without those between two processes of a "
    "coordinator.",
}


def _timed(
    runs: Sequence[Run],
    curves: Sequence[Curve],
    names: Sequence[str],
    charts: dict[str, Figure],
    seen: Markup | None = None,
    *,
    methods: bool,
) -> list[Markup]:
    """Return the card of returns against the time of clocks; none if no run had a clock."""
    if not any(map(has_time, curves)):
        return []
    # The page of one run has a curve for each method, and that of several runs one for each of them.
    real = {runs[0].real_time} if methods else {runs[i].real_time for i, each in enumerate(curves) if has_time(each)}
    clock = "the run's clock" if real == {True} else "the virtual clock" if real == {False} else "each run's clock"
    charts["time"] = time_figure(curves, names, methods=methods, clock=clock)
    drawn = chart("time", f"Training return against time on {clock}")
    waiting = "Baselines have no clock" if methods else "Some runs have no clock"
    level = "" if all(map(has_time, curves)) else f" {waiting}: a level line at the last return."
    about = f"{' '.join(KINDS_OF_TIME[each] for each in sorted(real))}{level}"
    return [card("Virtual time" if real == {False} else "Time", [drawn, *([] if seen is None else [seen])], about)]


def _heterogeneity(run: Run) -> Markup | None:
    """Return the card of heterogeneity; None if it was not measured."""
    known = heterogeneity_table(run)
    about = "Updates: over the rounds in which they were compared. Finite environments: distance from their mean."
    return None if known is None else card("Heterogeneity", known, about)


def _exchange(run: Run, charts: dict[str, Figure]) -> list[Markup]:
    """Return the cards of consensus without a server and of a tree of servers, if there are any."""
    cards = []
    agreement, levels = consensus_table(run), hierarchy_table(run)
    if agreement is not None:
        charts["consensus"] = consensus_figure(run)
        drawn = chart("consensus", "Distance of the agents from their mean against rounds")
        cards.append(
            card("Without a server", [drawn, agreement], "Agents average with their neighbours after local training.")
        )
    if levels is not None:
        cards.append(card("Tree of servers", levels, "Over the links of each level, all rounds of one seed."))
    return cards


def _several(runs: Sequence[Run]) -> tuple[str, list[object], dict[str, Figure]]:
    """Return title, sections and charts of the page that compares runs, with a line for each."""
    labels = _labels(runs)
    # The first method is the federation: comparisons are between federations, not their baselines.
    shown = [(run, label) for run, label in zip(runs, labels, strict=True) if run.methods]
    curves = [curve(run, run.methods[0]) for run, _ in shown]
    names = [label for _, label in shown]
    charts = {
        "learning": learning_figure(curves, names, agents=False),
        "traffic": traffic_figure(curves, names, methods=False),
    }
    sections: list[object] = [
        header("Comparison", f"{len(runs)} runs", ", ".join(labels)),
        _notes(runs),
        card("Final returns", outcomes_table(runs, labels), "Of the federated agents, each in its own environment."),
        card("Learning", chart("learning", "Training return against environment steps"), _caption(curves)),
        measures_of_runs(runs, labels, charts),
        *_timed([run for run, _ in shown], curves, names, charts, methods=False),
        card("Communication", chart("traffic", "Training return against bytes sent")),
        card("Costs", costs_table(runs, labels), "Bytes are those of one seed, steps those of all."),
        card("Settings that differ", differences_table(runs, labels) or element("p", "None.", class_="note")),
        card("Configurations", _configuration(runs, labels)),
        card("Sources", _citations(runs)),
        card("Made with", _origin(runs, labels)),
    ]
    return f"{len(runs)} runs", sections, charts


def _notes(runs: Sequence[Run]) -> list[Markup]:
    """Return the defects of runs, which stand before all numbers."""
    several = len(runs) > 1
    return [
        element("p", f"{run.name}: {note}" if several else note, class_="warning", role="status")
        for run in runs
        for note in (*run.notes, *(run.notices if several else ()))
    ]


def _warnings(run: Run) -> list[Markup]:
    """Return the warnings of a run, with their remedies."""
    return [
        element(
            "div",
            element("p", element("b", warning.get("message"))),
            element("ul", [element("li", remedy) for remedy in warning.get("remedies") or ()]),
            class_="warning",
            role="alert",
        )
        for warning in run.summary.get("warnings") or ()
    ]


def _notices(run: Run) -> Markup | None:
    """Return the box about rejected updates and agents that are left out; None without any."""
    found = run.notices
    if not found:
        return None
    return element("div", element("ul", [element("li", line) for line in found]), class_="warning", role="alert")


def _refused(run: Run) -> Markup | None:
    """Return the card of rejected updates by method and agent; None without any."""
    found = rejections_table(run)
    about = (
        "Updates that were left out of a merge, over all seeds. The agent's training of that round was undone. "
        "Methods without a server also undo training that is not finite."
    )
    return None if found is None else card("Rejected updates", found, about)


def _tiles(run: Run) -> Markup:
    """Return the headline numbers; those that the run lacks are left out."""
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
        (run.name_of_time, duration((summary.get("virtual_time") or {}).get("time_s")), "one seed"),
        ("wall time", duration(summary.get("wall_s")), "" if compiled == NOTHING else f"compilation {compiled}"),
        ("privacy loss ε", short(summary.get("epsilon")), ""),
    ]
    # An unfinished run lacks some numbers, and a run without privacy has no epsilon.
    shown = [tile for tile in tiles if not tile[1].startswith(NOTHING)]
    terms = [
        element("div", element("dt", name), element("dd", value, class_="value"), element("dd", about))
        for name, value, about in shown
    ]
    return element("dl", terms, class_="tiles")


def _caption(curves: Sequence[Curve]) -> str:
    # What the band shows depends on the number of seeds, so the caption says which it is.
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
        return element("p", "No component of this page cites a source.", class_="note")
    return element("ol", [element("li", linked(line)) for line in lines], class_="sources")


def _origin(runs: Sequence[Run], labels: Sequence[str]) -> Markup:
    """Return the table of revision, versions and folder of each run, a column each."""
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
    """Return a distinct name for each run, with its folder or its number where names repeat."""
    names = [run.name for run in runs]
    # Runs of one experiment have one name; without distinct labels their lines could not be told apart.
    text = [n if names.count(n) == 1 else f"{n} ({run.folder.name})" for n, run in zip(names, runs, strict=True)]
    return [t if text.count(t) == 1 else f"{t} #{i + 1}" for i, t in enumerate(text)]


def _plural(many: int, what: str) -> str:
    return f"{many:,} {what}" + ("" if many == 1 else "s")


def _rounds(curves: Sequence[Curve]) -> str:
    return _plural(max((int(c.rounds[-1]) for c in curves if c.rounds.size), default=0), "round")
