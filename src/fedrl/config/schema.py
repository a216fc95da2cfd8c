"""A JSON Schema of experiment.toml, with which editors complete and check a configuration while it is written.

    Config, FederationConfig, ...  --fields, types, ranges, docstrings-->  sections
    the catalogue                  --parameters of constructors-------->  a definition per component

It is made from what checks a configuration, so nothing is listed twice. It accepts whatever `build` accepts. What
depends on several values at once, such as divisors, and the parameters of a component that is named by a reference
"module:function", only `build` checks.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Union

import numpy as np

from fedrl.config.catalogue import components, kind_of, required
from fedrl.config.experiment import Config
from fedrl.config.parameters import is_given, texts_in
from fedrl.core.component import Component
from fedrl.core.ranges import Bounds
from fedrl.environments.settings import TABLES

Schema = dict[str, Any]

DIALECT = "http://json-schema.org/draft-07/schema#"
"""The newest draft that editors of TOML understand."""
SETTINGS: dict[str, Schema] = {
    word: {"type": "array"} if word == "grid" else {"type": "array", "minItems": 2, "maxItems": 2} for word in TABLES
}
SETTING: Schema = {
    "anyOf": [
        {"type": ["number", "string", "boolean", "array"]},
        {
            "type": "object",
            "properties": SETTINGS,
            "minProperties": 1,
            "maxProperties": 1,
            "additionalProperties": False,
        },
    ]
}
"""The value of a parameter of the environments for all agents, a list with one per agent, or a distribution."""
FLEET: Schema = {
    "anyOf": [
        {"type": "object", "additionalProperties": SETTING},
        {"type": "array", "items": {"type": "object"}},
        {"type": "string"},
    ]
}
"""Settings by name, a table for each agent, or a file."""
REFERENCE: Schema = {"type": "string", "pattern": r"^[\w.]+:[\w.]+$"}
FILLED = {"ring_sum": ("agents", "largest")}
"""Parameters of components that follow from other keys, where they do: `fedrl.config.build`."""
REFERRED: Schema = {"type": "object", "properties": {"name": REFERENCE}, "required": ["name"]}
"""A component of one's own, "module:function", alone and as a table."""
PLAIN: dict[Any, Schema] = {
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
}
NAMELESS = {"clock"}
"""Kinds of which there is one component, so that its table needs no name."""


def schema() -> Schema:
    """Return the JSON Schema of experiment.toml and study.toml.

    >>> found = schema()
    >>> found["properties"]["rounds"]["minimum"], found["definitions"]["learner.ppo"]["properties"]["gamma"]["maximum"]
    (1, 1)
    """
    definitions: Schema = {}
    entries = components()
    for kind in sorted({entry.kind for entry in entries}):
        built = [entry for entry in entries if entry.kind == kind]
        definitions[kind] = _kind(kind, built)
        definitions |= {f"{kind}.{entry.name}": _component(entry) for entry in built}
    whole = _section(Config)
    whole["required"].remove("name")  # a file without a name is named after itself
    whole["properties"]["study"] = {
        "type": "object",
        "description": "A study of several settings: fedrl sweep.",
        "properties": {"grid": {"type": "object"}, "target": {"type": "number"}, "quantity": {"type": "string"}},
        "additionalProperties": False,
    }
    return {"$schema": DIALECT, "title": "An experiment of fedrl", **whole, "definitions": definitions}


def _kind(kind: str, entries: Sequence[Component]) -> Schema:
    """What stands for a component of a kind: a name alone, where no parameter is needed, or a table with a name."""
    alone = [entry.name for entry in entries if not _needed(entry)]
    options: list[Schema] = [{"type": "string", "enum": alone}] if alone else []
    options += [*(_reference(f"{kind}.{entry.name}") for entry in entries), REFERENCE, REFERRED]
    if kind == "optimizer":  # a list is a chain
        options.append({"type": "array", "items": _reference(kind)})
    return {"anyOf": options}


def _component(entry: Component) -> Schema:
    """The table of a component."""
    build = inspect.unwrap(entry.build)
    hints, texts = _hints(build), texts_in(build, "Args")
    properties: Schema = {"name": {"enum": [entry.name], "description": entry.summary}}
    for name, parameter in entry.signature.parameters.items():
        if not is_given(parameter):
            hint = hints.get(name, Any)
            many = parameter.kind is parameter.VAR_POSITIONAL
            found = {"type": "array", "items": _of(hint)} if many else _of(hint)
            properties[name] = found | _about(texts.get(name, ""), parameter.default)
    return {
        "type": "object",
        "description": " ".join(filter(None, [entry.summary, entry.reference])),
        "properties": properties,
        "required": [*([] if entry.kind in NAMELESS else ["name"]), *_needed(entry)],
        "additionalProperties": any(p.kind is p.VAR_KEYWORD for p in entry.signature.parameters.values()),
    }


