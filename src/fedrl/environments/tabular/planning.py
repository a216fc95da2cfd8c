"""Exact solutions of finite processes, as references for learners.

Every array may have leading axes (agents, seeds), and every function runs under `jit` and `vmap`.

    model, discount --> optimal_q --> greedy --> policy --> policy_value, policy_return
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fedrl.core.environment import AnyEnvironment, Environment
from fedrl.core.errors import ConfigError
from fedrl.core.types import PyTree
from fedrl.environments.tabular.model import TabularParams


def model_of(environment: AnyEnvironment, params: PyTree = None) -> TabularParams:
    """Return the exact model of a finite environment, or of a fleet of them.

    Args:
        environment: A tabular environment or a gridworld.
        params: Its parameters, with any leading axes; the defaults if None.

    Raises:
        ConfigError: The environment has no exact model.

    >>> from fedrl.environments import gridworld
    >>> model_of(gridworld("4x4")).transition.shape
    (16, 4, 16)
    """
    if isinstance(environment, Environment) and environment.model is not None:
        return environment.model(environment.params if params is None else params)
    raise ConfigError(
        f"{environment!r} has no exact model. Planning needs a finite process. "
        "Use gridworld(), a tabular environment, or one with a `model`."
    )


def bellman(
    model: TabularParams, q: Float[Array, "*agents states actions"], gamma: float
) -> Float[Array, "*agents states actions"]:
    """Take one step of value iteration, (T Q)(s, a) = r(s, a) + gamma sum_s' P(s' | s, a) max_a' Q(s', a')."""
    return model.reward + gamma * jnp.einsum("...sat,...t->...sa", model.transition, q.max(-1))


def optimal_q(model: TabularParams, gamma: float) -> Float[Array, "*agents states actions"]:
    """Compute the optimal values Q* by value iteration, to the precision of float32.

    Args:
        model: Model of the process.
        gamma: Discount factor in [0, 1), a Python number, because it sets the number of iterations.

    Raises:
        ConfigError: `gamma` is out of range.

    >>> from fedrl.environments import windy_cliffs
    >>> round(float(optimal_q(windy_cliffs(0.5), 0.95)[0].max()), 1)
    134.0
    """
    _check_discount(gamma)
    # A sweep contracts the error by gamma, so after these it is 1e-9 of the first one: below float32's precision.
    sweeps = math.ceil(math.log(1e-9) / math.log(gamma)) if gamma > 0 else 1
    return _swept(model, gamma, sweeps)


@functools.partial(jax.jit, static_argnames=("gamma", "sweeps"))
def _swept(model: TabularParams, gamma: float, sweeps: int) -> jax.Array:
    """Take so many steps of value iteration; compiled once for all models of a shape."""
    return jax.lax.fori_loop(0, sweeps, lambda _, q: bellman(model, q, gamma), jnp.zeros_like(model.reward))


def greedy(q: Float[Array, "*agents states actions"]) -> Float[Array, "*agents states actions"]:
    """Return the greedy policy as probabilities; the first of tied actions."""
    return jax.nn.one_hot(q.argmax(-1), q.shape[-1])


def policy_value(
    model: TabularParams, policy: Float[Array, "*agents states actions"], gamma: float
) -> Float[Array, "*agents states"]:
    """Compute the value of each state under a policy, the solution of V = r_pi + gamma P_pi V.

    Args:
        model: Model of the process.
        policy: Probabilities of the actions in each state.
        gamma: Discount factor in [0, 1).

    Raises:
        ConfigError: `gamma` is out of range.
    """
    _check_discount(gamma)
    moves = jnp.einsum("...sat,...sa->...st", model.transition, policy)
    paid = (model.reward * policy).sum(-1)
    return jnp.linalg.solve(jnp.eye(paid.shape[-1]) - gamma * moves, paid[..., None])[..., 0]


def policy_return(
    model: TabularParams, policy: Float[Array, "*agents states actions"], gamma: float
) -> Float[Array, "*agents"]:
    """Compute the expected discounted return of a policy: sum_s initial(s) V(s)."""
    return (model.initial * policy_value(model, policy, gamma)).sum(-1)


def _check_discount(gamma: float) -> None:
    if not 0.0 <= gamma < 1.0:
        raise ConfigError(f"gamma is {gamma}. An infinite sum of rewards converges only for gamma in [0, 1). Lower it.")
