"""HTML from Python: all text that is not `Markup` is escaped, so no call can forget it."""

from __future__ import annotations

import html
import json
import re
from typing import Any

EMPTY = frozenset({"meta", "input", "br", "img"})
LINK = re.compile(r"https?://[^\s<>\"')\]]+[^\s<>\"')\].,;]")


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def element(name: str, /, *children: object, **attributes: object) -> Markup:
    """Return an element; children that are None are left out, lists are flattened, `class_` is the attribute class.

    >>> element("p", "2 < 3", element("b", "!"), class_="fact")
    '<p class="fact">2 &lt; 3<b>!</b></p>'
    """
    shown = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{html.escape(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Markup(f"<{name}{shown}>" if name in EMPTY else f"<{name}{shown}>{joined(children)}</{name}>")


def joined(children: object) -> Markup:
    """Return the children one after the other, escaped unless they are `Markup`."""
    if children is None:
        return Markup()
    if isinstance(children, Markup):
        return children
    if isinstance(children, list | tuple):
        return Markup("".join(joined(child) for child in children))
    return Markup(html.escape(str(children)))


def linked(text: str) -> Markup:
    """Return a text with its web addresses as links.

    >>> linked("A & B (2020), https://doi.org/10/x.")
    'A &amp; B (2020), <a href="https://doi.org/10/x" rel="noopener noreferrer">https://doi.org/10/x</a>.'
    """
    parts: list[object] = []
    end = 0
    for match in LINK.finditer(text):
        address = match.group()
        parts += [text[end : match.start()], element("a", address, href=address, rel="noopener noreferrer")]
        end = match.end()
    return joined([*parts, text[end:]])


def script_data(value: Any, name: str) -> Markup:
    """Return data for a script of the page; NaN becomes null, and no text in it can end the element."""
    text = json.dumps(_finite(value), separators=(",", ":"), allow_nan=False)
    # A text such as "</script>" in the data would end the element, so these become JSON escapes.
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(f'<script type="application/json" id="{html.escape(name)}">{text}</script>')


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
