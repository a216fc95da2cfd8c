"""One step of a junction: from the accelerations that vehicles choose to who is where afterwards.

    state, actions --speeds--> moved --collided, left--> changed lanes --arrivals--> rights to enter --> state, events

Arrays are `[slots]`, and axes behind that are copies (`junction_copies`); a `JunctionSite` has what is no number of the
traffic.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.environments.traffic.car_following import NOBODY, PASSENGER, TRUCK
from fedrl.environments.traffic.fuel import fuel_rate
from fedrl.environments.traffic.junction_arrivals import DRAWS, Demand, Queue, arrived, entered
from fedrl.environments.traffic.junction_conflicts import Vehicles, collided, column, granted
from fedrl.environments.traffic.junction_driving import (
    Ahead,
    arrives_where_it_wants,
    background,
    changed_lanes,
    neighbours,
    reach,
    speeds,
)
from fedrl.environments.traffic.junction_routes import ARMS, Routes, of_kind

STEP = 0.5
"""The length of a step, in s."""
STRONGEST_BRAKING, STRONGEST_PUSH = 4.5, 2.6
"""The accelerations that an action may choose from: -4.5 to 2.6 m/s2."""
STANDING = 0.1
"""The speed below which a vehicle stands, in m/s."""


class JunctionSite(NamedTuple):
    """What is built: the routes, the number of slots, whether there is a shield, and the ways to the edges in m."""

    table: Routes
    slots: int
    shield: bool
    approach_m: float
    exit_m: float


class JunctionParams(NamedTuple):
    """A junction's traffic, and what it costs.

    Attributes:
        arrivals: Vehicles per hour and arm, at most 3,600.
        left: The share of vehicles that turn left.
        right: The share of vehicles that turn right; the others go straight on.
        trucks: The share of trucks.
        learning: The share of vehicles that act by themselves; the others drive by the rule of the background.
        limit: The speed limit, in m/s.
        time_gap: The time gap of background drivers, in s.
        time_cost: What a second costs that a vehicle spends at the junction or in front of it.
        fuel_cost: What a gram of petrol costs.
        collision_cost: What a collision costs each vehicle in it.
    """

    arrivals: jax.Array | float = 300.0
    left: jax.Array | float = 0.25
    right: jax.Array | float = 0.25
    trucks: jax.Array | float = 0.0
    learning: jax.Array | float = 1.0
    limit: jax.Array | float = 13.89
    time_gap: jax.Array | float = 1.0
    time_cost: jax.Array | float = 0.05
    fuel_cost: jax.Array | float = 0.02
    collision_cost: jax.Array | float = 10.0


class JunctionState(NamedTuple):
    """The vehicles and what is ahead of them, those outside, and the number of the step."""

    vehicles: Vehicles
    ahead: Ahead
    queue: Queue
    time: jax.Array


class StepEvents(NamedTuple):
    """What happened in a step.

    Attributes:
        inside: Who was at the junction, `[slots]`.
        speed: Of those after the step, in m/s.
        fuel: What they burnt, in g.
        stopped: Who came to stand.
        intervened: Whose speed or change of lane the shield has changed.
        crashed: Who collided, and is away.
        served: Who has left by an exit.
        served_right: Who of these wanted to leave there.
        entered: Who came in, into an empty slot.
        waited: How many have waited outside during the step.
        arrived: How many have arrived at its end.
    """

    inside: jax.Array
    speed: jax.Array
    fuel: jax.Array
    stopped: jax.Array
    intervened: jax.Array
    crashed: jax.Array
    served: jax.Array
    served_right: jax.Array
    entered: jax.Array
    waited: jax.Array
    arrived: jax.Array


def empty(site: JunctionSite, uniform: jax.Array) -> JunctionState:
    """Return a junction without vehicles.

    Args:
        site: The junction.
        uniform: Numbers that make the first vehicle of each arm, `[(DRAWS - 1) * arms]`.
    """
    copies = uniform.shape[1:]
    zeros, no, none = (jnp.zeros((site.slots, *copies), kind) for kind in (jnp.float32, bool, jnp.int32))
    nobody = Vehicles(no, zeros, zeros, none, none, no, zeros + jnp.inf, no, no, zeros + PASSENGER.length)
    queue = Queue(jnp.zeros((ARMS, *copies)), uniform.reshape(DRAWS - 1, ARMS, *copies))
    return JunctionState(nobody, neighbours(site.table, nobody, STEP), queue, jnp.zeros(copies, jnp.int32))


def advanced(
    site: JunctionSite,
    params: JunctionParams,
    state: JunctionState,
    uniform: jax.Array,
    wish: jax.Array,
    choice: jax.Array,
) -> tuple[JunctionState, StepEvents]:
    """Return the state after a step, and what happened in it.

    Args:
        site: The junction.
        params: Its traffic.
        state: The state before.
        uniform: Random numbers, `[DRAWS * arms]`.
        wish: The acceleration that each vehicle that learns chooses, in m/s2, `[slots]`.
        choice: Its change of lane, `[slots]` int32.
    """
    table, before = site.table, state.vehicles
    wish = jnp.clip(wish, -STRONGEST_BRAKING, jnp.where(before.truck, TRUCK.acceleration, STRONGEST_PUSH))
    rule = background(before, state.ahead, params.limit, params.time_gap)
    wish = jnp.where(before.learns, wish, rule)
    speed, intervened = speeds(table, before, state.ahead, wish, params.limit, site.shield, STEP)
    fuel = jnp.where(before.there, fuel_rate(speed, (speed - before.speed) / STEP), 0.0) * (STEP / 1000.0)

    # The stages of a step are compiled one by one: fused into each other, they take the compiler far longer.
    moved, crashed, fuel = jax.lax.optimization_barrier((*driven(table, before, state.ahead, speed), fuel))
    length = of_kind(table, table.length, before.route)
    served = moved.there & ~crashed & (moved.position >= length + site.exit_m)
    right = served & arrives_where_it_wants(table, moved)
    after = moved._replace(there=moved.there & ~crashed & ~served)
    if table.lanes == 2:
        after, refused = changed_lanes(table, after, choice, site.shield, STEP)
        intervened |= refused

    uniform = uniform.reshape(DRAWS, ARMS, *uniform.shape[1:])
    new = arrived(uniform[0], params.arrivals, STEP)
    demand = Demand(params.left, params.right, params.trucks, params.learning)
    queue = state.queue._replace(waiting=state.queue.waiting + new)
    # A slot is empty for a step before another vehicle takes it, so that their lives are apart.
    queue, after, came = entered(
        table, demand, queue, after, ~before.there, uniform[1:], -site.approach_m, params.time_gap, STEP
    )
    queue, after, came = jax.lax.optimization_barrier((queue, after, came))
    after = granted(table, after, -after.position <= reach(after.speed), state.time)
    stopped = before.there & (before.speed >= STANDING) & (speed < STANDING)
    outcome = StepEvents(
        before.there,
        speed,
        fuel,
        stopped,
        intervened & before.there,
        crashed,
        served,
        right,
        came,
        state.queue.waiting.sum(0),
        new.sum(0),
    )
    return JunctionState(after, neighbours(table, after, STEP), queue, state.time + 1), outcome


def driven(table: Routes, vehicles: Vehicles, ahead: Ahead, speed: jax.Array) -> tuple[Vehicles, jax.Array]:
    """Move all vehicles by a step; return also who collides in it, `[slots]` bool.

    Args:
        table: The routes.
        vehicles: The vehicles before.
        ahead: What is ahead of them.
        speed: Their speeds in the step, in m/s.
    """
    moved = vehicles._replace(position=vehicles.position + STEP * speed, speed=speed)
    halfway = vehicles._replace(position=vehicles.position + 0.5 * STEP * speed)
    met = collided(table, moved) | collided(table, halfway)
    # The gap before the step counts, too: a change of lane may have led into another vehicle.
    leader, moves = ahead.leader, STEP * speed
    leader_moved = jnp.where(leader == NOBODY, 0.0, jnp.take_along_axis(moves, jnp.maximum(leader, 0), 0))
    ran = vehicles.there & ((ahead.gap < 0.0) | (ahead.gap + leader_moved - moves < 0.0))
    struck = (ran[:, None] & (leader[:, None] == column(np.arange(len(speed)), leader.ndim - 1))).any(0)
    return moved, (met | ran | struck) & vehicles.there
