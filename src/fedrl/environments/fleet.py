"""Fleets: what makes the agents' environments differ.

    {"length": {"range": [0.3, 0.7]}, "gravity": 9.8}   --fleet-->   the parameters, a leading agent axis on every leaf

A setting (`fedrl.environments.settings`) names a parameter of the environment. A tabular environment is nothing but
its tables, so there it may also name a number that the constructor takes, such as the `theta` of `windy_cliff` or the
`kappa` and `agent` of `random_mdp`.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core.checks import check_positive
from fedrl.core.component import call_of
from fedrl.core.environment import Environment
from fedrl.core.errors import ConfigError, nearest
from fedrl.core.types import Key, PyTree
from fedrl.environments.settings import Setting, between_ends, grid_of, kind_of, values_of
from fedrl.environments.tabular import TabularParams

HELD_OUT = zlib.crc32(b"held out")


def fleet(
    environment: Environment, agents: int, settings: Mapping[str, Setting] | None = None, key: Key | None = None
) -> PyTree:
    """The parameters of every agent's environment.

    A draw depends on the key, the name and the agent alone: neither further settings nor further agents change it.

    Args:
        environment: Its `params` are what is not set.
        agents: How many; the leading axis of every leaf of the result.
        settings: What differs: per name a number, a list, or a table with `range`, `uniform`, `normal` or `grid`.
        key: For random draws; not needed without.

    Returns:
        A tree like `environment.params`, of the same dtypes, with a leading agent axis on every leaf.

    Raises:
        ConfigError: A name is unknown, a setting does not fit the agents or the parameter, or a key is missing.

    >>> from fedrl.environments import cartpole
    >>> fleet(cartpole(), 3, {"length": {"range": [0.25, 0.75]}, "gravity": 10.0}).length.tolist()
    [0.25, 0.5, 0.75]
    """
    check_positive(agents=agents)
    chosen = dict(settings or {})
    leaves, arguments = environment.params._asdict(), _arguments(environment)
    defaults = {name: np.asarray(value) for name, value in {**arguments, **leaves}.items()}
    for name in chosen:
        if name not in defaults:
            raise ConfigError(f"{name!r} is no parameter of {environment!r}. {nearest(name, defaults)}")
    gridded = {name: setting for name, setting in chosen.items() if kind_of(name, setting) == "grid"}
    values = grid_of(gridded, agents, defaults)
    for name, setting in chosen.items():
        if name not in gridded:
            values[name] = values_of(name, setting, agents, defaults[name], key)
    params = _rebuilt(environment, agents, {name: values[name] for name in values if name not in leaves})
    return params._replace(**{name: jnp.asarray(values[name]) for name in values if name in leaves})


def held_out(environment: Environment, count: int, settings: Mapping[str, Setting] | None, key: Key) -> PyTree:
    """Environments that no agent has trained on, of the kind that the agents have.

    Drawn settings are drawn anew; for a range, a list or a grid, values are drawn uniformly between its ends. So the
    settings of a fleet may be passed on as they are. To test elsewhere, give other settings to `fleet`.

    Args:
        environment: As for `fleet`.
        count: How many.
        settings: Those of the fleet.
        key: For the draws. It may be the fleet's: the draws are others all the same.

    Raises:
        ConfigError: As for `fleet`; or a list has no ends, because it is one of arrays.

    >>> from fedrl.environments import cartpole
    >>> lengths = held_out(cartpole(), 20, {"length": [0.4, 0.5, 0.8]}, jax.random.key(0)).length
    >>> bool((lengths > 0.4).all() and (lengths < 0.8).all())
    True
    """
    wider = {name: between_ends(name, setting) for name, setting in (settings or {}).items()}
    return fleet(environment, count, wider, jax.random.fold_in(key, HELD_OUT))


def _arguments(environment: Environment) -> dict[str, Any]:
    """The numbers that shape the tables of a tabular environment, by name."""
    call = call_of(environment)
    if call is None or not isinstance(environment.params, TabularParams):
        return {}
    return {
        name: value for name, value in call.arguments.items() if isinstance(value, int | float) and name != "max_steps"
    }


def _rebuilt(environment: Environment, agents: int, arguments: Mapping[str, np.ndarray]) -> PyTree:
    """The parameters of every agent, before those that are set directly."""
    if not arguments:
        return jax.tree.map(lambda leaf: jnp.repeat(jnp.asarray(leaf)[None], agents, axis=0), environment.params)
    call = call_of(environment)
    assert call is not None
    rows = zip(*(column.tolist() for column in arguments.values()), strict=True)
    each = [call.component.build(**{**call.arguments, **dict(zip(arguments, row, strict=True))}).params for row in rows]
    if any(params.transition.shape != environment.params.transition.shape for params in each):
        raise ConfigError(
            f"{', '.join(arguments)} would change the number of states or actions of {environment!r}. The agents "
            "learn one model, so their spaces are the same. Set it where the environment is made."
        )
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
