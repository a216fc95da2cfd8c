"""A platoon: cars behind each other that keep a constant time gap, each by its own acceleration (Boin et al. 2022).

Car i = 1, 2, ... follows car i - 1; car 0 leads, driven by nobody. With its acceleration a_i, the wanted one u_i, its
speed v_i and its gap g_i to the car in front, the errors of position and speed are

    e_p,i = g_i - (gap at standstill + h v_i),    e_v,i = v_{i-1} - v_i

and a step of T = 0.1 s, by Euler's method, is

    e_p <- e_p + T e_v - h T a_i,    e_v <- e_v + T (a_{i-1} - a_i),    a_i <- a_i + T / tau (u_i - a_i)

The leader's wanted acceleration is drawn from N(0, 0.1 m/s2) in each step. The reward of a car is made of its errors
before the step, its action, and the change of its acceleration in the step before,

    r_i = -(0.4 |e_p| / 20 + 0.2 |e_v| / 20 + 0.2 |u| / 2.5 + 0.2 |a - a of the step before| / 5)

and 0.5 less for a car whose error of position or speed is above 20 after the step, which ends the episode for all.

These are the equations of the paper; where it is silent, those of its authors' program, github.com/cboin1996/avddpg.
There, the end is noticed in the step after, whose reward is -0.5; here it comes with the step that leads to it. The sum
is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core.component import component
from fedrl.core.environment import Box, Environment, Noise, Overview, Picture, Spaces, Timestep, first
from fedrl.core.measures import Measure
from fedrl.core.ranges import ZERO_OR_MORE, Bounds, Count
from fedrl.core.types import Key
from fedrl.environments import pictures
from fedrl.environments.time_limit import time_limit

STEP = 0.1
"""T, in s."""
FARTHEST, STRONGEST = 20.0, 2.5
"""The largest error, in m and m/s, and the largest wanted acceleration, in m/s2."""
ERROR_SPREAD, ACCELERATION_SPREAD = 1.5, 0.05
"""Standard deviations at the start, in m and m/s, and in m/s2."""
WIDTH, HEIGHT = 620, 120
"""Size of a picture, in pixels."""


class PlatoonParams(NamedTuple):
    """The cars of a platoon.

    Attributes:
        headway: h, the time gap, in s.
        tau: The lag of the followers' engines, in s; above T / 2, below which Euler's method is unstable.
        tau_leader: That of the leader's engine, in s.
        leader_std: The standard deviation of the leader's wanted acceleration, in m/s2.
        end_cost: What a car pays that ends the episode.
    """

    headway: jax.Array | float = 1.0
    tau: jax.Array | float = 0.1
    tau_leader: jax.Array | float = 0.1
    leader_std: jax.Array | float = 0.1
    end_cost: jax.Array | float = 0.5


class PlatoonState(NamedTuple):
    """Errors of the cars (m, m/s), accelerations (m/s2) and those before the last step, `[cars]`; the leader's."""

    e_p: jax.Array
    e_v: jax.Array
    acceleration: jax.Array
    previous: jax.Array
    leader: jax.Array


def draw_normal(count: int) -> Callable[[Key, tuple[int, ...]], Noise]:
    """Return a `draw_step` of `count` numbers from N(0, 1), of shape `[count, *batch]`."""
    return lambda key, batch: jax.random.normal(key, (count, *batch))


