"""Proximal policy optimisation: several epochs over fresh experience, with a clipped probability ratio rho.

    loss = value_coef mean((V(s) - target)^2) - mean(min(rho A, clip(rho, 1 - eps, 1 + eps) A)) - entropy_coef mean(H)

Advantages are normalised within each minibatch, as in common implementations; the paper does not specify it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

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
from fedrl.learners.parts.actor_critic import Experience, actor_critic, averaged, by_episode, value_of, weighed
from fedrl.learners.parts.losses import clipped_surrogate
from fedrl.learners.parts.minibatches import minibatches, pack, shuffled
from fedrl.learners.parts.networks import Network, mlp
from fedrl.learners.parts.optimizers import adam, descend
from fedrl.learners.parts.policies import Policy
from fedrl.learners.parts.returns import normalised
from fedrl.learners.parts.trajectories import PerTrajectory, per_trajectory, private_gradient


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
    trajectory_clip: Traced[Positive] | None = None,
    noise_multiplier: Traced[NonNegative] = 0.0,
) -> Learner:
    """Build a PPO learner with the clipped surrogate, for discrete and continuous actions; separate actor and critic.

    One iteration collects `num_envs * num_steps` samples and takes `num_epochs * num_minibatches` gradient steps.

    In a world every player of every copy adds its samples, and one policy acts for all: this is IPPO with shared
    parameters (de Witt et al. 2020, https://arxiv.org/abs/2011.09533). With `network = per_player(...)` each player has
    parameters of its own. A minibatch has the samples of all players of the steps in it.

    With `trajectory_clip`, each environment copy plays one whole episode per iteration, from its start to its end or
    `num_steps`, so set `num_steps` to the length of episodes. Minibatches are dealt by episode, each of which is in one
    minibatch of every epoch, advantages are not normalised, and the loss of an episode is the sum over its steps
    divided by `num_steps`. Each gradient is the mean of the clipped gradients of m = `num_envs / num_minibatches`
    episodes.

    Args:
        environment: Environment to learn in.
        network: Architecture of the actor and of the critic.
        optimizer: Local optimiser.
        num_envs: Environment copies that are stepped side by side.
        num_steps: Steps of each copy per iteration.
        num_epochs: Passes over the samples per iteration.
        num_minibatches: Minibatches per pass; a divisor of `num_envs * num_steps`, with `trajectory_clip` or a
            recurrent network of `num_envs`.
        gamma: Discount factor.
        gae_lambda: lambda of the generalised advantage estimates.
        clip: eps, the change of the probability ratio rho beyond which the objective no longer improves.
        value_coef: Weight of the critic's squared error.
        entropy_coef: Weight of the entropy bonus.
        trajectory_clip: C, the L2 norm to which each episode's gradient is scaled down, of actor and critic together.
            Norms differ tenfold: choose C about their median, `trajectory_norm_median`.
        noise_multiplier: z: normal noise of standard deviation z C / m is added to every entry of each gradient, from a
            secret of the agent, anew in each gradient step. `Learner.noise` is the price of the `num_epochs` steps in
            which an episode takes part, for the privacy of single episodes.

    Raises:
        ConfigError: A count is below one, `num_minibatches` does not divide the number of samples, or with
            `trajectory_clip` or a recurrent network the number of environment copies, there is noise without a clip,
            or a clip where players may live again.
    """
    check_minibatches(num_envs, num_steps, num_minibatches, trajectory_clip, network.memory)
    how = per_trajectory(trajectory_clip, noise_multiplier, num_envs // num_minibatches, num_epochs)
    return ppo_learner(
        environment,
        network,
        None,
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
        how,
    )


def ppo_learner(
    environment: AnyEnvironment,
    network: Network,
    critic: Network | None,
    optimizer: optax.GradientTransformation,
    num_envs: int,
    num_steps: int,
    num_epochs: int,
    num_minibatches: int,
    gamma: Number,
    gae_lambda: Number,
    clip: Number,
    value_coef: Number,
    entropy_coef: Number,
    how: PerTrajectory | None = None,
) -> Learner:
    """Build the learner of `ppo`, or of `mappo` with a critic that reads the overview."""

    def cost_of(policy: Policy, critic: Network, params: Params, batch: Experience) -> jax.Array:
        # Normalised over a minibatch, the advantages of one episode would depend on all others in it.
        return loss(policy, critic, params, batch, clip, value_coef, entropy_coef, alike=how is None)

    def improve(
        policy: Policy,
        critic: Network,
        key: Key,
        params: Params,
        memory: optax.OptState,
        experience: Experience,
        context: LocalContext,
    ) -> tuple[Params, optax.OptState, Metrics]:
        if how is not None:
            one = partial(cost_of, policy, critic)
            return _improved_by_episode(
                key, one, optimizer, params, memory, by_episode(experience, num_envs), context, how, num_minibatches
            )
        # Packed once per iteration, so that each epoch's shuffle is one gather and not one per array.
        # A recurrent network is unrolled over whole rollouts, so that copies are dealt and not steps.
        rows, unpack = pack(experience, num_envs if network.memory else num_envs * num_steps)

        def step(
            carry: tuple[Params, optax.OptState], block: jax.Array
        ) -> tuple[tuple[Params, optax.OptState], jax.Array]:
            params, memory = carry
            cost, slope = jax.value_and_grad(lambda p: cost_of(policy, critic, p, unpack(block)))(params)
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
        how=how,
        critic=critic,
    )


def loss(
    policy: Policy,
    critic: Network,
    params: Params,
    batch: Experience,
    clip: Number,
    value_coef: Number,
    entropy_coef: Number,
    alike: bool = True,
) -> jax.Array:
    """Return the loss of one minibatch, or of one episode: value_coef * error - clipped surrogate - entropy_coef * H.

    With `alike`, advantages are normalised over the batch. Samples of weight 0 count as 0.
    """
    outputs = policy.outputs(params["actor"], batch.observation)
    value = value_of(critic, params, batch.observation, batch.overview)
    change = policy.log_prob(outputs, batch.action) - batch.log_prob
    # Where the weight is 0, a ratio that overflows would make NaN of an advantage of 0.
    ratio = jnp.exp(change if batch.weight is None else jnp.where(batch.weight > 0.0, change, 0.0))
    # The surrogate is linear in advantages of one sign, so that it is weighed by weighing these.
    advantage = weighed(normalised(batch.advantage, batch.weight) if alike else batch.advantage, batch.weight)
    surrogate = clipped_surrogate(ratio, advantage, clip)
    error = averaged(jnp.square(value - batch.target), batch.weight)
    bonus = 0.0 if is_zero(entropy_coef) else entropy_coef * averaged(policy.entropy(outputs), batch.weight)
    return value_coef * error - surrogate - bonus


def _improved_by_episode(
    key: Key,
    cost_of: Callable[[Params, Experience], jax.Array],
    optimizer: optax.GradientTransformation,
    params: Params,
    memory: optax.OptState,
    episodes: Experience,
    context: LocalContext,
    how: PerTrajectory,
    num_minibatches: int,
) -> tuple[Params, optax.OptState, Metrics]:
    """Train on episodes `[n, *features, time]`, each of them whole in one minibatch of every epoch."""
    Carry = tuple[Params, optax.OptState]
    num_envs = episodes.advantage.shape[0]

    def step(carry: Carry, at: tuple[Experience, jax.Array]) -> tuple[Carry, Metrics]:
        params, memory = carry
        batch, number = at
        slope, metrics = private_gradient(how, context, number, cost_of, params, batch)
        return descend(optimizer, slope, memory, params, context), metrics

    def epoch(carry: Carry, at: tuple[Key, jax.Array]) -> tuple[Carry, Metrics]:
        k, number = at
        order = shuffled(k, num_envs)
        dealt = jax.tree.map(lambda x: x[order].reshape(num_minibatches, -1, *x.shape[1:]), episodes)
        # The number of the gradient step is that of its noise.
        return jax.lax.scan(step, carry, (dealt, number * num_minibatches + jnp.arange(num_minibatches)))

    passes = jax.random.split(key, how.passes), jnp.arange(how.passes)
    (params, memory), metrics = jax.lax.scan(epoch, (params, memory), passes)
    return params, memory, jax.tree.map(jnp.mean, metrics)


def check_minibatches(
    num_envs: int, num_steps: int, num_minibatches: int, trajectory_clip: Number | None = None, memory: int = 0
) -> None:
    """Refuse minibatches into which the samples of an iteration can't be dealt.

    Raises:
        ConfigError: The number does not divide that of the samples, or with a clip or a memory that of the environment
            copies.
    """
    if num_envs * num_steps % num_minibatches:
        raise ConfigError(
            f"num_minibatches is {num_minibatches}, which does not divide the {num_envs * num_steps} samples of an "
            "iteration (num_envs * num_steps). Choose a divisor."
        )
    if trajectory_clip is not None and num_envs % num_minibatches:
        raise ConfigError(
            f"num_minibatches is {num_minibatches}, which does not divide num_envs = {num_envs}, and with "
            "trajectory_clip every episode is whole in one minibatch of each epoch. Choose a divisor of num_envs."
        )
    if memory and num_envs % num_minibatches:
        raise ConfigError(
            f"num_minibatches is {num_minibatches}, which does not divide num_envs = {num_envs}, and a recurrent "
            "network learns from whole rollouts of a copy, as its memory at a step follows from the steps before. "
            "Choose a divisor of num_envs."
        )
