"""Objectives of actors and critics over one batch of samples."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fedrl.core.hyperparameters import Number


def clipped_surrogate(ratio: Float[Array, " samples"], advantage: Float[Array, " samples"], clip: Number) -> jax.Array:
    """Return PPO's objective, to be maximised: the mean of min(rho A, clip(rho, 1 - eps, 1 + eps) A).

    Reference: Schulman et al. (2017), https://arxiv.org/abs/1707.06347
    """
    return jnp.minimum(ratio * advantage, jnp.clip(ratio, 1.0 - clip, 1.0 + clip) * advantage).mean()


def policy_gradient(log_prob: Float[Array, " samples"], advantage: Float[Array, " samples"]) -> jax.Array:
    """Return the objective of the score function, to be maximised: the mean of log pi(a|s) A, with A constant.

    Reference: Williams (1992), https://doi.org/10.1007/BF00992696
    """
    return (log_prob * jax.lax.stop_gradient(advantage)).mean()


def squared_error(value: Float[Array, "*samples"], target: Float[Array, "*samples"]) -> jax.Array:
    """Return the critic's loss, to be minimised: the mean of (V(s) - target)^2, with the target constant."""
    return jnp.square(value - jax.lax.stop_gradient(target)).mean()
