"""Cooperative navigation: particles in a plane have to cover all landmarks without running into each other.

The physics is that of the multi-agent particle environments (`simple_spread`), with dt = 0.1, per step:

    f_i = accel u_i + sum_j c_ij,    c_ij = 100 d_ij (x_i - x_j) / |x_i - x_j|
    d_ij = 0.001 log(1 + exp((0.3 - |x_i - x_j|) / 0.001)),    the depth to which two players overlap
    v_i <- (1 - damping) v_i + f_i dt,    x_i <- x_i + v_i dt

u_i is one of (0, 0), (1, 0), (-1, 0), (0, 1), (0, -1). Players are discs of radius 0.15 that push each other off, and
landmarks are points. The reward of player i, with x the positions after the step and l_m the landmarks, is

    r_i = (share - 1) sum_m min_j |x_j - l_m| - share * (number of j != i with |x_i - x_j| < 0.3)
"""

from __future__ import annotations

from typing import Any, NamedTuple

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
    Spaces,
    Timestep,
    draw_nothing,
    draw_uniform,
    first,
)
from fedrl.core.measures import Measure
from fedrl.core.ranges import UP_TO_ONE, Count
from fedrl.environments import pictures
from fedrl.environments.time_limit import time_limit
from fedrl.environments.worlds.grids import MOVES

DT = 0.1
RADIUS = 0.15
CONTACT_FORCE, CONTACT_MARGIN = 100.0, 0.001
COVERED = 0.15
"""The distance below which a landmark counts as covered, in a measure only."""
HALF_WIDTH, UNIT = 1.6, 110
"""Half of what a picture shows, and pixels of a unit."""


class NavigationParams(NamedTuple):
    """Acceleration of a push, the share of its speed that a player loses per step, and the weight of collisions."""

    accel: jax.Array | float = 5.0
    damping: jax.Array | float = 0.25
    share: jax.Array | float = 0.5


class NavigationState(NamedTuple):
    """Positions and velocities of players, and positions of landmarks, `[2, players]` each, and who is there.

    `present` is `[players]`; None if all players are there.
    """

    position: jax.Array
    velocity: jax.Array
    landmark: jax.Array
    present: jax.Array | None = None


