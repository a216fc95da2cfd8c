"""The charts as plain data for plotly.js.

Colours are names: "theme:series-0" is the first colour of the series in the theme of the reader's system (light or
dark), "theme:series-0@0.2" the same with an opacity of 0.2. `page.js` looks them up. Lines differ in colour and dash.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from fedrl.records import METHODS
from fedrl.records.formatting import number
from fedrl.report.curves import Curve
from fedrl.report.run import Run

Figure: TypeAlias = dict[str, Any]
Trace: TypeAlias = dict[str, Any]

COLOURS = 8
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
MOST_LINES = 24  # of single agents; more are shown as a band
AGENTS = "agents"  # marks the traces that the reader can hide
RETURN = "mean training return per episode"


def learning_figure(curves: Sequence[Curve], labels: Sequence[str], *, agents: bool) -> Figure:
    """Return the chart of training return against environment steps, with intervals over seeds.

    Args:
        curves: The curves to draw.
        labels: A name for each curve.
        agents: Whether to draw the agents of the first curve, and to style lines by method.
    """
    traces: list[Trace] = _spread(curves[0]) if agents and curves and has_returns(curves[0]) else []
    for place, (curve, label) in enumerate(zip(curves, labels, strict=True)):
        if not has_returns(curve):
            continue
        look = style(curve.method) if agents else place
        traces += [*_band(curve, curve.steps, look, label), _line(curve, curve.steps, look, label)]
    return {"data": traces, "layout": layout_of("environment steps of all agents", RETURN)}


def measure_figure(curves: Sequence[Curve], labels: Sequence[str], title: str, *, methods: bool) -> Figure:
    """Return the chart of a measure against environment steps: a line, with an interval, for each curve that has it."""
    traces: list[Trace] = []
    for place, (curve, label) in enumerate(zip(curves, labels, strict=True)):
        if has_returns(curve):
            look = style(curve.method) if methods else place
            traces += [*_band(curve, curve.steps, look, label), _line(curve, curve.steps, look, label)]
    layout = layout_of("environment steps of all agents", title)
    layout["yaxis"] |= {"tickformat": "~g"}
    return {"data": traces, "layout": layout}


def traffic_figure(curves: Sequence[Curve], labels: Sequence[str], *, methods: bool) -> Figure:
    """Return the chart of training return against bytes; a method that sends nothing is a level line."""
    figure = _against([curve.sent for curve in curves], curves, labels, methods)
    figure["layout"] = layout_of("bytes up and down, all agents, one seed", RETURN)
    figure["layout"]["xaxis"] |= {"ticksuffix": "B", "rangemode": "tozero"}
    return figure


def time_figure(curves: Sequence[Curve], labels: Sequence[str], *, methods: bool, clock: str) -> Figure:
    """Return the chart of training return against time on a clock; a method without one is a level line."""
    figure = _against([curve.time_s for curve in curves], curves, labels, methods, bands=True)
    figure["layout"] = layout_of(f"seconds on {clock}", RETURN)
    figure["layout"]["xaxis"] |= {"ticksuffix": "s", "rangemode": "tozero"}
    return figure


def _against(
    places: Sequence[np.ndarray], curves: Sequence[Curve], labels: Sequence[str], methods: bool, bands: bool = False
) -> Figure:
    """Return the chart of training return against a cost, with level lines for methods without that cost."""
    traces: list[Trace] = []
    # A level line has to span the axis, whose length the other methods determine.
    furthest = max((float(np.nanmax(x, initial=0.0)) for x in places), default=0.0)
    for i, (x, curve, label) in enumerate(zip(places, curves, labels, strict=True)):
        if not has_returns(curve):
            continue
        look = style(curve.method) if methods else i
        if np.nanmax(x, initial=0.0) > 0:
            traces += [*(_band(curve, x, look, label) if bands else []), _line(curve, x, look, label)]
        else:
            level = float(curve.returns.mean[np.isfinite(curve.returns.mean)][-1])
            traces.append(_trace([0.0, furthest], [level, level], look, label))
    return {"data": traces}


def has_time(curve: Curve) -> bool:
    """Return whether the method had a clock."""
    return bool(np.isfinite(curve.time_s).any())


def consensus_figure(run: Run) -> Figure:
    """Return the chart of the agents' distance from their mean, before and after averaging, mean over seeds."""
    rounds: dict[int, list[tuple[float, float]]] = {}
    for record in run.of("federated"):
        pair = (number(record.get("drift")), number(record.get("consensus_distance")))
        rounds.setdefault(int(record["round"]), []).append(pair)
    means = np.array([np.mean(rounds[i], axis=0) for i in sorted(rounds)]).reshape(-1, 2)
    traces = [
        _trace(sorted(rounds), means[:, i], i, name) for i, name in enumerate(("before averaging", "after averaging"))
    ]
    layout = layout_of("rounds", "distance from the mean of all agents")
    layout["yaxis"] |= {"rangemode": "tozero"}
    return {"data": traces, "layout": layout}


def epsilon_figure(run: Run) -> Figure:
    """Return the chart of the spent epsilon against rounds, a line for each seed, with the budget."""
    seeds: dict[int, tuple[list[int], list[float]]] = {}
    for record in run.of("federated"):
        spent = record.get("privacy")
        if spent:
            rounds, values = seeds.setdefault(int(record["seed"]), ([], []))
            rounds.append(int(record["round"]))
            values.append(number(spent.get("epsilon")))
    traces = [_trace(rounds, values, i, f"seed {seed}") for i, (seed, (rounds, values)) in enumerate(seeds.items())]
    budget = number((run.summary.get("privacy") or {}).get("budget"))
    if np.isfinite(budget):
        furthest = max(rounds[-1] for rounds, _ in seeds.values())
        traces.append(_trace([0, furthest], [budget, budget], len(seeds), "budget"))
    layout = layout_of("rounds", "spent epsilon")
    layout["yaxis"] |= {"rangemode": "tozero"}
    return {"data": traces, "layout": layout}


