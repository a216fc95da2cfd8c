"""Settings of a fleet: the value of one environment parameter for every agent.

| setting                   | values of the agents                                                        |
|---------------------------|-----------------------------------------------------------------------------|
| `9.8`                     | all the same                                                                |
| `[0.4, 0.5, 0.6]`         | one each                                                                    |
| `{"range": [lo, hi]}`     | evenly spaced values from lo to hi; a single agent the middle               |
| `{"uniform": [lo, hi]}`   | a random draw each                                                          |
| `{"normal": [mean, std]}` | a random draw each                                                          |
| `{"grid": [0.4, 0.6]}`    | every combination with the other grids; the last name varies fastest        |

An integer parameter (a count, the number of an agent) gets integers; uniform draws include both ends.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core.errors import ConfigError, nearest
from fedrl.core.types import Key

Setting: TypeAlias = float | Sequence[Any] | Mapping[str, Sequence[float]]

TABLES = ("range", "uniform", "normal", "grid")


def kind_of(name: str, setting: Setting) -> str:
    """Return the kind of a setting: "number", "list" or one of TABLES.

    Raises:
        ConfigError: The setting is a table without exactly one known key.
    """
    if not isinstance(setting, Mapping):
        return "list" if isinstance(setting, list | tuple) or np.ndim(setting) else "number"
    # An unknown key comes first, so that the message is about the misspelt one.
    word = next((word for word in setting if word not in TABLES), next(iter(setting), ""))
    if len(setting) != 1 or word not in TABLES:
        raise ConfigError(
            f"{name} is {dict(setting)!r}. A table has one key that names a distribution, and its numbers. "
            f"{nearest(str(word), TABLES)}"
        )
    return word


def values_of(name: str, setting: Any, agents: int, default: np.ndarray, key: Key | None) -> np.ndarray:
    """Return the value of each agent, `[agents, *shape of the default]`, in its dtype; grids need `grid_of`.

    Raises:
        ConfigError: The setting does not fit the agents or the parameter, or a draw lacks its key.
    """
    kind = kind_of(name, setting)
    whole = default.dtype.kind in "iu"
    if kind == "list":
        values = _array(name, setting)
        if values.shape != (agents, *default.shape):
            raise ConfigError(
                f"{name} is a list of shape {values.shape}. With {agents} agents it needs "
                f"{(agents, *default.shape)}, a value for each. Change the list or the number of agents."
            )
    elif default.shape:
        raise ConfigError(f"{name} has shape {default.shape}. Only a list with an array per agent fits it. Give one.")
    elif kind == "number":
        values = np.full(agents, _array(name, setting))
    else:
        a, b = _pair(name, kind, setting[kind])
        if kind == "range":
            # linspace of one value would be the lower end; a single agent gets the middle.
            values = np.linspace(a, b, agents) if agents > 1 else np.array([(a + b) / 2])
        elif kind == "uniform":
            drawn = _drawn(name, setting, agents, key, jax.random.uniform)
            # For integers, floor over an interval longer by one makes both ends as likely as the others.
            values = np.floor(a + (b - a + 1) * drawn) if whole else a + (b - a) * drawn
        else:
            values = a + b * _drawn(name, setting, agents, key, jax.random.normal)
            values = np.round(values) if whole else values
    return cast(name, values, default)


def grid_of(grids: Mapping[str, Any], agents: int, defaults: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the values of all grid settings, one combination per agent.

    Raises:
        ConfigError: There are more or fewer combinations than agents.
    """
    if not grids:
        return {}
    listed = {name: _array(name, setting["grid"]).ravel() for name, setting in grids.items()}
    size = math.prod(len(values) for values in listed.values())
    if size != agents:
        shape = " x ".join(f"{name} ({len(values)})" for name, values in listed.items())
        raise ConfigError(
            f"The grid {shape} has {size} combinations for {agents} agents. Each agent gets one. "
            f"Set the number of agents to {size}, or change the lists."
        )
    columns = zip(*itertools.product(*listed.values()), strict=True)
    return {name: cast(name, np.array(column), defaults[name]) for name, column in zip(listed, columns, strict=True)}


def between_ends(name: str, setting: Any) -> Setting:
    """Return the setting that draws held-out values of the same kind.

    Raises:
        ConfigError: The setting is a list of arrays, which has no ends.
    """
    kind = kind_of(name, setting)
    if kind not in ("list", "range", "grid"):
        return setting
    listed = _array(name, setting[kind] if isinstance(setting, Mapping) else setting)
    if listed.ndim != 1 or not len(listed):
        raise ConfigError(
            f"{name} is a list of shape {listed.shape}. Only a list of numbers has ends between which held-out values "
            "can be drawn. Give held-out settings of your own to fleet()."
        )
    return {"uniform": [listed.min().item(), listed.max().item()]}


def cast(name: str, values: np.ndarray, default: np.ndarray) -> np.ndarray:
    """Return the values in the dtype of the default.

    Raises:
        ConfigError: An integer parameter is set to a fraction.
    """
    if default.dtype.kind in "iu" and (values != np.round(values)).any():
        raise ConfigError(
            f"{name} would be {values.tolist()}. The parameter is an integer. Give integers, or a range of integers."
        )
    if default.dtype.kind in "iu":
        limits = np.iinfo(default.dtype)
        if (values < limits.min).any() or (values > limits.max).any():
            raise ConfigError(
                f"{name} would be {values.tolist()}. The parameter is an {default.dtype}, with numbers from "
                f"{limits.min} to {limits.max}. Give numbers in this range."
            )
    with np.errstate(over="ignore"):
        found = values.astype(default.dtype)
    if default.dtype.kind == "f" and not np.isfinite(found).all():
        raise ConfigError(
            f"{name} would be {values.tolist()}. The parameter is a {default.dtype}, which has no such number. Give "
            "finite numbers below 3.4e38."
        )
    return found


def _array(name: str, numbers: Any) -> np.ndarray:
    try:
        values = np.asarray(numbers)
    except ValueError:  # lists of unequal length
        values = np.asarray(None)
    if values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        raise ConfigError(f"{name} is {numbers!r}. A setting consists of finite numbers. Give finite numbers.")
    return values


def _pair(name: str, kind: str, numbers: Any) -> tuple[float, float]:
    values = _array(name, numbers)
    if values.shape != (2,) or (values[1] < 0 if kind == "normal" else values[0] > values[1]):
        form = "[mean, standard deviation >= 0]" if kind == "normal" else "[lowest, highest]"
        raise ConfigError(f"{name} is {{{kind!r}: {numbers!r}}}. It needs the form {form}. Give two such numbers.")
    return float(values[0]), float(values[1])


def _drawn(name: str, setting: Any, agents: int, key: Key | None, source: Any) -> np.ndarray:
    if key is None:
        raise ConfigError(f"{name} is {setting!r}, a random draw. A draw needs a key, and key is None. Give a key.")
    # By the name, so that the draws of one parameter don't depend on which others are set.
    named = jax.random.fold_in(key, zlib.crc32(name.encode()))
    return np.asarray(_draw(named, jnp.arange(agents), source), np.float64)


def _draw(key: Key, agents: jax.Array, source: Any) -> jax.Array:
    """Draw once per agent, each with a key of its own, so that a further agent changes no draw."""
    return jax.vmap(lambda agent: source(jax.random.fold_in(key, agent)))(agents)
