"""Multi-agent PPO: each player acts on what it observes, and a critic of the whole world judges.

actors   observation of a player -------> actions       while training and afterwards
critic   overview of the whole world ---> V_1 ... V_P   while training alone, a value for each player
"""

from __future__ import annotations

import optax

from fedrl.core.component import component
from fedrl.core.environment import AnyEnvironment
from fedrl.core.errors import ConfigError
from fedrl.core.learner import Learner
from fedrl.core.ranges import Count, Fraction, NonNegative, Positive, Traced
from fedrl.learners.algorithms.ppo import check_minibatches, ppo_learner
from fedrl.learners.parts.networks import Network, mlp
from fedrl.learners.parts.optimizers import adam


@component("learner", reference="Yu et al. (2022), https://arxiv.org/abs/2103.01955")
def mappo(
    environment: AnyEnvironment,
    *,
    network: Network = mlp(),
    critic: Network = mlp(),
    optimizer: Traced[optax.GradientTransformation] = adam(0.0025, max_norm=0.5),
    num_envs: Count = 8,
    num_steps: Count = 128,
    num_epochs: Count = 4,
    num_minibatches: Count = 4,
    gamma: Traced[Fraction] = 0.99,
    gae_lambda: Traced[Fraction] = 0.95,
    clip: Traced[Positive] = 0.2,
    value_coef: Traced[NonNegative] = 0.5,
    entropy_coef: Traced[NonNegative] = 0.0,
) -> Learner:
    """Build a PPO learner for a world with a centralised critic, which reads the world's overview.

    Everything else is as in `ppo`: all players act with the same parameters, or with `network = per_player(...)` each
    with its own. The critic has an output for each player, V_i(overview), from which the advantages of its samples are
    estimated. The value depends on no action, so that the expected gradient is that of `ppo`: what changes is its
    variance. In games such as `climbing` both settle at the same equilibrium.

    No policy is given the overview: it is computed neither when an agent acts nor when it is evaluated. The paper's
    normalisation of values is not used.

    Args:
        environment: World to learn in; it has an overview.
        network: Architecture of the actor.
        critic: Architecture of the critic.
        optimizer: Local optimiser.
        num_envs: Environment copies that are stepped side by side.
        num_steps: Steps of each copy per iteration.
        num_epochs: Passes over the samples per iteration.
        num_minibatches: Minibatches per pass; a divisor of `num_envs * num_steps`, with a recurrent network of
            `num_envs`.
        gamma: Discount factor.
        gae_lambda: lambda of the generalised advantage estimates.
        clip: eps, the change of the probability ratio rho beyond which the objective no longer improves.
        value_coef: Weight of the critic's squared error.
        entropy_coef: Weight of the entropy bonus.

    Raises:
        ConfigError: The environment has no overview, the critic has parameters of each player or a memory, a count is
            below one, or `num_minibatches` does not divide the number of samples, with a recurrent network that of the
            environment copies.
    """
    check_minibatches(num_envs, num_steps, num_minibatches, memory=network.memory)
    if critic.memory:
        raise ConfigError(
            f"critic has a memory of {critic.memory} entries, and memories are those of the players, each of what it "
            "observes itself, while this critic reads one overview of them all. Give it a network such as mlp()."
        )
    if critic.players is not None:
        raise ConfigError(
            f"critic has parameters of {critic.players} players, and it reads one overview of them all, with an output "
            "for each. Give it a network such as mlp()."
        )
    return ppo_learner(
        environment,
        network,
        critic,
        optimizer,
        num_envs,
        num_steps,
        num_epochs,
        num_minibatches,
        gamma,
        gae_lambda,
        clip,
        value_coef,
        entropy_coef,
    )
