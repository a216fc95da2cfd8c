"""Value decomposition: the value of a team is the sum of values of its players, each of what it observes and does.

    Q_1(o_1, a_1) + ... + Q_P(o_P, a_P) = Q_tot --TD error of the team's reward--> all Q_i

Each player acts by its own Q_i: the best joint action of a sum is that of the best actions of all players.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from fedrl.core.component import component
from fedrl.core.environment import AnyEnvironment
from fedrl.core.hyperparameters import Number
from fedrl.core.learner import Learner
from fedrl.core.ranges import Count, Fraction, FractionAboveZero, NonNegative, Positive, Traced
from fedrl.learners.algorithms.dqn import EpsilonSchedule, Transition, q_learner
from fedrl.learners.parts.networks import Network, mlp
from fedrl.learners.parts.optimizers import adam


@component("learner", reference="Sunehag et al. (2018), https://arxiv.org/abs/1706.05296")
def vdn(
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
    """Build a learner of the sum of the players' values (VDN), from the reward of the team.

        Q_tot(o, a) = sum_i Q_i(o_i, a_i) learns r + gamma Q'_tot(o', a*),   a*_i = argmax_b Q_i(o_i', b)

    r is the mean of the players' rewards, the return in all records. Everything else is as in `dqn`: replay buffer,
    target network, epsilon. Q_i is the same network for all players, or one of each (`per_player`). The values of dead
    players are left out of both sums. With a single agent it is `dqn`.

    In a game that is won from each other the reward of the team is 0, so there is nothing to learn; in a common world
    an agent has one player, and it is `dqn`, too.

    A sum can't represent that the worth of an action depends on those of the others. So it fails where that decides: in
    `climbing` it settles below the optimum, which `joint_actions` finds.

    Args:
        environment: World to learn in, whose players are a team; its actions are discrete.
        network: Architecture of Q_i, an output for each action.
        optimizer: Local optimiser.
        num_envs: Environment copies that are stepped side by side.
        num_steps: Steps of each copy per iteration.
        num_updates: Gradient steps per iteration.
        batch_size: Rows of the buffer per gradient step, each a step of all players.
        buffer_size: Rows of the buffer.
        gamma: Discount factor.
        tau: Rate at which the target network follows, in (0, 1].
        epsilon: Probability of a random action of a player in the end, and wherever it acts without being greedy.
        epsilon_start: That in the beginning.
        epsilon_steps: Steps of the world, all copies together, over which it falls linearly from one to the other.
        learning_starts: Steps of the world before the first gradient step.

    Raises:
        ConfigError: Actions are continuous, a count is below one, or an iteration writes more rows than the buffer has.
    """
    return q_learner(
        environment,
        network,
        optimizer,
        of_the_team,
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


def of_the_team(batch: Transition, chosen: jax.Array, ahead: jax.Array, gamma: Number) -> tuple[jax.Array, None]:
    """Return the TD error of each step of the team, `[batch]`."""
    if batch.alive is not None:
        # The dead have no value, neither those who are before the step nor those who die in it.
        alive = batch.alive.T
        chosen = jnp.where(alive, chosen, 0.0)
        ahead = jnp.where(alive & ~batch.terminated.T, ahead, 0.0)
    # A death terminates the trajectory of one player, and the end of the episode those of all.
    going = 1.0 - batch.terminated.all(-1)
    return chosen.sum(0) - batch.reward.mean(-1) - gamma * going * ahead.sum(0), None
