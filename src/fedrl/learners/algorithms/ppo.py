"""Proximal policy optimisation: several epochs over fresh experience, with a clipped probability ratio rho.

    loss = value_coef mean((V(s) - target)^2) - mean(min(rho A, clip(rho, 1 - eps, 1 + eps) A)) - entropy_coef mean(H)

Advantages are normalised within each minibatch, as in common implementations; the paper does not specify it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from fedrl.core.component import component
from fedrl.core.environment import AnyEnvironment
from fedrl.core.errors import ConfigError
from fedrl.core.hyperparameters import Number, is_zero
from fedrl.core.learner import Learner
from fedrl.core.ranges import Count, Fraction, NonNegative, Positive, Traced
from fedrl.core.types import Key, LocalContext, Metrics, Params
from fedrl.learners.parts.actor_critic import Experience, actor_critic
from fedrl.learners.parts.losses import clipped_surrogate
from fedrl.learners.parts.minibatches import minibatches, pack
from fedrl.learners.parts.networks import Network, mlp
from fedrl.learners.parts.optimizers import adam, descend
from fedrl.learners.parts.policies import Policy
from fedrl.learners.parts.returns import normalised


@component("learner", reference="Schulman et al. (2017), https://arxiv.org/abs/1707.06347")
def ppo(
    environment: AnyEnvironment,
    *,
    network: Network = mlp(),
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
    """Build a PPO learner with the clipped surrogate, for discrete and continuous actions; separate actor and critic.

    One iteration collects `num_envs * num_steps` samples and takes `num_epochs * num_minibatches` gradient steps.

    Args:
        environment: Environment to learn in.
        network: Architecture of the actor and of the critic.
        optimizer: Local optimiser.
        num_envs: Environment copies that are stepped side by side.
        num_steps: Steps of each copy per iteration.
        num_epochs: Passes over the samples per iteration.
        num_minibatches: Minibatches per pass; a divisor of `num_envs * num_steps`.
        gamma: Discount factor.
        gae_lambda: lambda of the generalised advantage estimates.
        clip: eps, the change of the probability ratio rho beyond which the objective no longer improves.
        value_coef: Weight of the critic's squared error.
        entropy_coef: Weight of the entropy bonus.

    Raises:
        ConfigError: A count is below one, or `num_minibatches` does not divide the number of samples.
    """
    if num_envs * num_steps % num_minibatches:
        raise ConfigError(
            f"num_minibatches is {num_minibatches}, which does not divide the {num_envs * num_steps} samples of an "
            "iteration (num_envs * num_steps). Choose a divisor."
        )

    def improve(
        policy: Policy,
        critic: Network,
        key: Key,
        params: Params,
        memory: optax.OptState,
        experience: Experience,
        context: LocalContext,
    ) -> tuple[Params, optax.OptState, Metrics]:
        # Packed once per iteration, so that each epoch's shuffle is one gather and not one per array.
        rows, unpack = pack(experience)

        def step(
            carry: tuple[Params, optax.OptState], block: jax.Array
        ) -> tuple[tuple[Params, optax.OptState], jax.Array]:
            params, memory = carry
            cost, slope = jax.value_and_grad(
                lambda p: loss(policy, critic, p, unpack(block), clip, value_coef, entropy_coef)
            )(params)
            return descend(optimizer, slope, memory, params, context), cost

        def epoch(carry: tuple[Params, optax.OptState], k: Key) -> tuple[tuple[Params, optax.OptState], jax.Array]:
            return jax.lax.scan(step, carry, minibatches(k, rows, num_minibatches))

        (params, memory), costs = jax.lax.scan(epoch, (params, memory), jax.random.split(key, num_epochs))
        return params, memory, {"loss": costs.mean()}

    return actor_critic(
        environment,
        network,
        optimizer,
        improve,
        num_envs=num_envs,
        num_steps=num_steps,
        gamma=gamma,
        gae_lambda=gae_lambda,
    )


def loss(
    policy: Policy,
    critic: Network,
    params: Params,
    batch: Experience,
    clip: Number,
    value_coef: Number,
    entropy_coef: Number,
) -> jax.Array:
    """Return the loss of one minibatch: value_coef * error - clipped surrogate - entropy_coef * entropy."""
    outputs = policy.outputs(params["actor"], batch.observation)
    value = critic.apply(params["critic"], batch.observation)[0]
    ratio = jnp.exp(policy.log_prob(outputs, batch.action) - batch.log_prob)
    surrogate = clipped_surrogate(ratio, normalised(batch.advantage), clip)
    error = jnp.square(value - batch.target).mean()
    bonus = 0.0 if is_zero(entropy_coef) else entropy_coef * policy.entropy(outputs).mean()
    return value_coef * error - surrogate - bonus
