"""Distributions against SciPy's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from fedrl.core.environment import Box, Discrete, Spaces
from fedrl.learners.parts.networks import Network, mlp
from fedrl.learners.parts.policies import categorical, gaussian, policy_for

COUNT = 40_000
LOGITS = np.array([0.5, -1.0, 2.0, 0.0], np.float32)
MEAN, LOG_STD = np.array([1.0, -2.0], np.float32), np.array([0.3, -0.7], np.float32)


def constant(params, observation):
    """A network that outputs its parameters."""
    return jnp.broadcast_to(params[:, None], (params.shape[0], observation.shape[-1]))


FIXED = Network(lambda key, space, outputs, gain: jnp.zeros(outputs), constant)


@pytest.fixture(scope="module")
def discrete():
    policy = categorical(Spaces(Box((1,)), Discrete(4)), FIXED, 4)
    outputs = policy.outputs(jnp.asarray(LOGITS), jnp.zeros((1, COUNT)))
    return policy, outputs, np.asarray(policy.sample(policy.draw(jax.random.key(0), (COUNT,)), outputs))


@pytest.fixture(scope="module")
def continuous():
    space = Box((2,))
    policy = gaussian(Spaces(Box((1,)), space), FIXED, space)
    params = {"network": jnp.asarray(MEAN), "log_std": jnp.asarray(LOG_STD)}
    outputs = policy.outputs(params, jnp.zeros((1, COUNT)))
    return policy, outputs, np.asarray(policy.sample(policy.draw(jax.random.key(0), (COUNT,)), outputs))


def test_categorical_samples_come_with_their_probabilities(discrete):
    _, _, action = discrete
    assert action.dtype == np.int32
    found = np.bincount(action, minlength=4) / COUNT
    np.testing.assert_allclose(found, special.softmax(LOGITS), atol=0.015)


def test_categorical_log_probabilities_mode_and_entropy_are_scipys(discrete):
    policy, outputs, action = discrete
    np.testing.assert_allclose(
        policy.log_prob(outputs, jnp.asarray(action)), special.log_softmax(LOGITS)[action], rtol=1e-5
    )
    np.testing.assert_allclose(policy.entropy(outputs)[0], stats.entropy(special.softmax(LOGITS)), rtol=1e-5)
    assert int(policy.mode(outputs)[0]) == 2


def test_gaussian_samples_have_its_mean_and_deviation(continuous):
    _, _, action = continuous
    assert action.shape == (2, COUNT)
    np.testing.assert_allclose(action.mean(1), MEAN, atol=0.03)
    np.testing.assert_allclose(action.std(1), np.exp(LOG_STD), rtol=0.03)
    assert abs(np.corrcoef(action)[0, 1]) < 0.03


def test_gaussian_log_probabilities_mode_and_entropy_are_scipys(continuous):
    policy, outputs, action = continuous
    normal = stats.norm(MEAN[:, None], np.exp(LOG_STD)[:, None])
    np.testing.assert_allclose(policy.log_prob(outputs, jnp.asarray(action)), normal.logpdf(action).sum(0), rtol=1e-4)
    np.testing.assert_allclose(policy.entropy(outputs)[0], normal.entropy().sum(), rtol=1e-5)
    np.testing.assert_array_equal(policy.mode(outputs)[:, 0], MEAN)


@pytest.mark.parametrize("space", [Discrete(3), Box((2,)), Box(())])
def test_the_usual_policy_fits_the_space_of_actions(space):
    policy = policy_for(Spaces(Box((4,)), space), mlp((8,)))
    outputs = policy.outputs(policy.init(jax.random.key(0)), jnp.ones((4, 7)))
    action = policy.sample(policy.draw(jax.random.key(1), (7,)), outputs)
    assert action.shape == (*space.shape, 7)
    assert action.dtype == space.dtype
    assert policy.log_prob(outputs, jnp.asarray(action)).shape == (7,)
