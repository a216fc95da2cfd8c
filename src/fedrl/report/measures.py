"""The card of a page about measures besides the return: a chart and a table row for each."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fedrl.records import MeasureResult, Seeded
from fedrl.records.formatting import NOTHING, ends, number, with_unit
from fedrl.records.measured import direction_of, readable, title_of
from fedrl.records.statistics import best_of, probability_of_improvement
from fedrl.report.curves import curve
from fedrl.report.figures import Figure, has_returns, measure_figure
from fedrl.report.markup import Markup, element
from fedrl.report.run import Run
from fedrl.report.shell import card, chart
from fedrl.report.tables import key, keyed, table

LONGEST = 200
"""Points of a small chart."""


def measures_card(run: Run, charts: dict[str, Figure]) -> Markup | None:
    """Return the card of a run's measures, by method; None without measures."""
    drawn = _charts([run] * len(run.methods), run.methods, list(map(readable, run.methods)), charts, methods=True)
    summarised = {name: measure for name, measure in run.measures.items() if measure["methods"]}
    body = [drawn, _by_method(summarised) if summarised else None]
    about = (
        "Charts show training, round by round. The table has the values of the last greedy episodes or, where it says "
        "training, of the last tenth of the rounds, with a 95 % interval over seeds. Values are computed from sums "
        "over all agents."
    )
    return card("Measures", [part for part in body if part is not None], about) if drawn is not None else None


def measures_of_runs(runs: Sequence[Run], labels: Sequence[str], charts: dict[str, Figure]) -> Markup | None:
    """Return the card that compares the measures of runs, by the first method of each; None without measures."""
    begun = [(run, label) for run, label in zip(runs, labels, strict=True) if run.methods]
    methods = [run.methods[0] for run, _ in begun]
    drawn = _charts([run for run, _ in begun], methods, [label for _, label in begun], charts, methods=False)
    if drawn is None:
        return None
    return card(
        "Measures", [drawn, _by_run(runs, labels)], "Of the federated agents; the best of each column is marked."
    )


def _charts(
    runs: Sequence[Run], methods_of: Sequence[str], labels: Sequence[str], charts: dict[str, Figure], *, methods: bool
) -> Markup | None:
    """Return a small chart for each measure that any of the runs has in its records."""
    measures = _of_all(runs)
    places = []
    for number_of, (name, measure) in enumerate(measures.items()):
        curves = [curve(run, method, name, LONGEST) for run, method in zip(runs, methods_of, strict=True)]
        if any(map(has_returns, curves)):
            place = f"measure-{number_of}"
            charts[place] = measure_figure(curves, labels, title_of(name, measure), methods=methods)
            places.append(chart(place, f"{title_of(name, measure)} against environment steps"))
    return element("div", places, class_="trio") if places else None


def _of_all(runs: Sequence[Run]) -> dict[str, MeasureResult]:
    """Return the measures of all runs, preferably as declared in a run with a summary."""
    found: dict[str, MeasureResult] = {}
    for run in runs:
        for name, measure in run.measures.items():
            # A run without a summary knows only the names of its measures; prefer the declaration of another run.
            if name not in found or not found[name]["per"]:
                found[name] = measure
    return found


def _by_method(measures: dict[str, MeasureResult]) -> Markup:
    """Return a table with a row for each measure and method."""
    rivals = any(len(measure["methods"]) > 1 for measure in measures.values())
    names = ["measure", "method", "value", "95 % interval", "of"]
    names += ["federated is better with probability"] if rivals else []
    head = [
        element("th", name, scope="col", class_="number" if i in (2, 3, 5) else None) for i, name in enumerate(names)
    ]
    rows = []
    for name, measure in measures.items():
        methods, unit = measure["methods"], measure["unit"]
        best = best_of([number(found["mean"]) for found in methods.values()], measure["better"])
        # One cell for all methods of a measure, which screen readers announce with each row.
        title = element("th", title_of(name, measure), _direction(measure), scope="rowgroup", rowspan=len(methods))
        for place, (method, found) in enumerate(methods.items()):
            marked = "number best" if place == best else "number"
            cells = [
                element("td", keyed(method)),
                element("td", with_unit(found["mean"], unit), class_=marked),
                element("td", _spread(found, unit), class_="number"),
                element("td", "greedy episodes" if measure["source"] == "greedy" else "training"),
                *([element("td", _chance(measure, method), class_="number")] if rivals else []),
            ]
            rows.append(element("tr", title if not place else None, cells))
    return table(head, rows)


def _by_run(runs: Sequence[Run], labels: Sequence[str]) -> Markup | None:
    """Return a table with a row for each run and a column for each summarised measure; None without any."""
    measures = {name: measure for name, measure in _of_all(runs).items() if measure["methods"]}
    if not measures:
        return None
    head = [element("th", "run", scope="col")]
    named = enumerate(zip(runs, labels, strict=True))
    rows = [[element("th", key(i), label, scope="row", title=run.folder)] for i, (run, label) in named]
    for name, measure in measures.items():
        head.append(element("th", title_of(name, measure), _direction(measure), scope="col", class_="number"))
        found = [_of_federation(run, name) for run in runs]
        best = best_of([math.nan if each is None else number(each["mean"]) for each in found], measure["better"])
        for i, each in enumerate(found):
            text = NOTHING if each is None else with_unit(each["mean"], measure["unit"])
            spread = NOTHING if each is None else _spread(each, measure["unit"])
            text = text if spread == NOTHING else f"{text} ({spread})"
            rows[i].append(element("td", text, class_="number best" if i == best else "number"))
    return table(head, [element("tr", cells) for cells in rows])


def _of_federation(run: Run, name: str) -> Seeded | None:
    measure = run.measures.get(name)
    return None if measure is None else measure["methods"].get("federated")


def _spread(found: Seeded, unit: str) -> str:
    """Return the ends of the interval; a dash with one seed."""
    several = sum(value is not None for value in found["seeds"]) > 1
    return ends(found["low"], found["high"], unit) if several else NOTHING


def _chance(measure: MeasureResult, method: str) -> str:
    """Return the probability that the federation does better than a baseline, in the direction of the measure."""
    better, methods = measure["better"], measure["methods"]
    if better is None or method == "federated" or "federated" not in methods:
        return NOTHING
    ours, theirs = ([number(x) for x in methods[name]["seeds"]] for name in ("federated", method))
    chance = probability_of_improvement(ours, theirs, better=better)
    return f"{chance.mean:.2f} ({chance.low:.2f} to {chance.high:.2f})" if math.isfinite(chance.mean) else NOTHING


def _direction(measure: MeasureResult) -> Markup | None:
    text = direction_of(measure)
    return element("span", f" ({text})", class_="note") if text else None
