"""Adapter for environments of Gymnasium, which are stepped on the host by `fedrl.engines.executors.host`."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import re
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import gymnasium as gym
import jax
import numpy as np
from gymnasium.envs.registration import EnvSpec

from fedrl.core.component import component
from fedrl.core.environment import ActionSpace, Box, Discrete, HostEnvironment, Product, Space, Spaces
from fedrl.core.errors import ConfigError, FedrlError, nearest
from fedrl.core.host import Instances
from fedrl.core.imports import imported, is_reference, named, own_traceback, reference_to
from fedrl.core.measures import Measure, counting
from fedrl.core.ranges import Count, Positive
from fedrl.core.types import PyTree
from fedrl.environments.adapters.entries import leaves
from fedrl.environments.adapters.observations import WithoutText
from fedrl.environments.adapters.settings import check_names, leaf_of, rows_of_settings, settings_record
from fedrl.environments.adapters.shard import constructor_of, open_environment
from fedrl.environments.adapters.vector import TIMEOUT_S, open_instances
from fedrl.environments.choices import is_choice

RENDER_MODE = "rgb_array"
"""The render mode of films: each picture is an array."""


@component("environment", reference="Towers et al. (2024), https://arxiv.org/abs/2407.17032")
def gymnasium(
    id: str | Callable[..., Any],
    max_steps: Count | None = None,
    settings: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    measures: Mapping[str, Measure] | None = None,
    timeout_s: Positive = TIMEOUT_S,
) -> HostEnvironment:
    """Build an environment of Gymnasium: a registered one, or a class or function of your own that returns one.

    Observations: Box, as float32 of the same shape; Discrete, counted from 0; any other space that Gymnasium can
    flatten, as one vector, without its fields that are text (`notes` of the environment names them). Actions:
    Discrete, Box, MultiDiscrete, MultiBinary, and Tuple and Dict of these, as one decision of several choices;
    continuous ones are clipped to their Box, not rescaled. A step that both terminates and truncates counts as a
    termination. What is in `settings` may differ between agents.

    Args:
        id: Id of the environment, such as "LunarLander-v3"; "module:Id-v0" imports the module that registers it. Or a
            class or function that returns an environment, or its reference "module:name".
        max_steps: Time limit; the registered one by default, or that of the environment's own `TimeLimit`.
        settings: Names and defaults of the environment's parameters. A name is a keyword argument of the environment's
            constructor, with a number, a string, a boolean, a list or a table, or an attribute with a number, set after
            construction. Quantities that the constructor derives from an attribute keep their old value: if you vary
            `length` in CartPole, also vary `polemass_length`, its product with `masspole`. Numbers are float32, and
            int32 if the default is an integer.
        options: More keyword arguments of the constructor, the same for every agent.
        measures: Measures besides the return. A measure reads the number in `info` under its own name or, if it has
            parts, under theirs. A value per episode is summed over its steps; one with `take = "last"` is that of the
            last step only, as for `is_success`, and only that step needs the key. A missing key ends the run with an
            error that lists the existing keys.
        timeout_s: Seconds after which a step or a reset of one environment copy has failed (`docs/exit-codes.md` says
            what else is a failure). A class that exists in a script alone is stepped in this process, without limit.

    Raises:
        ConfigError: There is no such environment or parameter, its module or its constructor fails, or a space is not
            supported.

    >>> env = gymnasium("CartPole-v1", settings={"gravity": 9.8})
    >>> env.spaces.action, env.max_steps, float(env.params.gravity).__round__(1)
    (Discrete(n=2), 500, 9.8)
    """
    defaults, fixed, measured = dict(settings or {}), dict(options or {}), dict(measures or {})
    how = counting(measured)
    infos = {key: key in how.last for key in how.parts}
    spec = specification(id)
    title: str = spec.id
    if max_steps is not None:
        fixed["max_episode_steps"] = max_steps
    check_names(defaults)
    arguments = set(defaults) if _takes_any(spec) else _arguments(title, spec) & set(defaults)
    # Opened once at construction, for its spaces and so that wrong arguments fail early.
    example = _opened(title, spec, fixed | {name: defaults[name] for name in arguments})
    limit = (spec.max_episode_steps or _own_limit(example)) if max_steps is None else max_steps
    if limit is None:
        raise ConfigError(f"{title} has no time limit. Episodes have to end. Set max_steps.")
    spaces = _spaces(title, example)
    _check_settings(title, example, arguments | _arguments(title, spec), defaults, fixed)
    example.close()
    choices = tuple(name for name, value in defaults.items() if is_choice(value))

    def given(params: PyTree) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Return the keyword arguments and the attributes of each environment copy."""
        rows = rows_of_settings(params, defaults)
        return [
            (
                fixed | {name: value for name, value in row.items() if name in arguments},
                {name: value for name, value in row.items() if name not in arguments},
            )
            for row in rows
        ]

    def open(params: PyTree, workers: int | None = None) -> Instances:
        return open_instances(spec, given(params), workers, infos, timeout_s)

    def open_rendered(params: PyTree) -> gym.Env:
        ((options_of_one, attributes),) = given(jax.tree.map(lambda leaf: np.asarray(leaf)[None], params))
        check_render_mode(title, getattr(constructor_of(spec), "metadata", {}))
        known = inspect.signature(constructor_of(spec)).parameters
        if ":" in title and not _takes_any(spec) and "render_mode" not in known:
            raise ConfigError(
                f"{title} can't be filmed: it has no argument render_mode. Add it, and pass it on to Gymnasium."
            )
        return open_environment(spec, options_of_one | {"render_mode": RENDER_MODE}, attributes)

    params = settings_record({name: leaf_of(name, value) for name, value in defaults.items()})
    exact = (example.observation_space, example.action_space)
    return HostEnvironment(
        params,
        spaces,
        int(limit),
        open,
        measured,
        gymnasium_spaces=exact,
        choices=choices,
        open_rendered=open_rendered,
        notes=_notes(title, example),
    )


