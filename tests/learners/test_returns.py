"""Returns and advantages against loops that are too plain to be wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrl.learners.parts.returns import advantages, discounted, normalised

TIME, INSTANCES = 37, 5


@pytest.fixture(scope="module")
def path():
    rng = np.random.default_rng(0)
    real = {name: rng.normal(size=(TIME, INSTANCES)).astype(np.float32) for name in ("reward", "value", "after")}
    terminated = rng.random((TIME, INSTANCES)) < 0.15
    truncated = (rng.random((TIME, INSTANCES)) < 0.15) & ~terminated
    return real["reward"], real["value"], real["after"], terminated, truncated


def by_definition(reward, value, after, terminated, truncated, gamma, gae_lambda):
    """Each advantage as the weighted sum of the temporal differences up to the end of its episode."""
    found = np.zeros_like(reward)
    for i in range(INSTANCES):
        for t in range(TIME):
            weight = 1.0
            for s in range(t, TIME):
                beyond = 0.0 if terminated[s, i] else after[s, i]
                found[t, i] += weight * (reward[s, i] + gamma * beyond - value[s, i])
                weight *= gamma * gae_lambda
                if terminated[s, i] or truncated[s, i]:
                    break
    return found


@pytest.mark.parametrize(("gamma", "gae_lambda"), [(0.99, 0.95), (0.9, 0.0), (1.0, 1.0)])
def test_advantages_are_sums_of_temporal_differences_up_to_the_episodes_end(path, gamma, gae_lambda):
    found = jax.jit(advantages, static_argnums=(5, 6))(*map(jnp.asarray, path), gamma, gae_lambda)
    np.testing.assert_allclose(found, by_definition(*path, gamma, gae_lambda), rtol=1e-4, atol=1e-5)


def test_a_truncated_step_bootstraps_and_a_terminated_one_does_not():
    one, yes, no = jnp.ones((1, 1)), jnp.ones((1, 1), bool), jnp.zeros((1, 1), bool)
    assert advantages(one, 0 * one, 10 * one, no, yes, 0.5, 0.9).item() == 6.0
    assert advantages(one, 0 * one, 10 * one, yes, no, 0.5, 0.9).item() == 1.0


def test_discounted_rewards_stop_at_the_episodes_end(path):
    reward, _, _, terminated, truncated = path
    done = terminated | truncated
    expected, after = np.zeros_like(reward), np.zeros(INSTANCES)
    for t in reversed(range(TIME)):
        after = reward[t] + 0.9 * np.where(done[t], 0.0, after)
        expected[t] = after
    np.testing.assert_allclose(discounted(jnp.asarray(reward), jnp.asarray(done), 0.9), expected, rtol=1e-4, atol=1e-5)


def test_normalised_advantages_have_mean_zero_and_deviation_one():
    found = normalised(jnp.array([1.0, 2.0, 6.0]))
    assert abs(found.mean()) < 1e-6
    assert abs(found.std() - 1.0) < 1e-5
    assert not np.isnan(normalised(jnp.zeros(3))).any()
