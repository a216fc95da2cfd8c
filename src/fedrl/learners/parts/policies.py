"""Stochastic policies: a network, and the distribution that its outputs parametrise.

    params, observation --> outputs --> sample, mode, log_prob, entropy

Every function takes a batch with the environment copies on the last axis.

A policy of several choices at once is a product of distributions, independent given the observation:

    log p(a|s) = sum_i log p_i(a_i|s),   H = sum_i H_i,   and its mode is that of each
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core.environment import Box, Discrete, Noise, Product, Spaces
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
        remember: `(params, observation) -> [memory, num_envs]`, for a recurrent network; None without a memory.
    """

    init: Callable[[Key], Params]
    outputs: Callable[[Params, jax.Array], Outputs]
    draw: Callable[[Key, tuple[int, ...]], Noise]
    sample: Callable[[Noise, Outputs], jax.Array]
    mode: Callable[[Outputs], jax.Array]
    log_prob: Callable[[Outputs, jax.Array], jax.Array]
    entropy: Callable[[Outputs], jax.Array]
    remember: Callable[[Params, jax.Array], jax.Array] | None = None


def policy_for(spaces: Spaces, network: Network) -> Policy:
    """Return the policy for a space of actions: categorical if discrete, Gaussian if continuous, or their product."""
    if isinstance(spaces.action, Product):
        return product(spaces, network, spaces.action)
    if isinstance(spaces.action, Discrete):
        return categorical(spaces, network, spaces.action.n)
    return gaussian(spaces, network, spaces.action)


def probabilities_with(policy: Policy, spaces: Spaces) -> Callable[[Params, jax.Array], jax.Array] | None:
    """Return a learner's `probabilities`, given its policy; None if actions are not discrete."""
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
        remember=network.remember,
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
        remember=_within(network),
    )


def product(spaces: Spaces, network: Network, space: Product) -> Policy:
    """Return the product of a policy for each part of a space; its outputs are those of each.

    One network has the outputs of all parts. The parameters are `{"network", "heads"}`, the latter with the standard
    deviations of continuous parts.
    """
    # The heads of the parts are policies by themselves whose network passes on its share of the outputs.
    passing = Network(lambda key, space, outputs, gain: (), lambda params, outputs: outputs)
    heads = [policy_for(Spaces(spaces.observation, part), passing) for part in space.parts]
    widths = [part.n if isinstance(part, Discrete) else math.prod(part.shape) for part in space.parts]
    edges = np.cumsum(widths)[:-1].tolist()

    def init(key: Key) -> Params:
        own = tuple(head.init(key) for head in heads)  # no head draws anything
        return {"network": network.init(key, spaces.observation, sum(widths), 0.01), "heads": own}

    def outputs(params: Params, observation: jax.Array) -> tuple[Outputs, ...]:
        dealt = jnp.split(network.apply(params["network"], observation), edges)
        return tuple(head.outputs(p, x) for head, p, x in zip(heads, params["heads"], dealt, strict=True))

    def draw(key: Key, batch: tuple[int, ...]) -> tuple[Noise, ...]:
        keys = jax.random.split(key, len(heads))
        return tuple(head.draw(k, batch) for head, k in zip(heads, keys, strict=True))

    def sample(noise: tuple[Noise, ...], outputs: tuple[Outputs, ...]) -> jax.Array:
        return space.join([head.sample(n, x) for head, n, x in zip(heads, noise, outputs, strict=True)])

    def log_prob(outputs: tuple[Outputs, ...], action: jax.Array) -> jax.Array:
        parts = zip(heads, outputs, space.split(action), strict=True)
        return _total(head.log_prob(x, a) for head, x, a in parts)

    return Policy(
        init=init,
        outputs=outputs,
        draw=draw,
        sample=sample,
        mode=lambda outputs: space.join([head.mode(x) for head, x in zip(heads, outputs, strict=True)]),
        log_prob=log_prob,
        entropy=lambda outputs: _total(head.entropy(x) for head, x in zip(heads, outputs, strict=True)),
        remember=_within(network),
    )


def _within(network: Network) -> Callable[[Params, jax.Array], jax.Array] | None:
    """Return `remember` of a network whose parameters are a part of the policy's."""
    remember = network.remember
    return None if remember is None else lambda params, observation: remember(params["network"], observation)


def _total(terms: Iterable[jax.Array]) -> jax.Array:
    return functools.reduce(jnp.add, terms)