def _notes(id: str, environment: gym.Env) -> tuple[str, ...]:
    """Return what a user has to know of how an environment is seen."""
    while isinstance(environment, gym.Wrapper):
        if isinstance(environment, WithoutText):
            names = ", ".join(environment.left_out)
            return (
                f"{id} has text in its observations ({names}). A network reads numbers, so it is left out, and no "
                "policy sees it. Wrap the environment to give its content as numbers.",
            )
        environment = environment.env
    return ()


def check_render_mode(name: str, metadata: Mapping[str, Any]) -> None:
    """Refuse an environment that says that it can't draw itself as arrays.

    Raises:
        ConfigError: Its metadata list other render modes.
    """
    modes = metadata.get("render_modes")
    if modes is not None and RENDER_MODE not in modes:
        raise ConfigError(
            f"{name} can't be filmed: its render modes are {list(modes)}, and a film needs {RENDER_MODE!r}. Add it to "
            "the environment, as render_mode and in metadata['render_modes']."
        )


def specification(id: str | Callable[..., Any]) -> Any:
    """Return Gymnasium's specification of a registered environment, or of a class or function of one's own.

    Raises:
        ConfigError: There is no such environment, or its module fails.
    """
    if not isinstance(id, str):
        id = reference_to(id)
    module, _, name = id.rpartition(":")
    here = "#" in name  # an object of this process, which no module has
    try:
        if module and not here:
            imported(module, "id")
        return gym.spec(name)
    except gym.error.Error as error:
        if is_reference(id):
            # Gymnasium finds an object by the name of its module, for which it knows no dots.
            build = named(id, "id")
            return EnvSpec(re.sub(r"[^\w:.-]", "-", id), build if here or "." in name else id)
        close = difflib.get_close_matches(id, gym.registry, n=1, cutoff=0.3)
        guess = f"Did you mean {close[0]!r}? " if close else ""
        raise ConfigError(
            f"{id!r} is no registered environment of Gymnasium ({error}). {guess}"
            "gymnasium.pprint_registry() lists them all; 'module:Id-v0' imports a module that registers more, and "
            "'module:name' is a class or function that returns an environment."
        ) from None


