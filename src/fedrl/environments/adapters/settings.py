"""Parameters of an environment of another library that may differ between agents: named numbers in a NamedTuple."""

from __future__ import annotations

import functools
from collections import namedtuple
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core.errors import ConfigError
from fedrl.core.types import PyTree
from fedrl.environments.choices import is_choice, numbered, valued

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


def leaf_of(name: str, value: Any) -> Any:
    """Return the number of a setting in a fleet.

    Raises:
        ConfigError: It is not finite, or a whole number beyond 32 bits.
    """
    if is_choice(value):
        return np.int32(numbered(name, value))
    if not np.isfinite(value):
        raise ConfigError(f"settings.{name} is {value}. It needs to be a finite number. Choose one in this range.")
    if not isinstance(value, int):
        return np.float32(value)
    if abs(value) >= 2**31:
        raise ConfigError(f"settings.{name} is {value}, beyond 32 bits. Give it as a string.")
    return np.int32(value)


def rows_of_settings(params: PyTree, defaults: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the values of the settings of each environment copy, from parameters with a leading axis of copies."""
    columns = {name: np.asarray(column).tolist() for name, column in params._asdict().items() if name in defaults}
    return [
        {
            name: valued(column[i]) if is_choice(defaults[name]) else _like(defaults[name], column[i])
            for name, column in columns.items()
        }
        for i in range(len(jax.tree.leaves(params)[0]))
    ]


def _like(default: Any, value: float) -> Any:
    """Return the default if the value is the same in float32; a whole number is exact."""
    if isinstance(value, int):
        return value
    # Fleets are float32: without this, a default such as 9.8 would reach the environment as 9.800000190734863.
    return default if np.float32(default) == np.float32(value) else value
