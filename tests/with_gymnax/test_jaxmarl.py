"""JaxMARL through the adapter, against JaxMARL itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxmarl import make

from fedrl.core.errors import ConfigError
from fedrl.environments.adapters import jaxmarl
from fedrl.learners.parts.rollout import Sampler, collect, start


def test_a_world_goes_where_theirs_goes():
    ours, theirs = jaxmarl("MPE_simple_spread_v3"), make("MPE_simple_spread_v3")
    timestep, state = ours.reset(jax.random.key(3), ours.params)
    shown, inner = theirs.reset(jax.random.PRNGKey(3))
    step, own = jax.jit(ours.step), jax.jit(theirs.step_env)
    for time in range(1, 26):
        np.testing.assert_allclose(timestep.observation, np.stack([shown[name] for name in theirs.agents], -1))
        action = np.array([time % 5, (time + 1) % 5, 2])
        timestep, state = step(jax.random.key(time), ours.params, state, jnp.asarray(action))
        given = dict(zip(theirs.agents, action, strict=True))
        shown, inner, reward, _, _ = own(jax.random.PRNGKey(time), inner, given)
        np.testing.assert_allclose(timestep.reward, [reward[name] for name in theirs.agents], rtol=1e-5)
        assert (bool(timestep.truncated), bool(timestep.terminated)) == (time == 25, False)
        assert timestep.alive.all()
    overview = ours.overview.see(ours.params, state)
    np.testing.assert_allclose(overview, np.concatenate([shown[name] for name in theirs.agents]), rtol=1e-6)


def test_the_last_observation_survives_the_limit():
    environment = jaxmarl("MPE_simple_spread_v3", max_steps=5)
    idle = Sampler(lambda key, batch: (), lambda noise, seen: jnp.zeros(seen.shape[-1:], jnp.int32))

    @jax.jit
    def twelve_steps(key):
        return collect(key, environment, environment.params, idle, 12, start(key, environment, environment.params, 2))[
            0
        ]

    seen = twelve_steps(jax.random.key(0))
    assert seen.truncated.sum(1).tolist() == [0, 0, 0, 0, 6, 0, 0, 0, 0, 6, 0, 0]
    assert not seen.terminated.any()
    assert np.abs(np.asarray(seen.next_observation[4] - seen.next_observation[3])).max() < 0.2
    assert np.abs(np.asarray(seen.next_observation[4] - seen.observation[5])).max() > 0.2


def test_unlike_players_are_padded_and_named():
    environment = jaxmarl("MPE_simple_tag_v3")
    assert environment.spaces.observation.shape == (16 + 4,)
    timestep, _ = environment.reset(jax.random.key(0), environment.params)
    np.testing.assert_array_equal(timestep.observation[-4:], np.eye(4))
    assert "unlike spaces" in environment.notes[0]


def test_an_unknown_world_is_refused_with_the_nearest_one():
    with pytest.raises(ConfigError, match="MPE_simple_spread_v3"):
        jaxmarl("MPE_simple_spread_v2")
    with pytest.raises(ConfigError, match="within"):
        jaxmarl("MPE_simple_spread_v3", max_steps=99)
