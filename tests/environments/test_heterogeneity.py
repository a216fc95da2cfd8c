import jax
import numpy as np
import pytest

from fedrl.core.errors import ConfigError
from fedrl.environments import distances_from_mean, gridworld, model_of, random_mdps
from fedrl.environments.fleet import fleet
from fedrl.environments.tabular.model import TabularParams
from fedrl.environments.tabular.planning import optimal_q


def test_equal_environments_are_no_distance_apart():
    found = distances_from_mean(random_mdps(jax.random.key(1), agents=4, kappa=0.0), 0.9)
    for each in found:
        np.testing.assert_allclose(each, 0.0, atol=1e-4)


@pytest.mark.parametrize("kappa", [0.2, 0.8])
def test_distances_grow_with_kappa_as_computed_by_hand(kappa):
    model = random_mdps(jax.random.key(2), agents=3, kappa=kappa)
    found = distances_from_mean(model, 0.9)
    tables, rewards = np.asarray(model.transition, float), np.asarray(model.reward, float)
    centre = tables.mean(0)
    by_hand = [0.5 * np.abs(own - centre).sum(-1).mean() for own in tables]
    np.testing.assert_allclose(found.transition, by_hand, rtol=1e-5)
    assert found.transition[0] == pytest.approx(2 / 3 * kappa, rel=1e-5)  # the others share no state with agent 0
    mean = TabularParams(centre.astype(np.float32), rewards.mean(0).astype(np.float32), model.initial[0])
    away = [
        np.abs(optimal_q(jax.tree.map(lambda x, k=k: x[k], model), 0.9) - optimal_q(mean, 0.9)).max() for k in range(3)
    ]
    np.testing.assert_allclose(found.value, away, rtol=1e-3)
    np.testing.assert_allclose(found.reward, 0.0, atol=1e-6)


def test_rewards_count_by_themselves():
    environment = gridworld("S.G", max_steps=10)
    agents = fleet(environment, 2, {"slip": 0.0, "goal_reward": [1.0, 3.0]})
    found = distances_from_mean(model_of(environment, agents), 0.9)
    np.testing.assert_allclose(found.transition, 0.0, atol=1e-6)
    assert (found.reward > 0.0).all()


def test_a_single_environment_is_refused():
    model = jax.tree.map(lambda leaf: leaf[0], random_mdps(jax.random.key(0), agents=1))
    with pytest.raises(ConfigError, match="leading agent axis"):
        distances_from_mean(model, 0.9)
