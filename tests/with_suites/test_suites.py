"""Environments of other libraries through the adapters, against the libraries. `make test-suites` runs these."""

import jax
import jax.numpy as jnp
import jumanji as theirs
import numpy as np
import pytest
from mpe2 import simple_spread_v3

from fedrl.core.errors import ConfigError
from fedrl.environments.adapters import brax, gymnasium, gymnasium_world, jumanji, pettingzoo, playground
from fedrl.learners.parts.rollout import Sampler, collect, start


def opened(environment, count):
    rows = jax.tree.map(lambda leaf: np.repeat(np.asarray(leaf)[None], count, 0), environment.params)
    return environment.open(rows, 0)


def test_the_mission_of_minigrid_is_left_out():
    environment = gymnasium("minigrid:MiniGrid-Empty-5x5-v0", max_steps=100)
    assert "mission" in environment.notes[0]
    assert environment.spaces.observation.shape == (4 + 7 * 7 * 3,)
    instances = opened(environment, 1)
    first = instances.reset([0])[0].copy()
    assert first[:4].sum() == 1  # the direction, one of four
    turned = instances.step(np.array([0])).observation[0]
    assert turned[:4].argmax() == (first[:4].argmax() - 1) % 4


def test_a_world_of_mpe_goes_where_pettingzoo_goes():
    instances, plain = opened(pettingzoo("mpe2.simple_spread_v3"), 1), simple_spread_v3.parallel_env()
    shown, _ = plain.reset(seed=5)
    seen = instances.reset([5])
    for time in range(1, 26):
        np.testing.assert_allclose(seen[0], np.stack(list(shown.values())), rtol=1e-6)
        np.testing.assert_allclose(instances.overview[0], plain.state(), rtol=1e-6)
        action = np.array([[time % 5, 1, 2]])
        given = dict(zip(plain.possible_agents, action[0].tolist(), strict=True))
        after, (shown, reward, *_) = instances.step(action), plain.step(given)
        np.testing.assert_allclose(after.reward[0], list(reward.values()), rtol=1e-6)
        assert (bool(after.truncated[0]), bool(after.terminated[0])) == (time == 25, False)
        seen = after.next_observation


def test_a_warehouse_is_a_world_of_tuples():
    environment = gymnasium_world("rware:rware-tiny-2ag-v2", max_steps=20)
    assert environment.players == 2
    instances = opened(environment, 1)
    assert instances.reset([0]).shape == (1, 2, *environment.spaces.observation.shape)
    assert instances.step(np.ones((1, 2), int)).reward.shape == (1, 2)


def test_a_maze_goes_where_jumanji_goes_and_is_truncated_at_its_limit():
    ours, plain = jumanji("Maze-v0"), theirs.make("Maze-v0")
    assert ours.max_steps == 100
    state, shown = plain.reset(jax.random.PRNGKey(1))
    timestep, own = ours.reset(jax.random.key(1), ours.params)
    step, inner = jax.jit(ours.step), jax.jit(plain.step)
    for time in range(1, 101):
        vector = np.concatenate(
            [np.asarray(leaf, np.float32).reshape(-1) for leaf in jax.tree.leaves(shown.observation)]
        )
        np.testing.assert_array_equal(timestep.observation, vector)
        timestep, own = step((), ours.params, own, jnp.int32(0))
        state, shown = inner(state, 0)
        assert timestep.reward == shown.reward
        assert (bool(timestep.truncated), bool(timestep.terminated)) == (time == 100, False)
    assert shown.last()
    assert shown.discount == 0.0  # jumanji itself has one flag for both


@pytest.mark.parametrize(
    ("environment", "push"),
    [
        # pushed with all its force, it would have fallen before the limit
        (lambda: brax("inverted_pendulum", 4, {"backend": "spring"}), 0.0),
        (lambda: playground("CartpoleBalance", 4), 9.0),
    ],
    ids=["brax", "playground"],
)
def test_physics_is_cut_off_at_the_limit_and_goes_on_from_another_state(environment, push):
    environment = environment()
    idle = Sampler(lambda key, batch: (), lambda noise, seen: jnp.full((1, seen.shape[-1]), push))

    @jax.jit
    def steps(key):
        return collect(key, environment, environment.params, idle, 6, start(key, environment, environment.params, 2))[0]

    seen = steps(jax.random.key(0))
    assert seen.truncated.sum(1).tolist() == [0, 0, 0, 2, 0, 0]
    assert np.isfinite(seen.next_observation).all()
    assert np.abs(np.asarray(seen.observation[1] - seen.observation[0])).max() > 1e-6
    np.testing.assert_array_equal(seen.next_observation[2], seen.observation[3])


@pytest.mark.parametrize(("build", "id", "near"), [(jumanji, "Maze-v9", "Maze"), (brax, "antt", "ant")])
def test_an_unknown_name_is_refused_with_the_nearest_one(build, id, near):
    with pytest.raises(ConfigError, match=near):
        build(id)
