"""Greedy evaluation on the host."""

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrl.core.errors import ConfigError
from fedrl.core.keys import Stream, keys_of
from fedrl.engines.executors.host_evaluation import greedy_returns_host
from fedrl.engines.executors.host_rollout import instance_seeds
from fedrl.environments import cartpole
from fedrl.environments.adapters import gymnasium
from fedrl.learners import mlp, ppo

GRAVITY = (5.0, 9.8, 30.0)


@pytest.fixture(scope="module")
def learner():
    environment = gymnasium("CartPole-v1", settings={"gravity": 9.8})
    return ppo(environment, network=mlp((8,)), num_envs=2)


@pytest.fixture(scope="module")
def fleet(learner):
    return learner.environment.params._replace(gravity=jnp.float32(GRAVITY))


@pytest.fixture(scope="module")
def params(learner):
    """Of three agents."""
    init = jax.jit(jax.vmap(lambda key: learner.params(learner.init(key, learner.environment.params))))
    return init(jax.random.split(jax.random.key(0), 3))


def test_each_return_is_that_of_gymnasium_itself(learner, fleet, params):
    returns = greedy_returns_host(learner, fleet, params, 3, 7, stacked=True, workers=0)
    assert returns.shape == (3, 3)
    seeds = np.reshape(instance_seeds(keys_of(7).run.tobytes(), Stream.EVALUATION, range(3), 4), (3, 4))
    act = jax.jit(lambda own, seen: learner.act(jax.random.key(0), own, seen, True))
    for agent in range(3):
        plain = gym.make("CartPole-v1")
        plain.unwrapped.gravity = GRAVITY[agent]
        own = jax.tree.map(lambda leaf, agent=agent: leaf[agent], params)
        for episode in range(3):
            seen, _ = plain.reset(seed=int(seeds[agent, episode]))
            returned, over = 0.0, False
            while not over:
                seen, reward, terminated, truncated, _ = plain.step(int(act(own, seen[:, None])[0]))
                returned, over = returned + reward, terminated or truncated
            assert returns[agent, episode] == returned


def test_returns_do_not_depend_on_how_they_are_measured(learner, fleet, params):
    shared = jax.tree.map(lambda leaf: leaf[1], params)
    few, many = (greedy_returns_host(learner, fleet, shared, episodes, 0, workers=0) for episodes in (2, 5))
    np.testing.assert_array_equal(many[:, :2], few)
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), shared)
    apart = greedy_returns_host(learner, fleet, stacked, 5, 0, stacked=True, workers=2)
    np.testing.assert_array_equal(apart, many)
    assert not np.array_equal(greedy_returns_host(learner, fleet, shared, 5, 1, workers=0), many)


def test_a_pure_environment_is_refused():
    pure = ppo(cartpole())
    with pytest.raises(ConfigError, match="no host environment"):
        greedy_returns_host(pure, jax.tree.map(lambda leaf: leaf[None], pure.environment.params), {}, 1, 0)
