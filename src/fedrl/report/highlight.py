"""Syntax highlighting of TOML."""

from __future__ import annotations

import re

from fedrl.report.markup import Markup, element, joined

# The order matters: comments and strings come first, so that numbers and brackets inside them are left alone.
TOKEN = re.compile(
    r"""(?P<comment>\#[^\n]*)
    |(?P<text>\"{3}.*?\"{3}|'{3}.*?'{3}|"(?:\\.|[^"\\\n])*"|'[^'\n]*')
    |(?P<table>(?m:^)[ \t]*\[{1,2}[^\]\n=]+\]{1,2}(?=[ \t]*(?:\#|$|\n)))
    |(?P<name>[A-Za-z0-9_.-]+(?=[ \t]*=))
    |(?P<value>(?<![\w.])(?:true|false|[+-]?(?:inf|nan|\d[\d_]*(?:\.\d[\d_]*)?(?:[eE][+-]?\d+)?))(?![\w.]))""",
    re.VERBOSE | re.DOTALL,
)


def highlighted(text: str) -> Markup:
    """Return the text with a span around each token, whose class is the kind of token.

    >>> highlighted("clip = 0.2")
    '<span class="name">clip</span> = <span class="value">0.2</span>'
    """
    parts: list[object] = []
    end = 0
    for match in TOKEN.finditer(text):
        parts += [text[end : match.start()], element("span", match.group(), class_=match.lastgroup)]
        end = match.end()
    return joined([*parts, text[end:]])
