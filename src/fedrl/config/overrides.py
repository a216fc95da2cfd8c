"""Change single values of a configuration before it is checked.

    learner.clip=0.1     federation.stages.0.bits=4     federation.stages.quantize.bits=4

A key is a path through tables. An entry of a list is addressed by its index, from 0, or by the name of its component.
A value is TOML; a bare word is a string.
"""

from __future__ import annotations

import tomllib
from typing import Any

from fedrl.config.synonyms import known_as
from fedrl.core.errors import ConfigError

SET = "--set"


def override(data: dict[str, Any], text: str) -> None:
    """Set one value: "learner.clip=0.1".

    Raises:
        ConfigError: The text is no assignment, or the key is no path of the configuration.

    >>> data = {"federation": {"stages": ["clip", {"name": "quantize"}]}}
    >>> override(data, "federation.stages.quantize.bits=4")
    >>> data["federation"]["stages"][1]
    {'name': 'quantize', 'bits': 4}
    """
    key, value = assignment(text)
    assign(data, key, toml_value(value, key))


def assignment(text: str, said: str = SET, example: str = "learner.clip=0.1") -> tuple[str, str]:
    """Return the key and the value of "key=value", both as text.

    Raises:
        ConfigError: The text is of another form.
    """
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not all(key.split(".")):
        raise ConfigError(f"{said} {text!r} is not of the form key=value. Write, for example, {said} {example}.")
    return key, value.strip()


def toml_value(text: str, key: str, said: str = SET) -> Any:
    """Return the value of a text in TOML syntax, or the text itself if it is a bare word.

    Raises:
        ConfigError: The text is neither.

    >>> toml_value("[1, 2.5]", "key"), toml_value("median", "key")
    ([1, 2.5], 'median')
    """
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        if text.replace("_", "").replace("-", "").isalnum():
            return text
    raise ConfigError(
        f"{said} {key}: {text!r} is not a TOML value. Write a number, true, a \"string\", [a, list] or {{a = 'table'}}."
    )


def assign(data: dict[str, Any], key: str, value: Any, said: str = SET) -> None:
    """Set the value at a path, adding missing tables on the way.

    Raises:
        ConfigError: The path leads through a value that is no table, or to an entry that a list does not have.
    """
    *way, last = path = key.split(".")
    place: Any = data
    for depth, name in enumerate(way):
        at = _entry(place, name, ".".join(way[:depth]), f"{said} {key}")
        # A number below a missing key would become a table with the key "0", and its error would be a riddle.
        if isinstance(place, dict) and name not in place and path[depth + 1].isdigit():
            where = ".".join(path[: depth + 1])
            raise ConfigError(f"{said} {key}: there is no {where} with an entry {path[depth + 1]}. Add the list first.")
        inside = place.setdefault(at, {}) if isinstance(place, dict) else place[at]
        if isinstance(inside, str):  # a component given by its name alone: make it a table, so that it can have keys
            inside = place[at] = {"name": inside}
        if not isinstance(inside, dict | list):
            raise ConfigError(f"{said} {key}: {name} is {inside!r}, not a table, so it has no key inside.")
        place = inside
    place[_entry(place, last, ".".join(way), f"{said} {key}")] = value


def _entry(place: dict[str, Any] | list[Any], name: str, where: str, said: str) -> Any:
    """Return the key of an entry: the name itself in a table, an index in a list."""
    if isinstance(place, dict):
        return name
    names = [str(entry.get("name")) if isinstance(entry, dict) else str(entry) for entry in place]
    if name.isdigit():
        if int(name) < len(place):
            return int(name)
        held = f"its entries are {', '.join(names)}" if names else "it is empty"
        raise ConfigError(f"{said}: {where} has no entry {name}; {held}. Entries are counted from 0.")
    if names.count(name) > 1:
        places = " or ".join(str(i) for i, known in enumerate(names) if known == name)
        raise ConfigError(f"{said}: {where} has {names.count(name)} entries {name!r}. Say which: {where}.{places}.")
    if name not in names:
        raise ConfigError(f"{said}: {where} has no entry {name!r}. {known_as(name, names)}")
    return names.index(name)
