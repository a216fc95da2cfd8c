"""Deep Q-learning: a network learns the values of actions from what a replay buffer remembers.

    collect, epsilon-greedy --> Trajectory --> rows of the buffer --sample--> TD errors --> Q
                                                                       target network <--- slowly

A row of the buffer is one step of one environment copy. In a world it has all players, so that `vdn` can learn the sum
of their values; to `dqn` each of them is a sample of its own.

The buffer and the target network stay with the agent: a federation averages the parameters of Q alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedrl.core.checks import check_positive
from fedrl.core.component import component, written
from fedrl.core.environment import AnyEnvironment, Discrete
from fedrl.core.errors import ConfigError
from fedrl.core.hyperparameters import Number
from fedrl.core.learner import Learner, Trajectory
from fedrl.core.measures import LOSS
from fedrl.core.players import check_players, may_die, players_of, rows_of
from fedrl.core.ranges import Count, Fraction, FractionAboveZero, NonNegative, Positive, Traced
from fedrl.core.replay import Replay, append, empty, sample
from fedrl.core.types import Key, LocalContext, Metrics, Params, PyTree
from fedrl.learners.parts.networks import Network, critic_of, mlp
from fedrl.learners.parts.optimizers import adam, descend
from fedrl.learners.parts.rollout import Position, Sampler, start
from fedrl.learners.parts.rollout import collect as roll_out


class QState(NamedTuple):
    """State of a deep Q-learner.

    Attributes:
        params: Parameters `{"q"}`.
        target: Those of the target network, which follow at the rate tau.
        optimizer: State of the optimiser.
        replay: The replay buffer, of `Transition`.
        position: Current episodes of the environment copies.
        env_params: Parameters of the agent's environment.
    """

    params: Params
    target: Params
    optimizer: optax.OptState
    replay: Replay
    position: Position
    env_params: PyTree


class Transition(NamedTuple):
    """A row of the replay buffer; the last axis is that of the players, of length 1 for a single agent.

    `terminated` is that of each player: a death is one. `alive` is that before the step; None for a single agent.
    """

    observation: jax.Array
    action: jax.Array
    reward: jax.Array
    terminated: jax.Array
    next_observation: jax.Array
    alive: jax.Array | None = None


Errors = Callable[[Transition, jax.Array, jax.Array, Number], tuple[jax.Array, jax.Array | None]]
"""`(batch, chosen, ahead, gamma) -> errors, weights`, from `[players, batch]` values of the actions that were taken and
of the best next ones by the target network; weights of None are all alike."""


Carry = tuple[Params, Params, optax.OptState]
"""Parameters of Q, those of the target network, and the state of the optimiser."""
Probabilities = Callable[[Params, jax.Array], jax.Array]
Choose = Callable[[jax.Array, Params, jax.Array], jax.Array]
Act = Callable[[Key, Params, jax.Array, bool], jax.Array]


@component("learner", reference="van Hasselt, Guez & Silver (2016), https://arxiv.org/abs/1509.06461")
def dqn(
    environment: AnyEnvironment,
    *,
    network: Network = mlp(activation="relu"),
    optimizer: Traced[optax.GradientTransformation] = adam(1e-3, max_norm=10.0),
    num_envs: Count = 8,
    num_steps: Count = 8,
    num_updates: Count = 8,
    batch_size: Count = 64,
    buffer_size: Count = 20_000,
    gamma: Traced[Fraction] = 0.99,
    tau: Traced[FractionAboveZero] = 0.005,
    epsilon: Traced[Fraction] = 0.05,
    epsilon_start: Traced[Fraction] = 1.0,
    epsilon_steps: Traced[Positive] = 5_000.0,
    learning_starts: Traced[NonNegative] = 500.0,
) -> Learner:
    """Build a double deep Q-learner (DQN): Q learns r + gamma Q'(s', argmax_a Q(s', a)), with a target network Q'.

    One iteration collects `num_envs * num_steps` steps with one epsilon-greedy policy, writes them to the replay
    buffer, and takes `num_updates` gradient steps, each on the mean of (Q(s, a) - r - gamma Q'(s', a*))^2 over
    `batch_size` rows that are drawn uniformly with replacement; after each, Q' <- Q' + tau (Q - Q'). The original's
    bound of errors by 1 and its periodic copy of Q to Q' are replaced by the squared error, whose minimum is a mean,
    and by tau.

    In a world all players share Q, or have one each (`per_player`), and each learns from its own rewards as if the
    others were a part of the environment: independent Q-learning.

    A federation averages Q. Buffer, target network and optimiser stay with the agent and are kept from round to round.
    The buffer remembers steps of earlier policies, also of those before an averaging. There is no gradient payload: an
    agent that sends gradients takes no step in which its buffer could be filled.

    Args:
        environment: Environment to learn in; its actions are discrete.
        network: Architecture of Q, an output for each action.
        optimizer: Local optimiser.
        num_envs: Environment copies that are stepped side by side.
        num_steps: Steps of each copy per iteration.
        num_updates: Gradient steps per iteration.
        batch_size: Rows of the buffer per gradient step.
        buffer_size: Rows of the buffer, each a step of one copy; in a world of all its players.
        gamma: Discount factor.
        tau: Rate at which the target network follows, in (0, 1].
        epsilon: Probability of a random action in the end, and wherever the policy acts without being greedy.
        epsilon_start: That in the beginning.
        epsilon_steps: Steps of the agent, all copies together, over which it falls linearly from one to the other.
        learning_starts: Steps of the agent before the first gradient step.

    Raises:
        ConfigError: Actions are continuous, a count is below one, or an iteration writes more rows than the buffer has.
    """
    return q_learner(
        environment,
        network,
        optimizer,
        each_its_own,
        num_envs,
        num_steps,
        num_updates,
        batch_size,
        buffer_size,
        gamma,
        tau,
        EpsilonSchedule(epsilon, epsilon_start, epsilon_steps),
        learning_starts,
    )


class EpsilonSchedule(NamedTuple):
    """Probabilities of a random action: that in the end, that in the beginning, and the steps between the two."""

    last: Number
    first: Number
    steps: Number

    def after(self, taken: jax.Array) -> jax.Array:
        """Return the probability after so many steps."""
        passed = jnp.minimum(taken / self.steps, 1.0)
        return self.first + (self.last - self.first) * passed


def each_its_own(
    batch: Transition, chosen: jax.Array, ahead: jax.Array, gamma: Number
) -> tuple[jax.Array, jax.Array | None]:
    """Return the TD error of each player, Q_i(o_i, a_i) - r_i - gamma Q'_i(o_i', a_i*), and 0 as weight of the dead."""
    reward, going = batch.reward.T, 1.0 - batch.terminated.T
    weight = None if batch.alive is None else batch.alive.T.astype(jnp.float32)
    return chosen - reward - gamma * going * ahead, weight


def q_learner(
    environment: AnyEnvironment,
    network: Network,
    optimizer: optax.GradientTransformation,
    errors: Errors,
    num_envs: int,
    num_steps: int,
    num_updates: int,
    batch_size: int,
    buffer_size: int,
    gamma: Number,
    tau: Number,
    epsilon: EpsilonSchedule,
    learning_starts: Number,
) -> Learner:
    """Build the learner of `dqn`, or of `vdn` with errors of the whole team."""
    actions = _actions_of(environment, num_envs * num_steps, buffer_size)
    check_positive(num_updates=num_updates, batch_size=batch_size)
    _check_network(environment, network)
    players, deaths = players_of(environment), may_die(environment)
    network = critic_of(network)  # values have no bounds, whatever the activation of a policy's outputs
    probabilities, choose, act = acting(network, epsilon.last)

    def init(key: Key, env_params: PyTree) -> QState:
        for_network, for_position = jax.random.split(key)
        params = {"q": network.init(for_network, environment.spaces.observation, actions, 1.0)}
        position = start(for_position, environment, env_params, num_envs)
        row = _row(environment)
        return QState(params, params, optimizer.init(params), empty(row, buffer_size), position, env_params)

    def collect(key: Key, state: QState) -> tuple[Trajectory, QState, Metrics]:
        behaviour = jax.lax.optimization_barrier(exploring(state))
        sampler = Sampler(jax.random.uniform, lambda noise, seen: choose(noise, behaviour, seen))
        seen, position, counts = roll_out(key, environment, state.env_params, sampler, num_steps, state.position)
        return seen, state._replace(position=position), counts

    def exploring(state: QState) -> Params:
        # The counter of the buffer is the number of steps so far, and that of a round that was undone is set back.
        return {**state.params, "epsilon": epsilon.after(state.replay.written)}

    def loss(params: Params, target: Params, batch: Transition) -> jax.Array:
        return squared_error(network, errors, gamma, params, target, batch)

    def learn(key: Key, state: QState, seen: Trajectory, context: LocalContext) -> tuple[QState, Metrics]:
        replay = append(state.replay, transitions(seen, players, deaths))

        def update(carry: Carry, k: Key) -> tuple[Carry, jax.Array]:
            return _updated(optimizer, loss, tau, carry, sample(k, replay, batch_size), context)

        begun = (state.params, state.target, state.optimizer)
        trained, costs = jax.lax.scan(update, begun, jax.random.split(key, num_updates))
        ready = replay.written >= learning_starts
        params, target, memory = jax.tree.map(lambda new, old: jnp.where(ready, new, old), trained, begun)
        after = state._replace(params=params, target=target, optimizer=memory, replay=replay)
        return after, {"loss": jnp.where(ready, costs.mean(), 0.0)}

    def adopt(state: QState, params: Params) -> QState:
        # Before the first step the target network is one of the agent's own, which no other agent has.
        unborn = state.replay.written == 0
        target = jax.tree.map(lambda new, old: jnp.where(unborn, new, old), params, state.target)
        return state._replace(params=params, target=target)

    return Learner(
        init=init,
        collect=collect,
        learn=learn,
        act=act,
        params=lambda state: state.params,
        adopt=adopt,
        environment=environment,
        samples=rows_of(environment, num_envs) * num_steps,
        horizon=num_steps,
        num_envs=num_envs,
        behaviours=lambda state: (exploring(state),),
        probabilities=probabilities,
        measures={"loss": LOSS},
        gamma=gamma,
        acts_for=network.players,
    )


def squared_error(
    network: Network, errors: Errors, gamma: Number, params: Params, target: Params, batch: Transition
) -> jax.Array:
    """Return the weighted mean of the squared errors, where Q chooses the next actions and the target values them."""
    best = jnp.argmax(_values(network, jax.lax.stop_gradient(params), batch.next_observation), axis=0)
    ahead = _of(_values(network, target, batch.next_observation), best)
    chosen = _of(_values(network, params, batch.observation), batch.action.T)
    error, weight = errors(batch, chosen, jax.lax.stop_gradient(ahead), gamma)
    square = jnp.square(error)
    return square.mean() if weight is None else (weight * square).sum() / jnp.maximum(weight.sum(), 1.0)


def _updated(
    optimizer: optax.GradientTransformation,
    loss: Callable[[Params, Params, Transition], jax.Array],
    tau: Number,
    carry: Carry,
    batch: Transition,
    context: LocalContext,
) -> tuple[Carry, jax.Array]:
    """Take one gradient step, and let the target network follow."""
    params, target, memory = carry
    cost, slope = jax.value_and_grad(loss)(params, target, batch)
    params, memory = descend(optimizer, slope, memory, params, context)
    return (params, jax.tree.map(lambda old, new: old + tau * (new - old), target, params), memory), cost


def acting(network: Network, last: Number) -> tuple[Probabilities, Choose, Act]:
    """Return the epsilon-greedy policy: its probabilities, the choice of an action by uniform noise, and `act`.

    Epsilon is an entry of the parameters of a behaviour policy, and `last` where there is none.
    """

    def probabilities(params: Params, observation: jax.Array) -> jax.Array:
        return epsilon_greedy(network.apply(params["q"], observation), params.get("epsilon", last))

    def choose(noise: jax.Array, params: Params, observation: jax.Array) -> jax.Array:
        thresholds = jnp.cumsum(probabilities(params, observation)[:-1], axis=0)
        return (noise >= thresholds).sum(axis=0, dtype=jnp.int32)

    def act(key: Key, params: Params, observation: jax.Array, greedy: bool = False) -> jax.Array:
        if greedy:
            return jnp.argmax(network.apply(params["q"], observation), axis=0).astype(jnp.int32)
        return choose(jax.random.uniform(key, observation.shape[-1:]), params, observation)

    return probabilities, choose, act


def epsilon_greedy(values: jax.Array, epsilon: Number | jax.Array) -> jax.Array:
    """Return the probabilities of actions with these values, `[actions, n]`; the first of equal values is the best.

    >>> epsilon_greedy(jnp.array([[1.0], [3.0]]), 0.5).T.tolist()
    [[0.25, 0.75]]
    """
    actions = values.shape[0]
    best = jnp.arange(actions)[:, None] == jnp.argmax(values, axis=0)
    return epsilon / actions + (1.0 - epsilon) * best


def transitions(seen: Trajectory, players: int | None, deaths: bool) -> Transition:
    """Return a trajectory as rows, every leaf `[time * num_envs, *features, players]`; with `deaths`, who is alive."""

    def row(x: jax.Array) -> jax.Array:
        apart = x.reshape(*x.shape[:-1], players or 1, -1)
        return jnp.moveaxis(apart, -1, 1).reshape(-1, *apart.shape[1:-1])

    # In a world always, as wrappers may leave out the experience of some players.
    alive = row(jnp.ones_like(seen.terminated) if seen.alive is None else seen.alive) if deaths else None
    return Transition(
        row(seen.observation),
        row(seen.action),
        row(seen.reward),
        row(seen.terminated),
        row(seen.next_observation),
        alive,
    )


def _row(environment: AnyEnvironment) -> Transition:
    """Return the shapes and dtypes of a row."""
    seen, players = environment.spaces.observation, players_of(environment)
    shape = jax.ShapeDtypeStruct((*seen.shape, players or 1), seen.dtype)
    whole, real, flag = (jax.ShapeDtypeStruct((players or 1,), kind) for kind in (jnp.int32, jnp.float32, jnp.bool_))
    row: Any = (shape, whole, real, flag, shape, flag if may_die(environment) else None)
    return Transition(*row)


def _values(network: Network, params: Params, observation: jax.Array) -> jax.Array:
    """Return the values of all actions, `[actions, players, batch]`, at observations `[batch, *features, players]`."""
    batch, players = observation.shape[0], observation.shape[-1]
    # Player by player, as networks with parameters of each player expect them.
    rows = jnp.moveaxis(observation, 0, -1).reshape(*observation.shape[1:-1], players * batch)
    return network.apply(params["q"], rows).reshape(-1, players, batch)


def _of(values: jax.Array, action: jax.Array) -> jax.Array:
    """Return the values of these actions, `[players, batch]`."""
    chosen = jnp.arange(values.shape[0])[:, None, None] == action
    return jnp.where(chosen, values, 0.0).sum(axis=0)


def _check_network(environment: AnyEnvironment, network: Network) -> None:
    """Refuse a network with parameters of other players, or with a memory.

    Raises:
        ConfigError: The numbers of players differ, or it has a memory.
    """
    check_players(environment, network.players)
    if network.memory:
        raise ConfigError(
            f"network is {written(network)}, which has a memory, and a row of the replay buffer is a single step: the "
            "memory in it would be that of old parameters, and no gradient would flow to what was remembered. Use "
            "ppo, a2c or reinforce, or a network without a memory."
        )


def _actions_of(environment: AnyEnvironment, rows: int, buffer_size: int) -> int:
    """Return the number of actions.

    Raises:
        ConfigError: Actions are continuous, or an iteration writes more rows than the buffer has.
    """
    space = environment.spaces.action
    if not isinstance(space, Discrete):
        raise ConfigError(
            f"The actions of {environment!r} are {space}, and Q has an output for each action. Use a learner with a "
            "policy, such as ppo, or an environment with discrete actions."
        )
    check_positive(rows=rows, buffer_size=buffer_size)
    if rows > buffer_size:
        raise ConfigError(
            f"buffer_size is {buffer_size}, and an iteration writes {rows} rows (num_envs * num_steps), which would "
            "overwrite each other. Set a larger buffer_size."
        )
    return space.n
