"""Where in a configuration a name belongs that was given in the wrong place, for error messages.

A name is searched among the keys of all sections and among all components of the catalogue. The places of a kind of
component are the keys of sections that take it, or else the parameters of components that do:

    "rounds"  --> rounds            "local_steps" --> federation.local_steps
    "fedprox" --> an optimizer --> learner.optimizer
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from fedrl.config.catalogue import CONSTRUCTED, UnknownNameError, components, kind_of, types_of, within
from fedrl.config.experiment import Config


def said_elsewhere(fault: UnknownNameError) -> str:
    """Return the message of an error, with the places where its name belongs, if there are any."""
    found = [
        sentence for sentence in (_set(_keys_named(fault.unknown)), component_elsewhere(fault.unknown)) if sentence
    ]
    return " ".join([fault.message, *found]) if found else str(fault)


def unknown_key(key: str, value: Any, where: str, whole: Mapping[str, Any]) -> str:
    """Return a sentence for a key that a section does not have, with the place where it belongs; "" if it has none.

    Args:
        key: The key.
        value: Its value; if it names a component of another kind than the key takes elsewhere, its place is added.
        where: The section; "" for an experiment.
        whole: All tables of the experiment, whose components are searched for a parameter of this name.

    >>> unknown_key("clip", 0.1, "", {"learner": "ppo"}), unknown_key("rounds", 3, "federation", {})
    ('ppo has it, the value of learner. Set learner.clip.', 'Set rounds.')
    """
    places = [place for place in _keys_named(key) if place != f"{where}.{key}".lstrip(".")]
    name = value.get("name") if isinstance(value, Mapping) else value
    kinds = {sections()[place] for place in places}
    found = [_set(places) or _parameter(key, whole), "" if kinds & kinds_of(name) else component_elsewhere(name)]
    return " ".join(filter(None, found))


def _set(places: Sequence[str]) -> str:
    return f"Set {' or '.join(places)}." if places else ""


def _keys_named(key: str) -> list[str]:
    return [place for place in sections() if place.rpartition(".")[2] == key]


def _parameter(key: str, whole: Mapping[str, Any]) -> str:
    """Return a sentence with the component of an experiment that has a parameter of this name, at any depth."""
    for place, kind in sections().items():
        table: Any = whole
        for name in place.split("."):
            table = table.get(name) if isinstance(table, Mapping) else None
        own = table if isinstance(table, Mapping) else {"name": table}
        used = next((entry for entry in components(kind) if entry.name == own.get("name")), None) if kind else None
        if used is not None:
            if key in used.signature.parameters:
                return f"{used.name} has it, the value of {place}. Set {place}.{key}."
            found = within(used, own, key, place, {})
            if found is not None:
                return found
    return ""


def kinds_of(name: object) -> set[str]:
    """Return the kinds of the components of a name."""
    return {entry.kind for entry in components() if entry.name == name}


def component_elsewhere(name: object) -> str:
    """Return a sentence with the kinds of a component and the places where they belong; "" if there is no such name.

    >>> component_elsewhere("fedprox")
    "'fedprox' is an optimizer, and its place is learner.optimizer, where a list is a chain of several."
    """
    found = []
    for kind in sorted(kinds_of(name)):
        article = "an" if kind[0] in "aeiou" else "a"
        chain = ", where a list is a chain of several" if kind == "optimizer" else ""
        found.append(f"{article} {kind.replace('_', ' ')}, and its place is {' or '.join(places_of(kind))}{chain}")
    return f"{name!r} is {'; or '.join(found)}." if found else ""


@cache
def sections() -> dict[str, str | None]:
    """Return the kind of component that each key of a configuration takes, by its full name; None for plain values."""
    return dict(_keys(Config, ""))


def _keys(section: type, where: str) -> Iterator[tuple[str, str | None]]:
    hints = typing.get_type_hints(section)
    for entry in dataclasses.fields(section):
        full, hint = f"{where}.{entry.name}" if where else entry.name, hints[entry.name]
        if dataclasses.is_dataclass(hint):
            yield from _keys(typing.cast(type, hint), full)
        else:
            kind = _taken(hint)
            # The optimisers of sections are those of servers.
            yield full, "server_optimizer" if kind == "optimizer" else kind


def places_of(kind: str) -> list[str]:
    """Return the keys that take a kind of component, up to three.

    >>> places_of("stage"), places_of("network")
    (['federation.stages', 'federation.down_stages'], ['learner.network', 'learner.critic'])
    """
    assert kind in CONSTRUCTED
    direct = [place for place, taken in sections().items() if taken == kind]
    if direct:
        return direct[:3]
    inside = [
        f"{place}.{name}"
        for place, outer in sections().items()
        if outer is not None
        for entry in components(outer)
        for name, hint in types_of(entry).items()
        if _taken(hint) == kind
    ]
    return list(dict.fromkeys(inside))[:3]


def _taken(hint: Any) -> str | None:
    """Return the kind of component that a type takes, or a list of this type."""
    inner = (_taken(option) for option in typing.get_args(hint))
    return kind_of(hint) or next((kind for kind in inner if kind is not None), None)
