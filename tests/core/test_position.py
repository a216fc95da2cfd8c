"""Positions: a broken instance begins anew, the others stay where they are, and nothing is computed without need."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core.faults import fault_of, only_if, undone, watched
from fedrl.core.position import Position, mended, start
from fedrl.environments import cartpole

KEY, ENVIRONMENT, INSTANCES = jax.random.key(3), cartpole(), 4


class Learned(NamedTuple):
    weight: jax.Array
    bound: jax.Array
    position: Position


def broken_at(position: Position, instance: int) -> Position:
    return position._replace(returned=position.returned.at[instance].set(jnp.inf))


def test_a_broken_instance_begins_a_new_episode_and_the_others_stay():
    before = start(KEY, ENVIRONMENT, ENVIRONMENT.params, INSTANCES)._replace(length=jnp.full(INSTANCES, 7))
    for leaf in ("returned", "observation"):
        sick = before._replace(**{leaf: getattr(before, leaf).at[..., 2].set(jnp.nan)})
        after = mended(jax.random.key(4), ENVIRONMENT, ENVIRONMENT.params, sick)
        assert after.length.tolist() == [7, 7, 0, 7]
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(after))
        for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
            np.testing.assert_array_equal(np.delete(old, 2, -1), np.delete(new, 2, -1))
        assert (after.observation[:, 2] != before.observation[:, 2]).any()


def test_a_change_is_made_where_the_flag_is_set_alone():
    flags, values = jnp.array([False, True, False]), jnp.arange(3.0)
    np.testing.assert_array_equal(jax.vmap(lambda f, x: only_if(f, lambda y: y + 10.0, x))(flags, values), [0, 11, 2])


def test_what_was_finite_and_is_no_longer_is_a_fault_and_what_never_was_is_none():
    position = start(KEY, ENVIRONMENT, ENVIRONMENT.params, INSTANCES)
    before = Learned(jnp.ones(2), jnp.array([-jnp.inf, jnp.inf]), position)
    update = {"value": jnp.ones(3)}
    names = [name for name, _ in watched(before, update)]
    assert names == ["state.weight", "state.bound", "update['value']"]

    def fault(after, update=update):
        place = int(fault_of(before, after, update))
        return names[place - 1] if place else None

    assert fault(before) is None
    assert fault(before._replace(position=broken_at(position, 1))) is None
    assert fault(before._replace(weight=jnp.array([1.0, jnp.nan]))) == "state.weight"
    assert fault(before, {"value": jnp.array([1.0, jnp.inf, 0.0])}) == "update['value']"


def test_all_but_positions_is_put_back():
    position = start(KEY, ENVIRONMENT, ENVIRONMENT.params, INSTANCES)
    moved = broken_at(position._replace(length=jnp.full(INSTANCES, 5)), 1)
    before, after = Learned(jnp.ones(2), jnp.zeros(2), position), Learned(jnp.zeros(2), jnp.ones(2), moved)
    for fault in (0, 3):
        found = undone(KEY, ENVIRONMENT, ENVIRONMENT.params, jnp.int32(fault), before, after)
        np.testing.assert_array_equal(found.weight, after.weight if fault == 0 else before.weight)
        assert found.position.length.tolist() == ([5, 5, 5, 5] if fault == 0 else [5, 0, 5, 5])
