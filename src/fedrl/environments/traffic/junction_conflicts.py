"""Who may enter a junction, in the order of arrival, and who collides in it.

    vehicles --holders--> rear of the last one on each route --granted--> who may enter
             --in_zones--> which zones each is in --collided--> who touches a vehicle of another route

A vehicle asks for the right to enter when it is the first of its lane and so near that it will need it. It is given
that right when

- every vehicle that has it, or is beyond its stop line without it, on a conflicting route has left their common zone,
  and
- nobody on a conflicting route has asked before and still waits (of those that ask in one step, the lower route is
  first).

The right ends when the vehicle has left the square. Who waits stands before the stop line and holds nothing, so that
nobody waits for somebody who waits for him. Tables of pairs of routes (`junction_routes.Routes`) stand for those of
pairs of vehicles: there are 12 or 16 routes. Everything here is for one copy of a junction, with a slot for each
vehicle; axes behind that of the slots are copies (`junction_copies`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.environments.traffic.junction_routes import ARMS, Routes, lane_of, of_kind


class Vehicles(NamedTuple):
    """The vehicles at a junction, `[slots]` each.

    Attributes:
        there: Whether the slot has a vehicle.
        position: Of the front bumper on its route, in m; 0 at the stop line.
        speed: In m/s.
        route: The route on which it is, int32.
        wanted: The direction in which it wants to go, int32.
        granted: Whether it has the right to enter the junction.
        asked: The step in which it asked for it; infinite if it did not.
        truck: Whether it is a truck.
        learns: Whether it acts by itself, and not by the rule of the background.
        length: From bumper to bumper, in m.
    """

    there: jax.Array
    position: jax.Array
    speed: jax.Array
    route: jax.Array
    wanted: jax.Array
    granted: jax.Array
    asked: jax.Array
    truck: jax.Array
    learns: jax.Array
    length: jax.Array


def column(values: Any, axes: int) -> jax.Array:
    """Return a table with so many axes of length 1 behind its own, for those of the copies."""
    table = jnp.asarray(values)
    return table.reshape(*table.shape, *[1] * axes)


def on_route(table: Routes, vehicles: Vehicles) -> jax.Array:
    """Return which vehicle is on which route, `[slots, routes]` bool."""
    numbers = column(np.arange(table.total), vehicles.route.ndim - 1)
    return vehicles.there[:, None] & (vehicles.route[:, None] == numbers)


def last_rear(table: Routes, vehicles: Vehicles, chosen: jax.Array) -> jax.Array:
    """Return the rearmost rear of those who hold the junction on each route, `[routes]`; infinite if nobody does."""
    rear = vehicles.position - vehicles.length
    holds = (vehicles.granted | (vehicles.position > 0.0)) & (rear < of_kind(table, table.length, vehicles.route))
    return jnp.where(chosen & holds[:, None], rear[:, None], jnp.inf).min(0)


def granted(table: Routes, vehicles: Vehicles, near: jax.Array, now: jax.Array) -> Vehicles:
    """Return the vehicles after those who may have received the right to enter.

    Args:
        table: The routes.
        vehicles: The vehicles.
        near: Who is near enough to ask, `[slots]`.
        now: The number of the step.
    """
    copies = vehicles.route.ndim - 1
    chosen = on_route(table, vehicles)
    outside = vehicles.there & ~vehicles.granted & (vehicles.position <= 0.0)
    by_lane = lane_of(table, vehicles.route)[:, None] == column(np.arange(ARMS * table.lanes), copies)
    first = jnp.where(by_lane & outside[:, None], vehicles.position[:, None], -jnp.inf).max(0)
    head = outside & (by_lane & (vehicles.position[:, None] == first)).any(1)
    asked = jnp.where(head & near & jnp.isinf(vehicles.asked), now.astype(jnp.float32), vehicles.asked)

    waits = chosen & (head & jnp.isfinite(asked))[:, None]
    since = jnp.where(waits, asked[:, None], jnp.inf).min(0)
    rear = last_rear(table, vehicles, chosen)
    free = ~(rear[:, None] < column(np.float32(table.leave), copies)).any(0)
    number = column(np.arange(table.total), copies)
    before = (since[:, None] < since) | ((since[:, None] == since) & (number[:, None] < number))
    turn = ~(column(table.conflict, copies) & before & jnp.isfinite(since)[:, None]).any(0)
    given = (waits & (free & turn)).any(1)
    return vehicles._replace(granted=vehicles.granted | given, asked=asked)


def zones_of(table: Routes, vehicles: Vehicles) -> jax.Array:
    """Return which zones of its route a vehicle is in, `[slots]` int32: a bit for each, as in `Routes.partner`."""
    front, rear = vehicles.position, vehicles.position - vehicles.length
    found = jnp.zeros_like(vehicles.route)
    for zone in range(table.partner.shape[1]):
        entry, leave = (of_kind(table, x[:, zone], vehicles.route) for x in table.zones)
        found |= jnp.where((front > entry) & (rear < leave), 1 << zone, 0)
    return jnp.where(vehicles.there, found, 0)


def collided(table: Routes, vehicles: Vehicles) -> jax.Array:
    """Return who is in a zone together with a vehicle of the other route, `[slots]` bool."""
    chosen, inside = on_route(table, vehicles), zones_of(table, vehicles)
    # Somebody on the route is in the zone.
    busy = jax.lax.reduce_or(jnp.where(chosen, inside[:, None], 0), axes=(0,))
    met = jnp.zeros_like(busy)
    for zone in range(table.partner.shape[1]):
        other, its = table.partner[:, zone], table.back[:, zone]
        there = (busy[np.maximum(other, 0)] >> column(its, busy.ndim - 1)) & column(other >= 0, busy.ndim - 1)
        met |= there << zone
    return (chosen & ((inside[:, None] & met) != 0)).any(1)
