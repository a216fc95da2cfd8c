"""Fleets: the parameters of every agent's environment, from settings of what differs between agents.

    {"length": {"range": [0.3, 0.7]}, "gravity": 9.8}   --fleet-->   the parameters, a leading agent axis on every leaf

A setting (`fedrl.environments.settings`) names a parameter of the environment, or a number that its parameters are
computed from (`Environment.variants`), such as the `theta` of `windy_cliff` or the `kappa` and `agent` of
`random_mdp`.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core.component import checked
from fedrl.core.environment import AnyEnvironment, Environment, HostEnvironment, Variants, common_of
from fedrl.core.errors import ConfigError, nearest
from fedrl.core.ranges import Count, check_ranges
from fedrl.core.types import Key, PyTree
from fedrl.environments.choices import numbers_of
from fedrl.environments.settings import Setting, between_ends, grid_of, kind_of, values_of

# Folded into the key of held-out draws, so that they differ from the fleet's even with its key.
HELD_OUT = zlib.crc32(b"held out")


@checked
def fleet(
    environment: AnyEnvironment, agents: Count, settings: Mapping[str, Setting] | None = None, key: Key | None = None
) -> PyTree:
    """Return the parameters of every agent's environment.

    A draw depends on the key, the name and the agent only: neither further settings nor further agents change it.

    Args:
        environment: Environment whose `params` are the defaults.
        agents: Number of agents, the leading axis of every leaf of the result.
        settings: Settings by name: a number, a list, or a table with `range`, `uniform`, `normal` or `grid`; for a
            parameter of a Gymnasium environment that is no number, one value or a list.
        key: Key of random draws; not needed if there are none.

    Returns:
        A tree like `environment.params`, of the same dtypes, with a leading agent axis on every leaf.

    Raises:
        ConfigError: A name is unknown, a setting does not fit the agents or the parameter, or a key is missing.

    >>> from fedrl.environments import cartpole
    >>> fleet(cartpole(), 3, {"length": {"range": [0.25, 0.75]}, "gravity": 10.0}).length.tolist()
    [0.25, 0.5, 0.75]
    """
    chosen = dict(settings or {})
    leaves, variants = environment.params._asdict(), _variants(environment)
    numbers = {} if variants is None else variants.numbers
    defaults = {name: np.asarray(value) for name, value in {**numbers, **leaves}.items()}
    for name in chosen:
        if name not in defaults:
            raise ConfigError(f"{name!r} is no parameter of {environment!r}. {nearest(name, defaults)}")
    choices = environment.choices if isinstance(environment, HostEnvironment) else ()
    values = {name: numbers_of(name, chosen.pop(name), agents) for name in choices if name in chosen}
    # Grids are resolved together, since an agent gets one combination of all of them.
    gridded = {name: setting for name, setting in chosen.items() if kind_of(name, setting) == "grid"}
    values |= grid_of(gridded, agents, defaults)
    for name, setting in chosen.items():
        if name not in gridded:
            values[name] = values_of(name, setting, agents, defaults[name], key)
    common = common_of(environment)
    for name, column in values.items():
        if common is not None and (np.asarray(column) != np.asarray(column)[:1]).any():
            raise ConfigError(
                f"{name} is {(settings or {})[name]!r}, which differs between agents, and in {environment!r} they "
                "are players of one world, which has one value of it. Set one number, for all agents."
            )
        if name in environment.bounds:
            check_ranges({name: environment.bounds[name]}, {name: column})
    # Computed parameters first: a parameter that is set directly overrides them.
    params = _rebuilt(environment, agents, {name: values[name] for name in values if name not in leaves})
    return params._replace(**{name: jnp.asarray(values[name]) for name in values if name in leaves})


def held_out(environment: AnyEnvironment, count: int, settings: Mapping[str, Setting] | None, key: Key) -> PyTree:
    """Return the parameters of held-out environments, from the distribution of the fleet's settings.

    Random settings are drawn anew; for a range, a list or a grid, values are drawn uniformly between its ends. So pass
    the settings of the fleet unchanged. To test outside that distribution, give other settings to `fleet`.

    Args:
        environment: As for `fleet`.
        count: Number of held-out environments.
        settings: Settings of the fleet.
        key: Key of the draws. It may be the fleet's, because it is folded with a constant first.

    Raises:
        ConfigError: As for `fleet`; or a setting is a list of arrays, which has no ends.

    >>> from fedrl.environments import cartpole
    >>> lengths = held_out(cartpole(), 20, {"length": [0.4, 0.5, 0.8]}, jax.random.key(0)).length
    >>> bool((lengths > 0.4).all() and (lengths < 0.8).all())
    True
    """
    if common_of(environment) is not None:
        raise ConfigError(
            f"evaluation.held_out is {count}, and the agents of {environment!r} share one world: its policies are "
            "evaluated in that world, all players together, and there are no environments of other agents. Set "
            "evaluation.held_out = 0."
        )
    choices = environment.choices if isinstance(environment, HostEnvironment) else ()
    for name in set(choices) & set(settings or {}):
        raise ConfigError(
            f"{name} is {(settings or {})[name]!r}. Held-out environments are drawn between the ends of a setting, and "
            "values that are no numbers have none. Set evaluation.held_out = 0, or give other settings to fleet()."
        )
    wider = {name: between_ends(name, setting) for name, setting in (settings or {}).items()}
    return fleet(environment, count, wider, jax.random.fold_in(key, HELD_OUT))


def _variants(environment: AnyEnvironment) -> Variants | None:
    return environment.variants if isinstance(environment, Environment) else None


def _rebuilt(environment: AnyEnvironment, agents: int, arguments: Mapping[str, np.ndarray]) -> PyTree:
    """Return the parameters of every agent, computed from `arguments`; parameters that are set directly come later."""
    if not arguments:
        return jax.tree.map(lambda leaf: jnp.repeat(jnp.asarray(leaf)[None], agents, axis=0), environment.params)
    variants = _variants(environment)
    assert variants is not None
    rows = zip(*(column.tolist() for column in arguments.values()), strict=True)
    each = [variants.tables(**{**variants.numbers, **dict(zip(arguments, row, strict=True))}) for row in rows]
    like = jax.tree.map(jnp.shape, environment.params)
    if any(jax.tree.map(jnp.shape, params) != like for params in each):
        raise ConfigError(
            f"{', '.join(arguments)} would change the number of states or actions of {environment!r}. The agents "
            "train one model, so their spaces have to be the same. Set it in the environment's constructor."
        )
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
