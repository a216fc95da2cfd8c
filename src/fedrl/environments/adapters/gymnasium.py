"""Adapter for environments of Gymnasium, which are stepped on the host by `fedrl.engines.executors.host`."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Mapping
from numbers import Real
from typing import Any

import gymnasium as gym
import jax
import numpy as np

from fedrl.core.component import component
from fedrl.core.environment import Box, Discrete, HostEnvironment, Space, Spaces
from fedrl.core.errors import ConfigError, nearest
from fedrl.core.host import Instances
from fedrl.core.measures import Measure, counting
from fedrl.core.ranges import Count, Finite
from fedrl.core.types import PyTree
from fedrl.environments.adapters.settings import check_names, settings_record
from fedrl.environments.adapters.shard import constructor_of, open_environment
from fedrl.environments.adapters.vector import open_instances


@component("environment", reference="Towers et al. (2024), https://arxiv.org/abs/2407.17032")
def gymnasium(
    id: str,
    max_steps: Count | None = None,
    settings: Mapping[str, Finite] | None = None,
    options: Mapping[str, Any] | None = None,
    measures: Mapping[str, Measure] | None = None,
) -> HostEnvironment:
    """Build a registered environment of Gymnasium from its id ("module:Id-v0" imports the module first).

    Observations: Box, as float32 of the same shape; Discrete, counted from 0; any other space that Gymnasium can
    flatten, as one vector. Actions: Discrete, or Box; continuous actions are clipped to the Box, not rescaled. A step
    that both terminates and truncates counts as a termination. A number in `settings` may differ between agents.

    Args:
        id: Id of the environment, such as "LunarLander-v3".
        max_steps: Time limit; the registered one by default.
        settings: Names and defaults of the environment's parameters. A name is a keyword argument of the environment's
            constructor or, failing that, an attribute, set after construction. Quantities that the constructor derives
            from an attribute keep their old value: if you vary `length` in CartPole, also vary `polemass_length`, its
            product with `masspole`.
        options: More keyword arguments of the constructor, the same for every agent.
        measures: Measures besides the return. A measure reads the number in `info` under its own name or, if it has
            parts, under theirs. A value per episode is summed over its steps; one with `take = "last"` is that of the
            last step only, as for `is_success`, and only that step needs the key. A missing key ends the run with an
            error that lists the existing keys.

    Raises:
        ConfigError: There is no such environment or parameter, or a space is not supported.

    >>> env = gymnasium("CartPole-v1", settings={"gravity": 9.8})
    >>> env.spaces.action, env.max_steps, float(env.params.gravity).__round__(1)
    (Discrete(n=2), 500, 9.8)
    """
    defaults, fixed, measured = dict(settings or {}), dict(options or {}), dict(measures or {})
    how = counting(measured)
    infos = {key: key in how.last for key in how.parts}
    spec = _registered(id)
    if max_steps is not None:
        fixed["max_episode_steps"] = max_steps
    limit = spec.max_episode_steps if max_steps is None else max_steps
    if limit is None:
        raise ConfigError(f"{id} has no registered time limit. Episodes have to end. Set max_steps.")
    check_names(defaults)
    arguments = _arguments(id, spec) & set(defaults)
    # Opened once at construction, for its spaces and so that wrong arguments fail early.
    example = _opened(id, spec, fixed | {name: defaults[name] for name in arguments})
    spaces = _spaces(id, example)
    _check_settings(id, spec, example, defaults, fixed)
    example.close()

    def open(params: PyTree, workers: int | None = None) -> Instances:
        columns = {name: np.asarray(column).tolist() for name, column in params._asdict().items() if name in defaults}
        rows = [
            {name: _like(defaults[name], column[i]) for name, column in columns.items()}
            for i in range(len(jax.tree.leaves(params)[0]))
        ]
        given = [
            (
                fixed | {name: value for name, value in row.items() if name in arguments},
                {name: value for name, value in row.items() if name not in arguments},
            )
            for row in rows
        ]
        return open_instances(spec, given, workers, infos)

    params = settings_record({name: np.float32(value) for name, value in defaults.items()})
    exact = (example.observation_space, example.action_space)
    return HostEnvironment(params, spaces, int(limit), open, measured, gymnasium_spaces=exact)


def _registered(id: str) -> Any:
    module, _, name = id.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        return gym.spec(name)
    except (gym.error.Error, ModuleNotFoundError) as error:
        close = difflib.get_close_matches(id, gym.registry, n=1, cutoff=0.3)
        guess = f"Did you mean {close[0]!r}? " if close else ""
        raise ConfigError(
            f"{id!r} is no registered environment of Gymnasium ({error}). {guess}"
            "gymnasium.pprint_registry() lists them all; 'module:Id-v0' imports a module that registers more."
        ) from None


def _opened(id: str, spec: Any, arguments: Mapping[str, Any]) -> gym.Env:
    try:
        return open_environment(spec, arguments, {})
    except TypeError as error:
        raise ConfigError(
            f"{id} refuses its options {dict(arguments)}: {error}. Its constructor has other arguments. "
            f"Use these: {', '.join(sorted(_arguments(id, spec))) or 'none'}."
        ) from error


def _arguments(id: str, spec: Any) -> set[str]:
    """Return the names of the keyword arguments of the environment's constructor."""
    try:
        creator = constructor_of(spec)
    except (ImportError, gym.error.DependencyNotInstalled) as error:
        raise ConfigError(
            f"{id} can't be opened: {error}. It needs a package that is not installed. Install it, "
            "such as the extra 'gymnasium[box2d]' for LunarLander-v3."
        ) from error
    return set(inspect.signature(creator).parameters) - {"self", "args", "kwargs", "render_mode"}


def _check_settings(
    id: str, spec: Any, example: gym.Env, defaults: Mapping[str, Any], fixed: Mapping[str, Any]
) -> None:
    own = {name: value for name, value in vars(example.unwrapped).items() if isinstance(value, Real)}
    allowed = {name for name in own if not name.startswith("_")} | _arguments(id, spec)
    for name, value in defaults.items():
        if name not in allowed:
            raise ConfigError(f"{id} has no numeric parameter {name!r}. {nearest(name, allowed)}")
        if name in fixed:
            raise ConfigError(f"{name!r} is both a setting and an option of {id}. It can only be one. Leave one out.")
        if not isinstance(value, Real):
            raise ConfigError(f"{name} is {value!r}. A setting of {id} is a number. Put it into the options.")


def _like(default: Any, value: float) -> Any:
    """Return a number of the default's type; the default itself if both are the same in float32."""
    # Fleets are float32: without this, a default such as 9.8 would reach the environment as 9.800000190734863.
    if np.float32(default) == np.float32(value):
        return default
    return type(default)(round(value)) if isinstance(default, int) else value


def _spaces(id: str, environment: gym.Env) -> Spaces:
    observation, action = environment.observation_space, environment.action_space
    if isinstance(action, gym.spaces.Discrete | gym.spaces.Box) and isinstance(
        observation, gym.spaces.Discrete | gym.spaces.Box
    ):
        return Spaces(_space(observation), _space(action))
    raise ConfigError(
        f"{id} has observations in {observation} and actions in {action}. Only observations of a fixed size and "
        "actions in a Discrete or Box space are supported. Register a wrapped version of it."
    )


def _space(space: gym.spaces.Discrete | gym.spaces.Box) -> Space:
    if isinstance(space, gym.spaces.Discrete):
        return Discrete(int(space.n))
    return Box(space.shape, float(space.low.min()), float(space.high.max()))
