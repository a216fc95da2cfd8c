"""Adapter for environments of gymnax, which run inside compiled programs. Needs the extra `gymnax`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from types import ModuleType
from typing import Any

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core.component import component
from fedrl.core.environment import Box, Discrete, Environment, Space, Spaces, State, Timestep, draw_keys, first
from fedrl.core.errors import ConfigError, nearest
from fedrl.core.ranges import Count
from fedrl.core.types import Key, PyTree
from fedrl.environments.adapters.settings import settings_record, strong

LIMIT = "max_steps_in_episode"


@component("environment", reference="Lange (2022), https://github.com/RobertTLange/gymnax")
def gymnax(id: str, max_steps: Count | None = None, options: Mapping[str, Any] | None = None) -> Environment:
    """Build an environment of gymnax from its id; every number among its parameters may differ between agents.

    Continuous actions are clipped to the action space, each entry to its own bounds. A step that both terminates and
    truncates is a termination.

    Args:
        id: Id of the environment, such as "CartPole-v1" or "Breakout-MinAtar".
        max_steps: Time limit, the same for every agent; gymnax's by default.
        options: Keyword arguments of the environment's constructor.

    Raises:
        ConfigError: gymnax is not installed, has no such environment, or its spaces are neither Discrete nor Box.
    """
    library = _imported()
    if id not in library.registered_envs:
        raise ConfigError(f"{id!r} is no environment of gymnax. {nearest(id, library.registered_envs)}")
    inner, defaults = library.make(id, **(options or {}))
    if max_steps is not None:
        defaults = defaults.replace(**{LIMIT: max_steps})
    theirs = (inner.observation_space(defaults), inner.action_space(defaults))
    exact = tuple(_exact(id, space) for space in theirs)
    spaces = Spaces(*map(_space, exact))
    numbers = {
        field.name: value
        for field in fields(defaults)
        if field.name != LIMIT and _numeric(value := getattr(defaults, field.name))
    }

    def full(params: PyTree) -> Any:
        return defaults.replace(**{name: value for name, value in params._asdict().items() if name in numbers})

    def seen(observation: Any) -> jax.Array:
        return jnp.asarray(observation, spaces.observation.dtype)

    def reset(key: Key, params: PyTree) -> tuple[Timestep, State]:
        observation, state = inner.reset_env(key, full(params))
        state = jax.tree.map(strong, state)
        return first(seen(observation)), state

    def step(key: Key, params: PyTree, state: State, action: jax.Array) -> tuple[Timestep, State]:
        # Not `inner.step`, which resets at the end of an episode: the observation before the reset would be lost, and
        # rollouts reset themselves.
        if isinstance(exact[1], gym.spaces.Box):
            action = jnp.clip(action, exact[1].low, exact[1].high)
        setting = full(params)
        observation, state, reward, terminated, _ = inner.step_env(key, state, action, setting)
        terminated = jnp.asarray(terminated, bool)
        truncated = jnp.asarray(inner.is_truncated(state, setting), bool) & ~terminated
        timestep = Timestep(seen(observation), jnp.asarray(reward, jnp.float32).reshape(()), terminated, truncated)
        return timestep, jax.tree.map(strong, state)

    record = settings_record(numbers)
    limit = int(getattr(defaults, LIMIT))
    return Environment(record, spaces, draw_keys, draw_keys, reset, step, limit, gymnasium_spaces=(exact[0], exact[1]))


def _imported() -> ModuleType:
    try:
        import gymnax as library
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"gymnax environments need a package that is not installed ({error.name}). It is an optional extra. "
            "Install it with: pip install 'fedrl[gymnax]'."
        ) from error
    return library


def _numeric(value: Any) -> bool:
    return isinstance(value, int | float | np.ndarray | jax.Array) and not isinstance(value, bool)


def _exact(id: str, space: Any) -> gym.spaces.Discrete | gym.spaces.Box:
    """Return a space of gymnax as one of Gymnasium, with the bounds of each entry."""
    kind = type(space).__name__
    if kind == "Discrete":
        return gym.spaces.Discrete(int(space.n))
    if kind == "Box":
        shape = tuple(space.shape)
        low, high = (np.broadcast_to(np.asarray(bound, np.float32), shape) for bound in (space.low, space.high))
        return gym.spaces.Box(low, high, shape, np.float32)
    raise ConfigError(f"{id} has a {kind} space. Only Discrete and Box are supported. Choose another environment.")


def _space(space: gym.spaces.Discrete | gym.spaces.Box) -> Space:
    if isinstance(space, gym.spaces.Discrete):
        return Discrete(int(space.n))
    return Box(space.shape, float(space.low.min()), float(space.high.max()))
