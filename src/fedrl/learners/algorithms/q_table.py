"""Tabular Q-learning from trajectories, from a generative model, or from the exact model.

sampled       collect an epsilon-greedy trajectory --> update the pairs it visits, in the order of time
synchronous   one sampled successor for every pair --> update all of them (a generative model)
expected      the model itself                     --> a Bellman backup of all of them

The parameters are `{"q": [states, actions]}`. Equal averaging (FedSynQ, FedAsynQ-EqAvg, QAvg) is `mean("uniform")`.
With `count_visits` they also contain `{"visits": [states, actions]}`, for `fedrl.stages.importance_averaging`.

Ties between actions are broken at random, because in a table of zeros a fixed tie-break would never leave the first
action; `initial` may also make the table optimistic. The behaviour policy is fixed within an iteration. When several
environment copies visit the same pair in the same step, the pair is updated once, with the mean of their errors. The
players of a world share the table.

Federated Q-learning: Woo et al. (2023), https://arxiv.org/abs/2305.10697, and Jin et al. (2022),
https://arxiv.org/abs/2204.02634.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fedrl.core.checks import check_one_of, check_positive
from fedrl.core.component import component
from fedrl.core.environment import AnyEnvironment, Discrete
from fedrl.core.errors import ConfigError
from fedrl.core.hyperparameters import Number
from fedrl.core.learner import Experience, Learner, Trajectory, nothing_gathered, same_stream
from fedrl.core.measures import LOSS
from fedrl.core.players import rows_of
from fedrl.core.ranges import Count, Finite, Fraction, FractionAboveZero, Traced
from fedrl.core.types import Key, LocalContext, Metrics, Params, PyTree
from fedrl.learners.parts.rollout import Position, Sampler, nothing_counted, start
from fedrl.learners.parts.rollout import collect as roll_out

Pair = tuple[jax.Array, jax.Array]
MODEL = ("transition", "reward")


class QTableState(NamedTuple):
    """The table, the current episodes of the environment copies, and the parameters of the agent's environment."""

    params: Params
    position: Position | tuple[()]
    env_params: PyTree


