"""Distributions against SciPy's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from fedrl.core.environment import Box, Discrete, Product, Spaces
from fedrl.core.errors import ConfigError
from fedrl.learners.parts.networks import Network, mlp
from fedrl.learners.parts.policies import categorical, gaussian, policy_for, product

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


@pytest.mark.parametrize("space", [Discrete(3), Box((2,)), Box(()), Product((Discrete(2), Discrete(3)))])
def test_the_usual_policy_fits_the_space_of_actions(space):
    policy = policy_for(Spaces(Box((4,)), space), mlp((8,)))
    outputs = policy.outputs(policy.init(jax.random.key(0)), jnp.ones((4, 7)))
    action = policy.sample(policy.draw(jax.random.key(1), (7,)), outputs)
    assert action.shape == (*space.shape, 7)
    assert action.dtype == space.dtype
    assert policy.log_prob(outputs, jnp.asarray(action)).shape == (7,)


MIXED = Product((Discrete(4), Box((2,)), Discrete(3)))
THIRD = np.array([0.0, 1.5, -0.5], np.float32)


@pytest.fixture(scope="module")
def several():
    """A choice of four, two numbers and a choice of three, at once."""
    policy = product(Spaces(Box((1,)), MIXED), FIXED, MIXED)
    heads = ((), {"network": (), "log_std": jnp.asarray(LOG_STD)}, ())
    params = {"network": jnp.concatenate([LOGITS, MEAN, THIRD]), "heads": heads}
    assert jax.tree.structure(policy.init(jax.random.key(0))) == jax.tree.structure(params)
    outputs = policy.outputs(params, jnp.zeros((1, COUNT)))
    return policy, outputs, np.asarray(policy.sample(policy.draw(jax.random.key(0), (COUNT,)), outputs))


def test_choices_at_once_are_independent_and_have_their_own_distributions(several):
    _, _, action = several
    assert action.shape == (4, COUNT)
    assert action.dtype == np.float32
    first, last = action[0].astype(int), action[3].astype(int)
    found = np.zeros((4, 3))
    np.add.at(found, (first, last), 1.0 / COUNT)
    np.testing.assert_allclose(found, np.outer(special.softmax(LOGITS), special.softmax(THIRD)), atol=0.015)
    np.testing.assert_allclose(action[1:3].mean(1), MEAN, atol=0.03)
    np.testing.assert_allclose(action[1:3].std(1), np.exp(LOG_STD), rtol=0.03)
    assert np.abs(np.corrcoef(action) - np.eye(4)).max() < 0.03


def test_the_log_probability_and_entropy_of_choices_at_once_are_sums_of_scipys(several):
    policy, outputs, action = several
    normal = stats.norm(MEAN[:, None], np.exp(LOG_STD)[:, None])
    expected = special.log_softmax(LOGITS)[action[0].astype(int)] + special.log_softmax(THIRD)[action[3].astype(int)]
    expected += normal.logpdf(action[1:3]).sum(0)
    np.testing.assert_allclose(policy.log_prob(outputs, jnp.asarray(action)), expected, rtol=1e-4, atol=1e-5)
    entropy = sum(stats.entropy(special.softmax(logits)) for logits in (LOGITS, THIRD)) + normal.entropy().sum()
    np.testing.assert_allclose(policy.entropy(outputs)[0], entropy, rtol=1e-5)
    np.testing.assert_array_equal(policy.mode(outputs)[:, 0], [2, *MEAN, 1])


def test_the_divergence_of_choices_at_once_is_the_sum_of_those_of_each(several):
    """KL(p || q) = E_p[log p - log q], with the closed forms of both kinds."""
    policy, outputs, action = several
    others = np.array([0.0, 0.0, 1.0, 0.5, 0.5, -1.0, 0.5, 0.5, 0.5], np.float32)
    deviations = jnp.asarray([0.1, -0.2])
    params = {"network": jnp.asarray(others), "heads": ((), {"network": (), "log_std": deviations}, ())}
    theirs = policy.outputs(params, jnp.zeros((1, COUNT)))
    taken = jnp.asarray(action)
    found = policy.log_prob(outputs, taken) - policy.log_prob(theirs, taken)
    expected = 0.0
    for logits, other in ((LOGITS, others[:4]), (THIRD, others[6:])):
        expected += stats.entropy(special.softmax(logits), special.softmax(other))
    scale, other = np.exp(LOG_STD), np.exp(np.asarray(deviations))
    apart = (scale**2 + (MEAN - others[4:6]) ** 2) / (2.0 * other**2)
    expected += (np.log(other / scale) + apart - 0.5).sum()
    assert float(found.mean()) == pytest.approx(expected, rel=0.03)


def test_a_product_of_one_discrete_choice_is_that_choice():
    space = Product((Discrete(4),))
    one, alone = product(Spaces(Box((1,)), space), FIXED, space), categorical(Spaces(Box((1,)), Discrete(4)), FIXED, 4)
    seen = jnp.zeros((1, 6))
    ours = one.outputs({"network": jnp.asarray(LOGITS), "heads": ((),)}, seen)
    theirs = alone.outputs(jnp.asarray(LOGITS), seen)
    action = jnp.array([0, 1, 2, 3, 2, 1], jnp.int32)
    np.testing.assert_array_equal(one.log_prob(ours, action[None]), alone.log_prob(theirs, action))
    assert one.mode(ours).dtype == jnp.int32
    np.testing.assert_array_equal(one.mode(ours), alone.mode(theirs)[None])


def test_splitting_and_joining_are_inverse_and_whole_numbers_stay_whole():
    for space in (MIXED, Product((Discrete(2), Discrete(5))), Product((Box((2, 3)), Discrete(2**24), Box(())))):
        batch = np.random.default_rng(0).integers(0, 2, (*space.shape, 7)).astype(space.dtype)
        np.testing.assert_array_equal(space.join(space.split(jnp.asarray(batch))), batch)
    last = Product((Box((1,)), Discrete(2**24)))
    assert int(last.split(jnp.array([0.0, 2.0**24 - 1.0]))[1]) == 2**24 - 1


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ((), "no parts"),
        ((Box((0,)),), "at least one entry"),
        ((Discrete(2**24 + 1),), "16777216"),
    ],
)
def test_a_product_without_a_meaning_is_refused(parts, words):
    with pytest.raises(ConfigError, match=words):
        Product(parts)
