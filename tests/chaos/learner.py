"""The work of agents under chaos: gradient descent on a quadratic of each, which is cheap and draws no random number.

f_k(x) = 1/2 sum_i a_k (1 + i / size) (x_i - m_k (i - size / 2))^2
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedrl.core.environment import Box, Discrete, Environment, Spaces, Timestep, draw_nothing, first
from fedrl.core.learner import Learner, nothing_gathered
from fedrl.core.types import LocalContext
from fedrl.learners import add_correction, chain, sgd
from fedrl.learners.parts.optimizers import descend


class Bowl(NamedTuple):
    """Curvature and minimum of an agent's quadratic."""

    curvature: jax.Array
    minimum: jax.Array


class BowlState(NamedTuple):
    """The state of an agent."""

    params: dict[str, jax.Array]
    optimizer: optax.OptState
    bowl: Bowl


def bowl(curvature: float = 1.0, minimum: float = 1.0) -> Environment:
    """Return an environment that is nothing but its two parameters; an episode is one step."""

    def reset(noise, params):
        del noise, params
        return first(jnp.zeros(1)), ()

    def step(noise, params, state, action):
        del noise, action, params
        return Timestep(jnp.zeros(1), jnp.float32(0.0), jnp.bool_(True), jnp.bool_(False)), state

    params = Bowl(jnp.float32(curvature), jnp.float32(minimum))
    return Environment(params, Spaces(Box((1,)), Discrete(1)), draw_nothing, draw_nothing, reset, step, 1)


def descent(environment: Environment, size: int = 24, step_size: float = 0.1, corrected: bool = False) -> Learner:
    """Return the learner; `corrected` is what SCAFFOLD needs."""
    optimizer = chain(add_correction(), sgd(step_size)) if corrected else sgd(step_size)
    place = jnp.arange(size, dtype=jnp.float32)

    def init(key, env_params):
        del key
        params = {"x": jnp.zeros(size), "bias": jnp.zeros(1)}
        return BowlState(params, optimizer.init(params), env_params)

    def gradient_at(state):
        curvature = state.bowl.curvature * (1.0 + place / size)
        away = state.params["x"] - state.bowl.minimum * (place - size / 2)
        bias = state.params["bias"] - state.bowl.minimum
        return {"x": curvature * away, "bias": bias}, {"loss": 0.5 * (curvature * away**2).sum()}

    def learn(key, state, experience, context: LocalContext):
        del key, experience
        slope, metrics = gradient_at(state)
        params, memory = descend(optimizer, slope, state.optimizer, state.params, context)
        return state._replace(params=params, optimizer=memory), metrics

    def gradient(key, state, experience, context: LocalContext):
        del key, experience, context
        return gradient_at(state)

    return Learner(
        init=init,
        collect=nothing_gathered,
        learn=learn,
        act=lambda key, params, observation, greedy: jnp.zeros(observation.shape[:-1], jnp.int32),
        params=lambda state: state.params,
        adopt=lambda state, params: state._replace(params=params),
        environment=environment,
        samples=1,
        gradient=gradient,
    )
