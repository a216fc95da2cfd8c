"""gymnax through the adapter, against our own environments. `make test-gymnax` runs these, with an older Gymnasium."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax import make
from gymnax.environments import spaces

from fedrl.core.errors import ConfigError
from fedrl.environments.adapters import gymnax
from fedrl.environments.classic.cartpole import cartpole
from fedrl.learners.parts.rollout import Sampler, collect, start
from fedrl.runs.spaces import gymnasium_spaces


def test_cartpole_goes_where_ours_goes():
    theirs, ours = gymnax("CartPole-v1"), cartpole()
    timestep, state = theirs.reset(jax.random.key(0), theirs.params)
    own = ours.reset(timestep.observation / 0.1 + 0.5, ours.params)[1]
    step, own_step = jax.jit(theirs.step), jax.jit(ours.step)
    for action in (1, 0, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1):
        timestep, state = step(jax.random.key(1), theirs.params, state, jnp.int32(action))
        expected, own = own_step((), ours.params, own, jnp.int32(action))
        np.testing.assert_allclose(timestep.observation, expected.observation, rtol=1e-4, atol=1e-5)
        assert (timestep.reward, timestep.terminated, timestep.truncated) == expected[1:4]
        if timestep.terminated:
            break
    assert timestep.terminated


def test_the_final_observation_survives_and_limits_truncate():
    environment = gymnax("MountainCar-v0", max_steps=5)
    assert environment.max_steps == 5
    idle = Sampler(lambda key, batch: (), lambda noise, seen: jnp.zeros(seen.shape[-1:], jnp.int32))

    @jax.jit
    def twelve_steps(key):
        position = start(key, environment, environment.params, 3)
        return collect(key, environment, environment.params, idle, 12, position)[::2]

    seen, counts = twelve_steps(jax.random.key(0))
    assert seen.truncated.sum(axis=1).tolist() == [0, 0, 0, 0, 3, 0, 0, 0, 0, 3, 0, 0]
    assert not seen.terminated.any()
    assert counts["episode_return"] == -30.0
    np.testing.assert_array_equal(seen.next_observation[3], seen.observation[4])
    assert np.abs(np.asarray(seen.next_observation[4] - seen.observation[5])).max() > 1e-4
    assert (
        np.abs(np.asarray(seen.next_observation[4] - seen.next_observation[3])).max() < 0.02
    )  # one step apart, no reset between


def test_every_number_among_the_parameters_may_differ_between_agents():
    environment = gymnax("Pendulum-v1")
    assert {"g", "m", "l", "dt"} <= set(environment.params._fields)
    assert "max_steps_in_episode" not in environment.params._fields
    fleet = environment.params._replace(g=jnp.float32([0.0, 10.0]))
    axes = jax.tree.map(jnp.ndim, fleet)
    axes = jax.tree.map(lambda dims: 0 if dims else None, axes)

    def one(params):
        _, state = environment.reset(jax.random.key(3), params)
        return environment.step(jax.random.key(4), params, state, jnp.zeros(1))[0].observation

    weightless, heavy = jax.vmap(one, (axes,))(fleet)
    assert np.abs(np.asarray(weightless - heavy)).max() > 0.01


def test_states_keep_their_types_from_step_to_step():
    environment = gymnax("Breakout-MinAtar")
    assert environment.spaces.observation.shape == (10, 10, 4)

    def types(key):
        first, state = environment.reset(key, environment.params)
        timestep, after = environment.step(key, environment.params, state, jnp.int32(0))
        return (first, state), (timestep, after)

    before, after = jax.eval_shape(types, jax.random.key(0))
    assert jax.tree.leaves(before) == jax.tree.leaves(after)  # shape, dtype and weakness


def test_an_unknown_environment_is_refused_with_the_nearest_one():
    with pytest.raises(ConfigError, match=r"Did you mean 'CartPole-v1'\?"):
        gymnax("CartPole-v2")


def test_each_entry_keeps_its_own_bounds():
    seen, done = gymnasium_spaces(gymnax("Pendulum-v1"))
    np.testing.assert_array_equal(seen.high, np.float32([1.0, 1.0, 8.0]))
    np.testing.assert_array_equal(done.low, np.float32([-2.0]))


def test_each_entry_of_an_action_is_clipped_to_its_own_bounds(monkeypatch):
    high = np.float32([1.0, 0.1])
    kind = type(make("Reacher-misc")[0])
    monkeypatch.setattr(kind, "action_space", lambda self, params=None: spaces.Box(-high, high, (2,), jnp.float32))
    environment = gymnax("Reacher-misc")
    np.testing.assert_array_equal(environment.gymnasium_spaces[1].high, high)
    _, state = environment.reset(jax.random.key(0), environment.params)

    def reached(action):
        return environment.step(jax.random.key(1), environment.params, state, jnp.asarray(action))[0].observation

    np.testing.assert_array_equal(reached(high), reached(high + 5.0))
    assert np.abs(np.asarray(reached(high) - reached(np.float32([1.0, 0.0])))).max() > 1e-6
