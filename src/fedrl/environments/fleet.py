"""Fleets: what makes the agents' environments differ.

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

from fedrl.core.checks import check_positive
from fedrl.core.environment import AnyEnvironment, Environment, Variants
from fedrl.core.errors import ConfigError, nearest
from fedrl.core.types import Key, PyTree
from fedrl.environments.settings import Setting, between_ends, grid_of, kind_of, values_of

HELD_OUT = zlib.crc32(b"held out")


def fleet(
    environment: AnyEnvironment, agents: int, settings: Mapping[str, Setting] | None = None, key: Key | None = None
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
    leaves, variants = environment.params._asdict(), _variants(environment)
    numbers = {} if variants is None else variants.numbers
    defaults = {name: np.asarray(value) for name, value in {**numbers, **leaves}.items()}
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


def held_out(environment: AnyEnvironment, count: int, settings: Mapping[str, Setting] | None, key: Key) -> PyTree:
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


def _variants(environment: AnyEnvironment) -> Variants | None:
    return environment.variants if isinstance(environment, Environment) else None


def _rebuilt(environment: AnyEnvironment, agents: int, arguments: Mapping[str, np.ndarray]) -> PyTree:
    """The parameters of every agent, before those that are set directly."""
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
            "learn one model, so their spaces are the same. Set it where the environment is made."
        )
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
