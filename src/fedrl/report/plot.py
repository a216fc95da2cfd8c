"""The charts of the page as figures of plotly, for notebooks and scripts, in the light colours of the page."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from fedrl.core.errors import ConfigError
from fedrl.core.measures import chosen
from fedrl.records.measured import RETURN, title_of, unsummarised
from fedrl.report.curves import curve
from fedrl.report.figures import Figure, learning_figure, measure_figure
from fedrl.report.run import Run

if TYPE_CHECKING:
    import plotly.graph_objects as go

THEME = "theme:"


def plot_of(lines: Sequence[tuple[Run, str, str]], measure: str = RETURN, *, methods: bool) -> go.Figure:
    """Return the chart of a measure during training against environment steps, with intervals over seeds.

    Args:
        lines: The run, the method and the name of each line.
        measure: Name of the measure, by default the return.
        methods: Whether the lines are methods of one run; its single agents are then drawn, too.

    Raises:
        ConfigError: No run has a measure of this name, or no round a value of it.
    """
    found = {RETURN: unsummarised()} | {
        name: declared for run, _, _ in lines for name, declared in run.measures.items()
    }
    declared = chosen(measure, found, "measure")
    names = [name for _, _, name in lines]
    curves = [curve(run, method, measure) for run, method, _ in lines]
    if measure == RETURN:
        figure = learning_figure(curves, names, agents=methods)
    else:
        figure = measure_figure(curves, names, title_of(measure, declared), methods=methods)
    if not figure["data"]:
        raise ConfigError(f"There is nothing to draw: no round has a value of {measure!r}. Train for more rounds.")
    return as_plotly(figure)


def as_plotly(figure: Figure) -> go.Figure:
    """Return a chart of the page as a figure of plotly."""
    import plotly.graph_objects as go

    drawn = go.Figure(coloured(figure))
    # On the page, charts are as wide as their card, without a title, and lie on its colour.
    drawn.update_layout(height=420, paper_bgcolor=theme()["card"], plot_bgcolor=theme()["card"], margin={"t": 40})
    return drawn


def coloured(value: Any) -> Any:
    """Return a figure with colours in place of their names.

    >>> coloured({"color": "theme:series-0", "fill": ["theme:series-0@0.2", 3]})
    {'color': '#0067a8', 'fill': ['rgba(0, 103, 168, 0.2)', 3]}
    """
    if isinstance(value, dict):
        return {key: coloured(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [coloured(item) for item in value]
    if not isinstance(value, str) or not value.startswith(THEME):
        return value
    name, _, opacity = value.removeprefix(THEME).partition("@")
    found = theme()[name]
    if not opacity:
        return found
    return f"rgba({', '.join(str(int(found[i : i + 2], 16)) for i in (1, 3, 5))}, {opacity})"


@functools.cache
def theme() -> dict[str, str]:
    """Return the colours and fonts of the page by name, for a light background."""
    # The stylesheet has them once; its first block is the light theme.
    block = (files("fedrl.report") / "page.css").read_text("utf-8").split("}")[0]
    return dict(re.findall(r"--([\w-]+):\s*(.+?);", block))