def has_returns(curve: Curve) -> bool:
    """Return whether there is a line to draw; methods without rounds have none."""
    return bool(np.isfinite(curve.returns.mean).any())


def style(method: str) -> int:
    """Return the colour and dash of a method, which are the same on every page."""
    return METHODS.index(method) if method in METHODS else len(METHODS)


def _trace(x: Any, y: Any, look: int, label: str, **more: Any) -> Trace:
    x, y = (np.asarray(values, float).tolist() for values in (x, y))
    line = {"color": f"theme:series-{look % COLOURS}", "width": 2.25, "dash": DASHES[look % len(DASHES)]}
    return {
        "type": "scatter",
        # A line of one point would be invisible.
        "mode": "lines" if len(x) > 1 else "markers",
        "name": html.escape(label),
        "legendgroup": f"{look}",
        "x": x,
        "y": y,
        "line": line,
        "marker": {"size": 9, "color": line["color"]},
        "hovertemplate": "%{y:.4~g}",
    } | more


def _line(curve: Curve, x: np.ndarray, look: int, label: str) -> Trace:
    known = np.isfinite(curve.returns.mean) & np.isfinite(x)
    # Shown on hovering, since the axis has no rounds.
    about = np.stack([curve.rounds, curve.returns.low, curve.returns.high], axis=1)[known].tolist()
    text = "%{y:.4~g}  [%{customdata[1]:.4~g}, %{customdata[2]:.4~g}]  round %{customdata[0]}"
    return _trace(x[known], curve.returns.mean[known], look, label, customdata=about, hovertemplate=text)


def _band(curve: Curve, x: np.ndarray, look: int, label: str) -> list[Trace]:
    """Return the interval as an invisible upper edge and a lower edge, with the area between them filled."""
    if curve.seeds < 2:
        return []
    _, low, high = curve.returns
    return _filled(x, low, high, f"theme:series-{look % COLOURS}@0.16", f"{look}", html.escape(label))


def _filled(x: np.ndarray, low: np.ndarray, high: np.ndarray, colour: str, group: str, label: str) -> list[Trace]:
    known = np.isfinite(x) & np.isfinite(low) & np.isfinite(high)
    edge = {
        "type": "scatter",
        "mode": "lines",
        "name": label,
        "legendgroup": group,
        "showlegend": False,
        "hoverinfo": "skip",
        "line": {"width": 0, "color": colour},
        "x": x[known].tolist(),
    }
    return [
        edge | {"y": high[known].tolist()},
        edge | {"y": low[known].tolist(), "fill": "tonexty", "fillcolor": colour},
    ]


def _spread(curve: Curve) -> list[Trace]:
    """Return a line for every agent of a method, or with many agents a band with 80 % of them."""
    colour = f"theme:series-{style(curve.method) % COLOURS}"
    shown = np.isfinite(curve.agents).any(0)
    if len(curve.agents) <= MOST_LINES:
        # One entry of the legend for all agents: a click on it hides them together.
        traces = [_agent(curve, i, colour) for i in range(len(curve.agents))]
        for trace in traces[:1]:
            trace["showlegend"] = True
        return traces
    # Hundreds of lines would hide each other and make the page slow.
    low, high = np.nanquantile(curve.agents[:, shown], (0.1, 0.9), axis=0)
    traces = _filled(curve.steps[shown], low, high, f"{colour}@0.12", AGENTS, "agents, 10 to 90 %")
    traces[1]["showlegend"] = True
    return [trace | {"meta": AGENTS} for trace in traces]


def _agent(curve: Curve, agent: int, colour: str) -> Trace:
    known = np.isfinite(curve.agents[agent]) & np.isfinite(curve.steps)
    return {
        "type": "scatter",
        "mode": "lines",
        "name": f"each {curve.method} agent".replace("_", " "),
        "meta": AGENTS,
        "legendgroup": AGENTS,
        "showlegend": False,
        "x": curve.steps[known].tolist(),
        "y": curve.agents[agent][known].tolist(),
        "line": {"color": f"{colour}@0.35", "width": 0.8},
        "hoverinfo": "skip",
    }


def layout_of(x: str, y: str) -> dict[str, Any]:
    """Return the layout that all charts share, with the titles of the axes."""
    axis = {
        "gridcolor": "theme:grid",
        "linecolor": "theme:grid",
        "zerolinecolor": "theme:grid",
        "spikecolor": "theme:soft",
        "spikethickness": 1,
        "spikedash": "dot",
        "automargin": True,
        "tickfont": {"color": "theme:soft"},
    }
    title = {"standoff": 12, "font": {"size": 13, "color": "theme:soft"}}
    return {
        "xaxis": axis | {"title": title | {"text": x}, "tickformat": "~s", "nticks": 8},
        "yaxis": axis | {"title": title | {"text": y}, "tickformat": ",~r", "nticks": 7},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "itemwidth": 44, "traceorder": "normal"},
        "margin": {"l": 8, "r": 16, "t": 8, "b": 8},
        "font": {"color": "theme:text", "size": 13, "family": "theme:font"},
        "hoverlabel": {"bgcolor": "theme:card", "bordercolor": "theme:grid", "font": {"color": "theme:text"}},
        "hovermode": "x unified",
        "showlegend": True,
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "theme:soft", "activecolor": "theme:text"},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
    }
