"""Players of a world are rows beside the copies of it, and the dead are left out of what is counted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrl.core.environment import Environment
from fedrl.core.players import dealt, everyone, rows, rows_of
from fedrl.core.position import mended, start
from fedrl.environments import cartpole, navigation
from fedrl.learners.parts.actor_critic import by_time, flat
from fedrl.learners.parts.rollout import Sampler, collect, episodes
from tests.support.worlds import LENGTH, PLAYERS, mortal

ALWAYS = Sampler(jax.random.uniform, lambda noise, seen: jnp.ones(seen.shape[-1], jnp.int32))
ALIVE = np.array([[1, 1, 1], [1, 0, 1], [1, 0, 0], [1, 0, 0], [1, 0, 0]], bool)


def test_rows_are_player_major_and_dealing_undoes_them():
    x = jnp.arange(2 * 3 * 4).reshape(2, 3, 4)
    np.testing.assert_array_equal(rows(x, 3)[1], [12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23])
    np.testing.assert_array_equal(dealt(rows(x, 3), 3), x)
    np.testing.assert_array_equal(everyone(jnp.array([5, 6]), 2), [5, 6, 5, 6])
    assert rows(x, None) is x
    assert rows_of(cartpole(), 4) == 4
    assert rows_of(navigation(players=3), 4) == 12


@pytest.mark.parametrize("players", [None, 3])
def test_flat_samples_are_player_major_and_return_to_their_time(players):
    x = jnp.arange(5 * 2 * 6).reshape(5, 2, 6)
    samples = flat(x, players)
    assert samples.shape == (2, 30)
    np.testing.assert_array_equal(by_time(samples[1], x[:, 1], players), x[:, 1])
    if players:  # the first third of the samples is the first player's
        np.testing.assert_array_equal(np.sort(samples[0, :10]), np.sort(x[:, 0, :2].reshape(-1)))


def rolled(environment: Environment, copies: int, steps: int):
    position = start(jax.random.key(0), environment, environment.params, copies)
    return jax.jit(lambda at: collect(jax.random.key(1), environment, environment.params, ALWAYS, steps, at))(position)


def test_a_death_is_a_termination_of_its_own_and_the_end_is_that_of_all():
    seen, _, _ = rolled(mortal(), copies=2, steps=2 * LENGTH)
    alive = np.asarray(seen.alive).reshape(2, LENGTH, PLAYERS, 2)
    np.testing.assert_array_equal(alive[0, :, :, 0], ALIVE)
    np.testing.assert_array_equal(alive[0], alive[1])
    np.testing.assert_array_equal(alive[..., 0], alive[..., 1])
    ended = np.asarray(seen.terminated).reshape(2, LENGTH, PLAYERS, 2)[0, :, :, 0]
    np.testing.assert_array_equal(ended, np.array([[0, 1, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0], [1, 1, 1]], bool))
    assert not seen.truncated.any()


def test_what_the_dead_observe_and_earn_is_zero_whatever_the_world_says():
    seen, position, counts = rolled(mortal(filler=np.nan), copies=2, steps=LENGTH + 3)
    for leaf in jax.tree.leaves((seen, position, counts)):
        assert np.isfinite(leaf).all()
    dead = ~np.asarray(seen.alive)
    assert not np.asarray(seen.reward)[dead].any()
    assert not np.moveaxis(np.asarray(seen.observation), 1, -1)[dead].any()


def test_the_return_of_an_episode_is_the_mean_over_players():
    # Action 1 earns 1 and the number of the step: player 0 in all steps, player 1 in the first, player 2 in two.
    earned = [15.0, 1.0, 3.0]
    for counts in (rolled(mortal(np.nan), 2, LENGTH)[2], played(mortal(np.nan))[1]):
        assert counts["episodes"] == 2
        assert counts["episode_return"] == pytest.approx(2 * np.mean(earned))
        assert [float(counts[f"player_{p + 1}_return"]) / 2 for p in range(PLAYERS)] == earned


def played(environment: Environment):
    return jax.jit(lambda: episodes(jax.random.key(0), environment, environment.params, ALWAYS, 2, LENGTH + 2))()


def test_whole_episodes_end_for_each_player_at_its_death():
    whole, _ = played(mortal(np.nan))
    np.testing.assert_array_equal(whole.playing.reshape(-1, PLAYERS, 2)[:LENGTH, :, 0], ALIVE)
    assert not whole.playing[LENGTH:].any()
    assert int(whole.trajectory.terminated.sum()) == 2 * PLAYERS
    assert np.isfinite(whole.trajectory.observation).all()
    assert np.isfinite(whole.final).all()


def test_an_overview_is_in_the_trajectory_only_if_asked_for():
    environment = mortal()
    position = start(jax.random.key(0), environment, environment.params, 2)
    seen, _, _ = collect(jax.random.key(1), environment, environment.params, ALWAYS, LENGTH, position, overview=True)
    np.testing.assert_array_equal(seen.overview[:, 0, 0], np.arange(LENGTH))
    np.testing.assert_array_equal(seen.next_overview[:, 0, 1], 1 + np.arange(LENGTH))
    assert rolled(environment, 2, LENGTH)[0].overview is None


def test_only_the_copies_with_a_number_that_is_not_finite_begin_anew():
    environment = navigation()
    position = start(jax.random.key(0), environment, environment.params, 2)
    broken = position._replace(observation=position.observation.at[0, 2, 1].set(np.nan))
    after = mended(jax.random.key(1), environment, environment.params, broken)
    np.testing.assert_array_equal(after.observation[..., 0], position.observation[..., 0])
    assert np.isfinite(after.observation).all()
    assert (after.observation[..., 1] != position.observation[..., 1]).any()