@component("learner", reference="Watkins & Dayan (1992), https://doi.org/10.1007/BF00992698")
def q_table(
    environment: AnyEnvironment,
    *,
    sampling: str = "sampled",
    learning_rate: Traced[FractionAboveZero] = 0.1,
    gamma: Traced[Fraction] = 0.99,
    epsilon: Traced[Fraction] = 0.1,
    initial: Traced[Finite] = 0.0,
    num_envs: Count = 1,
    num_steps: Count = 1,
    count_visits: bool = False,
) -> Learner:
    """Build a tabular Q-learner: Q(s,a) <- Q(s,a) + eta (r + gamma max_a' Q(s',a') - Q(s,a)).

    Args:
        environment: Environment to learn in; observations and actions are discrete.
        sampling: "sampled", "synchronous" or "expected", see above. The last two read `transition [states, actions,
            states]` and `reward [states, actions]` from the environment's parameters.
        learning_rate: eta, in (0, 1]; 1 with "expected" is value iteration.
        gamma: Discount factor.
        epsilon: Probability of a random action.
        initial: Initial value of every pair.
        num_envs: Environment copies that are stepped side by side ("sampled" only).
        num_steps: Updates per iteration, each of one time step or of the whole table.
        count_visits: Count the updates of each pair since the agent adopted its parameters.

    Raises:
        ConfigError: A space is not discrete, a number is out of range, or the environment has no model to read.
    """
    _check(environment, sampling, num_envs, num_steps)
    states, actions = _sizes(environment)
    follows = sampling == "sampled"

    def init(key: Key, env_params: PyTree) -> QTableState:
        params = {"q": jnp.full((states, actions), initial, jnp.float32)}
        if count_visits:
            params["visits"] = jnp.zeros((states, actions))
        return QTableState(params, start(key, environment, env_params, num_envs) if follows else (), env_params)

    def collect(key: Key, state: QTableState) -> tuple[Trajectory, QTableState, Metrics]:
        assert isinstance(state.position, Position)
        sampler = _sampler(behaviour(state.params["q"], epsilon))
        seen, position, counts = roll_out(key, environment, state.env_params, sampler, num_steps, state.position)
        return seen, state._replace(position=position), counts

    def learn(key: Key, state: QTableState, seen: Trajectory, context: LocalContext) -> tuple[QTableState, Metrics]:
        del key, context
        q, visits, loss = asynchronous(state.params["q"], seen, learning_rate, gamma)
        return _advanced(state, q, visits), {"loss": loss}

    def sweep(
        key: Key, state: QTableState, experience: Experience, context: LocalContext
    ) -> tuple[QTableState, Metrics]:
        del experience, context
        transition, reward = (getattr(state.env_params, name) for name in MODEL)
        table = state.params["q"]
        q, losses = swept(key, table, transition, reward, sampling, num_steps, learning_rate, gamma)
        metrics = {"loss": losses.mean()} | nothing_counted(environment)
        return _advanced(state, q, jnp.full_like(q, num_steps)), metrics

    def act(key: Key, params: Params, observation: jax.Array, greedy: bool = False) -> jax.Array:
        sampler = _sampler(behaviour(params["q"], 0.0 if greedy else epsilon))
        return sampler.choose(sampler.draw(key, observation.shape), observation)

    return Learner(
        init=init,
        collect=collect if follows else nothing_gathered,
        learn=learn if follows else sweep,
        act=act,
        params=lambda state: state.params,
        adopt=lambda state, params: state._replace(params=params),
        environment=environment,
        samples=num_steps * (rows_of(environment, num_envs) if follows else states * actions),
        horizon=num_steps if follows else 0,
        num_envs=num_envs if follows else 0,
        split_key=same_stream,  # either `collect` or `learn` draws, never both, so one stream serves both
        probabilities=lambda params, observation: behaviour(params["q"], epsilon)[observation].T,
        measures={"loss": LOSS},
        gamma=gamma,
    )


def behaviour(q: Float[Array, "states actions"], epsilon: Number) -> Float[Array, "states actions"]:
    """Return the epsilon-greedy action probabilities; tied best actions share theirs equally."""
    best = q == q.max(-1, keepdims=True)
    return epsilon / q.shape[-1] + (1.0 - epsilon) * best / best.sum(-1, keepdims=True)


def swept(
    key: Key,
    q: Float[Array, "states actions"],
    transition: Float[Array, "*models states actions states"],
    reward: Float[Array, "*models states actions"],
    sampling: str,
    num_steps: int,
    learning_rate: Number,
    gamma: Number,
) -> tuple[Float[Array, "states actions"], Float[Array, " sweeps"]]:
    """Update every pair `num_steps` times, from sampled or from expected successors; return the table and losses."""
    # With pooled data the model is a stack of environments, whose axes come first: each sweep averages over them.
    states, actions = q.shape
    transition, reward = transition.reshape(-1, states, actions, states), reward.reshape(-1, states, actions)
    backup = successors(key, transition, num_steps) if sampling == "synchronous" else _expectation(transition)

    def step(q: jax.Array, i: jax.Array) -> tuple[jax.Array, jax.Array]:
        error = (reward + gamma * backup(q.max(-1), i)).mean(0) - q
        return q + learning_rate * error, jnp.square(error).mean()

    return jax.lax.scan(step, q, jnp.arange(num_steps))


