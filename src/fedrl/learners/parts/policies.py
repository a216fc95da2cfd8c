"""Stochastic policies: a network, and the distribution that its outputs parametrise.

    params, observation --> outputs --> sample, mode, log_prob, entropy

Every function takes a batch with the environment copies on the last axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from fedrl.core.environment import Box, Discrete, Noise, Spaces
from fedrl.core.types import Key, Params, PyTree
from fedrl.learners.parts.networks import Network

Outputs = PyTree


@dataclass(frozen=True)
class Policy:
    """A stochastic policy.

    Attributes:
        init: `key -> params`.
        outputs: `(params, observation) -> outputs`, the parameters of the distribution.
        draw: `(key, batch) -> noise` for `sample`, with the batch axes last.
        sample: `(noise, outputs) -> action`.
        mode: `outputs -> action`, the greedy action.
        log_prob: `(outputs, action) -> [num_envs]`.
        entropy: `outputs -> [num_envs]`.
    """

    init: Callable[[Key], Params]
    outputs: Callable[[Params, jax.Array], Outputs]
    draw: Callable[[Key, tuple[int, ...]], Noise]
    sample: Callable[[Noise, Outputs], jax.Array]
    mode: Callable[[Outputs], jax.Array]
    log_prob: Callable[[Outputs, jax.Array], jax.Array]
    entropy: Callable[[Outputs], jax.Array]


def policy_for(spaces: Spaces, network: Network) -> Policy:
    """Return the policy for a space of actions: categorical if discrete, Gaussian if continuous."""
    if isinstance(spaces.action, Discrete):
        return categorical(spaces, network, spaces.action.n)
    return gaussian(spaces, network, spaces.action)


def act_with(policy: Policy) -> Callable[[Key, Params, jax.Array, bool], jax.Array]:
    """Return a learner's `act`, given its policy."""

    def act(key: Key, params: Params, observation: jax.Array, greedy: bool = False) -> jax.Array:
        outputs = policy.outputs(params, observation)
        if greedy:
            return policy.mode(outputs)
        return policy.sample(policy.draw(key, observation.shape[-1:]), outputs)

    return act


def probabilities_with(policy: Policy, spaces: Spaces) -> Callable[[Params, jax.Array], jax.Array] | None:
    """Return a learner's `probabilities`, given its policy; None if actions are continuous."""
    if not isinstance(spaces.action, Discrete):
        return None
    return lambda params, observation: jnp.exp(policy.outputs(params["actor"], observation))


def categorical(spaces: Spaces, network: Network, actions: int) -> Policy:
    """Return a softmax policy; its outputs are log-probabilities `[actions, num_envs]`."""

    def outputs(params: Params, observation: jax.Array) -> jax.Array:
        return jax.nn.log_softmax(network.apply(params, observation), axis=0)

    def sample(noise: jax.Array, outputs: jax.Array) -> jax.Array:
        # Inverse transform sampling: one uniform number per action, drawn ahead of the rollout for all its steps.
        thresholds = jnp.cumsum(jnp.exp(outputs[:-1]), axis=0)
        return (noise >= thresholds).sum(axis=0, dtype=jnp.int32)

    def log_prob(outputs: jax.Array, action: jax.Array) -> jax.Array:
        chosen = jnp.arange(actions)[:, None] == action
        return jnp.where(chosen, outputs, 0.0).sum(axis=0)

    return Policy(
        init=lambda key: network.init(key, spaces.observation, actions, 0.01),
        outputs=outputs,
        draw=jax.random.uniform,
        sample=sample,
        mode=lambda outputs: jnp.argmax(outputs, axis=0).astype(jnp.int32),
        log_prob=log_prob,
        entropy=lambda outputs: -(jnp.exp(outputs) * outputs).sum(axis=0),
    )


def gaussian(spaces: Spaces, network: Network, space: Box, log_std: float = 0.0) -> Policy:
    """Return a Gaussian policy with a state-independent standard deviation; its outputs are (mean, log_std)."""
    size = math.prod(space.shape)

    def init(key: Key) -> Params:
        return {
            "network": network.init(key, spaces.observation, size, 0.01),
            "log_std": jnp.full((size,), log_std, jnp.float32),
        }

    def outputs(params: Params, observation: jax.Array) -> tuple[jax.Array, jax.Array]:
        mean = network.apply(params["network"], observation)
        return mean, jnp.broadcast_to(params["log_std"][:, None], mean.shape)

    def shaped(flat: jax.Array) -> jax.Array:
        return flat.reshape(*space.shape, flat.shape[-1])

    def log_prob(outputs: tuple[jax.Array, jax.Array], action: jax.Array) -> jax.Array:
        mean, log_scale = outputs
        deviation = (action.reshape(size, -1) - mean) * jnp.exp(-log_scale)
        return -(0.5 * deviation**2 + log_scale + 0.5 * math.log(2 * math.pi)).sum(axis=0)

    return Policy(
        init=init,
        outputs=outputs,
        draw=lambda key, batch: jax.random.normal(key, (size, *batch)),
        sample=lambda noise, outputs: shaped(outputs[0] + jnp.exp(outputs[1]) * noise),
        mode=lambda outputs: shaped(outputs[0]),
        log_prob=log_prob,
        entropy=lambda outputs: (outputs[1] + 0.5 * math.log(2 * math.pi * math.e)).sum(axis=0),
    )
