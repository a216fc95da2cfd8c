"""Parameters of an environment of another library that may differ between agents: named numbers in a NamedTuple."""

from __future__ import annotations

import functools
from collections import namedtuple
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fedrl.core.errors import ConfigError

NOTHING = {"unused": 0.0}


@functools.cache
def _record(names: tuple[str, ...]) -> Any:
    """Return the class of these names; one class per tuple of names, so that equal settings are equal pytrees."""
    found: Any = namedtuple("Settings", names)  # type: ignore[misc]

    def reduced(settings: Any) -> tuple[Any, ...]:
        return _settings, (names, tuple(settings))

    # In another process they are of its own class of these names: a copy of this class would be another pytree.
    found.__reduce__ = reduced  # type: ignore[method-assign, assignment]
    return found


def _settings(names: tuple[str, ...], values: tuple[Any, ...]) -> Any:
    return _record(names)(*values)


def settings_record(defaults: Mapping[str, Any]) -> Any:
    """Return the parameters of an environment from their names and defaults.

    Without names there is still one leaf, because a fleet's number of agents is the leading axis of its leaves.

    >>> settings_record({"gravity": -10.0})
    Settings(gravity=Array(-10., dtype=float32))
    """
    values = dict(defaults) or NOTHING
    return _record(tuple(values))(*(strong(value) for value in values.values()))


def strong(leaf: Any) -> jax.Array:
    """Return a number as an array with a strong type; a weak one would make a loop over steps compile twice."""
    array = jnp.asarray(leaf)
    return jax.lax.convert_element_type(array, array.dtype)


def check_names(names: Iterable[str]) -> None:
    """Refuse names that can't be fields of a NamedTuple.

    Raises:
        ConfigError: A name is no public identifier.
    """
    for name in names:
        if not name.isidentifier() or name.startswith("_"):
            raise ConfigError(
                f"{name!r} can't be a setting. A setting is a public attribute or argument of the environment. "
                "Give one of those."
            )
