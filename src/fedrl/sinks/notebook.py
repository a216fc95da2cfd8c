"""What is shown on a terminal, as HTML in a notebook.

rich renderable --html_of--> HTML --updating--> one output of the cell, replaced again and again
"""

from __future__ import annotations

import io
from collections.abc import Callable

from rich.console import Console, RenderableType

PAGE = '<pre style="line-height: 1.3; overflow-x: auto; font-family: monospace">{code}</pre>'
COLUMNS = 104


def html_of(*items: RenderableType, width: int = COLUMNS) -> str:
    """Return what a terminal of so many columns would show, as HTML without scripts; all text in it is escaped."""
    console = recording(width)
    for item in items:
        console.print(item, crop=False)
    return recorded(console)


def recording(width: int = COLUMNS) -> Console:
    """Return a console that shows nothing and keeps what is printed to it."""
    # Without force_jupyter, a console in a notebook would also display what it keeps.
    return Console(file=io.StringIO(), record=True, width=width, force_jupyter=False, highlight=False)


def recorded(console: Console) -> str:
    """Return what was printed to a recording console as HTML."""
    return console.export_html(inline_styles=True, code_format=PAGE)


def updating() -> Callable[[str], None]:
    """Display an empty output below the current cell, and return a function that replaces it by other HTML."""
    from IPython.display import HTML, display

    output = display(HTML(""), display_id=True)
    return lambda html: output.update(HTML(html))
