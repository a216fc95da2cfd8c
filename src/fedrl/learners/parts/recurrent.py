"""Recurrent networks: a policy that remembers what it has observed within an episode.

    observation, memory --gru--> memory, outputs        memory --kept by the environment--> the next observation

The memory is a part of the environment's state (`fedrl.learners.parts.memory`), so a step of acting is a function of
what is observed, as for any network. Training unrolls the network over the steps of a rollout, from the memory at its
first step, and differentiates through time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from fedrl.core.checks import check_positive
from fedrl.core.component import component
from fedrl.core.environment import Box, Discrete, Space
from fedrl.core.ranges import Count
from fedrl.core.types import Key, Params
from fedrl.learners.parts.networks import Network, affine, mlp, orthogonal


@component("network", reference="Cho et al. (2014), https://arxiv.org/abs/1406.1078")
def gru(
    units: Count = 32, hidden: Sequence[Count] = (), activation: str = "tanh", output_activation: str | None = None
) -> Network:
    """Build a network with a gated recurrent unit, whose memory is zero at the beginning of an episode.

        r = sigma(W_r x + U_r h + b_r)          z = sigma(W_z x + U_z h + b_z)
        n = tanh(W_n x + r (U_n h + c) + b_n)    h' = (1 - z) n + z h

    Layers as in `mlp` follow on h'. Gradients flow through all steps of a rollout (`num_steps`), and no further: a cue
    has to lie within it. An iteration of `ppo` deals whole environment copies into minibatches, so that
    `num_minibatches` divides `num_envs`. Actor and critic have a memory each.

    Args:
        units: The entries of h.
        hidden: Width of each hidden layer behind it.
        activation: That of these layers.
        output_activation: The activation of the outputs of a policy, as in `mlp`.

    Raises:
        ConfigError: `units` is below one, or an activation is unknown.
    """
    check_positive(units=units)
    return _before(mlp(hidden, activation, output_activation), units)


def _before(head: Network, units: int) -> Network:
    def init(key: Key, space: Space, outputs: int, gain: float) -> Params:
        inputs = space.n if isinstance(space, Discrete) else math.prod(space.shape)
        for_inputs, for_memory, for_head = jax.random.split(key, 3)
        return {
            "input": _three(for_inputs, units, inputs),
            "memory": _three(for_memory, units, units),
            "layers": head.init(for_head, Box((units,)), outputs, gain),
        }

    def remember(params: Params, observation: jax.Array) -> jax.Array:
        x, memory, begins = parts_of(observation, units)
        return step(params, _drive(params, x), jnp.where(begins > 0.0, 0.0, memory))

    def apply(params: Params, observation: jax.Array) -> jax.Array:
        return head.apply(params["layers"], remember(params, observation))

    def unroll(params: Params, observation: jax.Array) -> jax.Array:
        x, memory, begins = parts_of(observation, units)
        time, copies = observation.shape[1:]
        driven = _drive(params, x.reshape(x.shape[0], -1)).reshape(-1, time, copies)

        def one(memory: jax.Array, now: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            drive, begin = now
            after = step(params, drive, jnp.where(begin > 0.0, 0.0, memory))
            return after, after

        _, path = jax.lax.scan(one, memory[:, 0], (jnp.moveaxis(driven, 1, 0), begins))
        flat = jnp.moveaxis(path, 0, 1).reshape(units, -1)
        return head.apply(params["layers"], flat).reshape(-1, time, copies)

    critic = None if head.critic is None else _before(head.critic, units)
    return Network(init, apply, critic=critic, memory=units, remember=remember, unroll=unroll)


def _three(key: Key, units: int, inputs: int) -> dict[str, jax.Array]:
    weight = jnp.concatenate([orthogonal(k, units, inputs) for k in jax.random.split(key, 3)])
    return {"weight": weight, "bias": jnp.zeros(3 * units)}


def _drive(params: Params, x: jax.Array) -> jax.Array:
    """Return what the observations contribute to the three gates, for all steps at once."""
    return affine(params["input"]["weight"], params["input"]["bias"], x)


def step(params: Params, drive: jax.Array, memory: jax.Array) -> jax.Array:
    """Return the memory after a step, `[units, num_envs]`, from the input's share of the gates."""
    recalled = affine(params["memory"]["weight"], params["memory"]["bias"], memory)
    (r, z, n), (of_r, of_z, of_n) = jnp.split(drive, 3), jnp.split(recalled, 3)
    reset, keep = jax.nn.sigmoid(r + of_r), jax.nn.sigmoid(z + of_z)
    return (1.0 - keep) * jnp.tanh(n + reset * of_n) + keep * memory


def parts_of(observation: jax.Array, units: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return what is observed, the memory before it, and whether an episode begins, `[*batch]`, of a batch."""
    return observation[: -units - 1], observation[-units - 1 : -1], observation[-1]
