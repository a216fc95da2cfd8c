"""What a vehicle at a junction observes, and what an observer of the whole junction sees.

    vehicles, neighbours --foremost vehicle of every other lane--> features of each vehicle, `[features, slots]`

Of each lane of the other arms, from the right to the left one, a vehicle sees the foremost vehicle that has not left
the square: both their ways to the zone that they share, its time to it at its present speed, and whether it has the
right to enter. All features are of the order of 1.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.environments.traffic.car_following import Numbers
from fedrl.environments.traffic.junction_arrivals import Queue
from fedrl.environments.traffic.junction_conflicts import Vehicles, column
from fedrl.environments.traffic.junction_driving import Ahead, arrives_where_it_wants, road_limit
from fedrl.environments.traffic.junction_routes import ARMS, LEFT, RIGHT, STRAIGHT, Routes, lane_of, of_kind

FAR, FAST, LONG = 50.0, 10.0, 5.0
"""The distance (m), the speed (m/s) and the time (s) that are 1 in an observation."""
MOST = 4.0
"""The largest feature of the three."""
OWN, OTHER, SLOT = 14, 5, 5
"""Features of the vehicle itself, of a lane of another arm, and of a slot in the overview."""


def features(table: Routes) -> int:
    """Return the number of features of a vehicle."""
    return OWN + (3 if table.lanes == 2 else 0) + OTHER * (ARMS - 1) * table.lanes


def overview_features(slots: int) -> int:
    """Return the number of features of the whole junction."""
    return SLOT * slots + ARMS


def observed(table: Routes, vehicles: Vehicles, ahead: Ahead, limit: Numbers) -> jax.Array:
    """Return what the vehicles observe, `[features, slots]`; zeros for an empty slot.

    These are: the way to the stop line, the speed, the limit at this place, the right to enter, the question for it,
    whether it is beyond the stop line, whether its route leads where it wants to go, left, straight on or right
    wanted, the gap ahead, the speed of the vehicle ahead relative to its own, whether there is one, whether it is a
    truck; with two lanes also the lane, and the gaps to the vehicles ahead and behind in the other one; and five of
    each lane of other arms.
    """
    there = vehicles.there

    def near(distance: jax.Array) -> jax.Array:
        return jnp.clip(distance / FAR, -MOST, MOST)

    wanted = [vehicles.wanted == direction for direction in (LEFT, STRAIGHT, RIGHT)]
    followed = jnp.isfinite(ahead.gap)
    own = [
        near(-vehicles.position),
        vehicles.speed / FAST,
        road_limit(table, vehicles, limit) / FAST,
        vehicles.granted,
        jnp.isfinite(vehicles.asked),
        vehicles.position > 0.0,
        arrives_where_it_wants(table, vehicles),
        *wanted,
        near(ahead.gap),
        jnp.where(followed, ahead.leader_speed - vehicles.speed, 0.0) / FAST,
        followed,
        vehicles.truck,
    ]
    beside = _beside(table, vehicles) if table.lanes == 2 else []
    rows = [jnp.where(there, x, 0.0).astype(jnp.float32) for x in (*own, *beside)]
    # Each row by itself: otherwise the compiler computes all of them anew for every entry of the stack.
    return jnp.stack(jax.lax.optimization_barrier([*rows, *_others(table, vehicles)]))


def seen_from_above(table: Routes, vehicles: Vehicles, queue: Queue) -> jax.Array:
    """Return presence, position, speed, right to enter and route of each slot, and the queues, `[features]`."""
    slots = (
        jnp.ones_like(vehicles.position),
        jnp.clip(vehicles.position / FAR, -MOST, MOST),
        vehicles.speed / FAST,
        vehicles.granted,
        (vehicles.route + 1.0) / table.total,
    )
    rows = [jnp.where(vehicles.there, x, 0.0) for x in slots]
    return jnp.concatenate([*rows, jnp.minimum(queue.waiting / 10.0, MOST)]).astype(jnp.float32)


def _beside(table: Routes, vehicles: Vehicles) -> list[jax.Array]:
    """The lane, and the gaps ahead and behind in the other lane of the approach."""
    lane = lane_of(table, vehicles.route)
    target = lane + 1 - 2 * (lane % 2)
    approach = vehicles.position < 0.0
    other = (lane == target[:, None]) & vehicles.there & approach[:, None]
    rear = vehicles.position - vehicles.length
    in_front = vehicles.position >= vehicles.position[:, None]
    before = jnp.where(other & in_front, rear - vehicles.position[:, None], jnp.inf).min(1)
    behind = jnp.where(other & ~in_front, rear[:, None] - vehicles.position, jnp.inf).min(1)
    return [lane % 2, *(jnp.clip(x / FAR, -MOST, MOST) for x in (before, behind))]


class _Foremost(NamedTuple):
    """The foremost vehicle of a lane that has not left the square; its position is minus infinity if there is none."""

    position: jax.Array
    speed: jax.Array
    length: jax.Array
    granted: jax.Array
    route: jax.Array


def _others(table: Routes, vehicles: Vehicles) -> list[jax.Array]:
    """What each vehicle sees of the lanes of other arms, from the right: `OTHER` rows of each, `[slots]`."""
    length = of_kind(table, table.length, vehicles.route)
    inside = vehicles.there & (vehicles.position - vehicles.length < length)
    lanes = column(np.arange(ARMS * table.lanes), vehicles.route.ndim - 1)
    by_lane = inside[:, None] & (lane_of(table, vehicles.route)[:, None] == lanes)
    front = jnp.where(by_lane, vehicles.position[:, None], -jnp.inf).max(0)
    foremost = by_lane & (vehicles.position[:, None] == front)
    of_it = (vehicles.speed, vehicles.length, vehicles.granted.astype(jnp.float32), vehicles.route)
    first = _Foremost(front, *(jnp.where(foremost, x[:, None], 0).max(0) for x in of_it))
    first, arm = jax.lax.optimization_barrier((first, vehicles.route // table.kinds))

    rows = []
    for turn in (1, 2, 3):
        for lane in range(table.lanes):

            def beside(x: jax.Array, turn: int = turn, lane: int = lane) -> jax.Array:
                found = x[turn * table.lanes + lane]
                for own in range(1, ARMS):
                    found = jnp.where(arm == own, x[(own + turn) % ARMS * table.lanes + lane], found)
                return found

            rows += _meeting(table, vehicles, turn, _Foremost(*(beside(x) for x in first)))
    return rows


def _meeting(table: Routes, vehicles: Vehicles, turn: int, other: _Foremost) -> list[jax.Array]:
    """What a vehicle sees of another one, which comes from the arm that is `turn` further."""
    kinds = table.kinds

    mine, theirs = slice(0, kinds), slice(turn * kinds, (turn + 1) * kinds)
    meet = table.conflict[mine, theirs]
    own, its = vehicles.route % kinds, other.route % kinds

    def zone(of: np.ndarray, none: float) -> jax.Array:
        """The entries of pairs of routes, by the kinds of both; `none` where they have no zone."""
        found = jnp.full(own.shape, none)
        for a, b in zip(*np.nonzero(meet), strict=True):
            found = jnp.where((own == a) & (its == b), jnp.float32(of[a, b]), found)
        return found

    # A zone that is none ends nowhere.
    leave, entry = zone(table.leave[theirs, mine].T, -1e6), zone(table.entry[theirs, mine].T, 0.0)
    own_entry = zone(table.entry[mine, theirs], 0.0)
    found = vehicles.there & (other.position > -jnp.inf) & (other.position - other.length < leave)
    its_way, own_way = entry - other.position, own_entry - vehicles.position
    time = jnp.maximum(its_way, 0.0) / jnp.maximum(other.speed, 0.5)
    shown = (
        jnp.ones_like(its_way),
        jnp.clip(its_way / FAR, -MOST, MOST),
        jnp.minimum(time / LONG, MOST),
        other.granted,
        jnp.clip(own_way / FAR, -MOST, MOST),
    )
    return [jnp.where(found, x, 0.0) for x in shown]
