"""REINFORCE: its gradient is the exact one in the mean, whatever the baseline."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrl.core.errors import ConfigError
from fedrl.core.learner import Trajectory, differentiate, iterate
from fedrl.core.types import LocalContext
from fedrl.learners import network, reinforce, sgd
from fedrl.learners.algorithms.reinforce import others
from tests.support.corridor import CorridorParams, corridor

HORIZON, DISCOUNT, LOGIT = 4, 0.8, 0.4
NO_HINT = LocalContext((), ())
CONSTANT = network(lambda key, space, outputs, gain: jnp.zeros(outputs), lambda params, observation: params)
"""A network without inputs: two logits for the actor, one value for the critic."""


def objective(logits, gamma):
    """The exact return of a walk through a corridor of length 2: over all sequences of actions."""
    chance = jax.nn.softmax(logits)
    total = 0.0
    for code in range(2**HORIZON):
        actions = [(code >> t) & 1 for t in range(HORIZON)]
        at, paid, probability = 0, 0.0, 1.0
        for t, action in enumerate(actions):
            probability = probability * chance[action]
            if at < 2:
                at += action
                paid += gamma**t * at
        total = total + probability * paid
    return total


def gradient_without_discounting_states(logits):
    """The gradient of `objective` with the factor gamma^t of each step's term left out, by the same sum."""
    chance = jax.nn.softmax(logits)
    total = jnp.zeros(2)
    for code in range(2**HORIZON):
        actions = [(code >> t) & 1 for t in range(HORIZON)]
        at, rewards, probability = 0, [], 1.0
        for action in actions:
            probability = probability * chance[action]
            if at < 2:
                at += action
                rewards.append(at)
        for t in range(len(rewards)):
            to_go = sum(DISCOUNT ** (s - t) * rewards[s] for s in range(t, len(rewards)))
            total = total + probability * to_go * (jnp.eye(2)[actions[t]] - chance)
    return total


def sampled_gradients(baseline, gamma, count=4000):
    """So many draws of the gradient at LOGIT, `[draws, actions]`; of what is climbed, not of the loss."""
    env = corridor(length=2, max_steps=HORIZON)
    learner = reinforce(env, network=CONSTANT, baseline=baseline, episodes_per_step=4, gamma=gamma)

    def one(key):
        state = learner.init(key, env.params)
        params = dict(state.params, actor=jnp.array([LOGIT, 0.0]))
        if baseline == "value":  # nothing beyond a cut: only its use as a baseline is tested here
            params["critic"] = jnp.zeros(1)
        return -differentiate(learner, key, state._replace(params=params), NO_HINT)[0]["actor"]

    return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), count)), np.float64)


def deviation(found, exact):
    """How many standard errors the mean lies off, at most."""
    return (np.abs(found.mean(0) - exact) / (found.std(0) / np.sqrt(len(found)))).max()


@pytest.mark.parametrize("baseline", ["none", "mean", "value"])
def test_the_mean_gradient_is_the_exact_one(baseline):
    exact = gradient_without_discounting_states(jnp.array([LOGIT, 0.0]))
    found = sampled_gradients(baseline, DISCOUNT)
    assert deviation(found, exact) < 4
    assert (np.abs(exact) > 20 * found.std(0) / np.sqrt(len(found))).all()


def test_rewards_to_go_climb_the_return_itself_without_discounting_and_not_with_it():
    slope, logits = jax.grad(objective), jnp.array([LOGIT, 0.0])
    assert deviation(sampled_gradients("none", 1.0), slope(logits, 1.0)) < 4
    assert deviation(sampled_gradients("none", DISCOUNT), slope(logits, DISCOUNT)) > 10  # gamma^t is left out


def test_the_mean_baseline_is_that_of_the_other_episodes_under_way():
    going = jnp.array([[1.0, 3.0, 8.0], [2.0, 5.0, 0.0], [4.0, 0.0, 0.0]])
    playing = jnp.array([[True, True, True], [True, True, False], [True, False, False]])
    found = np.where(playing, others(going, playing), 0.0)
    np.testing.assert_allclose(found, [[5.5, 4.5, 2.0], [5.0, 2.0, 0.0], [0.0, 0.0, 0.0]])


