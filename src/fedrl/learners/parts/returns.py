"""Returns and advantages of a trajectory. All arrays are `[time, num_envs]`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from fedrl.core.hyperparameters import Number


def advantages(
    reward: Float[Array, "time instances"],
    value: Float[Array, "time instances"],
    successor_value: Float[Array, "time instances"],
    terminated: Bool[Array, "time instances"],
    truncated: Bool[Array, "time instances"],
    gamma: Number,
    gae_lambda: Number,
) -> Float[Array, "time instances"]:
    r"""Compute generalised advantage estimates.

    delta_t = r_t + gamma V(s'_t) (1 - terminated_t) - V(s_t),   A_t = delta_t + gamma lambda (1 - done_t) A_{t+1}

    `successor_value` is the value of the next observation, before any reset: a truncated step bootstraps from it, a
    terminated one does not.

    Reference: Schulman et al. (2016), https://arxiv.org/abs/1506.02438
    """
    delta = reward + gamma * successor_value * (1.0 - terminated) - value
    going = 1.0 - (terminated | truncated)

    def back(after: jax.Array, at: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        here = at[0] + gamma * gae_lambda * at[1] * after
        return here, here

    return jax.lax.scan(back, jnp.zeros_like(value[0]), (delta, going), reverse=True, unroll=16)[1]


def discounted(
    reward: Float[Array, "time instances"], done: Bool[Array, "time instances"], gamma: Number
) -> Float[Array, "time instances"]:
    """Compute rewards to go, G_t = r_t + gamma (1 - done_t) G_{t+1}, with 0 beyond the last step."""

    def back(after: jax.Array, at: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        here = at[0] + gamma * (1.0 - at[1]) * after
        return here, here

    return jax.lax.scan(back, jnp.zeros_like(reward[0]), (reward, done), reverse=True, unroll=16)[1]


def normalised(advantage: jax.Array, weight: jax.Array | None = None) -> jax.Array:
    """Shift and scale advantages to mean 0 and standard deviation 1 over the agent's own batch, without weight 0."""
    counted = None if weight is None else weight > 0.0
    return (advantage - advantage.mean(where=counted)) / (advantage.std(where=counted) + 1e-8)
