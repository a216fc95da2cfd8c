"""Settings that are no numbers: strings, paths, booleans, lists and tables, such as the file of a site.

A fleet is a record of arrays, so such a value is represented in it by a number, by which this process finds the value
again. Equal values have equal numbers. The numbers are no data: they are neither saved nor sent.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from fedrl.core.errors import ConfigError

_values: list[Any] = []
_numbers: dict[str, int] = {}


def is_choice(value: object) -> bool:
    """Return whether a setting has to be represented by a number, since it is none itself.

    >>> is_choice("a.csv"), is_choice(True), is_choice(0.5)
    (True, True, False)
    """
    return isinstance(value, bool | np.bool_) or not isinstance(value, Real | np.number)


def numbered(name: str, value: Any) -> int:
    """Return the number of a value in this process.

    Raises:
        ConfigError: The value has no text by which it is compared.
    """
    try:
        text = json.dumps(_typed(value))
    except (TypeError, ValueError):
        raise ConfigError(
            f"{name} is {value!r}, of the type {type(value).__name__}. A setting is a number, a string, a path, true "
            "or false, or a list or table of these. Give one of those."
        ) from None
    if text not in _numbers:
        _numbers[text] = len(_values)
        _values.append(copy.deepcopy(value))
    return _numbers[text]


def valued(number: int) -> Any:
    """Return the value of a number; of a list or a table a copy, which the environment may change.

    >>> valued(numbered("data", "a.csv"))
    'a.csv'
    """
    return copy.deepcopy(_values[int(number)])


def installed() -> list[Any]:
    """Return the values of this process in the order of their numbers, for `install` in another process."""
    return copy.deepcopy(_values)


def install(values: Sequence[Any]) -> None:
    """Give values the numbers that they have in the process that started this one.

    Raises:
        ConfigError: Another value has such a number already, since two processes use this one.
    """
    for number, value in enumerate(values):
        if numbered("fleet", value) != number:
            raise ConfigError(
                f"The setting {value!r} has the number {number} in one process and another one here. Start workers of "
                "their own for each process."
            )


def numbers_of(name: str, setting: Any, agents: int) -> np.ndarray:
    """Return the numbers of the agents' values, int32 `[agents]`: of a list with one each, or of one value for all.

    Raises:
        ConfigError: The list has another length.
    """
    if not isinstance(setting, Sequence) or isinstance(setting, str):
        if isinstance(setting, Mapping):
            raise ConfigError(
                f"{name} is {dict(setting)!r}, one table. Agents whose tables differ need a list with one for each."
            )
        return np.full(agents, numbered(name, setting), np.int32)
    if len(setting) != agents:
        raise ConfigError(
            f"{name} is a list of {len(setting)} values. With {agents} agents it needs {agents}, one for each. Change "
            "the list or the number of agents."
        )
    return np.array([numbered(name, value) for value in setting], np.int32)


def _typed(value: object) -> list[Any]:
    """Return a value with the types of all that is in it, since 1, True and "1" are three values, and so are lists."""
    if isinstance(value, Mapping):
        return ["table", sorted([_typed(key), _typed(item)] for key, item in value.items())]
    if isinstance(value, list | tuple):
        return [type(value).__name__, [_typed(item) for item in value]]
    if isinstance(value, Path):
        return ["path", str(value)]
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return [type(value).__name__, value]
    raise TypeError
