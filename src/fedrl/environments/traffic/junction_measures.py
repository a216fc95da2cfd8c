"""What is measured at a junction: sums over the steps of an episode, and the quantities that are computed from them.

| measure | what it is |
|---|---|
| `collisions` | vehicles that collided, of those of the demand |
| `collisions_per_1000_km` | vehicles that collided in 1,000 vehicle-km |
| `throughput` | vehicles that left by an exit, veh/h |
| `travel_time` | time from the planned arrival to the exit, s; of those who have not left, the time so far |
| `wait_outside` | the part of it that is spent waiting outside, s |
| `fuel`, `consumption` | petrol of a vehicle that entered, g, and l/100 km |
| `stops` | how often a vehicle that entered came to stand |
| `arrived_right` | vehicles that left where they wanted to, of those that left or collided |
| `interventions` | how often the shield changed a speed or refused a change of lane, of a vehicle that entered |
| `left_outside`, `left_inside` | vehicles outside and inside at the end of the episode |
| `time_cost`, `fuel_cost`, `collision_cost` | what all vehicles cost, means over slots |

If all vehicles learn, the return is minus the sum of the three costs; else it counts those that learn alone.

Quotients are those of the sums over all episodes, so long queues count as much as they are long. Every vehicle of the
demand is among those who left, collided, are outside or are inside.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fedrl.core.measures import Measure
from fedrl.environments.traffic.fuel import litres_per_100_km
from fedrl.environments.traffic.junction_step import STEP, JunctionParams, JunctionState, StepEvents


def _per(part: str, whole: str, unit: str = "", better: str | None = "lower", times: float = 1.0) -> Measure:
    """A quotient of two sums over episodes."""
    return Measure("episode", unit, better, (part, whole), lambda sums: times * sums[part] / sums[whole])


MEASURES = {
    "collisions": _per("crashed", "demand"),
    "collisions_per_1000_km": _per("crashed", "driven_m", times=1e6),
    "throughput": _per("served", "duration_s", "veh/h", "higher", 3600.0),
    "travel_time": _per("vehicle_s", "demand", "s"),
    "wait_outside": _per("outside_s", "demand", "s"),
    "fuel": _per("fuel_g", "entered", "g"),
    "consumption": Measure(
        "episode",
        "l/100 km",
        "lower",
        ("fuel_g", "driven_m"),
        lambda sums: litres_per_100_km(sums["fuel_g"], sums["driven_m"]),
    ),
    "stops": _per("stopped", "entered"),
    "arrived_right": Measure(
        "episode",
        better="higher",
        parts=("served_right", "served", "crashed"),
        finish=lambda sums: sums["served_right"] / (sums["served"] + sums["crashed"]),
    ),
    "interventions": _per("intervened", "entered"),
    "left_outside": Measure("episode", better="lower", take="last"),
    "left_inside": Measure("episode", take="last"),
    "time_cost": Measure("episode", better="lower"),
    "fuel_cost": Measure("episode", better="lower"),
    "collision_cost": Measure("episode", better="lower"),
}
"""The measures of a junction, by name."""


def costs_of(params: JunctionParams, events: StepEvents) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return what time, fuel and collisions cost each vehicle in a step, `[slots]` each: the terms of the reward."""
    share = 1.0 + events.waited / jnp.maximum(events.inside.sum(0), 1)
    time = jnp.where(events.inside, params.time_cost * STEP * share, 0.0)
    return time, params.fuel_cost * events.fuel, params.collision_cost * events.crashed


def measured(state: JunctionState, events: StepEvents, costs: tuple[jax.Array, jax.Array, jax.Array]) -> dict[str, Any]:
    """Return the parts of the measures of a step: the state after it, what happened in it, and what it cost."""
    inside = events.inside.sum(0)
    time, fuel, collision = costs
    return {
        "time_cost": time.mean(0),
        "fuel_cost": fuel.mean(0),
        "collision_cost": collision.mean(0),
        "demand": events.arrived,
        "entered": events.entered.sum(0),
        "served": events.served.sum(0),
        "served_right": events.served_right.sum(0),
        "crashed": events.crashed.sum(0),
        "left_outside": state.queue.waiting.sum(0),
        "left_inside": state.vehicles.there.sum(0),
        "duration_s": jnp.full(inside.shape, STEP),
        "vehicle_s": STEP * (inside + events.waited),
        "outside_s": STEP * events.waited,
        "driven_m": STEP * events.speed.sum(0),
        "fuel_g": events.fuel.sum(0),
        "stopped": events.stopped.sum(0),
        "intervened": events.intervened.sum(0),
    }
