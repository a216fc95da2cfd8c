"""Shuffles are permutations without a bias, and packing loses nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrl.learners.parts.minibatches import minibatches, pack, shuffled


@pytest.mark.parametrize("size", [1, 2, 8, 12, 256, 1024])
def test_a_shuffle_visits_every_sample_once(size):
    orders = jax.vmap(lambda key: shuffled(key, size))(jax.random.split(jax.random.key(0), 20))
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.broadcast_to(np.arange(size), (20, size)))


def test_every_sample_lands_in_every_minibatch_equally_often():
    keys, size, count = 4000, 64, 4
    orders = np.asarray(jax.vmap(lambda key: shuffled(key, size))(jax.random.split(jax.random.key(1), keys)))
    batch = np.argsort(orders, axis=1) // (size // count)
    table = np.stack([(batch == b).sum(0) for b in range(count)])
    statistic = ((table - keys / count) ** 2 / (keys / count)).sum()
    freedom = size * (count - 1)
    assert statistic < 1.5 * freedom  # a fair shuffle: freedom +- 20 (one standard deviation)
    stuck = np.tile(np.arange(size), (keys, 1)) // (size // count)  # the test sees a shuffle that does nothing
    assert ((np.stack([(stuck == b).sum(0) for b in range(count)]) - keys / count) ** 2).sum() > 100 * statistic


def test_neighbours_are_parted():
    orders = np.asarray(jax.vmap(lambda key: shuffled(key, 256))(jax.random.split(jax.random.key(2), 500)))
    together = np.abs(np.diff(orders.astype(int), axis=1)) == 1
    assert together.mean() < 0.05  # by chance 2 / 256


def test_minibatches_deal_out_every_row_once():
    rows = jnp.arange(24.0).reshape(12, 2)
    dealt = minibatches(jax.random.key(0), rows, 3)
    assert dealt.shape == (3, 2, 4)
    columns = np.moveaxis(np.asarray(dealt), 1, 2).reshape(12, 2)
    np.testing.assert_array_equal(columns[columns[:, 0].argsort()], rows)


def test_packing_keeps_shapes_types_and_values():
    batch = {"x": jnp.arange(12.0).reshape(2, 3, 2), "n": jnp.array([7, 2**24 - 1]), "flag": jnp.array([True, False])}
    rows, unpack = pack(batch, 2)
    assert rows.shape == (2, 8)
    back = unpack(rows.T)
    for name, leaf in batch.items():
        assert back[name].dtype == leaf.dtype
        np.testing.assert_array_equal(back[name], leaf)


def test_a_minibatch_of_a_world_has_all_players_of_its_steps_player_by_player():
    samples, players = 8, 3
    step, player = jnp.tile(jnp.arange(samples), players), jnp.repeat(jnp.arange(players), samples)
    batch = {"step": step, "player": player, "whole": 10 * jnp.arange(samples)[None]}
    rows, unpack = pack(batch, samples)
    for block in minibatches(jax.random.key(3), rows, 2):
        found = unpack(block)
        np.testing.assert_array_equal(found["player"], np.repeat(np.arange(players), 4))
        np.testing.assert_array_equal(found["step"].reshape(players, 4), np.tile(found["whole"][0] // 10, (players, 1)))
        assert len(set(found["step"].tolist())) == 4