def _own_limit(environment: gym.Env) -> int | None:
    """Return the time limit that an environment has from a wrapper of its own."""
    while isinstance(environment, gym.Wrapper):
        if isinstance(environment, gym.wrappers.TimeLimit):
            return int(environment._max_episode_steps)
        environment = environment.env
    return None


def _opened(id: str, spec: Any, arguments: Mapping[str, Any]) -> gym.Env:
    try:
        return open_environment(spec, arguments, {})
    except TypeError as error:
        if _accepts(spec, arguments):  # an error inside the constructor, which Gymnasium raises once more
            cause = error.__cause__ or error
            raise ConfigError(f"{id} can't be opened with {dict(arguments)}.\n{own_traceback(cause)}") from error
        raise ConfigError(
            f"{id} refuses its options {dict(arguments)}: {error}. Its constructor has other arguments. "
            f"Use these: {', '.join(sorted(_arguments(id, spec))) or 'none'}."
        ) from error
    except (FedrlError, gym.error.Error):
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{id} can't be opened with {dict(arguments)}.\n{own_traceback(error)}") from error


def _accepts(spec: Any, arguments: Mapping[str, Any]) -> bool:
    """Return whether the environment's constructor can be called with these arguments."""
    own = {name: value for name, value in arguments.items() if name != "max_episode_steps"}  # that of `gymnasium.make`
    try:
        inspect.signature(constructor_of(spec)).bind(**own)
    except (TypeError, ValueError):
        return False
    return True


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


def _takes_any(spec: Any) -> bool:
    """Return whether a constructor of one's own has a parameter **kwargs."""
    if ":" not in spec.id:  # those of Gymnasium pass it on to others
        return False
    parameters = inspect.signature(constructor_of(spec)).parameters.values()
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def _check_settings(
    id: str, example: gym.Env, arguments: set[str], defaults: Mapping[str, Any], fixed: Mapping[str, Any]
) -> None:
    own = {name: value for name, value in vars(example.unwrapped).items() if isinstance(value, Real)}
    allowed = {name for name in own if not name.startswith("_")} | arguments
    for name, value in defaults.items():
        if name in fixed:
            raise ConfigError(f"{name!r} is both a setting and an option of {id}. It can only be one. Leave one out.")
        if name not in allowed:
            raise ConfigError(
                f"{id} has no parameter {name!r}, and no attribute with a number. {nearest(name, allowed)}"
            )
        if is_choice(value) and name not in arguments:
            raise ConfigError(f"{name} is {value!r}. It is an attribute of {id}, which can be set to a number only.")


def _spaces(id: str, environment: gym.Env) -> Spaces:
    observation, action = environment.observation_space, environment.action_space
    for name, space in (("observations", observation), ("actions", action)):
        if 0 in (space.shape or ()):
            raise ConfigError(
                f"{id} has {name} in {space}, which has no entries. There is nothing to learn from or to decide. Give "
                "the space a shape with at least one entry."
            )
    if isinstance(observation, gym.spaces.Discrete | gym.spaces.Box):
        with contextlib.suppress(TypeError):
            return Spaces(_space(observation), action_space(action))
    raise ConfigError(
        f"{id} has observations in {observation} and actions in {action}. Only observations of a fixed size are "
        "supported, and actions that are discrete or continuous or made of such choices (MultiDiscrete, MultiBinary, "
        "Tuple, Dict). Register a wrapped version of it."
    )


def action_space(space: gym.Space) -> ActionSpace:
    """Return the space of actions in the form of a learner.

    Raises:
        ConfigError: A choice has no entries, or too many values.
        TypeError: There is another kind of space in it.
    """
    if isinstance(space, gym.spaces.Discrete | gym.spaces.Box):
        return _space(space)
    return Product(tuple(_space(part) for part in leaves(space)))  # type: ignore[arg-type]


def _space(space: gym.spaces.Discrete | gym.spaces.Box) -> Space:
    if isinstance(space, gym.spaces.Discrete):
        return Discrete(int(space.n))
    if 0 in space.shape:  # a part of an action, which is refused
        return Box(space.shape)
    return Box(space.shape, float(space.low.min()), float(space.high.max()))
