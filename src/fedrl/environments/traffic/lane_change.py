"""Lane changes by MOBIL: change if it is safe and if everybody together gains enough.

With accelerations a now and a~ after the change, of the driver c, of its new follower n and of its old follower o,

    safe:     a~_n > -b_safe
    gain:     a~_c - a_c + p (a~_n - a_n + a~_o - a_o)
    changes:  safe, and gain > least_gain + bias * (direction: +1 to the left, -1 to the right)

p is the politeness of the driver; with a bias above 0, cars keep to the right. A follower that is not there neither
gains nor loses. All drivers decide at once, on what they see, so they may only look in one direction at a time: cars
that enter a lane then come from one other lane, in which they already had gaps to each other. Alternate the direction
between steps.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedrl.environments.traffic.car_following import NOBODY, Numbers, VehicleType, idm_acceleration, leaders


class LaneChange(NamedTuple):
    """How a driver changes lanes; the defaults are those of Kesting, Treiber and Helbing's table.

    Attributes:
        politeness: p, what others' gains count; 0 is an egoist.
        least_gain: The least gain, in m/s2.
        safe_deceleration: b_safe, what a change may demand of the new follower, in m/s2.
        bias: What a change to the left has to gain besides, and one to the right need not, in m/s2.
    """

    politeness: Numbers = 0.5
    least_gain: Numbers = 0.1
    safe_deceleration: Numbers = 4.0
    bias: Numbers = 0.0


class Around(NamedTuple):
    """The indices of the cars around a place in a lane, `[cars]`; `NOBODY` where there is none."""

    ahead: jax.Array
    behind: jax.Array


def around(lane: jax.Array, position: jax.Array, beside: jax.Array) -> Around:
    """Return who would be ahead of and behind each car in another lane, `[cars]`; who is level with it is ahead.

    Args:
        lane: Of each car, `[cars]` int32.
        position: Of each front bumper, `[cars]`, in m.
        beside: The lane that each car looks into, `[cars]` int32, not its own.

    >>> found = around(jnp.array([0, 1, 1]), jnp.array([20.0, 5.0, 40.0]), jnp.array([1, 0, 0]))
    >>> found.ahead.tolist(), found.behind.tolist()
    ([2, 0, -1], [1, -1, 0])
    """
    count = lane.shape[0]
    lanes, places = jnp.concatenate([lane, beside]), jnp.concatenate([position, position])
    looking = jnp.arange(2 * count) >= count
    # From the front to the back of each lane; of two at one place, the car comes before the one who looks at it.
    order = jnp.lexsort((looking, -places, lanes))
    car, rank = ~looking[order], jnp.arange(2 * count)
    last = jax.lax.cummax(jnp.where(car, rank, NOBODY))
    following = jax.lax.cummin(jnp.where(car, rank, 2 * count), reverse=True)

    def of(ranks: jax.Array) -> jax.Array:
        found = order[jnp.clip(ranks, 0, 2 * count - 1)]
        there = (ranks >= 0) & (ranks < 2 * count) & (lanes[found] == lanes[order])
        return jnp.zeros_like(found).at[order].set(jnp.where(there, found, NOBODY))[count:].astype(jnp.int32)

    return Around(of(last), of(following))


def mobil(
    rule: LaneChange,
    direction: int | jax.Array,
    own: tuple[jax.Array, jax.Array],
    new_follower: tuple[jax.Array, jax.Array],
    old_follower: tuple[jax.Array, jax.Array],
) -> jax.Array:
    """Return whether to change lanes, from accelerations (now, after the change) in m/s2; see the top of this file.

    Args:
        rule: How the driver changes lanes.
        direction: +1 to the left, -1 to the right.
        own: Of the driver.
        new_follower: Of the car behind it after the change; zeros if there is none.
        old_follower: Of the car behind it now; zeros if there is none.

    Reference: Kesting, Treiber, Helbing (2007), https://doi.org/10.3141/1999-10

    >>> calm, none = (jnp.float32(0.0), jnp.float32(0.0)), (jnp.float32(0.0), jnp.float32(0.0))
    >>> faster, cut_off = (jnp.float32(0.2), jnp.float32(1.0)), (jnp.float32(0.0), jnp.float32(-1.0))
    >>> [bool(mobil(LaneChange(), 1, faster, behind, none)) for behind in (calm, cut_off)]
    [True, True]
    >>> bool(mobil(LaneChange(politeness=1.0), 1, faster, cut_off, none))
    False
    """
    gain = own[1] - own[0] + rule.politeness * (new_follower[1] - new_follower[0] + old_follower[1] - old_follower[0])
    safe = new_follower[1] > -jnp.asarray(rule.safe_deceleration)
    return safe & (gain > rule.least_gain + rule.bias * direction)


def lane_changes(
    rule: LaneChange,
    driver: VehicleType,
    lane: jax.Array,
    position: jax.Array,
    speed: jax.Array,
    lanes: int,
    direction: int | jax.Array,
) -> jax.Array:
    """Return the lane of each car after those that gain from it have moved over, `[cars]` int32.

    Args:
        rule: How the drivers change lanes.
        driver: The vehicle type, of all cars or of each, `[cars]`.
        lane: Of each car, `[cars]` int32, 0 on the right; cars outside of 0 ... lanes - 1 are not on the road and stay.
        position: Of each front bumper, `[cars]`, in m.
        speed: Of each car, `[cars]`, in m/s.
        lanes: How many lanes there are.
        direction: +1 to look left, -1 to look right.
    """
    drivers = jax.tree.map(lambda number: jnp.broadcast_to(jnp.asarray(number), lane.shape), driver)
    index, target = jnp.arange(lane.shape[0]), lane + direction
    beside, ahead = around(lane, position, target), leaders(lane, position)
    # A car that has nobody ahead writes outside of the array, which drops it.
    place = jnp.where(ahead == NOBODY, lane.shape[0], ahead)
    behind = jnp.full_like(ahead, NOBODY).at[place].set(index.astype(ahead.dtype), mode="drop")

    def gap(who: jax.Array, leader: jax.Array) -> jax.Array:
        left = position[leader] - drivers.length[leader] - position[who]
        return jnp.where((who == NOBODY) | (leader == NOBODY), jnp.inf, left)

    def acceleration(who: jax.Array, leader: jax.Array) -> jax.Array:
        mine = jax.tree.map(lambda number: number[who], drivers)
        leader_speed = jnp.where(leader == NOBODY, 0.0, speed[leader])
        return jnp.where(who == NOBODY, 0.0, idm_acceleration(mine, speed[who], leader_speed, gap(who, leader)))

    own = acceleration(index, ahead), acceleration(index, beside.ahead)
    new = acceleration(beside.behind, beside.ahead), acceleration(beside.behind, index)
    old = acceleration(behind, index), acceleration(behind, ahead)
    # A driver about to crash gains by any change, also by one into a car.
    room = (gap(index, beside.ahead) > 0.0) & (gap(beside.behind, index) > 0.0)
    possible = (lane >= 0) & (lane < lanes) & (target >= 0) & (target < lanes)
    return jnp.where(possible & room & mobil(rule, direction, own, new, old), target, lane)
