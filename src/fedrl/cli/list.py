"""`fedrl list`."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from fedrl.core.component import Component, written
from fedrl.sinks.fitting import Hanging, name_values, write

INDENT = Text("    ")


def list_command(asked: str | None) -> None:
    """Print every component of a kind, or one component with a line for each parameter."""
    from fedrl.config.catalogue import components

    console = Console(highlight=False)
    named = [entry for entry in components() if entry.name == asked]
    if named:
        for entry in named:
            _print_one(console, entry)
        return
    _print_all(console, components(asked))


def _print_one(console: Console, entry: Component) -> None:
    """Print a component: its kind, what it does, and the default and the range of each parameter."""
    write(console, Text.assemble((entry.name, "bold"), f"  {entry.kind}: {entry.summary}"))
    rows = [(_parameter(p), str(entry.ranges.get(p.name, ""))) for p in entry.signature.parameters.values()]
    if rows:
        write(console, name_values([(text, Text(allowed, "dim")) for text, allowed in rows], indent=4))
    if entry.reference:
        write(console, Hanging(INDENT, Text(entry.reference, "dim")))


def _print_all(console: Console, entries: Sequence[Component]) -> None:
    """Print components by kind: name, what each does, parameters, reference."""
    shown = ""
    for entry in entries:
        if entry.kind != shown:
            if shown:
                console.print()
            write(console, Text(entry.kind, "bold underline"))
            shown = entry.kind
        write(console, Text.assemble((entry.name, "bold"), f"  {entry.summary}"))
        parameters = ", ".join(_parameter(p) for p in entry.signature.parameters.values() if not _given(p))
        for line in filter(None, (parameters, entry.reference)):
            write(console, Hanging(INDENT, Text(line, "dim")))


def _given(parameter: inspect.Parameter) -> bool:
    """Return whether the builder supplies the parameter: a learner gets the experiment's environment."""
    return parameter.name == "environment"


def _parameter(parameter: inspect.Parameter) -> str:
    if parameter.kind is parameter.VAR_POSITIONAL:
        return f"{parameter.name} = [...]"
    return parameter.name if parameter.default is parameter.empty else f"{parameter.name} = {_value(parameter.default)}"


def _value(default: Any) -> str:
    """Return a default as in TOML, or as the call of a component; None has no TOML form."""
    if default is None:
        return "(its own)"
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, str):
        return f'"{default}"'
    return str(list(default)) if type(default) is tuple else written(default)