@component("environment", reference="Lowe et al. (2017), https://arxiv.org/abs/1706.02275")
def navigation(players: Count = 3, max_steps: Count = 25) -> Environment:
    """Build cooperative navigation, with as many landmarks as players; see the equations at the top of this file.

    Everyone starts at random in [-1, 1] x [-1, 1], and so do the landmarks. Actions: 0 nothing, 1 right, 2 left, 3 up,
    4 down. A player observes its velocity and position, and landmarks and other players relative to itself; the
    original's silent messages are left out. If players are absent (`Environment.attend`), zeros are observed in their
    place, and those who are there cover the landmarks; who comes back is where it left.

    The measures are `covered`, the share of landmarks with a player within 0.15 after the last step, and `collisions`,
    pairs of players that touch, added over the steps of an episode.

    Args:
        players: Number of players and of landmarks.
        max_steps: Time limit of an episode.

    >>> navigation().spaces
    Spaces(observation=Box(shape=(14,), low=-inf, high=inf), action=Discrete(n=5))
    """
    n = players
    others = jnp.asarray([[j for j in range(n) if j != i] for i in range(n)], jnp.int32).T.reshape(n - 1, n)
    pushes = jnp.asarray(MOVES, jnp.float32).T

    def seen(state: NavigationState) -> jax.Array:
        landmarks = state.landmark[:, :, None] - state.position[:, None, :]
        near = state.position[:, others] - state.position[:, None, :]
        if state.present is not None:
            near = jnp.where(state.present[others], near, 0.0)
        return jnp.concatenate([state.velocity, state.position, landmarks.reshape(-1, n), near.reshape(-1, n)])

    def above(params: NavigationParams, state: NavigationState) -> jax.Array:
        del params
        return jnp.concatenate([leaf.ravel() for leaf in (state.position, state.velocity, state.landmark)])

    def reset(noise: jax.Array, params: NavigationParams) -> tuple[Timestep, NavigationState]:
        del params
        places = (2.0 * noise - 1.0).reshape(2, 2 * n)
        state = NavigationState(places[:, :n], jnp.zeros((2, n)), places[:, n:])
        return first(seen(state), players), state

    def step(
        noise: tuple[()], params: NavigationParams, state: NavigationState, action: jax.Array
    ) -> tuple[Timestep, NavigationState]:
        del noise
        push = pushes @ (jnp.arange(len(MOVES))[:, None] == action).astype(jnp.float32)
        there = state.present
        force = params.accel * push + contact_forces(state.position, there)
        velocity = (1.0 - params.damping) * state.velocity + force * DT
        if there is not None:
            velocity = jnp.where(there, velocity, 0.0)
        after = NavigationState(state.position + velocity * DT, velocity, state.landmark, there)
        apart = _distances(after.landmark, after.position)
        uncovered = apart.min(1) if there is None else jnp.where(there, apart, jnp.inf).min(1)
        touching = (_distances(after.position, after.position) < 2 * RADIUS) & ~jnp.eye(n, dtype=bool)
        if there is not None:
            touching &= there[:, None] & there
        reward = (params.share - 1.0) * uncovered.sum() - params.share * touching.sum(1)
        measures = {"covered": (uncovered < COVERED).mean(), "collisions": touching.sum() / 2}
        return Timestep(seen(after), reward, jnp.bool_(False), jnp.bool_(False), measures), after

    def attend(
        params: NavigationParams, state: NavigationState, present: jax.Array
    ) -> tuple[jax.Array, NavigationState]:
        del params
        # Who comes back is where it left, at rest.
        state = state._replace(velocity=jnp.where(present, state.velocity, 0.0), present=present)
        return seen(state), state

    return time_limit(
        Environment(
            NavigationParams(*(jnp.float32(value) for value in NavigationParams())),
            Spaces(Box((4 * n + 2,)), Discrete(len(MOVES))),
            draw_uniform(4 * n),
            draw_nothing,
            reset,
            step,
            max_steps,
            picture=Picture(_drawn, pause_ms=100),
            measures={
                "covered": Measure("episode", better="higher", take="last"),
                "collisions": Measure("episode", better="lower"),
            },
            bounds={"damping": UP_TO_ONE, "share": UP_TO_ONE},
            players=players,
            overview=Overview(Box((6 * n,)), above),
            attend=attend,
        )
    )


def contact_forces(position: jax.Array, present: jax.Array | None = None) -> jax.Array:
    """Return the sum of the forces with which the others push each player off, `[2, players]`.

    With a mask `present`, `[players]`, those of players that are not there are zero.
    """
    apart = position[:, :, None] - position[:, None, :]
    distance = _distances(position, position)
    depth = CONTACT_MARGIN * jnp.logaddexp(0.0, (2 * RADIUS - distance) / CONTACT_MARGIN)
    if present is not None:
        depth = jnp.where(present, depth, 0.0)
    # Two players in the same place push in no direction, as does each with itself.
    return (CONTACT_FORCE * depth / jnp.maximum(distance, 1e-6) * apart).sum(2)


def _distances(first: jax.Array, second: jax.Array) -> jax.Array:
    """Return the distances of points `[2, n]` and `[2, m]`, `[n, m]`."""
    return jnp.sqrt(jnp.square(first[:, :, None] - second[:, None, :]).sum(0))


def _drawn(state: NavigationState, params: NavigationParams) -> Any:
    del params
    edge = int(2 * HALF_WIDTH * UNIT)
    picture = pictures.plane(edge, edge, UNIT, (edge / 2, edge / 2))
    picture.box((-1.0, -1.0), (1.0, 1.0), pictures.PAPER, pictures.SOFT)
    there = np.ones(state.position.shape[1], bool) if state.present is None else np.asarray(state.present)
    for x, y in np.asarray(state.position).T[there].tolist():
        picture.disc((x, y), RADIUS, pictures.BLUE, pictures.INK)
    for x, y in np.asarray(state.landmark).T.tolist():
        picture.disc((x, y), 0.05, pictures.ACCENT)
    return picture.finished()
