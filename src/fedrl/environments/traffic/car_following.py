"""Car following by the Intelligent Driver Model (IDM), integrated as the simulator SUMO does it.

    lane, position --leaders--> car ahead --seen_ahead--> gap, its speed --idm_speed--> speed --> position

The acceleration of a driver with speed v (m/s), a gap g (m, bumper to bumper) and a leader with speed v_l is

    a(v, v_l, g) = a_max (1 - (v / v_0)^delta - (s* / g)^2),    s* = s_0 + max(0, v T + v (v - v_l) / (2 sqrt(a_max b)))

SUMO takes n = max(1, floor(dt / 0.25 s + 1/2)) inner steps of it, in which the leader goes on at its speed,

    v <- max(0, v + a dt / n),    g <- g - max(0, (v - v_l) dt / n)

and moves the car once, with its new speed (semi-implicit Euler): x <- x + v dt. No car brakes harder than its emergency
deceleration. Everything here is for one copy of a road, `[cars]`, and may be mapped over copies and agents.

Positions are those of front bumpers, along the lane. Leaders are found by sorting, so the cost is n log n, not n^2.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

INNER_STEP = 0.25
"""The longest inner step of the integration, in s."""
LEAST_GAP = 1e-3
"""The least gap by which the model divides, in m."""
NOBODY = -1
"""The index of a car that is not there."""

Numbers: TypeAlias = jax.Array | float


class VehicleType(NamedTuple):
    """A vehicle type: how it is driven and how long it is. The defaults are SUMO's of a passenger car, in town.

    Attributes:
        desired_speed: v_0, the speed on an empty road, in m/s.
        time_gap: T, the time in which it would cover the gap that it keeps, in s.
        min_gap: s_0, the gap in a queue, in m.
        acceleration: a_max, in m/s2.
        deceleration: b, that of comfortable braking, in m/s2.
        emergency: The strongest braking, in m/s2.
        exponent: delta, a pure number.
        length: From bumper to bumper, in m.
    """

    desired_speed: Numbers = 13.89
    time_gap: Numbers = 1.0
    min_gap: Numbers = 2.5
    acceleration: Numbers = 2.6
    deceleration: Numbers = 4.5
    emergency: Numbers = 9.0
    exponent: Numbers = 4.0
    length: Numbers = 5.0


PASSENGER = VehicleType()
TRUCK = VehicleType(acceleration=1.3, deceleration=4.0, emergency=7.0, length=7.1)
BUS = VehicleType(acceleration=1.2, deceleration=4.0, emergency=7.0, length=12.0)
MOTORCYCLE = VehicleType(acceleration=6.0, deceleration=10.0, emergency=10.0, length=2.2)
"""The vehicle classes of SUMO, with its default numbers."""


def desired_gap(driver: VehicleType, speed: Numbers, leader_speed: Numbers) -> jax.Array:
    """Return s*, the gap that a driver wants to the car ahead, in m; see the formula at the top of this file.

    Args:
        driver: The vehicle type, of one car or of each.
        speed: v of the driver, in m/s.
        leader_speed: v_l, in m/s.

    >>> desired_gap(PASSENGER, 10.0, 10.0).item()  # a queue's gap, and a second
    12.5
    """
    approach = speed * (speed - leader_speed) / (2.0 * jnp.sqrt(driver.acceleration * driver.deceleration))
    return driver.min_gap + jnp.maximum(0.0, speed * driver.time_gap + approach)


def idm_acceleration(driver: VehicleType, speed: Numbers, leader_speed: Numbers, gap: Numbers) -> jax.Array:
    """Return the acceleration of the Intelligent Driver Model, in m/s2; see the formula at the top of this file.

    Args:
        driver: The vehicle type, of one car or of each.
        speed: v of the driver, in m/s.
        leader_speed: v_l, in m/s; any finite number if the gap is infinite.
        gap: g, in m, from the driver's front bumper to the leader's rear one; infinite if nobody is ahead.

    Reference: Treiber, Hennecke, Helbing (2000), https://doi.org/10.1103/PhysRevE.62.1805

    >>> round(idm_acceleration(PASSENGER, 0.0, 0.0, jnp.inf).item(), 6)
    2.6
    >>> idm_acceleration(PASSENGER, 10.0, 10.0, 12.5).item() < 0.0  # the gap that it wants
    True
    """
    free = (speed / driver.desired_speed) ** driver.exponent
    near = desired_gap(driver, speed, leader_speed) / jnp.maximum(gap, LEAST_GAP)
    return driver.acceleration * (1.0 - free - jnp.square(near))


def idm_speed(driver: VehicleType, speed: Numbers, leader_speed: Numbers, gap: Numbers, dt: float) -> jax.Array:
    """Return the speed after a step, in m/s, by the inner steps at the top of this file.

    Args:
        driver: The vehicle type, of one car or of each.
        speed: v of the driver, in m/s.
        leader_speed: v_l, in m/s; any finite number if the gap is infinite.
        gap: g, in m; infinite if nobody is ahead.
        dt: The length of the step, in s.

    Reference: Lopez et al. (2018), https://doi.org/10.1109/ITSC.2018.8569938 (SUMO; `MSCFModel_IDM.cpp`)

    >>> round(idm_speed(PASSENGER, 0.0, 0.0, jnp.inf, dt=0.1).item(), 6)
    0.26
    """
    inner = max(1, int(dt / INNER_STEP + 0.5))
    now, left = jnp.asarray(speed), jnp.asarray(gap)
    for _ in range(inner):
        now = jnp.maximum(0.0, now + idm_acceleration(driver, now, leader_speed, left) * dt / inner)
        left = left - jnp.maximum(0.0, (now - leader_speed) * dt / inner)
    return jnp.maximum(now, speed - driver.emergency * dt)


def leaders(lane: jax.Array, position: jax.Array) -> jax.Array:
    """Return the index of the car ahead of each on its lane, `NOBODY` if there is none.

    Args:
        lane: Of each car, `[cars]` int32; cars that are not on the road are on lanes of their own, such as -1 - index.
        position: Of each front bumper, `[cars]`, in m.

    >>> leaders(jnp.array([0, 0, 1]), jnp.array([5.0, 30.0, 10.0])).tolist()
    [1, -1, -1]
    """
    order = jnp.lexsort((-position, lane))
    ahead = jnp.concatenate([jnp.full(1, NOBODY, order.dtype), order[:-1]])
    ahead = jnp.where(lane[ahead] == lane[order], ahead, NOBODY).at[0].set(NOBODY)
    return jnp.zeros_like(order).at[order].set(ahead).astype(jnp.int32)


def seen_ahead(
    driver: VehicleType, position: jax.Array, speed: jax.Array, ahead: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return the gap to the car ahead, in m, and its speed, in m/s; infinity and 0 where nobody is ahead.

    Args:
        driver: The vehicle type, of all cars or of each, `[cars]`.
        position: Of each front bumper, `[cars]`, in m.
        speed: Of each car, `[cars]`, in m/s.
        ahead: The index of the car ahead, `[cars]`, as `leaders` returns it.
    """
    there = ahead != NOBODY
    rear = position - driver.length
    return jnp.where(there, rear[ahead] - position, jnp.inf), jnp.where(there, speed[ahead], 0.0)


def follow(
    driver: VehicleType, position: jax.Array, speed: jax.Array, ahead: jax.Array, dt: float
) -> tuple[jax.Array, jax.Array]:
    """Move all cars by one step, each after the car ahead: return their positions (m) and speeds (m/s).

    Args:
        driver: The vehicle type, of all cars or of each, `[cars]`.
        position: Of each front bumper, `[cars]`, in m.
        speed: Of each car, `[cars]`, in m/s.
        ahead: The index of the car ahead, `[cars]`, as `leaders` returns it.
        dt: The length of the step, in s.

    >>> position, speed = follow(PASSENGER, jnp.array([40.0, 0.0]), jnp.array([10.0, 10.0]), jnp.array([-1, 0]), 1.0)
    >>> bool(speed[0] > 10.0), bool(speed[1] < speed[0])
    (True, True)
    """
    gap, leader_speed = seen_ahead(driver, position, speed, ahead)
    reached = idm_speed(driver, speed, leader_speed, gap, dt)
    return position + reached * dt, reached
