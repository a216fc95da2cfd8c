"""The demand of a junction: vehicles arrive at its arms, wait outside until there is room, and enter in their order.

    uniform numbers --> arrivals of a step --> waiting, per arm --room on the lane, a free slot--> a vehicle at the edge

Arrivals at an arm are a Poisson process; those of a step count from its end on. Every vehicle has a direction, a
vehicle type, an approach lane and a driver of its own, which are drawn for the first one that waits, so that they do
not depend on whether there is room for it. It enters with the speed of entry v_e if the gap to the last vehicle of
its lane is at least s*(v_e, v_l), the rule of SUMO and of `flow`, and if it can stop whatever that vehicle does
(`junction_shield`). Arms take turns in steps in which more vehicles could enter than there are free slots: the
longest queue is first.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.environments.traffic.car_following import PASSENGER, TRUCK, Numbers, VehicleType, desired_gap
from fedrl.environments.traffic.junction_conflicts import Vehicles, column
from fedrl.environments.traffic.junction_routes import ARMS, LEFT, RIGHT, STRAIGHT, Routes, lane_of, route_of
from fedrl.environments.traffic.junction_shield import BRAKING, MARGIN, stopping_distance

ENTRY_SPEED = 10.0
"""v_e, in m/s."""
DRAWS = 5
"""Uniform numbers of an arm and a step: arrivals, and direction, type, lane and driver of the next vehicle."""
MOST, BUSIEST = 4, 3600.0
"""The most arrivals of a step at an arm, and in veh/h the most on average. In steps of 0.5 s more than four have a
probability below 10^-6 at 1,000 veh/h, and at 3,600 less than 0.05 % of the vehicles are left out."""


class Queue(NamedTuple):
    """Vehicles that wait outside.

    Attributes:
        waiting: Their number, `[arms]` float32.
        draws: The uniform numbers that make the first one of each arm, `[DRAWS - 1, arms]`.
    """

    waiting: jax.Array
    draws: jax.Array


class Demand(NamedTuple):
    """Of what kind the vehicles are that arrive.

    Attributes:
        left: The share that turns left.
        right: The share that turns right.
        trucks: The share of trucks; the others are passenger cars.
        learning: The share of vehicles that act by themselves.
    """

    left: Numbers
    right: Numbers
    trucks: Numbers
    learning: Numbers


def arrived(uniform: jax.Array, vehicles_per_hour: Numbers, dt: float) -> jax.Array:
    """Return how many vehicles arrive in a step, from uniform numbers, by the Poisson distribution.

    >>> arrived(jnp.array([0.5, 0.9, 0.99]), 720.0, 0.5).tolist()  # 0.1 of them on average
    [0.0, 0.0, 1.0]
    """
    mean = vehicles_per_hour * dt / 3600.0
    count, chance, below = jnp.zeros_like(uniform), jnp.exp(-mean), jnp.exp(-mean)
    for number in range(1, MOST + 1):
        count += uniform >= below
        chance = chance * mean / number
        below = below + chance
    return count


def entered(
    table: Routes,
    demand: Demand,
    queue: Queue,
    vehicles: Vehicles,
    free: jax.Array,
    uniform: jax.Array,
    edge: float,
    time_gap: Numbers,
    dt: float,
) -> tuple[Queue, Vehicles, jax.Array]:
    """Let the first one of each arm enter if there is room.

    Args:
        table: The routes.
        demand: Of what kind vehicles are.
        queue: Who waits outside, those who have just arrived included.
        vehicles: The vehicles in the slots.
        free: Slots that may be taken, `[slots]` bool.
        uniform: Numbers that make the vehicle that is first after the one that enters, `[DRAWS - 1, arms]`.
        edge: The position at which vehicles enter, in m.
        time_gap: T, with which a vehicle enters, in s.
        dt: The length of a step, in s.

    Returns:
        The queue and the vehicles afterwards, and who has entered, `[slots]` bool.
    """
    way, kind, side, driver = queue.draws
    wanted = jnp.where(way < demand.left, LEFT, jnp.where(way < demand.left + demand.right, RIGHT, STRAIGHT))
    truck, learns = kind < demand.trucks, driver < demand.learning
    arms = column(np.arange(ARMS), vehicles.route.ndim - 1)
    route = route_of(table, arms, (side * table.lanes).astype(jnp.int32), wanted)
    lane = lane_of(table, route)

    # The last vehicle of the lane of each arm's first one.
    rear = vehicles.position - vehicles.length
    mine = vehicles.there[:, None] & (lane_of(table, vehicles.route)[:, None] == lane)
    gap = jnp.where(mine, rear[:, None], jnp.inf).min(0) - edge
    last = mine & (rear[:, None] - edge == gap)
    last_speed = jnp.where(last, vehicles.speed[:, None], 0.0).max(0)
    room = jnp.where(mine, (rear + stopping_distance(vehicles.speed, emergency(vehicles.truck), dt))[:, None], jnp.inf)
    types = driver_of(truck, ENTRY_SPEED, time_gap)
    safe = stopping_distance(ENTRY_SPEED, BRAKING, dt) + MARGIN <= room.min(0) - edge
    enters = (queue.waiting > 0.0) & safe & (gap >= desired_gap(types, ENTRY_SPEED, last_speed))

    longer = (queue.waiting[:, None] > queue.waiting) | (
        (queue.waiting[:, None] == queue.waiting) & (arms[:, None] < arms)
    )
    place = (longer & enters[:, None]).sum(0)
    number = column(np.arange(len(free)), free.ndim - 1)
    left, dealt = free, jnp.zeros((len(free), *enters.shape), bool)
    for turn in range(ARMS):
        # The first slot that is left.
        slot = jnp.where(left, number, len(free)).min(0)
        dealt |= (number == slot)[:, None] & (enters & (place == turn)) & left[:, None]
        left = left & (number != slot)
    taken, goes = dealt.any(1), dealt.any(0)

    def made(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(taken, jnp.where(dealt, new, 0).sum(1).astype(old.dtype), old)

    queue = Queue(queue.waiting - goes, jnp.where(goes, uniform, queue.draws))
    after = Vehicles(
        there=vehicles.there | taken,
        position=jnp.where(taken, edge, vehicles.position),
        speed=jnp.where(taken, ENTRY_SPEED, vehicles.speed),
        route=made(route, vehicles.route),
        wanted=made(wanted, vehicles.wanted),
        granted=vehicles.granted & ~taken,
        asked=jnp.where(taken, jnp.inf, vehicles.asked),
        truck=made(truck, vehicles.truck),
        learns=made(learns, vehicles.learns),
        length=made(jnp.asarray(types.length), vehicles.length),
    )
    return queue, after, taken


def emergency(truck: jax.Array) -> jax.Array:
    """Return the emergency deceleration of vehicles, in m/s2."""
    return jnp.where(truck, TRUCK.emergency, PASSENGER.emergency)


def driver_of(truck: jax.Array, desired_speed: Numbers, time_gap: Numbers) -> VehicleType:
    """Return the vehicle type of each vehicle, with the speed and the time gap that drivers keep at this junction."""
    both = zip(PASSENGER, TRUCK, strict=True)
    types = VehicleType(*(jnp.where(truck, heavy, car) for car, heavy in both))
    return types._replace(desired_speed=desired_speed, time_gap=time_gap)
