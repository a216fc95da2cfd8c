"""What an environment is: four pure functions, and facts about it.

Randomness is drawn ahead: `draw_step(key, (time, num_envs))` once per rollout costs a fraction of a key
split per step. An environment that wants keys draws keys (`draw_keys`).

    draw_reset, draw_step --> noise --> reset, step --> Timestep, State

An environment never resets itself. Whoever steps it (`fedrl.learners.parts.rollout`) starts the next episode,
so the last observation of an episode is never lost, and termination and truncation stay apart.

What can't be part of a compiled program, such as Gymnasium's environments, is a `HostEnvironment`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from fedrl.core.component import Call, record
from fedrl.core.errors import ConfigError
from fedrl.core.host import Instances
from fedrl.core.measures import Measures
from fedrl.core.types import Key, PyTree

Noise: TypeAlias = PyTree
State: TypeAlias = PyTree


class Timestep(NamedTuple):
    """What one step shows, for one instance of the environment.

    Attributes:
        observation: The state reached, seen before any reset.
        reward: Scalar float32, of the transition just made (0 at a reset).
        terminated: Scalar bool; the episode ended in the environment: its value beyond is zero.
        truncated: Scalar bool; the episode was cut off: bootstrap from `observation`.
        measures: What `Environment.measures` are made of, by name, each a scalar of the transition just made.
    """

    observation: jax.Array
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    measures: Mapping[str, jax.Array] = {}


@dataclass(frozen=True)
class Discrete:
    """The integers 0 ... n - 1."""

    n: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one element: a scalar."""
        return ()

    dtype = jnp.int32


@dataclass(frozen=True)
class Box:
    """Arrays of float32 of a fixed shape; `low` and `high` bound every entry."""

    shape: tuple[int, ...]
    low: float = -math.inf
    high: float = math.inf

    dtype = jnp.float32


Space: TypeAlias = Discrete | Box


class Spaces(NamedTuple):
    """The spaces of an environment's observations and actions."""

    observation: Space
    action: Space


class Picture(NamedTuple):
    """How a state is drawn.

    Attributes:
        frame: `(state, env_params) -> image` of Pillow, on the host.
        pause_ms: Milliseconds between two frames.
    """

    frame: Callable[[State, PyTree], Any]
    pause_ms: int


class Variants(NamedTuple):
    """Numbers from which all parameters of an environment are computed, so that a fleet may vary them instead.

    Attributes:
        tables: `(**numbers) -> params`.
        numbers: Their names, and what they are in `Environment.params`.
    """

    tables: Callable[..., PyTree]
    numbers: Mapping[str, int | float]


@record
class Environment:
    """A Markov decision process, one instance at a time; `jax.vmap` makes many.

    Attributes:
        params: The parameters of the dynamics at their defaults, a NamedTuple of arrays. Heterogeneous agents
            differ in nothing else: a fleet is this record with a leading agent axis on every leaf.
        spaces: Observation and action spaces, the same for every setting of `params`.
        draw_reset: `(key, batch) -> noise`, with the batch axes last on every leaf (keys: the only axes).
        draw_step: As `draw_reset`, for `step`.
        reset: `(noise, params) -> (timestep, state)`.
        step: `(noise, params, state, action) -> (timestep, state)`.
        max_steps: No episode is longer.
        model: `params -> (transition, reward, initial)`, the exact tables of a finite process
            (`fedrl.environments.TabularParams`), for parameters with any leading axes. None if no model is known.
        variants: The numbers that its constructor computes `params` from, if a fleet may vary those.
        picture: How a state is drawn, if that is known.
        measures: What is measured besides the return, by name: see `fedrl.core.measures`.
        call: The constructor call that made it.
    """

    params: PyTree
    spaces: Spaces
    draw_reset: Callable[[Key, tuple[int, ...]], Noise]
    draw_step: Callable[[Key, tuple[int, ...]], Noise]
    reset: Callable[[Noise, PyTree], tuple[Timestep, State]]
    step: Callable[[Noise, PyTree, State, jax.Array], tuple[Timestep, State]]
    max_steps: int
    model: Callable[[PyTree], PyTree] | None = None
    variants: Variants | None = None
    picture: Picture | None = None
    measures: Measures = field(default_factory=dict)
    call: Call | None = None


@record
class HostEnvironment:
    """An environment whose instances live outside compiled programs; `fedrl.engines.executors.host` steps them.

    Attributes:
        params: The parameters of an instance at their defaults, a NamedTuple of arrays; a fleet is this record with a
            leading agent axis on every leaf.
        spaces: Observation and action spaces, the same for every setting of `params`.
        max_steps: No episode is longer.
        open: `(params, workers) -> Instances`: opens one instance for each entry of the leading axis of `params`, in so
            many processes (None: as many as pay).
        measures: What is measured besides the return, by name: see `fedrl.core.measures`.
        call: The constructor call that made it.
    """

    params: PyTree
    spaces: Spaces
    max_steps: int
    open: Callable[[PyTree, int | None], Instances]
    measures: Measures = field(default_factory=dict)
    call: Call | None = None


AnyEnvironment: TypeAlias = Environment | HostEnvironment
"""What a learner may learn in."""


def compiled(environment: AnyEnvironment) -> Environment:
    """The environment, which is to become part of a compiled program.

    Raises:
        ConfigError: It is stepped on the host.
    """
    if isinstance(environment, HostEnvironment):
        raise ConfigError(
            f"{environment!r} was about to become part of a compiled program. It is stepped on the host. "
            "Run it with the executor fedrl.engines.executors.host.Host, the default for it."
        )
    return environment


def draw_nothing(key: Key, batch: tuple[int, ...]) -> Noise:
    """Noise for a deterministic function: none."""
    del key, batch
    return ()


def draw_keys(key: Key, batch: tuple[int, ...]) -> Noise:
    """Noise for a function that splits keys itself: one key per instance."""
    return jax.random.split(key, batch)


def draw_uniform(count: int) -> Callable[[Key, tuple[int, ...]], Noise]:
    """Noise of `count` numbers uniform on [0, 1), shaped `[count, *batch]`."""
    return lambda key, batch: jax.random.uniform(key, (count, *batch))


def first(observation: jax.Array) -> Timestep:
    """The timestep that opens an episode."""
    return Timestep(observation, jnp.float32(0.0), jnp.bool_(False), jnp.bool_(False))
