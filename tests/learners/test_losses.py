"""Objectives against numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.learners.parts.losses import clipped_surrogate, policy_gradient, squared_error


def test_the_clipped_surrogate_stops_paying_beyond_the_clip():
    ratio, advantage = jnp.array([1.5, 0.5, 1.5, 0.5]), jnp.array([1.0, 1.0, -1.0, -1.0])
    np.testing.assert_allclose(clipped_surrogate(ratio, advantage, 0.2), (1.2 + 0.5 - 1.5 - 0.8) / 4, rtol=1e-6)
    slope = jax.grad(lambda r: clipped_surrogate(r, advantage, 0.2))(ratio)
    np.testing.assert_allclose(slope, [0.0, 0.25, -0.25, 0.0])


def test_advantages_and_targets_are_constants():
    x = jnp.array([1.0, 2.0])
    np.testing.assert_allclose(jax.grad(lambda x: policy_gradient(x, x))(x), [0.5, 1.0])
    np.testing.assert_allclose(jax.grad(lambda x: squared_error(x, 2.0 * x))(x), [-1.0, -2.0])
