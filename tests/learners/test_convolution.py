"""Convolutions against SciPy's, and what a network without a place for them refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal

from fedrl.core.environment import Box, Discrete
from fedrl.core.errors import ConfigError
from fedrl.learners import conv, per_player
from fedrl.learners.parts.networks import critic_of

SHAPE = (7, 6, 3)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (2, 2), (3, 2), (1, 1)])
def test_a_convolution_is_scipys(kernel, stride):
    network = conv((4,), kernel, stride, hidden=(), activation="tanh")
    params = network.init(jax.random.key(0), Box(SHAPE), 2, 1.0)
    params["filters"][0]["bias"] = jnp.arange(4.0) / 4
    x = np.asarray(jax.random.normal(jax.random.key(1), (*SHAPE, 5)))
    filters = np.asarray(params["filters"][0]["weight"]).reshape(4, kernel, kernel, 3)
    planes = np.stack(
        [
            [signal.correlate(x[..., n], filters[o], "valid")[::stride, ::stride, 0] + o / 4 for n in range(5)]
            for o in range(4)
        ]
    )  # [filters, copies, rows, columns]
    flat = np.tanh(planes).transpose(0, 2, 3, 1).reshape(-1, 5)
    layer = params["layers"][0]
    np.testing.assert_allclose(network.apply(params, jnp.asarray(x)), layer["weight"] @ flat, rtol=1e-4, atol=1e-5)


def test_copies_do_not_mix_and_a_plane_without_channels_has_one():
    network = conv((4, 5), hidden=(8,))
    params = network.init(jax.random.key(0), Box(SHAPE[:2]), 2, 1.0)
    batch = jax.random.normal(jax.random.key(1), (*SHAPE[:2], 5))
    whole = network.apply(params, batch)
    np.testing.assert_allclose(whole[:, 2:3], network.apply(params, batch[..., 2:3]), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(whole, network.apply(params, batch[:, :, None]), rtol=1e-5)


def test_outputs_may_be_bounded_and_players_may_have_their_own():
    bounded = conv((4,), output_activation="tanh")
    params = bounded.init(jax.random.key(0), Box(SHAPE), 2, 50.0)
    seen = jax.random.normal(jax.random.key(1), (*SHAPE, 4))
    linear = critic_of(bounded).apply(params, seen)
    assert jnp.abs(linear).max() > 1.0
    np.testing.assert_allclose(bounded.apply(params, seen), jnp.tanh(linear), rtol=1e-6)
    own = per_player(bounded, 2)
    assert own.apply(own.init(jax.random.key(0), Box(SHAPE), 2, 1.0), seen).shape == (2, 4)


@pytest.mark.parametrize(
    ("space", "network", "words"),
    [
        (Box((4,)), conv, "needs planes"),
        (Discrete(4), conv, "needs planes"),
        (Box((4, 4, 1)), lambda: conv((4, 4)), "does not fit"),
        (Box((4, 4, 1)), lambda: conv(()), "nothing is convolved"),
        (Box((4, 4, 1)), lambda: conv(activation="rellu"), "'relu'"),
    ],
)
def test_what_has_no_planes_is_refused(space, network, words):
    with pytest.raises(ConfigError, match=words):
        network().init(jax.random.key(0), space, 2, 1.0)
