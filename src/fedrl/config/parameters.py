"""The parameters of a component as a user reads them: name, type in words, default, range, description.

`fedrl list` prints them, and `fedrl.config.schema` writes them for editors.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Union

from fedrl.config.catalogue import kind_of, required, types_of
from fedrl.config.coerce import described
from fedrl.core.component import Component, written
from fedrl.core.ranges import Bounds


@dataclass(frozen=True)
class Described:
    """A parameter in words.

    Attributes:
        name: Its name.
        type: Its type and, for a number, its range: "a whole number, 1 or more", "a network, which is a component".
        default: Its default as in TOML, "(its own)" where that is None; None where a value has to be given.
        text: The description in the constructor's docstring; "" without one.
        bounds: The range of a number, or of the numbers in a list; None for other types.
        annotation: The declared type.
    """

    name: str
    type: str
    default: str | None
    text: str
    bounds: Bounds | None
    annotation: Any


def parameters_of(entry: Component) -> list[Described]:
    """Return what a user needs to know about each parameter that a configuration can give.

    >>> from fedrl.config.catalogue import components
    >>> (median,) = [entry for entry in components("aggregator") if entry.name == "afl"]
    >>> [(each.name, each.type, each.default) for each in parameters_of(median)][:2]
    [('agents', 'a whole number, 1 or more', None), ('step', 'a number above 0, finite', '0.01')]
    """
    annotations, texts = types_of(entry), texts_in(entry.build, "Args")
    found = []
    for name, parameter in entry.signature.parameters.items():
        if is_given(parameter):
            continue
        many = parameter.kind is parameter.VAR_POSITIONAL
        annotation = Sequence[annotations[name]] if many else annotations[name]  # type: ignore[valid-type]
        bounds = entry.ranges.get(name)
        default = None if required(parameter) else "[]" if many else value_in_toml(parameter.default)
        found.append(Described(name, in_words(annotation, bounds), default, texts.get(name, ""), bounds, annotation))
    return found


def is_given(parameter: inspect.Parameter) -> bool:
    """Return whether no table has the name: a learner gets the experiment's environment, `**rest` has other names."""
    return parameter.name == "environment" or parameter.kind is parameter.VAR_KEYWORD


def in_words(annotation: Any, bounds: Bounds | None) -> str:
    """Return a type in words, with the range of a number and the kind of a component.

    >>> from fedrl.core.ranges import COUNT
    >>> in_words(Sequence[int], COUNT), in_words(str | None, None)
    ('a list, each entry a whole number, 1 or more', 'a string')
    """
    if typing.get_origin(annotation) in (Union, types.UnionType):
        inner = [option for option in typing.get_args(annotation) if option is not type(None)]
        words = list(dict.fromkeys(in_words(option, bounds) for option in inner))
        return ("; or " if any("," in each for each in words) else " or ").join(words)
    kind = kind_of(annotation) if isinstance(annotation, type) else None
    if kind is not None:
        return f"a component of the kind {kind}"
    if typing.get_origin(annotation) in (list, tuple, Sequence):
        entries = [entry for entry in typing.get_args(annotation) if entry is not Ellipsis]
        if bounds is not None or any(kind_of(entry) for entry in entries):
            return f"a list, each entry {in_words(entries[0], bounds)}"
    return str(bounds) if bounds is not None and annotation in (int, float) else described(annotation)


def value_in_toml(default: Any) -> str:
    """Return a default as in TOML, or as the call of a component; None has no TOML form."""
    if default is None:
        return "(its own)"
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, str):
        return f'"{default}"'
    return str(list(default)) if type(default) is tuple else written(default)


def texts_in(documented: Callable[..., Any], section: str) -> dict[str, str]:
    """Return the description of each name in a section of a docstring: "Args" of functions, "Attributes" of records.

    >>> texts_in(in_words, "Args"), list(texts_in(Described, "Attributes"))[:2]
    ({}, ['name', 'type'])
    """
    doc = inspect.getdoc(documented) or ""
    match = re.search(rf"^{section}:\n((?:    .*\n?|\n)+)", doc, re.MULTILINE)
    if match is None:
        return {}
    entries = re.findall(r"^    \*{0,2}(\w+): (.*(?:\n {5,}.*)*)", match[1], re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}
