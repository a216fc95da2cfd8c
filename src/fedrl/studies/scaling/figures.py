"""The charts of a scale measurement: a quantity against the number of agents, the cost model, and the limit."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fedrl.records.formatting import with_unit
from fedrl.report.figures import Figure, Trace, layout_of
from fedrl.studies.scaling.cost_model import CostLine
from fedrl.studies.scaling.limits import QUANTITIES
from fedrl.studies.scaling.records import Probe, Scale, value_in

POINTS = 60
"""Points of a line of the model, which is bent on logarithmic axes."""
BEYOND = 2.0
"""How far the lines go beyond the largest measured number of agents."""
ROOM, MANY = 1.25, 2000.0
"""Room beside the outermost marks, and the span beyond which only decades have ticks; both are factors."""
TITLES = {"round": "seconds a round", "memory": "peak memory", "bytes": "bytes a round, up and down"}


def scale_figure(scale: Scale, quantity: str) -> Figure:
    """Return the chart of a quantity against the number of agents, on logarithmic axes."""
    probes = [probe for probe in scale["probes"] if probe["state"] == "measured"]
    unit = QUANTITIES[quantity].unit
    traces: list[Trace] = []
    agents = [float(probe["agents"]) for probe in probes] or [1.0]
    span = [min(agents), max(agents) * BEYOND]
    if quantity in scale["model"]:
        line = CostLine(**scale["model"][quantity])
        x = np.geomspace(span[0], span[1], POINTS)
        style = {"color": "theme:soft", "width": 1.75, "dash": "dash"}
        traces.append(_line("cost model", x.tolist(), [line.at(k) for k in x], style))
    limit = scale["limit"]
    if limit is not None and limit["quantity"] == quantity:
        style = {"color": "theme:series-6", "width": 1.75, "dash": "dot"}
        traces.append(_line(f"limit, {limit['text']}", span, [limit["most"]] * 2, style))
    if quantity == "round":
        traces += [
            _marks("agents' training", probes, [p["agents_compute_s"] for p in probes], unit, 2, "triangle-up-open"),
            _marks("server", probes, [p["server_compute_s"] for p in probes], unit, 4, "diamond-open"),
        ]
    traces += _kept_and_broken(scale, probes, quantity, unit)
    layout = layout_of("agents", TITLES[quantity])
    layout["hovermode"] = "closest"
    layout["xaxis"] |= _axis([x for trace in traces for x in trace["x"]], lambda k: f"{k:,.0f}")
    layout["yaxis"] |= _axis([y for trace in traces for y in trace["y"]], lambda y: with_unit(y, unit))
    return {"data": traces, "layout": layout}


def _kept_and_broken(scale: Scale, probes: list[Probe], quantity: str, unit: str) -> list[Trace]:
    """Return the measured points: those that keep the limit, and those that break it."""
    if scale["limit"] is None:
        return [_marks("measured", probes, [value_in(p, quantity) for p in probes], unit, 0, "circle")]
    groups = [("keeps the limit", True, 0, "circle"), ("breaks the limit", False, 6, "x")]
    chosen = [(name, [p for p in probes if p["holds"] is kept], colour, mark) for name, kept, colour, mark in groups]
    return [
        _marks(name, group, [value_in(p, quantity) for p in group], unit, colour, mark)
        for name, group, colour, mark in chosen
        if group
    ]


def _marks(name: str, probes: list[Probe], y: list[float], unit: str, colour: int, symbol: str) -> Trace:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [probe["agents"] for probe in probes],
        "y": y,
        "marker": {"size": 10, "symbol": symbol, "color": f"theme:series-{colour}"},
        "hovertemplate": f"%{{x:,}} agents<br>%{{y:.3~s}}{unit}<extra>{name}</extra>",
    }


def _line(name: str, x: list[float], y: list[float], style: dict[str, Any]) -> Trace:
    return {"type": "scatter", "mode": "lines", "name": name, "x": x, "y": y, "line": style, "hoverinfo": "skip"}


def _axis(values: list[float], text: Callable[[float], str]) -> dict[str, Any]:
    """Return a logarithmic axis of at least one decade; a linear one if a value is 0, as bytes of isolated agents."""
    if not values or min(values) <= 0:
        return {"rangemode": "tozero"}
    low, high = min(values) / ROOM, max(values) * ROOM
    # Over less than a decade, differences of a few per cent would fill the chart.
    wider = max(1.0, math.sqrt(10.0 * low / high))
    low, high = low / wider, high * wider
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    digits = (1, 2, 5) if high / low < MANY else (1,)
    ticks = [digit * 10.0**power for power in decades for digit in digits]
    ticks = [tick for tick in ticks if low <= tick <= high]
    return {
        "type": "log",
        "range": [math.log10(low), math.log10(high)],
        "tickvals": ticks,
        "ticktext": [text(tick) for tick in ticks],
    }
