"""The catalogue of components: build objects from tables with a name, and tables from objects.

    {name = "ppo", clip = 0.1}  --build("learner", ...)-->  ppo(environment, clip=0.1)  --table_of-->  {every parameter}

A table names a component and some of its parameters. The expected kind of component follows from the section of the
file or from the declared type of the parameter. A string is short for a table with only a name; a list of optimisers is
their chain. A table without a name alters the default of its parameter: `optimizer = {learning_rate = 0.01}`. A name
"module:function" is a component of one's own (`fedrl.config.references`).
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import optax

from fedrl.clocks.devices import Clock
from fedrl.clocks.distributions import Distribution
from fedrl.config.coerce import coerce
from fedrl.config.references import given_object, plugins, referred
from fedrl.config.synonyms import SYNONYMS, known_as
from fedrl.core.aggregator import Aggregator
from fedrl.core.component import CATALOGUE, Component, call_of
from fedrl.core.environment import Environment, HostEnvironment
from fedrl.core.errors import ConfigError, UnsoundError, nearest
from fedrl.core.imports import is_reference, reference_to
from fedrl.core.learner import Learner
from fedrl.core.stage import Stage
from fedrl.core.summation import Summation
from fedrl.engines.executors.placement import Placement
from fedrl.learners.parts.networks import Network
from fedrl.server.decisions import LocalSteps, Selection, UploadBudget
from fedrl.server.schedules import Schedule
from fedrl.server.staleness import Staleness
from fedrl.topologies.gossip import Rule
from fedrl.topologies.graph import Graph
from fedrl.topologies.mixing import MixingMatrix
from fedrl.topologies.trees import Tree

Table: TypeAlias = dict[str, Any]

ROOMS = (
    "environments",
    "learners",
    "aggregators",
    "stages",
    "privacy",
    "secure",
    "topologies",
    "server",
    "clocks",
    "engines",
)
KINDS: dict[type, str] = {
    Environment: "environment",
    HostEnvironment: "environment",
    Learner: "learner",
    Aggregator: "aggregator",
    Stage: "stage",
    Network: "network",
    Graph: "graph",
    Staleness: "staleness",
    Selection: "selection",
    LocalSteps: "local_steps",
    UploadBudget: "upload_budget",
    MixingMatrix: "mixing",
    Rule: "gossip",
    Tree: "hierarchy",
    Clock: "clock",
    Schedule: "schedule",
    Distribution: "distribution",
    Placement: "executor",
    Summation: "summation",
    optax.GradientTransformation: "optimizer",
    optax.GradientTransformationExtraArgs: "optimizer",
}
CONSTRUCTED = frozenset(KINDS.values()) | {"server_optimizer"}
BARE = ("network", "optimizer")
"""Kinds whose objects have a place in a configuration without a constructor call, such as those of optax."""
TYPES = {kind: tuple(t for t, known in KINDS.items() if known == kind) for kind in KINDS.values()}
TYPES["server_optimizer"] = TYPES["optimizer"]


class UnknownNameError(ConfigError):
    """A table has a key or the name of a component that does not exist there.

    Attributes:
        unknown: The key or the name.
        hint: A sentence with the names that are allowed.
    """

    def __init__(self, message: str, unknown: str = "", hint: str = "") -> None:
        super().__init__(f"{message} {hint}".rstrip())
        self.message, self.unknown, self.hint = message, unknown, hint


def fill() -> None:
    """Import all packages with components, so that each component registers itself in the catalogue."""
    for room in ROOMS:
        package = importlib.import_module(f"fedrl.{room}")
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)


def components(kind: str | None = None) -> list[Component]:
    """Return the components of a kind, or all that a configuration file can name, sorted by kind and name.

    Raises:
        ConfigError: There is no such kind.

    >>> "mean" in [component.name for component in components("aggregator")]
    True
    """
    fill()
    plugins()
    kinds = {entry.kind for entry in CATALOGUE.values()} & CONSTRUCTED
    if kind is not None and kind not in kinds:
        raise ConfigError(f"{kind!r} is not a kind of component. {nearest(kind, kinds)}")
    wanted = kinds if kind is None else {kind}
    listed = (c for c in CATALOGUE.values() if c.kind in wanted and not is_reference(c.name))
    return sorted(listed, key=lambda c: (c.kind, c.name))


def build(kind: str, table: Any, where: str, given: Mapping[str, Any] | None = None, base: Any = None) -> Any:
    """Build the component that a table describes.

    Args:
        kind: The expected kind: "learner", "aggregator", ...
        table: `{"name": ..., parameter: value, ...}`, or the name alone.
        where: The full name of the table's key, for messages.
        given: By kind, objects for required parameters that the table lacks, such as the learner's environment.
        base: The component that a table without a name alters.

    Raises:
        ConfigError: A name, a key or a value is wrong. The message names the key, the value and the nearest valid name.

    >>> build("aggregator", {"name": "mean", "weighting": "uniform"}, "aggregator")
    mean(weighting='uniform')
    >>> from fedrl.learners import adam
    >>> call_of(build("optimizer", {"b1": 0.8}, "learner.optimizer", base=adam(0.01, eps=1e-8)))
    adam(0.01, b1=0.8, eps=1e-08)
    """
    context = {} if given is None else given
    if isinstance(table, str):
        table = {"name": table}
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where} is {table!r}. It needs to be a table with the name of a component ({kind}).")
    altered = None if "name" in table else call_of(base)
    entry = _find(kind, table, where) if altered is None else altered.component
    arguments = _arguments(entry, table, where, context, {} if altered is None else altered.arguments)
    bound = inspect.BoundArguments(entry.signature, arguments)
    try:
        return entry.build(*bound.args, **bound.kwargs)
    except (ConfigError, UnsoundError) as fault:
        raise type(fault)(f"[{where}] {fault}") from fault
    # Constructors of other libraries, such as optax, raise errors of their own.
    except (TypeError, ValueError) as fault:
        raise ConfigError(f"[{where}] {entry.name} can't be built from {dict(table)!r}: {fault}.") from fault


def _arguments(
    entry: Component, table: Mapping[str, Any], where: str, given: Mapping[str, Any], base: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments of the constructor: from the table, else from `base`, else from `given`."""
    parameters, types = entry.signature.parameters, types_of(entry)
    rest = next((name for name, parameter in parameters.items() if parameter.kind is parameter.VAR_KEYWORD), None)
    further = {key: value for key, value in table.items() if key != "name" and key not in parameters}
    for key in further:
        if rest is None:
            said = f"{where}.{key} is {table[key]!r}, but {entry.name} has no parameter {key!r}."
            found = within(entry, table, key, where, base)
            if found is not None:
                raise ConfigError(f"{said} {found}")
            others = [c.name for c in components(entry.kind) if key in c.signature.parameters]
            such = f"It is a parameter of {' and '.join(others)}. " if others else ""
            raise UnknownNameError(said, key, such + known_as(key, parameters.keys() - given.keys()))

    def special(value: Any, annotation: Any, place: str) -> Any:
        asked = kind_of(annotation) if isinstance(annotation, type) else None
        return NotImplemented if asked is None else _component(asked, value, place, given)

    arguments: dict[str, Any] = {}
    for name, parameter in parameters.items():
        many = parameter.kind is parameter.VAR_POSITIONAL
        default = call_of(base.get(name, parameter.default))
        if name == rest:
            arguments[name] = {**base.get(name, {}), **further}
        elif name in table and isinstance(table[name], Mapping) and default is not None:
            kind = kind_of(types[name]) or default.component.kind
            altered = base.get(name, parameter.default)
            arguments[name] = build(kind, table[name], f"{where}.{name}", given, altered)
        elif name in table:
            # TOML has no positional arguments: `*stages` of a constructor is a list under its name.
            annotation = Sequence[types[name]] if many else types[name]  # type: ignore[valid-type]
            arguments[name] = coerce(table[name], annotation, f"{where}.{name}", special)
        elif name in base:
            arguments[name] = base[name]
        elif required(parameter):
            kind = kind_of(types[name]) or name  # a function of one's own may have no types
            if kind not in given:
                raise ConfigError(f"{where} lacks {name!r}, which {entry.name} needs. Add {where}.{name}.")
            arguments[name] = given[kind]
    return arguments


