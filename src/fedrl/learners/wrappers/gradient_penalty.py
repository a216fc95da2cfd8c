"""A privacy penalty in the reward, R = r - lambda ||grad log pi(a|s)||^2: shorter gradients, and no guarantee.

    experience --reward of each step less lambda times its squared score--> the learner

The idea is that a policy whose gradients are short reveals less in what its agent sends. But an attacker may scale what
it receives: the direction of an update is as before, no noise hides whether an episode was in it, and nothing bounds
what one episode contributes. The penalty has no epsilon. `docs/privacy.md` measures it beside differential privacy.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fedrl.core.component import component, written
from fedrl.core.environment import Discrete
from fedrl.core.errors import ConfigError
from fedrl.core.learner import Experience, Learner, Trajectory, policy_of
from fedrl.core.measures import Measure
from fedrl.core.ranges import NonNegative, Traced
from fedrl.core.types import Key, LocalContext, Metrics, Params, PyTree

LEAST_PROBABILITY = 1e-6
"""The probability below which an action's score is no longer that of its logarithm, which would be infinite at 0."""


@component("learner", reference="what gradients reveal: Zhu, Liu & Han (2019), https://arxiv.org/abs/1906.08935")
def gradient_penalty(learner: Traced[Learner], strength: Traced[NonNegative] = 0.01) -> Learner:
    """Subtract from each reward lambda times the squared norm of the policy's gradient in that step.

        R_t = r_t - lambda ||grad_theta log pi(a_t | s_t)||_2^2

    It is no privacy guarantee: updates become shorter on average, and an attacker divides by their norm. For a
    guarantee, add noise to clipped updates (`fedrl.privacy.mechanisms`). The two go together, but the penalty does not
    change what noise has to be added.

    Returns in records are those without the penalty. The measure `squared_score` is the mean of
    ||grad log pi(a | s)||^2 over the steps of an iteration, also those after the end of an episode.

    Args:
        learner: Learner to wrap: it trains on trajectories, with a policy that is differentiable in its parameters.
        strength: lambda, in units of the reward per squared norm.

    Raises:
        ConfigError: The policy has no gradient, as that of a table, or its actions are continuous.
    """
    _check(learner)

    def penalised(state: PyTree, seen: Trajectory) -> tuple[Trajectory, Metrics]:
        scores = squared_scores(learner, policy_of(learner, state), seen.observation, seen.action)
        return seen._replace(reward=seen.reward - strength * scores), {"squared_score": scores.mean(where=seen.alive)}

    def learn(key: Key, state: PyTree, seen: Experience, context: LocalContext) -> tuple[PyTree, Metrics]:
        dearer, measured = penalised(state, seen)
        after, metrics = learner.learn(key, state, dearer, context)
        return after, metrics | measured

    def gradient(key: Key, state: PyTree, seen: Experience, context: LocalContext) -> tuple[Params, Metrics]:
        assert learner.gradient is not None
        dearer, measured = penalised(state, seen)
        slope, metrics = learner.gradient(key, state, dearer, context)
        return slope, metrics | measured

    measures = {**learner.measures, "squared_score": Measure("iteration")}
    return replace(learner, learn=learn, gradient=None if learner.gradient is None else gradient, measures=measures)


def squared_scores(
    learner: Learner, params: Params, observation: jax.Array, action: jax.Array
) -> Float[Array, "time num_envs"]:
    """Return ||grad log pi(a | s)||^2 of each step, over all parameters with which the agent acts.

    Args:
        learner: A learner with `probabilities`.
        params: The parameters with which it acts.
        observation: `[time, *features, num_envs]`.
        action: `[time, num_envs]`.
    """
    assert learner.probabilities is not None
    probabilities = learner.probabilities

    def log_prob(params: Params, observation: jax.Array, action: jax.Array) -> jax.Array:
        chance = probabilities(params, observation[..., None])[:, 0]
        return jnp.log(jnp.maximum(chance[action], LEAST_PROBABILITY))

    def squared(observation: jax.Array, action: jax.Array) -> jax.Array:
        slope = jax.grad(log_prob)(params, observation, action)
        return sum((jnp.square(leaf).sum() for leaf in jax.tree.leaves(slope)), jnp.float32(0.0))

    # One time step after the other, since a gradient of all parameters for each sample of an iteration may not fit.
    each = jax.vmap(squared, (-1, -1))
    return jax.lax.map(lambda at: each(*at), (observation, action))


def _check(learner: Learner) -> None:
    if learner.probabilities is None:
        raise ConfigError(
            f"{written(learner)} has no probabilities of actions, which gradient_penalty differentiates: its actions "
            "are continuous, or it takes them from elsewhere. Use a learner of discrete actions."
        )
    if not learner.horizon:
        raise ConfigError(
            f"{written(learner)} takes no trajectory, and gradient_penalty changes the rewards of one. Use a learner "
            "that collects experience."
        )
    if learner.acts_for is not None:
        raise ConfigError(
            f"{written(learner)} acts by parameters of {learner.acts_for} players, and gradient_penalty differentiates "
            "the policy at one observation, which does not say whose it is. Use a network that all players share."
        )
    if learner.memory:
        raise ConfigError(
            f"{written(learner)} has a memory, and gradient_penalty differentiates the policy at one observation: its "
            "probabilities depend on all before. Use a network without a memory."
        )
    if not _has_gradient(learner):
        raise ConfigError(
            f"The policy of {written(learner)} has no gradient: its probabilities do not change with small changes of "
            "its parameters, so there is nothing to penalise. Use a learner with a network."
        )


def _has_gradient(learner: Learner) -> bool:
    """Return whether some probability of the first policy changes with its parameters."""
    environment = learner.environment
    space = environment.spaces.observation
    kind = jnp.int32 if isinstance(space, Discrete) else jnp.float32

    def squared(key: Key) -> jax.Array:
        params = policy_of(learner, learner.init(key, environment.params))
        action = jnp.zeros((1, 1), jnp.int32)
        return squared_scores(learner, params, jnp.zeros((1, *space.shape, 1), kind), action).sum()

    found = jax.jit(squared)(jax.random.key(0)) > 0.0
    # A compiled program builds the learner again with traced numbers in place of its own; it was checked before that.
    return isinstance(found, jax.core.Tracer) or bool(found)
