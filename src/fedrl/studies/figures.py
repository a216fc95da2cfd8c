"""The charts of a study as plain data for plotly.js: the Pareto front, costs to a target, speed, the cost model."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from fedrl.records.formatting import NOTHING, ends, number, short, with_unit
from fedrl.records.measured import RETURN
from fedrl.report.figures import COLOURS, DASHES, Figure, Trace, layout_of
from fedrl.studies.grid import in_words, short_names
from fedrl.studies.quantity import compared, gain_of, outcome_of, title_of, value_of
from fedrl.studies.records import Median, Result, Study

AGENTS = "federation.agents"
WIDE = 20.0
ALIKE, ROOM = 1.02, 0.9
"""Ratio of the largest to the smallest value below which an axis gets room beside them, and the room as a factor."""
MOST_LABELS = 40
Point: TypeAlias = tuple[Result, float, float, float]
"""A setting, its value, and the lower and upper end of the interval."""


def varied(study: Study) -> list[str]:
    """Return the keys with more than one value."""
    return [key for key, values in study["grid"].items() if len(values) > 1]


def across(study: Study) -> str:
    """Return the key of the horizontal axis: the number of agents, or else the first key with several values."""
    keys = varied(study) or list(study["grid"])
    return AGENTS if AGENTS in keys else keys[0]


def front(study: Study) -> list[Result]:
    """Return the Pareto front: the settings for which every better one sends more bytes, in the order of bytes.

    It is empty if the compared measure has no better direction.
    """
    best, kept = -math.inf, []
    results = known_in(study) if compared(study)["better"] is not None else []
    # In the order of bytes, a setting is on the front if it beats all that send fewer.
    for result in sorted(results, key=lambda r: (r["bytes_up"], -gain_of(study, r))):
        if gain_of(study, result) > best:
            best = gain_of(study, result)
            kept.append(result)
    return kept


def known_in(study: Study) -> list[Result]:
    """Return the settings with a finite result."""
    return [result for result in study["settings"] if math.isfinite(value_of(study, result))]


def pareto_figure(study: Study) -> Figure:
    """Return the chart of the compared measure against bytes up, with intervals over seeds and the Pareto front."""
    known, best = known_in(study), front(study)
    traces: list[Trace] = []
    for place, (name, group) in enumerate(_groups(study, known, _others(study)).items()):
        points = [(r, *_interval(study, r)) for r in group]
        marks = _marks(points, [r["bytes_up"] for r in group], place, name, error_y=_whiskers(points))
        traces.append(marks | {"customdata": [_told(study, r) for r in group]} | _labelled(study, group))
    if best:
        line = {"color": "theme:soft", "width": 1.5, "dash": "dot", "shape": "hv"}
        x, y = ([r["bytes_up"] for r in best], [value_of(study, r) for r in best])
        ring = {"size": 16, "symbol": "circle-open", "color": "theme:soft", "line": {"width": 1.5}}
        traces.append(
            {"type": "scatter", "mode": "lines+markers", "name": "Pareto front", "x": x, "y": y, "line": line}
        )
        traces[-1] |= {"marker": ring, "hoverinfo": "skip"}
    layout = layout_of("bytes up, all agents, one seed", described(study))
    layout["hovermode"] = "closest"
    layout["xaxis"] |= _scale([r["bytes_up"] for r in known])
    return {"data": traces, "layout": layout}


def target_figure(study: Study, cost: str, title: str, unit: str = "") -> Figure:
    """Return the chart of a cost to the target along the axis; crosses show the cost of settings that missed it."""
    timed = [r for r in study["settings"] if cost in r.get("target", {})]

    def spread(result: Result) -> Point:
        found: Median = result["target"][cost]  # type: ignore[literal-required]
        # None stands for seeds that never reached the target, which cost infinitely much.
        middle, low, high = (math.inf if x is None else x for x in (found["median"], found["low"], found["high"]))
        return result, middle, low, high if math.isfinite(high) else middle

    traces = _lines(study, [r for r in timed if math.isfinite(spread(r)[1])], spread)
    # Where the target was missed, the whole cost of the setting is shown.
    spent = {"seconds": "spent_s", "time_s": "virtual_s"}.get(cost, cost)
    vain = [r for r in timed if not math.isfinite(spread(r)[1])]
    if vain:
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "not reached",
                "x": [_along(study, r) for r in vain],
                "y": [number(r.get(spent)) for r in vain],
                "marker": {"size": 12, "symbol": "x-thin", "line": {"width": 2.5, "color": "theme:series-6"}},
                "customdata": [[html.escape(r["label"]), r["target"]["reached"], r["target"]["seeds"]] for r in vain],
                "hovertemplate": "%{customdata[0]}<br>%{customdata[1]} of %{customdata[2]} seeds<extra></extra>",
            }
        )
    return _figure(study, traces, title, unit, [spread(r)[1] for r in timed] + [number(r.get(spent)) for r in vain])


def speed_figure(study: Study) -> Figure:
    """Return the chart of environment steps per second along the axis."""

    def speed(result: Result) -> Point:
        value = number(result.get("steps_per_second"))
        return result, value, value, value

    known = [r for r in study["settings"] if math.isfinite(speed(r)[1])]
    return _figure(study, _lines(study, known, speed), "environment steps per second", "", [speed(r)[1] for r in known])


def cost_figure(study: Study) -> Figure:
    """Return the chart of measured bytes up against those of the cost model, with the line of equality."""
    known = [r for r in study["settings"] if r.get("cost_bytes") and r.get("bytes_up")]
    traces: list[Trace] = []
    for place, (name, group) in enumerate(_groups(study, known, _others(study)).items()):
        points = [(r, r["bytes_up"], r["bytes_up"], r["bytes_up"]) for r in group]
        traces.append(_marks(points, [number(r["cost_bytes"]) for r in group], place, name) | _labelled(study, group))
    costs = [number(r["cost_bytes"]) for r in known]
    if costs:
        edge = [min(costs), max(costs)]
        line = {"color": "theme:soft", "width": 1.5, "dash": "dot"}
        traces.append({"type": "scatter", "mode": "lines", "name": "equal", "x": edge, "y": edge, "line": line})
        traces[-1]["hoverinfo"] = "skip"
    layout = layout_of("bytes up by the cost model, T K S", "bytes up as measured")
    layout["hovermode"] = "closest"
    scale = _scale([*costs, *(r["bytes_up"] for r in known)])  # the same on both, so that equal is a straight line
    layout["xaxis"] |= scale
    layout["yaxis"] |= {"tickformat": "~s"} | scale
    return {"data": traces, "layout": layout}


def heat_figure(study: Study) -> Figure | None:
    """Return the heat map of the compared measure by the values of two keys; None unless exactly two are varied."""
    keys = varied(study)
    if len(keys) != 2:
        return None
    down, along = keys
    names = short_names(list(study["grid"]))
    # Values may be lists or tables, which can't be keys, so their texts are.
    cells = {(repr(r["values"][down]), repr(r["values"][along])): r for r in study["settings"]}
    rows = [[cells[repr(y), repr(x)] for x in study["grid"][along]] for y in study["grid"][down]]
    z = [[value_of(study, r) for r in row] for row in rows]
    layout = layout_of(names[along].replace("_", " "), names[down].replace("_", " "))
    layout["xaxis"] |= {"type": "category", "tickformat": "", "showgrid": False}
    layout["yaxis"] |= {"type": "category", "tickformat": "", "showgrid": False, "autorange": "reversed"}
    layout["hovermode"] = "closest"
    bar = {"title": {"text": title_of(compared(study)), "side": "right"}, "thickness": 14, "outlinewidth": 0}
    trace = {
        "type": "heatmap",
        "x": [html.escape(in_words(x)) for x in study["grid"][along]],
        "y": [html.escape(in_words(y)) for y in study["grid"][down]],
        "z": z,
        "text": [[_cell(study, r) for r in row] for row in rows],
        "texttemplate": "%{text}",
        "colorscale": "Viridis",
        "colorbar": bar,
        "xgap": 2,
        "ygap": 2,
        "hoverinfo": "skip",
    }
    return {"data": [trace], "layout": layout}


def _lines(study: Study, results: Sequence[Result], value: Callable[[Result], Point]) -> list[Trace]:
    """Return a line for each combination of the other keys."""
    traces = []
    for place, (name, group) in enumerate(_groups(study, results, _others(study)).items()):
        points = [value(r) for r in group]
        traces.append(_marks(points, [_along(study, r) for r in group], place, name, error_y=_whiskers(points)))
    return traces


def _figure(study: Study, traces: list[Trace], title: str, unit: str, values: Sequence[float]) -> Figure:
    key = across(study)
    layout = layout_of(short_names(list(study["grid"]))[key].replace("_", " "), title)
    layout["hovermode"] = "closest"
    places = study["grid"][key]
    # Numbers are placed by value, everything else by the order of the grid.
    if all(isinstance(x, int | float) and not isinstance(x, bool) for x in places):
        layout["xaxis"] |= _scale([float(x) for x in places])
        if len(places) <= 8:
            layout["xaxis"] |= {"tickvals": places, "ticktext": [short(x) for x in places]}
    else:
        layout["xaxis"] |= {"type": "category", "tickformat": ""}
    layout["yaxis"] |= {"tickformat": "~s", "ticksuffix": unit} | (_scale(values) or {"rangemode": "tozero"})
    return {"data": traces, "layout": layout}


def _others(study: Study) -> list[str]:
    """Return the varied keys that are not on the horizontal axis; each combination of their values has a line."""
    return [key for key in varied(study) if key != across(study)]


def _labelled(study: Study, group: Sequence[Result]) -> Trace:
    """Return marks without lines, each labelled with its value on the other charts' axis unless there are too many."""
    # Labels of many settings would cover each other.
    if len(study["settings"]) > MOST_LABELS:
        return {"mode": "markers"}
    readable = [html.escape(in_words(result["values"][across(study)])) for result in group]
    font = {"size": 11, "color": "theme:soft"}
    return {
        "mode": "markers+text",
        "text": readable,
        "textposition": "top right",
        "textfont": font,
        "cliponaxis": False,
    }