def within(entry: Component, table: Mapping[str, Any], key: str, where: str, base: Mapping[str, Any]) -> str | None:
    """Return a sentence that says which component inside of another one has a parameter, or None if none has.

    The components that the table and its defaults use come first, then all that could be in their place.
    """
    fill()
    others: list[str] = []
    for name, annotation in types_of(entry).items():
        kind, place = kind_of(annotation), f"{where}.{name}"
        if kind is None:
            continue
        inner, default = table.get(name), call_of(base.get(name, entry.signature.parameters[name].default))
        own = inner if isinstance(inner, Mapping) else {} if inner is None else {"name": inner}
        chosen = own.get("name", None if default is None else default.component.name)
        used = CATALOGUE.get((kind, chosen)) if isinstance(chosen, str) else None
        if used is not None:
            known = next((each for each in (key, *SYNONYMS.get(key, ())) if each in used.signature.parameters), None)
            if known is not None:
                return f"{used.name} has it, the value of {place}. Set {place}.{known}."
            deeper = within(used, own, key, place, {} if default is None else default.arguments)
            if deeper is not None:
                return deeper
        others += [
            f"{c.name}, a possible value of {place}, has it." for c in components(kind) if key in c.signature.parameters
        ]
    return others[0] if others else None


def table_of(value: Any, given: Sequence[Any] = ()) -> Table:
    """Return the table that describes a component, with every parameter filled in.

    Parameters that are None are left out, since TOML has no None, and so are components in `given`, which the builder
    supplies.

    Raises:
        ConfigError: The object, or a part of it, was not built by a component.

    >>> from fedrl.aggregators import mean
    >>> table_of(mean())
    {'name': 'mean', 'weighting': 'samples'}
    """
    call = call_of(value)
    if call is None:
        kind = kind_of(type(value))
        if kind not in BARE:
            raise ConfigError(
                f"{value!r} was not built by a component, so it can't be written to a configuration file. "
                "Decorate its constructor with @fedrl.component."
            )
        return {"name": given_object(kind, value).name}
    table: Table = {"name": call.component.name}
    for name, argument in call.arguments.items():
        if argument is None or (call_of(argument) is not None and argument in given):
            continue
        further = call.component.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
        table |= _plain(argument, given) if further else {name: _plain(argument, given)}
    return table


