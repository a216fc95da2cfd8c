"""Rollouts: what they record at and after the end of an episode."""

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core.environment import Box, Environment, Spaces, Timestep, first
from fedrl.learners.parts.rollout import Sampler, collect, deal, episodes, start
from tests.support.corridor import CorridorParams, corridor
from tests.support.fresh_noise import check_fresh


def always(action):
    """A policy that does the same thing, or of each instance its own."""
    return Sampler(
        lambda key, batch: jnp.zeros(batch), lambda noise, seen: jnp.broadcast_to(jnp.int32(action), noise.shape)
    )


def test_collect_keeps_the_last_observation_and_starts_anew():
    env, key = corridor(), jax.random.key(0)
    position = start(key, env, env.params, 2)
    seen, position, counts = collect(key, env, env.params, always([1, 0]), 6, position)
    np.testing.assert_array_equal(seen.observation[:, 0, 0], [0, 1, 2, 0, 1, 2])
    np.testing.assert_array_equal(seen.next_observation[:, 0, 0], [1, 2, 3, 1, 2, 3])
    np.testing.assert_array_equal(seen.terminated[:, 0], [False, False, True] * 2)
    np.testing.assert_array_equal(seen.truncated[:, 1], [False] * 4 + [True, False])
    np.testing.assert_array_equal(seen.reward[:, 0], [1, 2, 3] * 2)
    assert counts == {"episodes": 3.0, "episode_return": 12.0}
    np.testing.assert_array_equal(position.length, [0, 1])


def test_every_step_of_every_instance_has_noise_of_its_own_for_actions_steps_and_resets():
    def reset(noise, params):
        del params
        return first(noise[None]), jnp.float32(0.0)

    def step(noise, params, state, action):
        del params
        return Timestep(noise[None], jnp.float32(0.0), jnp.bool_(True), jnp.bool_(False)), state

    draw = jax.random.normal
    env = Environment((), Spaces(Box((1,)), Box(())), draw, draw, reset, step, 1)  # it ends at every step
    echo = Sampler(draw, lambda noise, seen: noise)
    instances, steps = 5, 60

    def both(key):
        key, start_key = jax.random.split(key)
        seen, position, _ = collect(key, env, (), echo, steps, start(start_key, env, (), instances))
        return position.observation, seen, episodes(key, env, (), echo, instances, steps)[0].trajectory

    last, seen, whole = jax.jit(both)(jax.random.key(7))
    opened = np.concatenate([seen.observation[:, 0], last])  # by `start`, then by each reset
    check_fresh(np.concatenate([opened[1:], seen.action, seen.next_observation[:, 0]], axis=1))
    check_fresh(np.concatenate([opened[:-1], seen.action], axis=1))
    check_fresh(np.concatenate([whole.action, whole.next_observation[:, 0]], axis=1))


def test_collect_goes_on_where_it_stood():
    env, key = corridor(), jax.random.key(0)
    position = start(key, env, env.params, 1)
    _, position, first = collect(key, env, env.params, always(1), 2, position)
    seen, position, second = collect(key, env, env.params, always(1), 1, position)
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
