"""`fedrl list`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from fedrl.sinks.fitting import Hanging, write

if TYPE_CHECKING:
    from fedrl.config.parameters import Described
    from fedrl.core.component import Component

INDENT = Text("    ")


def list_command(asked: str | None) -> None:
    """Print every component of a kind, or one component with all that is known of each parameter.

    Raises:
        ConfigError: There is no such kind, and no such component.
    """
    from fedrl.config.catalogue import components
    from fedrl.core.errors import ConfigError, nearest

    console = Console(highlight=False)
    entries = components()
    named = [entry for entry in entries if entry.name == asked]
    if named:
        for entry in named:
            _print_one(console, entry)
        return
    kinds, names = {entry.kind for entry in entries}, {entry.name for entry in entries}
    if asked is not None and asked not in kinds:
        close = nearest(asked, kinds | names).partition("Allowed")[0]
        raise ConfigError(
            f"{asked!r} is neither a kind of component nor a component. {close}Kinds: {', '.join(sorted(kinds))}. "
            "`fedrl list` shows the names."
        )
    _print_all(console, components(asked))


def _print_one(console: Console, entry: Component) -> None:
    """Print a component: its kind, what it does, and each parameter's type, default, range and description."""
    from fedrl.config.parameters import parameters_of

    write(console, Text.assemble((entry.name, "bold"), f"  {entry.kind}: {entry.summary}"))
    for each in parameters_of(entry):
        needed = "; needed" if each.default is None else ""
        write(console, Hanging(INDENT, Text.assemble(_parameter(each), (f"  {each.type}{needed}", "dim"))))
        if each.text:
            write(console, Hanging(Text("        "), Text(each.text, "dim")))
    if entry.reference:
        write(console, Hanging(INDENT, Text(entry.reference, "dim")))


def _print_all(console: Console, entries: Sequence[Component]) -> None:
    """Print components by kind: name, what each does, parameters with the ranges of numbers, reference."""
    from fedrl.config.parameters import parameters_of

    shown = ""
    for entry in entries:
        if entry.kind != shown:
            if shown:
                console.print()
            write(console, Text(entry.kind, "bold underline"))
            shown = entry.kind
        write(console, Text.assemble((entry.name, "bold"), f"  {entry.summary}"))
        parameters = "; ".join(_with_range(each) for each in parameters_of(entry))
        for line in filter(None, (parameters, entry.reference)):
            write(console, Hanging(INDENT, Text(line, "dim")))


def _parameter(parameter: Described) -> str:
    return parameter.name if parameter.default is None else f"{parameter.name} = {parameter.default}"


def _with_range(parameter: Described) -> str:
    return _parameter(parameter) + ("" if parameter.bounds is None else f" ({parameter.bounds})")
