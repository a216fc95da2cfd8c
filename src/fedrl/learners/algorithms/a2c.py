"""Advantage actor-critic: one gradient step over fresh experience."""

from __future__ import annotations

import jax
import optax

from fedrl.core.checks import check_positive
from fedrl.core.component import component
from fedrl.core.environment import AnyEnvironment
from fedrl.core.learner import Learner
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
    optimizer: optax.GradientTransformation = adam(7e-4, max_norm=0.5),
    num_envs: int = 8,
    num_steps: int = 5,
    gamma: float = 0.99,
    gae_lambda: float = 0.95,
    value_coef: float = 0.5,
    entropy_coef: float = 0.0,
) -> Learner:
    """A2C, the synchronous form of A3C, with generalised advantages; separate actor and critic networks.

    One iteration gathers `num_envs * num_steps` samples and descends
    mean(-log pi(a|s) A) + value_coef mean((V(s) - A - V_old(s))^2) - entropy_coef mean(H) once. Its gradient may
    travel instead of the step: `federate(..., payload="gradient")` is the federated actor-critic gradient.

    One iteration is one step of the optimiser, so the batch sets how many steps a budget of samples pays for, and the
    critic needs thousands: with Adam, a parameter moves by about the learning rate a step, and the values of CartPole
    grow from 0 to 1 / (1 - gamma) = 100. With a critic that lags behind, nearly all advantages have the same sign, and
    the actor follows noise. Whoever raises `num_envs` or `num_steps` should have the budget for it, or scale the
    rewards (`normalize`).

    Args:
        environment: Where to learn.
        network: Shape of actor and critic.
        optimizer: What descends the gradient.
        num_envs: Copies of the environment stepped side by side.
        num_steps: Steps of each copy in an iteration.
        gamma: gamma.
        gae_lambda: lambda of the generalised advantage estimates.
        value_coef: Weight of the critic's squared error.
        entropy_coef: Weight of the entropy bonus.

    Raises:
        ConfigError: A count is below one.
    """
    check_positive(num_envs=num_envs, num_steps=num_steps)

    def loss(policy: Policy, critic: Network, params: Params, batch: Experience) -> jax.Array:
        outputs = policy.outputs(params["actor"], batch.observation)
        score = policy_gradient(policy.log_prob(outputs, batch.action), batch.advantage)
        error = squared_error(critic.apply(params["critic"], batch.observation)[0], batch.target)
        bonus = entropy_coef * policy.entropy(outputs).mean() if entropy_coef else 0.0
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
