"""Cars that arrive at a lane one after the other, follow each other along it and leave at its end.

    planned times --enter, if there is room--> position 0 --follow--> length --> entered, left, fuel of each car

A car enters at its planned time, with the speed of entry v_e, if the gap to the car before it is at least s*(v_e, v_l),
which is SUMO's rule as well; else it waits, and those behind it with it. So what demand takes includes waiting outside.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedrl.environments.traffic.car_following import NOBODY, VehicleType, desired_gap, follow, seen_ahead
from fedrl.environments.traffic.fuel import fuel_rate

ROUNDING = 0.01
"""The part of a step by which a planned time may be later than the step, as float32 rounds both."""


class Trips(NamedTuple):
    """When each car entered and left the lane, in s, infinite if it did not; and its fuel, in g; `[cars]` each."""

    entered: jax.Array
    left: jax.Array
    fuel: jax.Array


class _Lane(NamedTuple):
    position: jax.Array
    speed: jax.Array
    trips: Trips


def poisson_times(uniform: jax.Array, vehicles_per_hour: float) -> jax.Array:
    """Return the times of arrivals, in s, that are independent of each other.

    Args:
        uniform: Numbers from [0, 1), `[cars]`.
        vehicles_per_hour: The mean rate.

    >>> poisson_times(jnp.array([0.5, 0.5]), 3600.0).round(2).tolist()  # log(2) s apart
    [0.6899999976158142, 1.3899999856948853]
    """
    return jnp.cumsum(-jnp.log1p(-uniform)) * (3600.0 / vehicles_per_hour)


def pass_through(
    driver: VehicleType, planned: jax.Array, length_m: float, entry_speed: float, dt: float, steps: int
) -> Trips:
    """Let cars of one type pass through a lane.

    Args:
        driver: Their vehicle type.
        planned: When each car would like to enter, in s, ascending, `[cars]`.
        length_m: The length of the lane, in m.
        entry_speed: v_e, in m/s.
        dt: The length of a step, in s.
        steps: How many steps are simulated.

    Returns:
        The trips of all cars; those that have not left by the end have no time of leaving, and fuel so far.

    >>> trips = pass_through(VehicleType(), jnp.array([0.0, 0.1]), 200.0, 10.0, dt=0.1, steps=300)
    >>> bool(trips.entered[1] > 0.5), bool(trips.left[1] < 20.0)  # the second one waits for a gap
    (True, True)
    """
    count = planned.shape[0]
    before = jnp.arange(count) - 1

    def step(lane: _Lane, number: jax.Array) -> tuple[_Lane, None]:
        now = number * dt
        trips = lane.trips
        there = jnp.isfinite(trips.entered) & ~jnp.isfinite(trips.left)
        ahead = jnp.where((before >= 0) & there[before], before, NOBODY)
        position, speed = follow(driver, lane.position, lane.speed, ahead, dt)
        burnt = jnp.where(there, fuel_rate(speed, (speed - lane.speed) / dt) * dt / 1000.0, 0.0)
        leaves = there & (position >= length_m)
        left = jnp.where(leaves, now, trips.left)
        position, speed = jnp.where(there, position, 0.0), jnp.where(there, speed, entry_speed)

        still = jnp.isfinite(trips.entered) & ~jnp.isfinite(left)
        gap, leader_speed = seen_ahead(
            driver, position, speed, jnp.where((before >= 0) & still[before], before, NOBODY)
        )
        turn = ~jnp.isfinite(trips.entered) & ((before < 0) | jnp.isfinite(trips.entered[before]))
        enters = turn & (planned <= now + ROUNDING * dt) & (gap >= desired_gap(driver, entry_speed, leader_speed))
        entered = jnp.where(enters, now, trips.entered)
        return _Lane(position, speed, Trips(entered, left, trips.fuel + burnt)), None

    never = jnp.full(count, jnp.inf)
    empty = _Lane(jnp.zeros(count), jnp.full(count, entry_speed), Trips(never, never, jnp.zeros(count)))
    # Times are whole numbers of steps: a sum of many float32 would drift.
    return jax.lax.scan(step, empty, jnp.arange(steps, dtype=jnp.float32))[0].trips
