"""Rollouts: what they record at and after the end of an episode."""

import jax
import jax.numpy as jnp
import numpy as np
from corridor import CorridorParams, corridor

from fedrl.learners.rollout import Sampler, collect, deal, episodes, start


def always(action):
    """A policy that does the same thing, or of each instance its own."""
    return Sampler(
        lambda key, batch: jnp.zeros(batch), lambda noise, seen: jnp.broadcast_to(jnp.int32(action), noise.shape)
    )


def test_collect_keeps_the_last_observation_and_starts_anew():
    env, key = corridor(), jax.random.key(0)
    position = start(key, env, env.params, 2)
    position, seen, counts = collect(key, env, env.params, always([1, 0]), position, 6)
    np.testing.assert_array_equal(seen.observation[:, 0, 0], [0, 1, 2, 0, 1, 2])
    np.testing.assert_array_equal(seen.successor[:, 0, 0], [1, 2, 3, 1, 2, 3])
    np.testing.assert_array_equal(seen.terminated[:, 0], [False, False, True] * 2)
    np.testing.assert_array_equal(seen.truncated[:, 1], [False] * 4 + [True, False])
    np.testing.assert_array_equal(seen.reward[:, 0], [1, 2, 3] * 2)
    assert counts == {"episodes": 3.0, "episode_return": 12.0}
    np.testing.assert_array_equal(position.length, [0, 1])


def test_collect_goes_on_where_it_stood():
    env, key = corridor(), jax.random.key(0)
    position = start(key, env, env.params, 1)
    position, _, first = collect(key, env, env.params, always(1), position, 2)
    position, seen, second = collect(key, env, env.params, always(1), position, 1)
    assert first["episodes"] == 0
    assert second == {"episodes": 1.0, "episode_return": 6.0}
    assert seen.observation.item() == 2.0


def test_episodes_end_once_and_stand_still_afterwards():
    env = corridor()
    played, counts = episodes(jax.random.key(0), env, env.params, always([1, 0]), 2, 5)
    np.testing.assert_array_equal(played.playing.T, [[True] * 3 + [False] * 2, [True] * 5])
    np.testing.assert_array_equal(played.trajectory.reward.T, [[1, 2, 3, 0, 0], [0] * 5])
    np.testing.assert_array_equal(played.trajectory.observation[:, 0].T, [[0, 1, 2, 3, 3], [0] * 5])
    assert played.trajectory.terminated.sum() == 1
    np.testing.assert_array_equal(played.final[0], [3, 0])
    assert counts == {"episodes": 2.0, "episode_return": 6.0}


def test_a_stack_of_settings_is_dealt_out_in_turn():
    env = corridor()
    stack = CorridorParams(jnp.array([0.0, 1.0]))
    params, axis = deal(env, stack, 3)
    assert axis == 0
    np.testing.assert_array_equal(params.start, [0, 1, 0])
    assert deal(env, env.params, 3)[1] is None
    played, _ = episodes(jax.random.key(0), env, stack, always(1), 3, 3)
    np.testing.assert_array_equal(played.playing.sum(0), [3, 2, 3])
