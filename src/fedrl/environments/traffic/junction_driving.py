"""How vehicles move at a junction: who is ahead, the rule of the background, the limits of a road, and changes of lane.

    vehicles --neighbours--> gap, room --background | action--> wished speed --limits, shield--> speed --> position

The vehicle ahead is the nearest one

- from the same lane, on the same route, or on another one as long as its rear is not yet apart from it
  (`Routes.apart`), or
- beyond the square on the same exit lane, wherever it came from.

**The rule of the background** is car following (`idm_acceleration`) behind that vehicle, and behind a standing one
at the stop line as long as the vehicle has no right to enter. The right is asked for, and the stop line heeded, from
v * 1.5 s + v^2 / (2 * 3 m/s2) + 5 m before it on. A background vehicle changes lanes if its lane does not lead where it
wants to go and the change is safe by the shield's condition.

**The limits of a road** hold for all vehicles: the speed limit, and in a curve of radius r the speed sqrt(5.5 m/s2 *
r), as in SUMO; before it, sqrt(v_curve^2 + 2 * 3 m/s2 * distance).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.environments.traffic.car_following import NOBODY, Numbers, idm_acceleration
from fedrl.environments.traffic.junction_arrivals import driver_of, emergency
from fedrl.environments.traffic.junction_conflicts import Vehicles, column
from fedrl.environments.traffic.junction_routes import LEFT, RIGHT, Routes, exit_of, lane_of, of_kind, route_of
from fedrl.environments.traffic.junction_shield import BRAKING, MARGIN, SOLID_LINE, safe_speed, stopping_distance

REACTION, COMFORT, NEAR = 1.5, 3.0, 5.0
"""Of the way from which on a stop line counts: a time in s, a deceleration in m/s2, and a distance in m."""
SIDEWAYS = 5.5
"""The sideways acceleration in a curve, in m/s2."""
AT_ONCE = 10
"""Vehicles that are looked at in one pass of a loop."""
KEEP, TO_LEFT, TO_RIGHT = 0, 1, 2
"""Changes of lane."""


class Ahead(NamedTuple):
    """What is ahead of each vehicle, `[slots]` each.

    Attributes:
        gap: To the rear of the vehicle ahead, in m; infinite if nobody is ahead, and negative if both overlap.
        leader: The slot of that vehicle, int32, or `NOBODY`.
        leader_speed: Its speed, in m/s, or 0.
        room: The way within which the vehicle has to be able to stop, whoever is ahead, in m; infinite if nobody is.
    """

    gap: jax.Array
    leader: jax.Array
    leader_speed: jax.Array
    room: jax.Array


class _Place(NamedTuple):
    """What others need to know of a vehicle: its route is -1 while it is in the way of all from its lane."""

    lane: jax.Array
    exit: jax.Array
    position: jax.Array
    beyond: jax.Array
    route: jax.Array
    length: jax.Array
    speed: jax.Array
    way: jax.Array
    slot: jax.Array


def neighbours(table: Routes, vehicles: Vehicles, dt: float) -> Ahead:
    """Return what is ahead of each vehicle."""
    position, there = vehicles.position, vehicles.there
    # An empty slot is on a lane and an exit of its own.
    own = column(-1.0 - np.arange(len(position)), position.ndim - 1)
    beyond = position - of_kind(table, table.length, vehicles.route)
    way = stopping_distance(vehicles.speed, emergency(vehicles.truck), dt)
    seen = _Place(
        jnp.where(there, lane_of(table, vehicles.route), own),
        jnp.where(there, exit_of(table, vehicles.route), own),
        position,
        beyond,
        jnp.where(position - vehicles.length < table.apart, -1, vehicles.route),
        vehicles.length,
        vehicles.speed,
        way,
        jnp.broadcast_to(column(np.arange(len(position), dtype=np.int32), position.ndim - 1), position.shape),
    )
    # Otherwise the compiler computes these again for every pair.
    seen, past, route = jax.lax.optimization_barrier((seen, jnp.maximum(beyond, 0.0), vehicles.route))

    def nearer(best: Ahead, other: _Place) -> tuple[Ahead, None]:
        after = (other.position > seen.position) | ((other.position == seen.position) & (other.slot > seen.slot))
        along = (other.lane == seen.lane) & ((other.route == -1) | (other.route == route)) & after
        across = (other.exit == seen.exit) & (other.beyond > past)
        far = jnp.where(across, other.beyond - seen.beyond, jnp.inf)
        distance = jnp.where(along, other.position - seen.position, far)
        gap = distance - other.length
        closer = gap < best.gap
        return Ahead(
            jnp.where(closer, gap, best.gap),
            jnp.where(closer, other.slot, best.leader),
            jnp.where(closer, other.speed, best.leader_speed),
            jnp.minimum(best.room, gap + other.way),
        ), None

    nothing = jnp.full(position.shape, jnp.inf)
    nobody = Ahead(nothing, jnp.full(position.shape, NOBODY, jnp.int32), jnp.zeros(position.shape), nothing)
    return jax.lax.scan(nearer, nobody, seen, unroll=min(AT_ONCE, len(position)))[0]


def reach(speed: jax.Array) -> jax.Array:
    """Return the way from which on a vehicle heeds the stop line and asks for the right to enter, in m."""
    return jnp.minimum(REACTION * speed + jnp.square(speed) / (2.0 * COMFORT) + NEAR, SOLID_LINE)


def background(vehicles: Vehicles, ahead: Ahead, limit: Numbers, time_gap: Numbers) -> jax.Array:
    """Return the acceleration by the rule of the background, in m/s2, `[slots]`.

    Args:
        vehicles: The vehicles.
        ahead: What is ahead of them.
        limit: The speed limit, in m/s.
        time_gap: T of the drivers, in s.
    """
    types, line = driver_of(vehicles.truck, limit, time_gap), -vehicles.position
    closed = ~vehicles.granted & (line >= 0.0) & (line <= reach(vehicles.speed))
    free = idm_acceleration(types, vehicles.speed, ahead.leader_speed, ahead.gap)
    # The gap before the line is that of the shield; the driver stands with its front there, not a gap of s_0 before.
    to_line = line + types.min_gap - MARGIN
    stopping = idm_acceleration(types, vehicles.speed, jnp.float32(0.0), to_line)
    return jnp.where(closed, jnp.minimum(free, stopping), free)


def road_limit(table: Routes, vehicles: Vehicles, limit: Numbers) -> jax.Array:
    """Return the largest speed at the place of each vehicle, in m/s, `[slots]`."""
    curves = np.where(np.isfinite(table.radius), np.sqrt(SIDEWAYS * np.minimum(table.radius, 1e6)), 1e3)
    length, curve = (of_kind(table, x, vehicles.route) for x in (table.length, curves))
    distance = jnp.maximum(-vehicles.position, 0.0)
    in_curve = jnp.sqrt(jnp.square(curve) + 2.0 * COMFORT * distance)
    # The whole vehicle has to be out of the curve.
    return jnp.where(vehicles.position - vehicles.length < length, jnp.minimum(in_curve, limit), limit)


def speeds(
    table: Routes,
    vehicles: Vehicles,
    ahead: Ahead,
    acceleration: jax.Array,
    limit: Numbers,
    shield: bool,
    dt: float,
) -> tuple[jax.Array, jax.Array]:
    """Return the speeds after a step, in m/s, and whose speed the shield has reduced, `[slots]` each.

    Args:
        table: The routes.
        vehicles: The vehicles.
        ahead: What is ahead of them.
        acceleration: What each wishes, in m/s2.
        limit: The speed limit, in m/s.
        shield: Whether vehicles are shielded.
        dt: The length of a step, in s.
    """
    strongest = emergency(vehicles.truck)
    wished = jnp.maximum(vehicles.speed + jnp.clip(acceleration, -strongest, None) * dt, 0.0)
    wished = jnp.minimum(wished, road_limit(table, vehicles, limit))
    hardest = jnp.maximum(vehicles.speed - strongest * dt, 0.0)
    wished = jnp.maximum(wished, hardest)
    if not shield:
        return jnp.where(vehicles.there, wished, 0.0), jnp.zeros_like(vehicles.there)
    room = jnp.minimum(ahead.room, jnp.where(vehicles.granted, jnp.inf, -vehicles.position)) - MARGIN
    safe = jnp.maximum(jnp.minimum(wished, safe_speed(room, BRAKING, dt)), hardest)
    return jnp.where(vehicles.there, safe, 0.0), vehicles.there & (safe < wished - 1e-3)


def changed_lanes(
    table: Routes, vehicles: Vehicles, choice: jax.Array, shield: bool, dt: float
) -> tuple[Vehicles, jax.Array]:
    """Return the vehicles after their changes of lane, and whose change the shield has refused, `[slots]`.

    Args:
        table: The routes, of two lanes an arm.
        vehicles: The vehicles.
        choice: `KEEP`, `TO_LEFT` or `TO_RIGHT`, of each that learns, `[slots]` int32.
        shield: Whether a change needs room. Without, a vehicle may move into another one.
        dt: The length of a step, in s.
    """
    lane = lane_of(table, vehicles.route)
    arm, side = lane // 2, lane % 2  # 1 is the left lane
    missing = ((vehicles.wanted == LEFT) & (side == 0)) | ((vehicles.wanted == RIGHT) & (side == 1))
    asks = jnp.where(vehicles.learns, choice == jnp.where(side == 0, TO_LEFT, TO_RIGHT), missing)
    asks = vehicles.there & asks & (vehicles.position < -SOLID_LINE)
    target = arm * 2 + 1 - side

    beside = (lane == target[:, None]) & vehicles.there & (vehicles.position - vehicles.length < table.apart)
    in_front = vehicles.position >= vehicles.position[:, None]
    gap = jnp.where(
        in_front,
        vehicles.position - vehicles.length - vehicles.position[:, None],
        (vehicles.position - vehicles.length)[:, None] - vehicles.position,
    )
    need = stopping_distance(vehicles.speed, BRAKING, dt) + MARGIN
    way = stopping_distance(vehicles.speed, emergency(vehicles.truck), dt)
    short = jnp.where(in_front, need[:, None] > gap + way, need > gap + way[:, None])
    unsafe = (beside & (short | (gap < MARGIN))).any(1)
    refused = asks & unsafe & (~vehicles.learns | shield)
    moves = asks & ~refused
    route = jnp.where(moves, route_of(table, arm, 1 - side, vehicles.wanted), vehicles.route)
    return vehicles._replace(route=route), refused & vehicles.learns


def arrives_where_it_wants(table: Routes, vehicles: Vehicles) -> jax.Array:
    """Return whether the route of each vehicle leads where it wants to go, `[slots]` bool."""
    return of_kind(table, table.direction, vehicles.route) == vehicles.wanted
