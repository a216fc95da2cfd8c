"""A learner whose every number is known in closed form: gradient descent on f_k(x) = 1/2 sum_i a_ki (x_i - m_ki)^2.

Heterogeneous agents differ in curvature a_k and minimum m_k, which are the parameters of an environment that nobody
steps. One local iteration is one step of the optimiser at the exact gradient, so with SGD of step size eta

    H steps from x:      m_k + (1 - eta a_k)^H (x - m_k)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedrl.core.component import component
from fedrl.core.environment import Box, Discrete, Environment, Spaces, Timestep, draw_nothing, first
from fedrl.core.learner import Learner, nothing_gathered
from fedrl.core.types import LocalContext
from fedrl.learners.parts.optimizers import descend


class Valley(NamedTuple):
    """Curvature and minimum, each `[size]`, or `[agents, size]` for a fleet."""

    curvature: jax.Array
    minimum: jax.Array


class QuadraticState(NamedTuple):
    params: dict[str, jax.Array]
    optimizer: optax.OptState
    valley: Valley


FLEET = Valley(
    np.array([[1.0, 0.5, 2.0], [3.0, 1.0, 0.25], [0.5, 2.0, 1.0], [2.0, 1.5, 0.5]], np.float32),
    np.array([[1.0, -1.0, 0.0], [-2.0, 0.5, 1.0], [3.0, 1.0, -1.0], [0.0, 2.0, -3.0]], np.float32),
)


def valley(size: int = 3) -> Environment:
    """An environment that is nothing but its parameters."""

    def reset(noise, params):
        del noise, params
        return first(jnp.zeros(1)), ()

    def step(noise, params, state, action):
        del noise, action, params
        return Timestep(jnp.zeros(1), jnp.float32(0.0), jnp.bool_(False), jnp.bool_(False)), state

    params = Valley(jnp.ones(size), jnp.zeros(size))
    return Environment(params, Spaces(Box((1,)), Discrete(1)), draw_nothing, draw_nothing, reset, step, 1)


@component("test double")
def quadratic(optimizer: optax.GradientTransformation, size: int = 3, samples: int = 1) -> Learner:
    """Gradient descent on a quadratic, from zero; the parameters are two leaves, to see that trees survive."""

    def split(x):
        return {"head": x[:1], "tail": x[1:].reshape(1, -1)}

    def gradient_at(state):
        x = jnp.concatenate([state.params["head"], state.params["tail"][0]])
        slope = state.valley.curvature * (x - state.valley.minimum)
        return split(slope), {"loss": 0.5 * (slope * (x - state.valley.minimum)).sum()}

    def init(key, env_params):
        del key
        params = split(jnp.zeros(size))
        return QuadraticState(params, optimizer.init(params), env_params)

    def learn(key, state: QuadraticState, experience, context: LocalContext):
        del key, experience
        slope, metrics = gradient_at(state)
        params, memory = descend(optimizer, slope, state.optimizer, state.params, context)
        return state._replace(params=params, optimizer=memory), metrics

    def gradient(key, state: QuadraticState, experience, context: LocalContext):
        del key, experience, context
        return gradient_at(state)

    return Learner(
        init=init,
        collect=nothing_gathered,
        learn=learn,
        act=lambda key, params, observation, greedy: jnp.zeros(observation.shape[-1:], jnp.int32),
        params=lambda state: state.params,
        adopt=lambda state, params: state._replace(params=params),
        environment=valley(size),
        samples=samples,
        gradient=gradient,
    )


def flat(params) -> np.ndarray:
    """The parameters of a server or a learner as one float64 vector (agents first, if there are several)."""
    head, tail = np.asarray(params["head"], np.float64), np.asarray(params["tail"], np.float64)
    return np.concatenate([head, tail[..., 0, :]], axis=-1)


def simulated_rounds(simulation, rounds: int, seed: int = 0, cohort=None):
    """Run so many rounds and return the population."""
    run_state = simulation.init(seed)
    for i in range(rounds):
        run_state, _ = simulation.round(run_state, cohort=None if cohort is None else cohort(i))
    return run_state
