"""Advantage actor-critic: one gradient step over fresh experience."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from fedrl.core.component import component
from fedrl.core.environment import AnyEnvironment
from fedrl.core.hyperparameters import is_zero
from fedrl.core.learner import Learner
from fedrl.core.ranges import Count, Fraction, NonNegative, Positive, Traced
from fedrl.core.types import Key, LocalContext, Metrics, Params
from fedrl.learners.parts.actor_critic import Experience, actor_critic, averaged, by_episode, weighed
from fedrl.learners.parts.losses import policy_gradient
from fedrl.learners.parts.networks import Network, mlp
from fedrl.learners.parts.optimizers import adam, descend
from fedrl.learners.parts.policies import Policy
from fedrl.learners.parts.trajectories import per_trajectory, private_gradient


@component("learner", reference="Mnih et al. (2016), https://arxiv.org/abs/1602.01783")
def a2c(
    environment: AnyEnvironment,
    *,
    network: Network = mlp(),
    optimizer: Traced[optax.GradientTransformation] = adam(7e-4, max_norm=0.5),
    num_envs: Count = 8,
    num_steps: Count = 5,
    gamma: Traced[Fraction] = 0.99,
    gae_lambda: Traced[Fraction] = 0.95,
    value_coef: Traced[NonNegative] = 0.5,
    entropy_coef: Traced[NonNegative] = 0.0,
    trajectory_clip: Traced[Positive] | None = None,
    noise_multiplier: Traced[NonNegative] = 0.0,
) -> Learner:
    """Build an A2C learner: the synchronous form of A3C, with generalised advantages and separate actor and critic.

    One iteration collects `num_envs * num_steps` samples and takes one gradient step on

        mean(-log pi(a|s) A) + value_coef mean((V(s) - A - V_old(s))^2) - entropy_coef mean(H).

    Agents can send this gradient instead of the change of their parameters: `federate(..., payload="gradient")` is
    the federated actor-critic gradient.

    Every iteration is a single optimiser step, so a larger batch means fewer steps for the same number of samples, and
    the critic needs thousands of steps: Adam moves a parameter by about the learning rate per step, while the values
    of CartPole grow from 0 to 1 / (1 - gamma) = 100. While the critic lags behind, nearly all advantages have the same
    sign and the actor follows noise. When you raise `num_envs` or `num_steps`, raise the number of samples too, or
    scale the rewards (`normalize`).

    With `trajectory_clip`, each environment copy plays one whole episode per iteration, from its start to its end or
    `num_steps`, so set `num_steps` to the length of episodes. The loss of an episode is the sum over its steps divided
    by `num_steps`, and the gradient is the mean over episodes of their clipped gradients.

    Args:
        environment: Environment to learn in.
        network: Architecture of the actor and of the critic.
        optimizer: Local optimiser.
        num_envs: Environment copies that are stepped side by side.
        num_steps: Steps of each copy per iteration.
        gamma: Discount factor.
        gae_lambda: lambda of the generalised advantage estimates.
        value_coef: Weight of the critic's squared error.
        entropy_coef: Weight of the entropy bonus.
        trajectory_clip: C, the L2 norm to which each episode's gradient is scaled down, of actor and critic together.
            Norms differ tenfold: choose C about their median, `trajectory_norm_median`.
        noise_multiplier: z: normal noise of standard deviation z C / `num_envs` is added to every entry of each
            gradient, from a secret of the agent. `Learner.noise` is its price, for the privacy of single episodes.

    Raises:
        ConfigError: `num_envs` or `num_steps` is below one, there is noise without a clip, or a clip where players
            may live again.
    """
    how = per_trajectory(trajectory_clip, noise_multiplier, num_envs)

    def loss(policy: Policy, critic: Network, params: Params, batch: Experience) -> jax.Array:
        outputs = policy.outputs(params["actor"], batch.observation)
        score = policy_gradient(policy.log_prob(outputs, batch.action), weighed(batch.advantage, batch.weight))
        value = critic.apply(params["critic"], batch.observation)[0]
        # Zeros after the end of an episode, so that its loss is a sum over its steps, divided by a fixed number.
        error = averaged(jnp.square(value - batch.target), batch.weight)
        # Python, not JAX: without a bonus the compiled program computes no entropy.
        bonus = 0.0 if is_zero(entropy_coef) else entropy_coef * averaged(policy.entropy(outputs), batch.weight)
        return value_coef * error - score - bonus

    def slope(
        policy: Policy, critic: Network, params: Params, experience: Experience, context: LocalContext
    ) -> tuple[Params, Metrics]:
        if how is not None:
            batch = by_episode(experience, num_envs)
            return private_gradient(how, context, 0, lambda p, one: loss(policy, critic, p, one), params, batch)
        cost, gradient = jax.value_and_grad(lambda p: loss(policy, critic, p, experience))(params)
        return gradient, {"loss": cost}

    def improve(
        policy: Policy,
        critic: Network,
        key: Key,
        params: Params,
        memory: optax.OptState,
        experience: Experience,
        context: LocalContext,
    ) -> tuple[Params, optax.OptState, Metrics]:
        del key
        gradient, metrics = slope(policy, critic, params, experience, context)
        return *descend(optimizer, gradient, memory, params, context), metrics

    return actor_critic(
        environment,
        network,
        optimizer,
        improve,
        slope,
        num_envs=num_envs,
        num_steps=num_steps,
        gamma=gamma,
        gae_lambda=gae_lambda,
        how=how,
    )
