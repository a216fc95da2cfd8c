"""What may differ between agents in an environment of another library: named numbers, as a NamedTuple."""

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
    """One class per set of names, so that equal settings are equal pytrees."""
    return namedtuple("Settings", names)


def settings_record(defaults: Mapping[str, Any]) -> Any:
    """Parameters of an environment from their names and defaults.

    With nothing to vary there is one leaf all the same: the leading axis of a fleet says how many agents there are.

    >>> settings_record({"gravity": -10.0})
    Settings(gravity=Array(-10., dtype=float32))
    """
    values = dict(defaults) or NOTHING
    return _record(tuple(values))(*(strong(value) for value in values.values()))


def strong(leaf: Any) -> jax.Array:
    """A number as an array whose type is fixed; a weak one would make a loop over steps compile twice."""
    array = jnp.asarray(leaf)
    return jax.lax.convert_element_type(array, array.dtype)


def check_names(names: Iterable[str]) -> None:
    """Refuse names that no record can have.

    Raises:
        ConfigError: It names the name.
    """
    for name in names:
        if not name.isidentifier() or name.startswith("_"):
            raise ConfigError(
                f"{name!r} can't be a setting. A setting is a public attribute or argument of the environment. "
                "Give one of those."
            )