def asynchronous(
    q: Float[Array, "states actions"], seen: Trajectory, learning_rate: Number, gamma: Number
) -> tuple[Float[Array, "states actions"], Float[Array, "states actions"], jax.Array]:
    """Update the pairs of a trajectory in the order of time; return the table, visits and the mean squared error."""
    # The table is flat and a pair is one index into it: one gather and one scatter per step.
    actions = q.shape[-1]
    pair = seen.observation * actions + seen.action
    going = gamma * (1.0 - seen.terminated)

    def step(carry: Pair, at: tuple[Any, ...]) -> tuple[Pair, jax.Array]:
        table, visits = carry
        pair, reward, going, next_observation, alive = at
        error = reward + going * table.reshape(-1, actions)[next_observation].max(-1) - table[pair]
        # Divided by the number of copies at a pair, so that it takes the mean of their errors and not the sum.
        met = jnp.zeros_like(table).at[pair].add(1.0 if alive is None else alive.astype(jnp.float32))
        if alive is None:
            table = table.at[pair].add(learning_rate * error / met[pair])
        else:
            error = jnp.where(alive, error, 0.0)
            table = table.at[pair].add(learning_rate * error / jnp.maximum(met[pair], 1.0))
        return (table, visits + (met > 0)), jnp.square(error).mean()

    carry = (q.reshape(-1), jnp.zeros(q.size))
    (table, visits), losses = jax.lax.scan(step, carry, (pair, seen.reward, going, seen.next_observation, seen.alive))
    return table.reshape(q.shape), visits.reshape(q.shape), losses.mean()


def successors(
    key: Key, transition: Float[Array, "models states actions states"], num_steps: int
) -> Callable[[Float[Array, " states"], jax.Array], jax.Array]:
    """Draw a successor of every pair for each of `num_steps` sweeps; return `(value, sweep) -> its value`."""
    limits = _thresholds(transition)
    uniform = jax.random.uniform(key, (num_steps, *transition.shape[:-1], 1))
    return lambda value, i: value[(uniform[i] >= limits).sum(-1)]


def _expectation(transition: jax.Array) -> Callable[[jax.Array, jax.Array], jax.Array]:
    return lambda value, i: (transition * value).sum(-1)


def _sampler(probabilities: Float[Array, "states actions"]) -> Sampler:
    limits = _thresholds(probabilities).T
    return Sampler(jax.random.uniform, lambda noise, seen: (noise >= limits[:, seen]).sum(0, dtype=jnp.int32))


def _thresholds(probabilities: jax.Array) -> jax.Array:
    """Return the cumulated probabilities without the last one."""
    # Divided by the last, so they are exactly 1 beyond the last possible outcome: rounding of the sum in float32 would
    # otherwise leave a gap in which an outcome of probability zero is drawn.
    total = jnp.cumsum(probabilities, axis=-1)
    return (total / total[..., -1:])[..., :-1]


def _advanced(state: QTableState, q: jax.Array, visits: jax.Array) -> QTableState:
    params = {"q": q}
    if "visits" in state.params:
        params["visits"] = state.params["visits"] + visits
    return state._replace(params=params)


def _check(environment: AnyEnvironment, sampling: str, num_envs: int, num_steps: int) -> None:
    check_one_of(sampling, ("sampled", "synchronous", "expected"), "sampling")
    check_positive(num_envs=num_envs, num_steps=num_steps)
    if sampling != "sampled" and not all(hasattr(environment.params, name) for name in MODEL):
        raise ConfigError(
            f"sampling is {sampling!r}, which reads 'transition' and 'reward' from the environment's parameters, and "
            f"those of {environment!r} have none. Use a tabular environment or sampling='sampled'."
        )


def _sizes(environment: AnyEnvironment) -> tuple[int, int]:
    observation, action = environment.spaces
    if not isinstance(observation, Discrete) or not isinstance(action, Discrete):
        raise ConfigError(
            f"{environment!r} has the spaces {observation} and {action}. A table needs a row for each observation and "
            "a column for each action, not for each of several choices, whose values do not add up. Use an "
            "environment where both are Discrete, or a learner with a network."
        )
    return observation.n, action.n
