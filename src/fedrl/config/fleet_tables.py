"""The section `[fleet]` in its three forms: settings by name, a table for each agent, or a file with a row for each.

    [fleet]                        [[fleet]]              fleet = "sites.csv"      data,capacity
    data = ["a.csv", "b.csv"]      data = "a.csv"                                  a.csv,3.0
    capacity = [3.0, 4.5]          capacity = 3.0                                  b.csv,4.5

All become the first form, so a run folder has the values themselves.
"""

from __future__ import annotations

import csv
import io
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedrl.core.errors import ConfigError, nearest, reason

WHERE = "fleet"
NUMBER = re.compile(r"[+-]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?(?i:nan|inf|infinity)")


def fleet_settings(given: Any) -> Any:
    """Return the settings by name, of any of the three forms; another value is returned as it is.

    Raises:
        ConfigError: A table lacks a key that others have, or the file can't be read.

    >>> fleet_settings([{"data": "a.csv", "capacity": 3.0}, {"data": "b.csv", "capacity": 4.5}])
    {'data': ['a.csv', 'b.csv'], 'capacity': [3.0, 4.5]}
    """
    if isinstance(given, str):
        path = Path(given)
        return _csv(path) if path.suffix.lower() == ".csv" else _toml(path)
    if isinstance(given, Sequence):
        return _columns(given, WHERE, "entry")
    return given


def agents_in(settings: Any) -> int | None:
    """Return the number of agents for which settings have a value each; None if no setting is a list."""
    if not isinstance(settings, Mapping):
        return None
    return next((len(value) for value in settings.values() if isinstance(value, list | tuple)), None)


def _columns(rows: Sequence[Any], where: str, word: str) -> dict[str, list[Any]]:
    if not rows:
        raise ConfigError(f"{where} is empty. It needs a table for each agent.")
    for i, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise ConfigError(f"{where}[{i}] is {row!r}. It needs to be a table with the settings of one agent.")
        for name in {**rows[0], **row}:
            if name not in row or name not in rows[0]:
                at, other = (i, 0) if name not in row else (0, i)
                raise ConfigError(
                    f"{where}: {word} {at} (counted from 0) has no {name!r}, and {word} {other} has one. Every agent "
                    "needs the same settings. Add it."
                )
    return {name: [row[name] for row in rows] for name in rows[0]}


def _csv(path: Path) -> dict[str, list[Any]]:
    try:
        lines = [line for line in csv.reader(io.StringIO(_text(path))) if any(cell.strip() for cell in line)]
    except csv.Error as fault:
        raise ConfigError(f"{path} is no CSV file: {fault}.") from None
    if len(lines) < 2:
        raise ConfigError(f"{path} has {len(lines)} lines. It needs a line with names, and one for each agent.")
    names = [cell.strip() for cell in lines[0]]
    for name in names:
        if not name or names.count(name) > 1:
            raise ConfigError(f"{path}: the names in the first line are {names}. Each column needs a name of its own.")
    for number, line in enumerate(lines[1:], 1):
        cells = [cell.strip() for cell in line]
        if len(cells) != len(names) or "" in cells:
            lacking = names[cells.index("")] if "" in cells and len(cells) == len(names) else f"{len(names)} cells"
            raise ConfigError(f"{path}: row {number} is {','.join(cells)!r}, and lacks {lacking}. Add it.")
    columns = zip(*([cell.strip() for cell in line] for line in lines[1:]), strict=True)
    return {name: _typed(list(column)) for name, column in zip(names, columns, strict=True)}


def _typed(cells: list[str]) -> list[Any]:
    """Return a column as whole numbers, numbers, booleans or, if not all cells are of one of these kinds, as text."""
    # Python also reads 1_2 as 12 and 007 as 7, which are names of sites rather than numbers.
    numbers = (int, float) if all(map(NUMBER.fullmatch, cells)) else ()
    for convert in (*numbers, {"true": True, "false": False}.__getitem__):
        try:
            return [convert(cell) for cell in cells]
        except (ValueError, KeyError):
            continue
    return list(cells)


def _toml(path: Path) -> Any:
    try:
        data = tomllib.loads(_text(path))
    except tomllib.TOMLDecodeError as fault:
        raise ConfigError(f"{path} is not valid TOML: {fault}.") from None
    tables = [value for value in data.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
    return _columns(tables[0], str(path), "table") if len(data) == len(tables) == 1 else data


def _text(path: Path) -> str:
    if path.suffix.lower() not in (".csv", ".toml"):
        raise ConfigError(f"{WHERE} is {str(path)!r}. A file with the settings of agents is a .csv or a .toml.")
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        near = nearest(path.name, (p.name for p in path.parent.glob(f"*{path.suffix}"))) if path.parent.is_dir() else ""
        raise ConfigError(f"{WHERE} is {str(path)!r}, and this file does not exist. {near}".rstrip()) from None
    except (OSError, UnicodeDecodeError) as fault:
        raise ConfigError(f"{path} can't be read ({reason(fault)}). It needs to be text in UTF-8.") from None
