"""Adapter for environments of jumanji, which run inside compiled programs. Needs the extra `jumanji`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core.component import component
from fedrl.core.environment import Box, Discrete, Environment, Space, Spaces, State, Timestep, draw_keys, first
from fedrl.core.errors import ConfigError, nearest
from fedrl.core.ranges import Count
from fedrl.core.types import Key, PyTree
from fedrl.environments.adapters.compiled_library import flattener, legacy, library_of, nothing_drawn
from fedrl.environments.adapters.settings import settings_record, strong
from fedrl.environments.time_limit import Timed


@component("environment", reference="Bonnet et al. (2024), https://arxiv.org/abs/2306.09884")
def jumanji(id: str, max_steps: Count | None = None, options: Mapping[str, Any] | None = None) -> Environment:
    """Build an environment of jumanji from its id.

    Observations in several parts become one vector, the mask of legal actions among them; illegal actions are not
    prevented, and the environment says what they do. An episode that ends with the discount 0 has terminated, one that
    ends with another was truncated. Most of these environments have one flag for the end and for the time limit: an
    episode that ends at the limit was truncated, also where both fall together.

    Args:
        id: Id of the environment, such as "Snake-v1".
        max_steps: Time limit; the environment's `time_limit` by default.
        options: Keyword arguments of the environment's constructor.

    Raises:
        ConfigError: jumanji is not installed or has no such environment, the environment has no time limit, its actions
            are neither one discrete nor bounded numbers, or it has several rewards.
    """
    library = library_of("jumanji", "jumanji")
    known = library.registered_environments()
    if id not in known:
        raise ConfigError(f"{id!r} is no environment of jumanji. {nearest(id, known)}")
    inner = library.make(id, **(options or {}))
    limit = max_steps or getattr(inner, "time_limit", None)
    if limit is None:
        raise ConfigError(f"{id} has no time limit. Episodes have to end. Set max_steps.")
    shapes = jax.eval_shape(inner.reset, jax.random.PRNGKey(0))[1]
    if shapes.reward.shape:
        raise ConfigError(f"{id} has rewards of shape {shapes.reward.shape}. A learner has one. Choose another one.")
    action, (space, seen) = _space(id, inner.action_spec), flattener(shapes.observation)

    def reset(key: Key, params: PyTree) -> tuple[Timestep, State]:
        del params
        state, shown = inner.reset(legacy(key))
        return first(seen(shown.observation)), Timed(jax.tree.map(strong, state), jnp.int32(0))

    def step(noise: Any, params: PyTree, timed: Timed, chosen: jax.Array) -> tuple[Timestep, State]:
        del noise, params
        if isinstance(action, Box):
            chosen = jnp.clip(chosen, action.low, action.high)
        state, shown = inner.step(timed.state, chosen)
        steps, last = timed.steps + 1, jnp.asarray(shown.last(), bool).reshape(())
        terminated = last & (jnp.asarray(shown.discount).reshape(()) == 0.0) & (steps < limit)
        truncated = (last | (steps >= limit)) & ~terminated
        reward = jnp.asarray(shown.reward, jnp.float32)
        return Timestep(seen(shown.observation), reward, terminated, truncated), Timed(
            jax.tree.map(strong, state), steps
        )

    spaces = Spaces(space, action)
    return Environment(settings_record({}), spaces, draw_keys, nothing_drawn, reset, step, int(limit))


def _space(id: str, spec: Any) -> Space:
    kind = type(spec).__name__
    if kind == "DiscreteArray":
        return Discrete(int(spec.num_values))
    if kind == "BoundedArray" and np.issubdtype(spec.dtype, np.floating):
        return Box(tuple(spec.shape), float(np.min(spec.minimum)), float(np.max(spec.maximum)))
    raise ConfigError(
        f"{id} has actions in {spec}. Only one discrete action and bounded numbers are supported. Choose another one."
    )
