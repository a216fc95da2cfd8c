"""HTML from Python: whatever is not markup already is escaped, so nothing can be forgotten."""

from __future__ import annotations

import html
import json
import re
from typing import Any

EMPTY = frozenset({"meta", "input", "br"})
LINK = re.compile(r"https?://[^\s<>\"')\]]+[^\s<>\"')\].,;]")


class Markup(str):
    """Text that is HTML."""

    __slots__ = ()


def element(name: str, /, *children: object, **attributes: object) -> Markup:
    """An element; children that are None are left out, lists are spliced in, `class_` is the attribute class.

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
    """Children one after the other, escaped where need be."""
    if children is None:
        return Markup()
    if isinstance(children, Markup):
        return children
    if isinstance(children, list | tuple):
        return Markup("".join(joined(child) for child in children))
    return Markup(html.escape(str(children)))


def linked(text: str) -> Markup:
    """Text with its web addresses as links.

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
    """Data for a script of the page; NaN becomes null, and no text in it can end the element."""
    text = json.dumps(_finite(value), separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(f'<script type="application/json" id="{html.escape(name)}">{text}</script>')


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
