"""Probe environments: each is trivial for a correct learner and tests one part of it.

Optimal values, with reward scale 1 and discount gamma:

| probe                | what is tested                                      | V*                                |
|----------------------|-----------------------------------------------------|-----------------------------------|
| `probe_constant`     | the critic learns a constant                        | V(0) = 1                          |
| `probe_observation`  | the critic uses the observation                     | V(-1) = -1, V(1) = 1              |
| `probe_discount`     | values are bootstrapped and discounted              | V(0) = gamma, V(1) = 1            |
| `probe_action`       | the actor learns the better action                  | V(0) = 1, by action 1             |
| `probe_match`        | the actor uses the observation                      | V(-1) = V(1) = 1, by the match    |
| `probe_target`       | the same with a continuous action                   | V(-1) = V(1) = 0, by action = obs |
| `probe_truncation`   | truncation bootstraps, unlike termination           | V(0) = 1 / (1 - gamma)            |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedrl.core.component import component
from fedrl.core.environment import (
    ActionSpace,
    Box,
    Discrete,
    Environment,
    Picture,
    Product,
    Spaces,
    Timestep,
    draw_nothing,
    draw_uniform,
    first,
)
from fedrl.core.ranges import Count
from fedrl.environments import pictures
from fedrl.environments.time_limit import time_limit

JONES = "Jones (2021), https://andyljones.com/posts/rl-debugging.html"

WIDTH, HEIGHT = 320, 80
"""Size of a picture, in pixels."""

Reward = Callable[[jax.Array, jax.Array], jax.Array]


class ProbeParams(NamedTuple):
    """The scale of all rewards."""

    scale: jax.Array | float = 1.0


class ProbeState(NamedTuple):
    """The number that is the observation."""

    shown: jax.Array


class MemoryState(NamedTuple):
    """The number that is the observation, the cue, and the number of steps so far."""

    shown: jax.Array
    cue: jax.Array
    steps: jax.Array


@component("environment", reference=JONES)
def probe_constant() -> Environment:
    """One action, one step, reward 1: tests that the critic learns at all. V(0) = 1."""
    return _probe(Discrete(1), lambda shown, action: jnp.ones_like(shown))


@component("environment", reference=JONES)
def probe_observation() -> Environment:
    """One action, one step, reward equal to the observation, -1 or 1: tests that the critic uses it. V(o) = o."""
    return _probe(Discrete(1), lambda shown, action: shown, signs=True)


@component("environment", reference=JONES)
def probe_discount() -> Environment:
    """One action, two steps with observations 0 and 1, reward 1 at the end: tests discounting. V(0) = gamma."""
    return _probe(Discrete(1), lambda shown, action: shown, steps=2)


@component("environment", reference=JONES)
def probe_action() -> Environment:
    """Two actions, one step, reward -1 for action 0 and 1 for action 1: tests that the actor learns. V(0) = 1."""
    return _probe(Discrete(2), lambda shown, action: 2.0 * action - 1.0)


@component("environment", reference=JONES)
def probe_match() -> Environment:
    """Reward 1 if the action, 0 or 1, matches the observation, -1 or 1, else -1: tests actor and observation."""
    return _probe(Discrete(2), lambda shown, action: shown * (2.0 * action - 1.0), signs=True)


@component("environment", reference=JONES)
def probe_target() -> Environment:
    """Reward -(action - observation)^2 with observation -1 or 1: tests actors of continuous actions. V = 0."""
    return _probe(Box((1,), -2.0, 2.0), lambda shown, action: -((action[0] - shown) ** 2), signs=True)


@component("environment", reference=JONES)
def probe_choices() -> Environment:
    """Two choices at once, as in `probe_match` and `probe_target`: tests actors of discrete beside continuous actions.

    The reward is o (2 a_1 - 1) - (a_2 - o)^2 with the observation o, -1 or 1: V = 1.
    """

    def reward(shown: jax.Array, action: jax.Array) -> jax.Array:
        match, target = both.split(action)
        return shown * (2.0 * match - 1.0) - (target[0] - shown) ** 2

    both = Product((Discrete(2), Box((1,), -2.0, 2.0)))
    return _probe(both, reward, signs=True)


@component("environment", reference="Pardo et al. (2018), https://arxiv.org/abs/1712.00378")
def probe_truncation(max_steps: Count = 1) -> Environment:
    """Reward 1 forever, but every episode is cut off: tests bootstrapping at truncation.

    V(0) = 1 / (1 - gamma); a learner that treats truncation as termination finds 1 (with one step per episode).

    Args:
        max_steps: Steps of an episode.
    """
    return _probe(Discrete(1), lambda shown, action: jnp.ones_like(shown), steps=None, max_steps=max_steps)


@component("environment", reference="Hochreiter & Schmidhuber (1997), https://doi.org/10.1162/neco.1997.9.8.1735")
def probe_memory(delay: Count = 4) -> Environment:
    """A cue of -1 or 1 is shown at first, and zeros after it: tests recurrent policies.

    The action after `delay` further steps earns 1 if it matches the cue, 0 for -1 and 1 for 1, and else -1. With a
    memory V = gamma^delay; without one the two cues look alike by then, and no policy earns more than 0 on average.

    Args:
        delay: Steps between the cue and the action that counts.
    """

    def reset(noise: jax.Array, params: ProbeParams) -> tuple[Timestep, MemoryState]:
        del params
        cue = jnp.where(noise[0] < 0.5, jnp.float32(-1.0), jnp.float32(1.0))
        return first(cue[None]), MemoryState(cue, cue, jnp.int32(0))

    def step(
        noise: tuple[()], params: ProbeParams, state: MemoryState, action: jax.Array
    ) -> tuple[Timestep, MemoryState]:
        del noise
        last = state.steps == delay
        paid = jnp.where(last, params.scale * state.cue * (2.0 * action - 1.0), 0.0)
        shown = jnp.float32(0.0)
        return Timestep(shown[None], paid, last, jnp.bool_(False)), MemoryState(shown, state.cue, state.steps + 1)

    params = ProbeParams(jnp.float32(1.0))
    spaces, picture = Spaces(Box((1,)), Discrete(2)), Picture(_drawn, pause_ms=500)
    return time_limit(
        Environment(params, spaces, draw_uniform(1), draw_nothing, reset, step, delay + 2, picture=picture)
    )


def _probe(
    action: ActionSpace, reward: Reward, *, signs: bool = False, steps: int | None = 1, max_steps: int = 10
) -> Environment:
    """Build a probe whose reward depends on observation and action.

    The observation is a random sign, or the number of steps so far; the episode ends after `steps` steps, or never.
    """

    def reset(noise: jax.Array, params: ProbeParams) -> tuple[Timestep, ProbeState]:
        del params
        shown = jnp.where(noise[0] < 0.5, jnp.float32(-1.0), jnp.float32(1.0)) if signs else jnp.float32(0.0)
        return first(shown[None]), ProbeState(shown)

    def step(
        noise: tuple[()], params: ProbeParams, state: ProbeState, action: jax.Array
    ) -> tuple[Timestep, ProbeState]:
        del noise
        paid = params.scale * reward(state.shown, action)
        shown = state.shown if signs or steps is None else state.shown + 1.0
        # A probe with signs ends after its only step.
        over = jnp.bool_(False) if steps is None else jnp.bool_(True) if signs else shown >= steps
        return Timestep(shown[None], paid, over, jnp.bool_(False)), ProbeState(shown)

    params = ProbeParams(jnp.float32(1.0))
    spaces, picture = Spaces(Box((1,)), action), Picture(_drawn, pause_ms=500)
    return time_limit(
        Environment(params, spaces, draw_uniform(1), draw_nothing, reset, step, max_steps, picture=picture)
    )


def _drawn(state: Any, env_params: ProbeParams) -> Any:
    """Draw the observation as a point on a line of numbers."""
    del env_params
    picture = pictures.plane(WIDTH, HEIGHT, WIDTH / 5, (WIDTH / 2, HEIGHT / 2))
    picture.line([(-2.3, 0.0), (2.3, 0.0)], pictures.SOFT, 2)
    for mark in range(-2, 3):
        picture.line([(mark, -0.1), (mark, 0.1)], pictures.SOFT, 2)
        picture.text((mark, -0.35), str(mark), pictures.INK)
    picture.disc((min(max(float(state.shown), -2.4), 2.4), 0.0), 0.13, pictures.ACCENT)
    return picture.finished()
