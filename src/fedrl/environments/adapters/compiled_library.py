"""What adapters of libraries written in JAX share: their import, their kind of keys, and observations as one array."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core.environment import Box, Environment, Spaces, State, Timestep, draw_keys, first
from fedrl.core.errors import ConfigError
from fedrl.core.types import Key, PyTree
from fedrl.environments.adapters.settings import settings_record, strong
from fedrl.environments.time_limit import time_limit


def library_of(module: str, extra: str) -> ModuleType:
    """Import a module of a library.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of packages that theirs import
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"Environments of {extra} need a package that is not installed ({error.name}). It is an optional extra. "
            f"Install it with: pip install 'fedrl[{extra}]'."
        ) from error


def legacy(key: Key) -> jax.Array:
    """Return a key in the form that these libraries take: two numbers, instead of a type of its own."""
    return jax.random.key_data(key)


def flattener(example: PyTree) -> tuple[Box, Callable[[PyTree], jax.Array]]:
    """Return the space of observations with these shapes, and how one becomes an array.

    One array keeps its shape; several become one vector, in the order of the names of their fields.
    """
    leaves = jax.tree.leaves(example)
    if len(leaves) == 1:
        return Box(tuple(leaves[0].shape)), lambda seen: jnp.asarray(jax.tree.leaves(seen)[0], jnp.float32)
    size = sum(int(np.prod(leaf.shape)) for leaf in leaves)
    return Box((size,)), lambda seen: jnp.concatenate(
        [jnp.asarray(leaf, jnp.float32).reshape(-1) for leaf in jax.tree.leaves(seen)]
    )


def physics(inner: Any, max_steps: int) -> Environment:
    """Build an environment from one with the interface of brax: `reset(key)`, `step(state, action)`, state.obs.

    Actions are clipped to [-1, 1]. `done` is a termination, since without wrappers no time limit is in it.
    """
    action = Box((int(inner.action_size),), -1.0, 1.0)
    begin, move = _quiet(inner.reset), _quiet(inner.step)
    space, seen = flattener(jax.eval_shape(begin, jax.random.PRNGKey(0)).obs)

    def reset(key: Key, params: PyTree) -> tuple[Timestep, State]:
        del params
        state = jax.tree.map(strong, begin(legacy(key)))
        return first(seen(state.obs)), state

    def step(noise: Any, params: PyTree, state: State, action: jax.Array) -> tuple[Timestep, State]:
        del noise, params
        state = jax.tree.map(strong, move(state, jnp.clip(action, -1.0, 1.0)))
        reward = jnp.asarray(state.reward, jnp.float32).reshape(())
        return Timestep(seen(state.obs), reward, state.done.reshape(()) > 0.5, jnp.bool_(False)), state

    return time_limit(
        Environment(settings_record({}), Spaces(space, action), draw_keys, nothing_drawn, reset, step, max_steps)
    )


def _quiet(call: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that doesn't tell the user which outdated names a library reads of its physics."""

    def called(*arguments: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return call(*arguments)

    return called


def nothing_drawn(key: Key, batch: tuple[int, ...]) -> tuple[()]:
    """Return no noise: what is random in a step follows from a key in the state."""
    del key, batch
    return ()
