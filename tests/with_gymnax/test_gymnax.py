"""gymnax through the adapter, against our own environments. `make test-gymnax` runs these, with an older Gymnasium."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrl.core.errors import ConfigError
from fedrl.environments.adapters import gymnax
from fedrl.environments.classic.cartpole import cartpole
from fedrl.learners.parts.rollout import Sampler, collect, start


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