def _component(kind: str, value: Any, where: str, given: Mapping[str, Any]) -> Any:
    if kind == "optimizer" and isinstance(value, list | tuple):
        return build(kind, {"name": "chain", "optimizers": value}, where, given)
    return build(kind, value, where, given)


def _find(kind: str, table: Mapping[str, Any], where: str) -> Component:
    fill()
    name = table.get("name")
    if isinstance(name, Mapping | list | tuple):
        raise ConfigError(f"{where}.name is {name!r}. It needs to be a string, the name of a component ({kind}).")
    failed = {} if (kind, name) in CATALOGUE or is_reference(name) else plugins()
    names = {name for known, name in CATALOGUE if known == kind and not is_reference(name)}
    if name is None:
        raise ConfigError(f"{where} has no name. Add {where}.name. {nearest('', names)}")
    if name not in names and is_reference(name):
        return referred(kind, str(name), f"{where}.name", TYPES[kind])
    if name not in names and (kind, name) not in CATALOGUE:
        said = f"{where}.name is {name!r}, which is no known {kind}."
        hint = " ".join([known_as(str(name), names), *failed.values()])
        raise UnknownNameError(said, str(name), hint)
    return CATALOGUE[kind, name]


def types_of(entry: Component) -> dict[str, Any]:
    """Return the declared type of each parameter; Any where it can't be resolved."""
    try:
        hints = typing.get_type_hints(entry.build)
    except (NameError, TypeError, AttributeError):  # of a function of one's own, or of another library
        hints = {}
    return {name: hints.get(name, Any) for name in entry.signature.parameters}


def kind_of(annotation: Any) -> str | None:
    """Return the kind of component that a declared type asks for; None for plain values."""
    options = typing.get_args(annotation) or (annotation,)
    return next((KINDS[option] for option in options if isinstance(option, type) and option in KINDS), None)


def _plain(value: Any, given: Sequence[Any]) -> Any:
    """Return a value as plain TOML."""
    if call_of(value) is not None or kind_of(type(value)) in BARE:
        return table_of(value, given)
    if isinstance(value, Mapping):
        return {str(key): _plain(item, given) for key, item in value.items() if item is not None}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        # Defaults are left out: some of them, such as None, have no TOML form.
        changed = {e.name: getattr(value, e.name) for e in dataclasses.fields(value)}
        chosen = {e.name: changed[e.name] for e in dataclasses.fields(value) if changed[e.name] != e.default}
        return _plain(chosen, given)
    if isinstance(value, tuple | list):
        return [_plain(item, given) for item in value]
    array = isinstance(value, np.ndarray | np.generic) or hasattr(value, "__array__")
    if array or isinstance(value, bool | int | float | str):
        return np.asarray(value).tolist() if array else value
    if callable(value) or isinstance(value, Path):
        return str(value) if isinstance(value, Path) else reference_to(value)
    raise ConfigError(f"{value!r} has no place in a configuration file. Give a name, a number or a component.")


def required(parameter: inspect.Parameter) -> bool:
    """Return whether a table has to give this parameter."""
    return parameter.default is parameter.empty and parameter.kind is not parameter.VAR_POSITIONAL
