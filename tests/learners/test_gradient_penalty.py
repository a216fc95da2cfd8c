"""A penalty for long gradients in the reward: what is subtracted, and what the learner then learns from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrl.aggregators import mean
from fedrl.core.errors import ConfigError
from fedrl.core.learner import iterate
from fedrl.core.types import LocalContext
from fedrl.engines.simulate import simulate
from fedrl.environments import cartpole, pendulum, random_mdp
from fedrl.federation.federate import federate
from fedrl.learners import a2c, gradient_penalty, mlp, normalize, q_table, reinforce, sgd
from fedrl.learners.wrappers.gradient_penalty import squared_scores

OPTIONS = {"network": mlp(()), "optimizer": sgd(0.1)}
LEARNERS = {
    "a2c": lambda: a2c(cartpole(), num_envs=2, num_steps=6, **OPTIONS),
    "reinforce": lambda: reinforce(cartpole(), episodes_per_step=3, horizon=12, **OPTIONS),
}


def collected(learner):
    state = learner.init(jax.random.key(0), learner.environment.params)
    seen, state, _ = learner.collect(jax.random.key(1), state)
    params = learner.params(state)
    return seen, state, LocalContext(params, jax.tree.map(jnp.zeros_like, params))


def test_the_score_of_a_linear_softmax_policy_has_the_norm_of_its_formula():
    """grad log pi(a | x) is (e_a - p) x' for the weights and e_a - p for the biases."""
    learner = LEARNERS["a2c"]()
    seen, state, context = collected(learner)
    layer = context.params["actor"][0]
    x, a = np.asarray(seen.observation, float), np.asarray(seen.action)
    logits = np.einsum("ai,tin->tan", np.asarray(layer["weight"], float), x) + np.asarray(layer["bias"])[:, None]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    error = (np.arange(2)[:, None] == a[:, None, :]) - p
    expected = (error**2).sum(1) * ((x**2).sum(1) + 1.0)
    found = squared_scores(learner, learner.params(state), seen.observation, seen.action)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert expected.std() > 0.1 * expected.mean()  # the steps differ, so a mean over them would not do


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("what", ["learn", "gradient"])
def test_the_learner_learns_from_rewards_less_the_penalty_and_from_nothing_else(name, what):
    plain = LEARNERS[name]()
    penal = gradient_penalty(plain, strength=0.3)
    seen, state, context = collected(plain)
    scores = squared_scores(plain, plain.params(state), seen.observation, seen.action)
    lower = seen._replace(reward=seen.reward - 0.3 * scores)
    key = jax.random.key(2)
    found, measured = getattr(penal, what)(key, state, seen, context)
    expected, _ = getattr(plain, what)(key, state, lower, context)
    without, _ = getattr(plain, what)(key, state, seen, context)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), found, expected)
    assert measured["squared_score"] == pytest.approx(float(scores.mean()), rel=1e-5)
    changes = [
        np.abs(np.asarray(x) - np.asarray(y)).max()
        for x, y in zip(*map(jax.tree.leaves, (found, without)), strict=True)
    ]
    assert max(changes) > 1e-4


def test_a_penalty_of_zero_changes_nothing_and_returns_are_counted_without_it():
    plain = LEARNERS["a2c"]()
    states, metrics = [], []
    for learner in (plain, gradient_penalty(plain, strength=0.0), gradient_penalty(plain, strength=5.0)):
        _, state, context = collected(learner)
        state, found = iterate(learner, jax.random.key(3), state, context)
        states.append(learner.params(state))
        metrics.append(found)
    jax.tree.map(np.testing.assert_array_equal, states[0], states[1])
    assert metrics[2]["episode_return"] == metrics[0]["episode_return"]


@pytest.mark.parametrize(
    ("learner", "part"),
    [
        (lambda: q_table(random_mdp(), num_envs=2, num_steps=4), "has no gradient"),
        (lambda: q_table(random_mdp(), sampling="expected"), "takes no trajectory"),
        (lambda: a2c(pendulum(), num_envs=2, num_steps=4), "no probabilities"),
    ],
)
def test_learners_without_a_gradient_of_their_probabilities_are_refused(learner, part):
    with pytest.raises(ConfigError, match=part):
        gradient_penalty(learner())


def test_it_goes_around_other_wrappers():
    learner = gradient_penalty(normalize(LEARNERS["a2c"]()), strength=0.1)
    _, state, context = collected(learner)
    _, metrics = iterate(learner, jax.random.key(3), state, context)
    assert np.isfinite(metrics["squared_score"])


def test_a_simulation_trains_with_it():
    """Its programs build the learner again, with traced numbers."""
    learner = gradient_penalty(a2c(random_mdp(), num_envs=2, num_steps=4, **OPTIONS), strength=0.1)
    fleet = jax.tree.map(lambda x: jnp.stack([x, x]), learner.environment.params)
    simulation = simulate(federate(learner, mean()), fleet, devices=jax.devices()[:1])
    _, seen = simulation.round(simulation.init(0))
    assert (seen.metrics["squared_score"] > 0.0).all()
