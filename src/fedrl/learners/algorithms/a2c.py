"""Advantage actor-critic: one gradient step over fresh experience."""

from __future__ import annotations

import jax
import optax

from fedrl.core.component import component
from fedrl.core.environment import AnyEnvironment
from fedrl.core.hyperparameters import is_zero
from fedrl.core.learner import Learner
from fedrl.core.ranges import Count, Fraction, NonNegative, Traced
from fedrl.core.types import Key, LocalContext, Metrics, Params
from fedrl.learners.parts.actor_critic import Experience, actor_critic
from fedrl.learners.parts.losses import policy_gradient, squared_error
from fedrl.learners.parts.networks import Network, mlp
from fedrl.learners.parts.optimizers import adam, descend
from fedrl.learners.parts.policies import Policy


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

    Raises:
        ConfigError: `num_envs` or `num_steps` is below one.
    """

    def loss(policy: Policy, critic: Network, params: Params, batch: Experience) -> jax.Array:
        outputs = policy.outputs(params["actor"], batch.observation)
        score = policy_gradient(policy.log_prob(outputs, batch.action), batch.advantage)
        error = squared_error(critic.apply(params["critic"], batch.observation)[0], batch.target)
        # Python, not JAX: without a bonus the compiled program computes no entropy.
        bonus = 0.0 if is_zero(entropy_coef) else entropy_coef * policy.entropy(outputs).mean()
        return value_coef * error - score - bonus

    def slope(policy: Policy, critic: Network, params: Params, experience: Experience) -> tuple[Params, Metrics]:
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
        gradient, metrics = slope(policy, critic, params, experience)
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
    )