def _needed(entry: Component) -> list[str]:
    filled = FILLED.get(entry.name, ())
    return [
        p.name for p in entry.signature.parameters.values() if required(p) and not is_given(p) and p.name not in filled
    ]


def _section(kind: type) -> Schema:
    """The table of a dataclass."""
    hints, texts = _hints(kind), texts_in(kind, "Attributes")
    properties: Schema = {}
    needed = []
    for field in dataclasses.fields(kind):
        own = PLACES.get((kind.__name__, field.name))
        found = _of(hints[field.name]) if own is None else own
        properties[field.name] = found | _about(texts.get(field.name, ""), field.default)
        if field.default is field.default_factory is dataclasses.MISSING:
            needed.append(field.name)
    return {"type": "object", "properties": properties, "required": needed, "additionalProperties": False}


def _of(hint: Any) -> Schema:
    """The schema of a declared type; anything, where TOML can't say what it is."""
    bounds = next((extra for extra in getattr(hint, "__metadata__", ()) if isinstance(extra, Bounds)), None)
    if bounds is not None:
        return _number(bounds)
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    plain = getattr(hint, "__origin__", hint) if hasattr(hint, "__metadata__") else hint  # of `Traced[Learner]`
    kind = kind_of(plain) if isinstance(plain, type) else None
    found: Schema = PLAIN.get(hint, {})
    if origin in (Union, types.UnionType):
        found = _union(inner)
    elif origin is Literal:
        found = {"enum": list(inner)}
    elif kind is not None:
        found = _reference(kind)
    elif (origin or hint) in (list, tuple, Sequence):
        found = {"type": "array"} | ({"items": _of(inner[0])} if inner else {})
    elif (origin or hint) in (dict, Mapping):
        found = {"type": "object"} | ({"additionalProperties": _of(inner[1])} if inner else {})
    elif dataclasses.is_dataclass(hint) and isinstance(hint, type):
        found = _section(hint)
    return found


def _union(options: Sequence[Any]) -> Schema:
    """The schema of several types. A table or a name beside a component is that component's."""
    constructed = any(isinstance(option, type) and kind_of(option) for option in options)
    kept: list[Schema] = []
    for option in options:
        named = option is str or (typing.get_origin(option) or option) is dict
        foreign = option in (type(None), np.ndarray) or getattr(option, "__module__", "").startswith("jax")
        found = _of(option)
        if not (foreign or (constructed and named) or found in kept):
            kept.append(found)
    return kept[0] if len(kept) == 1 else {"anyOf": kept}


def _number(bounds: Bounds) -> Schema:
    found: Schema = {"type": "integer" if bounds.whole else "number"}
    if bounds.low != -math.inf:
        found["exclusiveMinimum" if bounds.above else "minimum"] = bounds.low
    if bounds.high != math.inf:
        found["exclusiveMaximum" if bounds.below else "maximum"] = bounds.high
    return found


def _about(text: str, default: Any) -> Schema:
    """The description, and the default where TOML has it."""
    plain = isinstance(default, bool | int | str) or (isinstance(default, float) and math.isfinite(default))
    return ({"description": text} if text else {}) | ({"default": default} if plain else {})


def _reference(name: str) -> Schema:
    # Draft 7 reads nothing beside "$ref", so it stands alone, where a description can be put beside it.
    return {"allOf": [{"$ref": f"#/definitions/{name}"}]}


def _hints(declared: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(declared, include_extras=True)
    except NameError:
        return {}


PLACES: dict[tuple[str, str], Schema] = {
    ("Config", "fleet"): FLEET,
    ("FederationConfig", "server_optimizer"): _reference("server_optimizer"),
    ("FederationConfig", "global_optimizer"): _reference("server_optimizer"),
    ("FederationConfig", "parts"): {
        "type": "object",
        "additionalProperties": {
            "type": "object",
            "properties": {
                "aggregator": _reference("aggregator"),
                "server_optimizer": _reference("server_optimizer"),
                "every": {"type": "integer", "minimum": 1},
            },
            "additionalProperties": False,
        },
    },
}
"""Fields whose declared type says less than `build` knows."""