def _groups(study: Study, results: Sequence[Result], keys: Sequence[str]) -> Mapping[str, list[Result]]:
    """Return the settings by their values of some keys, in words."""
    names = short_names(list(study["grid"]))
    found: dict[str, list[Result]] = {}
    for result in results:
        readable = ", ".join(f"{names[key]} {in_words(result['values'][key])}" for key in keys)
        found.setdefault(readable.replace("_", " ") or study["name"], []).append(result)
    return found


def _marks(points: Sequence[Point], x: Sequence[Any], place: int, name: str, **more: Any) -> Trace:
    colour = f"theme:series-{place % COLOURS}"
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": html.escape(name),
        "x": list(x),
        "y": [value for _, value, _, _ in points],
        "line": {"color": colour, "width": 2, "dash": DASHES[place // COLOURS % len(DASHES)]},
        "marker": {"size": 9, "color": colour},
        "customdata": [[html.escape(r["label"]), ends(low, high)] for r, _, low, high in points],
        "hovertemplate": "%{customdata[0]}<br>%{y:.4~g}  [%{customdata[1]}]<extra></extra>",
    } | more


def _whiskers(points: Sequence[Point]) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [max(high - value, 0.0) for _, value, _, high in points],
        "arrayminus": [max(value - low, 0.0) for _, value, low, _ in points],
        "thickness": 1.25,
        "width": 4,
    }