def test_one_iteration_is_one_step_along_the_gradient():
    env = corridor()
    learner = reinforce(env, network=CONSTANT, optimizer=sgd(0.5), episodes_per_step=3)
    key, state = jax.random.key(0), learner.init(jax.random.key(1), env.params)
    slope, _, _ = differentiate(learner, key, state, NO_HINT)
    after, metrics = iterate(learner, key, state, NO_HINT)
    np.testing.assert_allclose(after.params["actor"], state.params["actor"] - 0.5 * slope["actor"], rtol=1e-6)
    assert jnp.abs(slope["actor"]).max() > 0
    assert metrics["episodes"] == 3.0
    assert learner.samples == 3 * env.max_steps


def test_agents_of_one_learner_may_start_anywhere():
    env = corridor()
    learner = reinforce(env, network=CONSTANT, episodes_per_step=2, horizon=1)
    state = learner.init(jax.random.key(1), CorridorParams(jnp.array([1.0, 2.0])))
    _, metrics = iterate(learner, jax.random.key(0), state, NO_HINT)
    assert 3.0 <= metrics["episode_return"] <= 5.0


@pytest.mark.parametrize("baseline", ["none", "mean", "value"])
def test_of_a_trajectory_with_several_episodes_the_first_of_each_instance_counts(baseline):
    """The sum over steps in plain NumPy; rewards, actions and ends that come after the first end are noise."""
    rng, time, instances, logits, level = np.random.default_rng(0), 5, 3, np.array([LOGIT, 0.0]), 0.3
    reward, action = rng.normal(size=(time, instances)), rng.integers(0, 2, (time, instances))
    ends = {0: (1, "terminated"), 1: (3, "truncated"), 2: (None, "")}
    done = {"terminated": np.zeros((time, instances), bool), "truncated": np.zeros((time, instances), bool)}
    for i, (at, how) in ends.items():
        if at is not None:
            done[how][at, i] = done["terminated"][time - 1, i] = True
    lengths = [time if at is None else at + 1 for at, _ in ends.values()]
    to_go = np.zeros((time, instances))
    for i, length in enumerate(lengths):
        beyond = level if baseline == "value" and ends[i][1] != "terminated" else 0.0
        for t in reversed(range(length)):
            beyond = to_go[t, i] = reward[t, i] + DISCOUNT * beyond
    slope, chance = np.zeros(2), np.exp(logits) / np.exp(logits).sum()
    for i, length in enumerate(lengths):
        for t in range(length):
            others_there = [to_go[t, j] for j in range(instances) if j != i and t < lengths[j]]
            mean = np.mean(others_there) if others_there else 0.0
            gain = to_go[t, i] - {"none": 0.0, "mean": mean, "value": level}[baseline]
            slope += gain * (np.eye(2)[action[t, i]] - chance) / instances
    env = corridor(length=2, max_steps=time)
    learner = reinforce(env, network=CONSTANT, baseline=baseline, episodes_per_step=instances, gamma=DISCOUNT)
    state = learner.init(jax.random.key(0), env.params)
    params = dict(state.params, actor=jnp.asarray(logits, jnp.float32))
    if baseline == "value":
        params["critic"] = jnp.full(1, level)
    shown = jnp.zeros((time, *env.spaces.observation.shape, instances), env.spaces.observation.dtype)
    seen = Trajectory(shown, jnp.asarray(action), jnp.float32(reward), **done, next_observation=shown)
    found, _ = learner.gradient(jax.random.key(0), state._replace(params=params), seen, NO_HINT)
    np.testing.assert_allclose(-found["actor"], slope, rtol=1e-5)
    if baseline == "value":
        errors = [level - to_go[t, i] for i, length in enumerate(lengths) for t in range(length)]
        np.testing.assert_allclose(found["critic"], 2 * 0.5 * np.mean(errors), rtol=1e-5)
    assert np.abs(slope).min() > 0.01


def test_a_misspelt_baseline_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="'mean'"):
        reinforce(corridor(), baseline="men")