@component("environment", reference="Boin et al. (2022), https://doi.org/10.20517/ir.2022.11")
def platoon(cars: Count = 2, max_steps: Count = 600) -> Environment:
    """Build a platoon in which each following car is a player; see the equations at the top of this file.

    A car observes `[e_p, e_v, a_i, a_{i-1}]`. Its action is u_i, the acceleration that it wants, clipped to [-2.5, 2.5]
    m/s2. Errors start from N(0, 1.5), accelerations from N(0, 0.05), that of the leader from 0.

    The measures are the means over cars and steps of |e_p| (`position_error`, m), |e_v| (`speed_error`, m/s) and of the
    change of acceleration per second (`jerk`, m/s3), and the share of episodes that ended early (`ended`).

    Args:
        cars: Number of following cars.
        max_steps: Time limit of an episode, in steps of 0.1 s.

    >>> platoon().spaces
    Spaces(observation=Box(shape=(4,), low=-inf, high=inf), action=Box(shape=(1,), low=-2.5, high=2.5))
    """

    def in_front(state: PlatoonState) -> jax.Array:
        return jnp.concatenate([state.leader[None], state.acceleration[:-1]])

    def seen(state: PlatoonState) -> jax.Array:
        return jnp.stack([state.e_p, state.e_v, state.acceleration, in_front(state)])

    def above(params: PlatoonParams, state: PlatoonState) -> jax.Array:
        del params
        return seen(state).ravel()

    def reset(noise: jax.Array, params: PlatoonParams) -> tuple[Timestep, PlatoonState]:
        del params
        errors, acceleration = ERROR_SPREAD * noise[: 2 * cars], ACCELERATION_SPREAD * noise[2 * cars :]
        state = PlatoonState(errors[:cars], errors[cars:], acceleration, acceleration, jnp.float32(0.0))
        return first(seen(state), cars), state

    def step(
        noise: jax.Array, params: PlatoonParams, state: PlatoonState, action: jax.Array
    ) -> tuple[Timestep, PlatoonState]:
        wanted = jnp.clip(action[0], -STRONGEST, STRONGEST)
        change = state.acceleration - state.previous
        after = PlatoonState(
            state.e_p + STEP * state.e_v - params.headway * STEP * state.acceleration,
            state.e_v + STEP * (in_front(state) - state.acceleration),
            state.acceleration + STEP / params.tau * (wanted - state.acceleration),
            state.acceleration,
            state.leader + STEP / params.tau_leader * (params.leader_std * noise[0] - state.leader),
        )
        far = (jnp.abs(after.e_p) > FARTHEST) | (jnp.abs(after.e_v) > FARTHEST)
        costs = 0.4 * jnp.abs(state.e_p) / FARTHEST + 0.2 * jnp.abs(state.e_v) / FARTHEST
        efforts = 0.2 * jnp.abs(wanted) / STRONGEST + 0.2 * jnp.abs(change) / (2 * STRONGEST)
        measures = {
            "position_error": jnp.abs(after.e_p).mean(),
            "speed_error": jnp.abs(after.e_v).mean(),
            "jerk": jnp.abs(after.acceleration - after.previous).mean() / STEP,
            "ended": far.any(),
        }
        reward = -(costs + efforts + params.end_cost * far)
        return Timestep(seen(after), reward, far.any(), jnp.bool_(False), measures), after

    return time_limit(
        Environment(
            PlatoonParams(*(jnp.float32(value) for value in PlatoonParams())),
            Spaces(Box((4,)), Box((1,), -STRONGEST, STRONGEST)),
            draw_normal(3 * cars),
            draw_normal(1),
            reset,
            step,
            max_steps,
            picture=Picture(_drawn, pause_ms=100),
            measures={
                "position_error": Measure("step", unit="m", better="lower"),
                "speed_error": Measure("step", unit="m/s", better="lower"),
                "jerk": Measure("step", unit="m/s3", better="lower"),
                "ended": Measure("episode", better="lower", take="last"),
            },
            bounds=dict.fromkeys(("headway", "leader_std", "end_cost"), ZERO_OR_MORE)
            | dict.fromkeys(("tau", "tau_leader"), Bounds(STEP / 2, above=True, below=True)),
            players=cars,
            overview=Overview(Box((4 * cars,)), above),
        )
    )


def _drawn(state: PlatoonState, params: PlatoonParams) -> Any:
    """Each car on a line of its own place, in front of or behind it; where it should be is a stroke."""
    del params
    errors = np.atleast_1d(np.asarray(state.e_p))
    spacing = 3.0 * FARTHEST
    across = spacing * (len(errors) + 1)
    picture = pictures.plane(WIDTH, HEIGHT, WIDTH / across, (WIDTH - 0.5 * spacing * WIDTH / across, HEIGHT / 2))
    long, high = 0.12 * spacing, 0.09 * across * HEIGHT / WIDTH
    picture.line([(-across, -high), (spacing, -high)], pictures.SOFT, 2)
    picture.box((-long, -high), (long, high), pictures.INK)
    behind = 0.0
    for number, error in enumerate(errors.tolist(), start=1):
        behind += error  # a car that is too far behind shifts those after it
        place = -spacing * number
        picture.line([(place, -2 * high), (place, 2 * high)], pictures.SOFT, 2)
        picture.box((place - behind - long, -high), (place - behind + long, high), pictures.BLUE, pictures.INK)
    return picture.finished()