def described(study: Study) -> str:
    """Return the title of the axis of the compared measure."""
    what = compared(study)
    if what["name"] == RETURN:
        return "final greedy return per episode"
    return ", ".join(filter(None, (title_of(what), what["unit"])))


def _interval(study: Study, result: Result) -> tuple[float, float, float]:
    found = outcome_of(study, result)
    assert found is not None
    return number(found["mean"]), number(found["low"]), number(found["high"])


def _told(study: Study, result: Result) -> list[str]:
    _, low, high = _interval(study, result)
    return [html.escape(result["label"]), ends(low, high, compared(study)["unit"])]


def _cell(study: Study, result: Result) -> str:
    found, unit = outcome_of(study, result), compared(study)["unit"]
    if found is None:
        return NOTHING
    return html.escape(with_unit(found["mean"], unit)) + "<br>" + html.escape(ends(found["low"], found["high"], unit))


def _along(study: Study, result: Result) -> Any:
    """Return the position of a setting on the horizontal axis: a number, or a category."""
    value = result["values"][across(study)]
    return value if isinstance(value, int | float) and not isinstance(value, bool) else html.escape(in_words(value))


def _scale(values: Sequence[float]) -> dict[str, Any]:
    """Return a logarithmic axis if the values are far apart, one with room if they are alike, else an empty one."""
    known = [value for value in values if math.isfinite(value)]
    if not known or min(known) <= 0:
        return {}
    low, high = min(known), max(known)
    if high / low < ALIKE:
        # Else the ticks would be so close to each other that all have the same text.
        return {"range": [ROOM * low, high / ROOM]}
    return {"type": "log", "dtick": 1 if high / low >= 100 else "D2"} if high / low >= WIDE else {}
