"""Convert a value of a configuration file to the type that a constructor declares, or refuse it.

TOML has strings, numbers, booleans, lists and tables. The declared types are those of dataclass fields and of the
parameters of components: plain types, unions, literals, sequences, mappings and, inside those, other components.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from fedrl.core.errors import ConfigError, nearest

Special = Callable[[Any, Any, str], Any]
"""`(value, annotation, where) -> value` for a type that TOML lacks, or `NotImplemented`."""


def coerce(value: Any, annotation: Any, where: str, special: Special | None = None) -> Any:
    """Return a value converted to the declared type.

    Args:
        value: A value of a configuration.
        annotation: The declared type.
        where: The full name of the value's key, for the message.
        special: Converter of types that TOML lacks; it returns `NotImplemented` for all others.

    Raises:
        ConfigError: The value does not fit. The message names the key, the value and what is allowed.

    >>> coerce(1, float, "learner.clip"), coerce([64, 64], Sequence[int], "hidden")
    (1.0, (64, 64))
    """
    if special is not None:
        made = special(value, annotation, where)
        if made is not NotImplemented:
            return made
    container = get_origin(annotation) or annotation
    if container in (Union, types.UnionType):
        return _fit_union(value, annotation, where, special)
    if container in (tuple, list, Sequence):
        return _fit_list(value, annotation, where, special)
    if container in (dict, Mapping):
        return _fit_table(value, annotation, where, special)
    if isinstance(container, type) and dataclasses.is_dataclass(container):
        if isinstance(value, Mapping):
            return _coerce_record(value, container, where, special)
        if not isinstance(value, container):
            _refuse(value, annotation, where)
    if container is Literal and value not in get_args(annotation):
        hint = nearest(str(value), [str(word) for word in get_args(annotation)])
        raise ConfigError(f"{where} is {value!r}, which is not known. {hint}")
    return _fit_scalar(value, annotation, where)


def _fit_scalar(value: Any, annotation: Any, where: str) -> Any:
    truth = isinstance(value, bool)  # in Python, True is an int: `agents = true` must not mean one agent
    fits = {
        bool: truth,
        str: isinstance(value, str),
        int: isinstance(value, int) and not truth,
        # NaN would pass every comparison with a bound, so it is refused here.
        float: isinstance(value, int | float) and not truth and not math.isnan(value),
    }
    if annotation not in fits:
        return value
    if not fits[annotation]:
        _refuse(value, annotation, where)
    return float(value) if annotation is float else value


def _fit_table(value: Any, annotation: Any, where: str, special: Special | None) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        _refuse(value, annotation, where)
    inner = get_args(annotation)
    entry = inner[1] if len(inner) == 2 else Any
    return {key: coerce(item, entry, f"{where}.{key}", special) for key, item in value.items()}


def _coerce_record(value: Mapping[str, Any], kind: Any, where: str, special: Special | None) -> Any:
    """Return a record of plain values, such as a `Measure`, from a table of its fields."""
    types_of = {entry.name: get_type_hints(kind)[entry.name] for entry in dataclasses.fields(kind)}
    for key in value:
        if key not in types_of:
            raise ConfigError(
                f"{where}.{key} is {value[key]!r}, but {where} has no key {key!r}. {nearest(key, types_of)}"
            )
    for entry in dataclasses.fields(kind):
        if entry.name not in value and entry.default is entry.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{where}.{entry.name} is missing. Add it to the table.")
    try:
        return kind(**{key: coerce(item, types_of[key], f"{where}.{key}", special) for key, item in value.items()})
    except ConfigError as fault:
        raise fault if str(fault).startswith(where) else ConfigError(f"[{where}] {fault}") from fault


def _fit_union(value: Any, annotation: Any, where: str, special: Special | None) -> Any:
    options = [option for option in get_args(annotation) if option is not type(None)]
    if value is None and type(None) in get_args(annotation):
        return None
    complaints: list[ConfigError] = []
    for option in options:
        try:
            return coerce(value, option, where, special)
        except ConfigError as complaint:
            complaints.append(complaint)
    if len(options) == 1:
        raise complaints[0]
    # If the value has the container of exactly one option, the fault lies inside it: that message says more.
    deeper = [c for c, option in zip(complaints, options, strict=True) if _same_shape(value, option)]
    if len(deeper) == 1:
        raise deeper[0]
    _refuse(value, annotation, where)


def _same_shape(value: Any, annotation: Any) -> bool:
    """Return whether the value is the declared kind of container, so that the fault lies inside."""
    container = get_origin(annotation) or annotation
    if isinstance(value, Mapping):
        return described(annotation) == "a table"
    return isinstance(value, list | tuple) and container in (tuple, list, Sequence)


def _fit_list(value: Any, annotation: Any, where: str, special: Special | None) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        _refuse(value, annotation, where)
    inner = [item for item in get_args(annotation) if item is not Ellipsis]
    fixed = get_origin(annotation) is tuple and Ellipsis not in get_args(annotation)
    if fixed and len(value) != len(inner):
        raise ConfigError(f"{where} is {list(value)!r}. It needs exactly {len(inner)} entries; it has {len(value)}.")
    wanted = inner if fixed else [inner[0] if inner else Any] * len(value)
    pairs = zip(value, wanted, strict=True)
    return tuple(coerce(item, kind, f"{where}[{i}]", special) for i, (item, kind) in enumerate(pairs))


def _refuse(value: Any, annotation: Any, where: str) -> NoReturn:
    raise ConfigError(f"{where} is {_shown(value)}. It needs to be {described(annotation)}.")


def _shown(value: Any) -> str:
    named = {bool: "a boolean", str: "a string", dict: "a table", list: "a list", tuple: "a list"}
    kind = next((word for known, word in named.items() if isinstance(value, known)), None)
    text = str(value).lower() if isinstance(value, bool) else repr(list(value) if isinstance(value, tuple) else value)
    return f"{text}, {kind}" if kind else text


def described(annotation: Any) -> str:
    """Return a type in words.

    >>> described(int | None), described(Sequence[float])
    ('a whole number', 'a list of numbers')
    """
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        words = [described(option) for option in inner if option is not type(None)]
        return " or ".join(dict.fromkeys(words))
    if origin is Literal:
        return "one of " + ", ".join(repr(option) for option in inner)
    container = origin or annotation
    if container in (tuple, list, Sequence):
        many = {int: "whole numbers", float: "numbers", str: "strings", bool: "booleans"}
        entries = [item for item in inner if item is not Ellipsis]
        return f"a list of {many.get(entries[0], described(entries[0]) + 's')}" if entries else "a list"
    words_for = {
        int: "a whole number",
        float: "a number",
        str: "a string",
        bool: "true or false",
        dict: "a table",
        Mapping: "a table",
    }
    return words_for.get(container, "a table")  # any other type is that of a component
