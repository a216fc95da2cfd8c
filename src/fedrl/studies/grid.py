"""The grid of a study: values of some keys of a configuration, of which every combination is a setting.

federation.agents=10,100  learner.clip=0.1,0.2   -->   10 0.1,  10 0.2,  100 0.1,  100 0.2
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from fedrl.config.overrides import assignment, toml_value
from fedrl.core.errors import ConfigError

Grid: TypeAlias = dict[str, list[Any]]
"""The values of each key, as plain TOML."""

GRID = "--grid"
EXAMPLE = "federation.agents=10,100"


def grid_of(texts: Sequence[str]) -> Grid:
    """Return the grid of assignments such as "federation.agents=10,100".

    Values are TOML or bare words, separated by commas; a value may itself be a list or a table.

    Raises:
        ConfigError: An assignment is malformed, or a key occurs twice.

    >>> grid_of(["federation.agents=10,100", "federation.aggregator=mean,median"])
    {'federation.agents': [10, 100], 'federation.aggregator': ['mean', 'median']}
    """
    grid: Grid = {}
    for text in texts:
        key, values = assignment(text, GRID, EXAMPLE)
        if key in grid:
            raise ConfigError(f"{GRID} {key} is given twice. Give all its values at once: {GRID} {key}=A,B,C.")
        parts = _separated(values)
        if not all(parts):
            raise ConfigError(f"{GRID} {text!r} has an empty value. Write, for example, {GRID} {EXAMPLE}.")
        grid[key] = [toml_value(part, key, GRID) for part in parts]
    return checked(grid)


def checked(grid: Mapping[str, Any]) -> Grid:
    """Return the grid, if every key has values and none of them twice.

    Raises:
        ConfigError: A key has no list of values, or a value occurs twice.
    """
    for key, values in grid.items():
        if not isinstance(values, list | tuple) or not values:
            raise ConfigError(f"The grid's {key} is {values!r}. It needs to be a list of at least one value.")
        twice = [value for i, value in enumerate(values) if value in values[:i]]
        if twice:
            raise ConfigError(f"The grid's {key} has the value {twice[0]!r} twice. A setting runs once; leave one out.")
    return {key: list(values) for key, values in grid.items()}


def product(grid: Grid) -> list[dict[str, Any]]:
    """Return every combination of values; the last key changes fastest.

    >>> product({"a": [1, 2], "b": ["x", "y"]})[:3]
    [{'a': 1, 'b': 'x'}, {'a': 1, 'b': 'y'}, {'a': 2, 'b': 'x'}]
    """
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Return the shortest end of each key that is unique and does not start with a number.

    >>> short_names(["federation.agents", "federation.stages.0.bits", "learner.optimizer.0"])
    {'federation.agents': 'agents', 'federation.stages.0.bits': 'bits', 'learner.optimizer.0': 'optimizer.0'}
    """
    names = {}
    for key in keys:
        parts = key.split(".")
        ends = [".".join(parts[-n:]) for n in range(1, len(parts) + 1)]
        others = [f".{other}" for other in keys if other != key]
        names[key] = next(
            # An index alone, such as "0", says nothing, so the name before it is kept.
            (e for e in ends if not e[0].isdigit() and not any(other.endswith(f".{e}") for other in others)),
            key,
        )
    return names


def in_words(value: Any) -> str:
    """Return a value of a grid in words.

    >>> in_words(0.1), in_words([{"name": "quantize", "bits": 4}]), in_words([])
    ('0.1', 'quantize(bits=4)', 'none')
    """
    if isinstance(value, Mapping):
        inside = ", ".join(f"{key}={in_words(item)}" for key, item in value.items() if key != "name")
        return f"{value.get('name', '')}({inside})" if inside or "name" not in value else str(value["name"])
    if isinstance(value, list | tuple):
        if all(isinstance(item, str | Mapping) for item in value):
            return " + ".join(in_words(item) for item in value) or "none"
        return f"[{', '.join(in_words(item) for item in value)}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def label(values: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """Return a setting in words.

    >>> label({"federation.agents": 10, "learner.clip": 0.1}, {"federation.agents": "agents", "learner.clip": "clip"})
    'agents 10, clip 0.1'
    """
    return ", ".join(f"{names[key]} {in_words(value)}" for key, value in values.items())


def _separated(text: str) -> list[str]:
    """Split a text at the commas outside brackets and quotes."""
    # Values may be lists, tables or strings with commas of their own, so a plain split would tear them apart.
    parts, depth, quote = [""], 0, ""
    for sign in text:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "\"'":
            quote = sign
        depth += 0 if quote else (sign in "[{") - (sign in "]}")
        if sign == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += sign
    return [part.strip() for part in parts]
