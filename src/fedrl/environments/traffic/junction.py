"""A junction without signals: vehicles from four arms arrive, give way, cross and leave, and some of them learn to.

    arrivals --> queue outside --> slots of vehicles --junction_step--> state, events --> observation, reward, measures

The players are slots, of which each has at most one vehicle at a time. A slot is alive while it has a vehicle that
learns; when that one has left, it is free for another one, in a later step. All other vehicles drive by the rule of
the background.

In a step of 0.5 s, the reward of the vehicle in slot i is

    r_i = -time_cost * 0.5 s * (1 + W / n) - fuel_cost * fuel_i - collision_cost * [i collides]

with W vehicles that wait outside and n inside: those outside have no player, so all inside share what their wait costs.
Vehicles that collide are taken away at once. Two collide if one runs into the vehicle ahead, or if both are in the
zone that their routes share (`junction_routes`), in the middle or at the end of the step.

Every vehicle of the demand counts in the measures, from its planned arrival until it has left or the episode ends.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core.component import component
from fedrl.core.environment import (
    Box,
    Discrete,
    Environment,
    Overview,
    Picture,
    Product,
    Spaces,
    Timestep,
    draw_uniform,
)
from fedrl.core.errors import ConfigError
from fedrl.core.ranges import ABOVE_ZERO, UP_TO_ONE, ZERO_OR_MORE, Bounds, Count, Positive
from fedrl.environments import pictures
from fedrl.environments.time_limit import time_limit
from fedrl.environments.traffic import junction_sight
from fedrl.environments.traffic.junction_arrivals import BUSIEST, DRAWS, ENTRY_SPEED
from fedrl.environments.traffic.junction_copies import copies_last
from fedrl.environments.traffic.junction_driving import KEEP
from fedrl.environments.traffic.junction_measures import MEASURES, costs_of, measured
from fedrl.environments.traffic.junction_routes import ARMS, BY_LANE, LANE_WIDTH, half_width, routes, whereabouts
from fedrl.environments.traffic.junction_shield import SOLID_LINE
from fedrl.environments.traffic.junction_step import (
    STRONGEST_BRAKING,
    STRONGEST_PUSH,
    JunctionParams,
    JunctionSite,
    JunctionState,
    advanced,
    empty,
)

EDGE, UNIT = 60.0, 5.0
"""Half of what a picture shows, in m, and pixels of a metre."""
BOUNDS = {
    "arrivals": Bounds(0.0, BUSIEST),
    **dict.fromkeys(("time_cost", "fuel_cost", "collision_cost"), ZERO_OR_MORE),
    **dict.fromkeys(("left", "right"), Bounds(0.0, 0.5)),
    **dict.fromkeys(("trucks", "learning"), UP_TO_ONE),
    "limit": Bounds(ENTRY_SPEED, 25.0),
    "time_gap": ABOVE_ZERO,
}
"""Ranges of the parameters. Up to 25 m/s a stop is possible within the part of an approach where lanes are kept."""


@component("environment", reference="Dresner, Stone (2008), https://doi.org/10.1613/jair.2502")
def junction(
    vehicles: Count = 30,
    lanes: Count = 1,
    shield: bool = True,
    approach_m: Positive = 150.0,
    exit_m: Positive = 50.0,
    max_steps: Count = 240,
) -> Environment:
    """Build a junction without signals, whose vehicles are the players; see the equations at the top of this file.

    The action of a vehicle is its acceleration in m/s2, from -4.5 to 2.6, of a truck at most 1.3; with two lanes also
    0 to keep its lane, 1 to move to the left one or 2 to the right one. What it observes is listed in
    `junction_sight.observed`, and what is measured in `junction_measures`.

    With the shield, no vehicle collides, whatever it does: `junction_shield` says why. Without, it may. An episode
    begins with an empty junction and takes `max_steps` steps.

    Args:
        vehicles: The most vehicles at the junction at once. Others wait outside.
        lanes: Lanes of an arm in each direction, 1 or 2.
        shield: Whether the shield bounds the speeds and the lane changes of all vehicles.
        approach_m: The way from the edge to the stop line, in m; at least 60.
        exit_m: The way from the square to the edge, in m.
        max_steps: The length of an episode, in steps of 0.5 s.

    Raises:
        ConfigError: An arm has more than two lanes, or an approach is too short.

    >>> junction(lanes=2).spaces.action
    Product(parts=(Box(shape=(1,), low=-4.5, high=2.6), Discrete(n=3)))
    >>> junction().spaces
    Spaces(observation=Box(shape=(29,), low=-inf, high=inf), action=Box(shape=(1,), low=-4.5, high=2.6))
    """
    _check(lanes, approach_m)
    site = JunctionSite(routes(lanes), vehicles, shield, approach_m, exit_m)
    table = site.table

    @copies_last
    def above(params: JunctionParams, state: JunctionState) -> jax.Array:
        del params
        return junction_sight.seen_from_above(table, state.vehicles, state.queue)

    @copies_last
    def reset(noise: jax.Array, params: JunctionParams) -> tuple[Timestep, JunctionState]:
        state = empty(site, noise)
        shown = junction_sight.observed(table, state.vehicles, state.ahead, params.limit)
        return _opened(shown), state

    @copies_last
    def step(
        noise: jax.Array, params: JunctionParams, state: JunctionState, action: jax.Array
    ) -> tuple[Timestep, JunctionState]:
        choice = jnp.full(action.shape[1:], KEEP) if lanes == 1 else action[1].astype(jnp.int32)
        after, outcome = advanced(site, params, state, noise, action[0], choice)
        shown = junction_sight.observed(table, after.vehicles, after.ahead, params.limit)
        costs = costs_of(params, outcome)
        never = jnp.zeros(noise.shape[1:], bool)
        alive = after.vehicles.there & after.vehicles.learns
        reward = -(costs[0] + costs[1] + costs[2])
        return Timestep(shown, reward, never, never, measured(after, outcome, costs), alive), after

    push = Box((1,), -STRONGEST_BRAKING, STRONGEST_PUSH)
    return time_limit(
        Environment(
            JunctionParams(*(jnp.float32(value) for value in JunctionParams())),
            Spaces(Box((junction_sight.features(table),)), push if lanes == 1 else Product((push, Discrete(3)))),
            draw_uniform((DRAWS - 1) * ARMS),
            draw_uniform(DRAWS * ARMS),
            reset,
            step,
            max_steps,
            picture=Picture(lambda state, params: _drawn(lanes, state), pause_ms=100),
            measures=MEASURES,
            bounds=BOUNDS,
            players=vehicles,
            overview=Overview(Box((junction_sight.overview_features(vehicles),)), above),
            revives=True,
        )
    )


def _opened(observation: jax.Array) -> Timestep:
    """The timestep that begins an episode, `[slots, *copies]`."""
    slots, copies = observation.shape[1:], observation.shape[2:]
    none = jnp.zeros(copies, bool)
    return Timestep(observation, jnp.zeros(slots), none, none, alive=jnp.ones(slots, bool))


def _check(lanes: int, approach_m: float) -> None:
    if lanes not in BY_LANE:
        raise ConfigError(
            f"lanes is {lanes}. Which lane leads where is known for 1 and 2 lanes an arm. Choose one of these."
        )
    if approach_m < SOLID_LINE:
        raise ConfigError(
            f"approach_m is {approach_m:g}. In the last {SOLID_LINE:g} m nobody changes lanes, and vehicles that enter "
            f"have to be able to stop. Give at least {SOLID_LINE:g}."
        )


def _drawn(lanes: int, state: JunctionState) -> Any:
    """The junction from above; who may enter is coloured, and vehicles of the background are grey."""
    size, edge = int(2 * EDGE * UNIT), half_width(lanes)
    picture = pictures.plane(size, size, UNIT, (size / 2, size / 2))
    road = lanes * LANE_WIDTH
    for low, high in (((-EDGE, -road), (EDGE, road)), ((-road, -EDGE), (road, EDGE))):
        picture.box(low, high, pictures.PAPER, pictures.SOFT)
    picture.line([(0.0, -edge), (road, -edge)], pictures.SOFT, 2)
    everyone = state.vehicles
    for slot in np.flatnonzero(np.asarray(everyone.there)):
        length = float(everyone.length[slot])
        body = float(everyone.position[slot]) - np.linspace(0.0, length, 4)
        points = [whereabouts(lanes, int(everyone.route[slot]), at) for at in body]
        colour = pictures.BLUE if everyone.granted[slot] else pictures.ACCENT
        picture.line(points, colour if everyone.learns[slot] else pictures.INK, 9)
    return picture.finished()
