"""Components of one's own: references "module:name", objects of Python, and plugins of installed packages.

| in a configuration                         | what it is                                                             |
|--------------------------------------------|------------------------------------------------------------------------|
| `name = "mine"` and `imports = ["mypkg"]`  | a constructor that `@fedrl.component` registers when mypkg is imported |
| `name = "mine"`, of an installed package   | the same, in a module of the entry point group `fedrl.components`      |
| `name = "mypkg.parts:mine"`                | any constructor or class, decorated or not                             |
| an object, from Python                     | written as a reference to this process, since a file has no objects    |
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Callable
from typing import Any

from fedrl.core.component import CATALOGUE, Component, adopted
from fedrl.core.errors import ConfigError, FedrlError
from fedrl.core.imports import named, own_traceback, remembered
from fedrl.learners.parts.networks import network

GROUP = "fedrl.components"


@functools.cache
def plugins() -> dict[str, str]:
    """Import the modules of installed packages that add components, once; return why some can't be imported, by name.

    A package names such a module in its pyproject.toml, and installing it is the user's consent:

        [project.entry-points."fedrl.components"]
        parts = "mypkg.parts"
    """
    failed = {}
    for point in importlib.metadata.entry_points(group=GROUP):
        try:
            point.load()
        except (Exception, SystemExit) as fault:  # one broken package must not stop the others
            package = point.dist.name if point.dist is not None else point.value
            failed[point.name] = f"The plugin {point.name} of {package} can't be imported. {own_traceback(fault)}"
    return failed


def referred(kind: str, reference: str, where: str, types: tuple[type, ...]) -> Component:
    """Return the constructor of a reference "module:name" as a component of a kind.

    Args:
        kind: The kind of component that is expected.
        reference: Such as "mypkg.parts:mine".
        where: The key that has the reference, for messages.
        types: The types of objects of this kind.

    Raises:
        ConfigError: The object does not exist, can't be called, or is a component of another kind.
    """
    build, known = named(reference, where), CATALOGUE.get((kind, reference))
    if known is not None and known.source is build:
        return known
    for entry in CATALOGUE.values():
        if entry.build is build:
            if entry.kind != kind and {entry.kind, kind} != {"optimizer", "server_optimizer"}:
                raise ConfigError(f"{where} is {reference!r}, a component of the kind {entry.kind}. It needs a {kind}.")
            return entry
    if isinstance(build, types):
        return given_object(kind, build, reference)
    if not callable(build):
        raise ConfigError(
            f"{where} is {reference!r}, of the type {type(build).__name__}. It needs to be a function or a class that "
            f"returns a component of the kind {kind}."
        )

    try:
        return adopted(kind, reference, _tried(kind, reference, build, types), build)
    except (TypeError, ValueError):
        raise ConfigError(
            f"{where} is {reference!r}, whose parameters can't be read. Wrap it in a function of your own."
        ) from None


def _tried(kind: str, reference: str, build: Callable[..., Any], types: tuple[type, ...]) -> Callable[..., Any]:
    """Return a constructor that says what a function of the user's own did wrong."""

    def made(*args: Any, **kwargs: Any) -> Any:
        try:
            found = build(*args, **kwargs)
        except FedrlError:
            raise
        except Exception as fault:
            raise ConfigError(f"{reference} failed.\n{own_traceback(fault)}") from fault
        if kind == "network" and isinstance(found, tuple) and len(found) == 2 and all(map(callable, found)):
            found = network(*found)
        if not isinstance(found, types):
            needed = " or ".join(each.__name__ for each in types)
            raise ConfigError(
                f"{reference} returned an object of the type {type(found).__name__}. For the kind {kind} it needs to "
                f"return one of the type {needed}."
            )
        return found

    return made


def given_object(kind: str, value: Any, reference: str | None = None) -> Component:
    """Return a component without parameters that is this object, such as a bare optimiser of optax.

    Its name refers to the object in this process. Another process can act with a policy that was trained with it, if
    acting does not need it, but can't build it.
    """
    name = reference or remembered(value, f"__main__:{type(value).__name__}")
    return CATALOGUE[kind, name] if (kind, name) in CATALOGUE else adopted(kind, name, lambda: value, lambda: None)
