"""The ways through a junction of four arms, and where they meet: tables that are computed once, by NumPy.

Traffic keeps to the right. Arm 0 comes from the south; arm a is arm 0, turned by a quarter circle a times, to the
left. An arm has one or two lanes in each direction, 3.2 m wide, and the square in which lanes cross begins 4 m before
the nearest lane of the crossing road, at the stop line. Of two lanes, the right one leads straight on and to the
right, the left one straight on and to the left.

A position on a route is the way of the front bumper beyond the stop line, in m: negative on the approach, from 0 to the
route's length inside the square, and larger on the exit. Straight routes are lines, turns are quarters of circles.

Two routes from different arms conflict where their centre lines are closer than `CLEARANCE`. On each of them this is
one interval, the zone that it shares with the other one; routes to the same exit lane share their ends. A vehicle is
in a zone from when its front reaches it until its rear has left it, so two vehicles that touch are in a zone of both,
as long as they are narrower than `CLEARANCE`.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

LEFT, STRAIGHT, RIGHT = 0, 1, 2
"""Where a vehicle wants to go."""
ARMS = 4
LANE_WIDTH, CORNER = 3.2, 4.0
"""The width of a lane, and the way from a stop line to the nearest lane of the crossing road, in m."""
CLEARANCE = 2.4
"""Vehicles whose centre lines are that far apart do not touch, in m."""
STEP = 0.05
"""The distance of the points by which routes are compared, in m."""
BY_LANE = {1: ((0, LEFT), (0, STRAIGHT), (0, RIGHT)), 2: ((0, RIGHT), (0, STRAIGHT), (1, STRAIGHT), (1, LEFT))}
"""The routes of an arm, by the number of its lanes: (lane, from the right; direction)."""


class Routes(NamedTuple):
    """The routes of a junction, those of arm 0 first.

    Attributes:
        lanes: Lanes of an arm.
        lane: The approach lane of each route, arm * lanes + its number from the right, `[routes]`.
        exit: The exit lane of each route, numbered likewise by the arm beside it, `[routes]`.
        direction: `LEFT`, `STRAIGHT` or `RIGHT`, `[routes]`.
        length: Inside the square, in m, `[routes]`.
        radius: Of the curve, in m, infinite if straight, `[routes]`.
        entry: Where the zone that a route shares with another one begins, in m, `[routes, routes]`; infinite if none.
        leave: Where it ends, in m; minus infinity if there is none.
        apart: The position from which on the routes of a lane are apart, in m.
        partner: The routes with which a route has zones, `[routes, zones]` int; -1 beyond the last one.
        back: The number of the same zone on that route, `[routes, zones]` int.
    """

    lanes: int
    lane: np.ndarray
    exit: np.ndarray
    direction: np.ndarray
    length: np.ndarray
    radius: np.ndarray
    entry: np.ndarray
    leave: np.ndarray
    apart: float
    partner: np.ndarray
    back: np.ndarray

    @property
    def zones(self) -> tuple[np.ndarray, np.ndarray]:
        """Return where the zones of `partner` begin and end on the routes of an arm, in m, `[kinds, zones]` each."""
        own, other = np.arange(self.kinds)[:, None], self.partner[: self.kinds]
        none = other < 0
        return np.where(none, np.inf, self.entry[own, other]), np.where(none, -np.inf, self.leave[own, other])

    @property
    def kinds(self) -> int:
        """Return the number of routes of an arm; by symmetry, those of the other arms have the same numbers."""
        return len(self.length) // ARMS

    @property
    def total(self) -> int:
        """Return the number of routes."""
        return len(self.length)

    @property
    def conflict(self) -> np.ndarray:
        """Return which routes conflict, `[routes, routes]` bool."""
        return np.isfinite(self.entry)


@functools.cache
def routes(lanes: int) -> Routes:
    """Return the routes of a junction whose arms have so many lanes in each direction, 1 or 2.

    >>> one = routes(1)
    >>> one.total, [round(x, 2) for x in one.length[:3].tolist()]  # left, straight on and right
    (12, [13.82, 14.4, 8.8])
    >>> bool(one.conflict[1, 4]), bool(one.conflict[1, 7])  # the road that crosses, and the one that comes towards it
    (True, False)
    """
    ways = [path(lanes, arm, *way) for arm in range(ARMS) for way in BY_LANE[lanes]]
    each = len(BY_LANE[lanes])
    arms = np.repeat(np.arange(ARMS), each)
    own, direction = (np.tile(column, ARMS) for column in np.array(BY_LANE[lanes]).T)
    length, radius = (
        np.tile(column, ARMS) for column in zip(*(shape(lanes, *way) for way in BY_LANE[lanes]), strict=True)
    )
    # Straight on is the arm two further, right the next one, left the one before.
    exits = (arms + np.array([3, 2, 1])[direction]) % ARMS * lanes + own
    entry = np.full((len(ways), len(ways)), np.inf)
    leave, apart = -entry, 0.0
    for r, mine in enumerate(ways[:each]):
        for q, other in enumerate(ways):
            if r == q or (arms[q] == 0 and own[r] != own[q]):
                continue
            distance = np.sqrt(np.square(mine[:, None] - other).sum(2)).min(1)
            near = np.flatnonzero(distance < CLEARANCE) * length[r] / (len(mine) - 1)
            if arms[q] == 0:
                apart = max(apart, near[-1])
            elif len(near):
                # The same for the other arms, by symmetry.
                turned = np.arange(ARMS) * each
                entry[r + turned, (q + turned) % len(ways)] = near[0]
                leave[r + turned, (q + turned) % len(ways)] = near[-1]
    return Routes(
        lanes,
        arms * lanes + own,
        exits,
        direction,
        length.astype(np.float32),
        radius.astype(np.float32),
        entry,
        leave,
        float(apart),
        *_partners(np.isfinite(entry)),
    )


def _partners(conflict: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return `Routes.partner` and `Routes.back`."""
    count = len(conflict)
    kinds = count // ARMS
    partner = np.full((count, conflict.sum(1).max()), -1)
    for r in range(count):
        # In the order of the turned arm, so that the routes of all arms have the same zones.
        turned = np.flatnonzero(conflict[r % kinds])
        partner[r, : len(turned)] = (turned + r // kinds * kinds) % count
    back = np.array([[list(partner[q]).index(r) if q >= 0 else 0 for q in row] for r, row in enumerate(partner)])
    return partner, back


def half_width(lanes: int) -> float:
    """Return the distance of the stop lines from the centre, in m."""
    return lanes * LANE_WIDTH + CORNER


def shape(lanes: int, lane: int, direction: int) -> tuple[float, float]:
    """Return the length of a route inside the square and the radius of its curve, in m."""
    half, beside = half_width(lanes), (lanes - lane - 0.5) * LANE_WIDTH
    if direction == STRAIGHT:
        return 2.0 * half, math.inf
    radius = half + beside if direction == LEFT else half - beside
    return radius * math.pi / 2, radius


@functools.cache
def path(lanes: int, arm: int, lane: int, direction: int) -> np.ndarray:
    """Return evenly spaced points of a route inside the square, `[points, 2]` in m, from the centre of the junction."""
    half, beside = half_width(lanes), (lanes - lane - 0.5) * LANE_WIDTH
    length, radius = shape(lanes, lane, direction)
    along = np.linspace(0.0, length, round(length / STEP) + 1)
    if direction == STRAIGHT:
        x, y = np.full_like(along, beside), along - half
    else:
        side = 1.0 if direction == RIGHT else -1.0
        x, y = side * half - side * radius * np.cos(along / radius), radius * np.sin(along / radius) - half
    cos, sin = ((1, 0), (0, 1), (-1, 0), (0, -1))[arm]
    points = np.stack([cos * x - sin * y, sin * x + cos * y], 1)
    points.setflags(write=False)
    return points


def route_of(table: Routes, arm: jax.Array, lane: jax.Array, wanted: jax.Array) -> jax.Array:
    """Return the route from a lane of an arm that leads in the wanted direction, or else straight on; int32."""
    if table.lanes == 1:
        return (arm * 3 + wanted).astype(jnp.int32)
    left, right = jnp.where(wanted == LEFT, 3, 2), jnp.where(wanted == RIGHT, 0, 1)
    return (arm * 4 + jnp.where(lane == 1, left, right)).astype(jnp.int32)


def of_kind(table: Routes, values: np.ndarray, route: jax.Array) -> jax.Array:
    """Return the entry of `values` that belongs to routes, of which those of all arms have the same one; float32."""
    kind, found = route % table.kinds, jnp.float32(values[0])
    for number in range(1, table.kinds):
        found = jnp.where(kind == number, jnp.float32(values[number]), found)
    return jnp.broadcast_to(found, route.shape)


def exit_of(table: Routes, route: jax.Array) -> jax.Array:
    """Return the exit lane of routes; see `Routes.exit`."""
    turn = of_kind(table, table.exit[: table.kinds] // table.lanes, route).astype(jnp.int32)
    lane = of_kind(table, table.exit[: table.kinds] % table.lanes, route).astype(jnp.int32)
    return (route // table.kinds + turn) % ARMS * table.lanes + lane


def lane_of(table: Routes, route: jax.Array) -> jax.Array:
    """Return the approach lane of routes; see `Routes.lane`."""
    return route // (3 if table.lanes == 1 else 2)


def whereabouts(lanes: int, route: int, position: float) -> tuple[float, float]:
    """Return the place of a position on a route, also on its approach and its exit, in m from the centre.

    >>> [round(x, 1) for x in whereabouts(1, 1, -10.0)]  # from the south, 10 m before the stop line
    [1.6, -17.2]
    """
    arm, way = divmod(route, len(BY_LANE[lanes]))
    points, length = path(lanes, arm, *BY_LANE[lanes][way]), float(routes(lanes).length[route])
    inside = round(float(np.clip(position / length, 0.0, 1.0)) * (len(points) - 1))
    beyond = position - np.clip(position, 0.0, length)
    ahead = points[1] - points[0] if beyond < 0.0 else points[-1] - points[-2]
    x, y = points[inside] + beyond * ahead / np.linalg.norm(ahead)
    return float(x), float(y)
