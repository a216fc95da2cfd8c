"""Define an environment: four pure functions and facts about them.

    draw_reset, draw_step --> noise --> reset, step --> Timestep, State

All noise of a rollout is drawn before it: one call of `draw_step(key, (time, num_envs))` costs a fraction of splitting
a key in each step. An environment that needs keys draws keys (`draw_keys`).

An environment never resets itself. The rollout (`fedrl.learners.parts.rollout`) starts the next episode, so the last
observation of an episode is kept, and termination and truncation remain distinct.

An environment that cannot be part of a compiled program, such as one of Gymnasium, is a `HostEnvironment`.

A world is an environment with several players, each of whom observes, acts and is rewarded: their axis is the last one
of these arrays. Its episodes begin and end for all players at once; a player may die before (`Timestep.alive`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from fedrl.core.component import Call, record
from fedrl.core.errors import ConfigError
from fedrl.core.host import Instances
from fedrl.core.measures import Measures
from fedrl.core.ranges import Bounds
from fedrl.core.types import Key, PyTree

Noise: TypeAlias = PyTree
State: TypeAlias = PyTree


class Timestep(NamedTuple):
    """The outcome of one step or reset of one environment copy.

    In a world, `observation` is `[*features, players]`, and `reward` and `alive` are `[players]`.

    Attributes:
        observation: The observation of the state reached, before any reset.
        reward: Scalar float32; the reward of the transition (0 at a reset).
        terminated: Scalar bool; whether the episode ended in a terminal state, whose value is zero.
        truncated: Scalar bool; whether the episode was cut off, so that a learner bootstraps from `observation`.
        measures: The quantities from which `Environment.measures` are computed, keyed by name, each a scalar of the
            transition.
        alive: Bool; which players of a world are alive after the step, all of them at a reset. What a player observes
            and is rewarded after its death is ignored. A world whose players are all dead has to terminate, unless they
            may live again (`Environment.revives`). None if no player ever dies.
    """

    observation: jax.Array
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    measures: Mapping[str, jax.Array] = {}
    alive: jax.Array | None = None


@dataclass(frozen=True)
class Discrete:
    """The space of the integers 0 ... n - 1.

    >>> Discrete(4).shape
    ()
    """

    n: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of one element, a scalar."""
        return ()

    dtype = jnp.int32


@dataclass(frozen=True)
class Box:
    """The space of float32 arrays of a fixed shape; `low` and `high` bound every entry.

    >>> Box((2,), low=0.0).shape
    (2,)
    """

    shape: tuple[int, ...]
    low: float = -math.inf
    high: float = math.inf

    dtype = jnp.float32


MOST = 2**24
"""The most values of a discrete part of a `Product`: float32 has every whole number up to here."""


@dataclass(frozen=True)
class Product:
    """The space of actions that are several choices at once, such as an acceleration and a change of lane.

    An action is one flat array of the entries of all parts, in their order: int32 if every part is discrete, else
    float32, in which the entries of discrete parts are whole numbers. So whatever stores, shuffles or sends actions
    handles one array, as for other spaces; `split` returns the parts.

    Attributes:
        parts: The spaces of the choices.

    Raises:
        ConfigError: There are no parts, a part is no `Discrete` or `Box` with an entry, or a discrete one has more than
            2^24 values.

    >>> space = Product((Discrete(3), Box((2,), -1.0, 1.0)))
    >>> space.shape, space.dtype.__name__
    ((3,), 'float32')
    >>> lane, force = space.split(jnp.array([2.0, 0.5, -0.25]))
    >>> int(lane), force.tolist()
    (2, [0.5, -0.25])
    """

    parts: tuple[Discrete | Box, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.parts))
        for part in self.parts:
            if not isinstance(part, Discrete | Box) or 0 in part.shape:  # type: ignore[redundant-expr]
                raise ConfigError(
                    f"{part} is a part of a Product, whose parts are Discrete or Box with at least one entry. Give "
                    "the parts of a product inside of it one by one, and leave out those without entries."
                )
            if isinstance(part, Discrete) and not 0 < part.n <= MOST:
                raise ConfigError(
                    f"{part} is a part of a Product, and float32 has the whole numbers up to {MOST} only. Split it "
                    "into several choices."
                )
        if not self.parts:
            raise ConfigError("A Product has no parts, so there is nothing to decide. Give it at least one.")

    @property
    def sizes(self) -> tuple[int, ...]:
        """Return the number of entries of each part."""
        return tuple(math.prod(part.shape) for part in self.parts)

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of one element, all entries in a row."""
        return (sum(self.sizes),)

    @property
    def dtype(self) -> Any:
        """Return int32 if every part is discrete, else float32."""
        return jnp.int32 if all(isinstance(part, Discrete) for part in self.parts) else jnp.float32

    def split(self, action: jax.Array) -> tuple[jax.Array, ...]:
        """Return the parts of an action, or of a batch `[entries, *batch]`: `[*part, *batch]` each."""
        found, first = [], 0
        for part, size in zip(self.parts, self.sizes, strict=True):
            entries = action[first : first + size]
            found.append(entries.reshape(*part.shape, *action.shape[1:]).astype(part.dtype))
            first += size
        return tuple(found)

    def join(self, parts: Sequence[jax.Array]) -> jax.Array:
        """Return the action, or the batch of actions, with these parts, the inverse of `split`."""
        rows = [
            x.reshape(size, *x.shape[len(part.shape) :]).astype(self.dtype)
            for x, part, size in zip(parts, self.parts, self.sizes, strict=True)
        ]
        return jnp.concatenate(rows)


Space: TypeAlias = Discrete | Box
ActionSpace: TypeAlias = Discrete | Box | Product


class Spaces(NamedTuple):
    """The spaces of an environment's observations and actions; in a world, of those of each player."""

    observation: Space
    action: ActionSpace


class Picture(NamedTuple):
    """The renderer of an environment.

    Attributes:
        frame: `(state, env_params) -> image`, a Pillow image or uint8 `[height, width, 3]`, computed on the host.
        pause_ms: The time between two frames, in milliseconds.
    """

    frame: Callable[[State, PyTree], Any]
    pause_ms: int


class Overview(NamedTuple):
    """What an observer of a whole world sees. Only training may read it: no policy is ever given it.

    Attributes:
        space: The space of what it sees.
        see: `(params, state) -> [features]`; None in a host environment, whose copies say it (`Instances.overview`).
    """

    space: Box
    see: Callable[[PyTree, State], jax.Array] | None = None


class Variants(NamedTuple):
    """The numbers from which all parameters of an environment are computed, so that a fleet may vary them instead.

    Attributes:
        tables: `(**numbers) -> params`.
        numbers: The value of each number in `Environment.params`, keyed by name.
    """

    tables: Callable[..., PyTree]
    numbers: Mapping[str, int | float]


@record
class Environment:
    """A Markov decision process, written for a single environment copy; `jax.vmap` makes many.

    Attributes:
        params: The default parameters of the dynamics, a NamedTuple of arrays. The environments of heterogeneous
            agents differ in nothing else: a fleet is this record with a leading agent axis on every leaf.
        spaces: The observation and action spaces, the same for every setting of `params`.
        draw_reset: `(key, batch) -> noise` for `reset`, with the batch axes last on every leaf; an array of keys has no
            other axes.
        draw_step: `(key, batch) -> noise` for `step`, likewise.
        reset: `(noise, params) -> (timestep, state)`.
        step: `(noise, params, state, action) -> (timestep, state)`.
        max_steps: The largest number of steps of an episode.
        model: `params -> (transition, reward, initial)`, the exact tables of a finite process
            (`fedrl.environments.TabularParams`), for parameters with any leading axes. None if no model is known.
        variants: The numbers from which its constructor computes `params`, if a fleet may vary those.
        picture: The renderer, if there is one.
        measures: The measures besides the return, keyed by name: see `fedrl.core.measures`.
        bounds: The range of each parameter that a fleet may set; none for one that may be any finite number.
        players: The number of players of a world; `step` then takes the action of each, `[*action, players]`. None for
            a single agent.
        overview: What an observer of the whole world sees, if training may read that.
        attend: `(params, state, present) -> (observation, state)` of a world in which those of the mask `present`,
            `[players]`, take part from now on, and the others are not there: nobody meets or sees them, and they do not
            count in rewards. `reset` begins with all players. None if the world needs all of its players.
        revives: Whether a player that is not alive may be alive again within an episode: then players are places, and
            who leaves one makes room for another. It is empty for a step at least, so that their lives are apart.
        gymnasium_spaces: Its observation and action spaces as Gymnasium has them, where each entry has bounds of its
            own; None where `spaces` says it all.
        notes: What a user has to be told of it before a run, a sentence each.
        call: The constructor call that made the environment.
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
    bounds: Mapping[str, Bounds] = field(default_factory=dict)
    players: int | None = None
    overview: Overview | None = None
    attend: Callable[[PyTree, State, jax.Array], tuple[jax.Array, State]] | None = None
    revives: bool = False
    gymnasium_spaces: tuple[Any, Any] | None = None
    notes: tuple[str, ...] = ()
    call: Call | None = None


class CommonWorld(NamedTuple):
    """A world whose players are the agents of a federation, the first player the first agent.

    Attributes:
        world: The world.
        leaves: Whether an agent that does not train is out of the world meanwhile. Otherwise its player acts on, with
            the parameters that the agent holds.
    """

    world: Environment
    leaves: bool = False


@record
class HostEnvironment:
    """An environment that `fedrl.engines.executors.host` steps on the host, outside compiled programs.

    Attributes:
        params: The default parameters of one environment copy, a NamedTuple of arrays; a fleet is this record with a
            leading agent axis on every leaf.
        spaces: The observation and action spaces, the same for every setting of `params`.
        max_steps: The largest number of steps of an episode.
        open: `(params, workers) -> Instances`: open one environment copy for each entry of the leading axis of
            `params`, in so many processes (None: a number chosen for speed).
        measures: The measures besides the return, keyed by name: see `fedrl.core.measures`.
        bounds: The range of each parameter that a fleet may set; none for one that may be any finite number.
        gymnasium_spaces: Its observation and action spaces as Gymnasium has them, with the bounds of each entry and the
            data type; None for an environment that is not of Gymnasium.
        choices: The parameters that are numbers of values which are none, such as strings: a fleet lists the values.
        open_rendered: `params -> ` one open Gymnasium environment that draws itself (render_mode "rgb_array"), for the
            parameters of one agent; of a world, one copy with the methods of `Instances` and `render`. None for an
            environment that can't be drawn.
        notes: What a user has to be told of it before a run, a sentence each.
        players: The number of players of a world; `spaces` are then those of each. None for a single agent.
        overview: What an observer of the whole world sees, if training may read that.
        common: The world whose players are the agents; its copies are those of all agents together, and a row is a
            player. None if each agent has environments of its own.
        call: The constructor call that made the environment.
    """

    params: PyTree
    spaces: Spaces
    max_steps: int
    open: Callable[[PyTree, int | None], Instances]
    measures: Measures = field(default_factory=dict)
    bounds: Mapping[str, Bounds] = field(default_factory=dict)
    gymnasium_spaces: tuple[Any, Any] | None = None
    choices: tuple[str, ...] = ()
    open_rendered: Callable[[PyTree], Any] | None = None
    common: CommonWorld | None = None
    notes: tuple[str, ...] = ()
    players: int | None = None
    overview: Overview | None = None
    call: Call | None = None


AnyEnvironment: TypeAlias = Environment | HostEnvironment
"""Any environment that a learner may be bound to."""


def compiled(environment: AnyEnvironment) -> Environment:
    """Return the environment if it can be part of a compiled program.

    Raises:
        ConfigError: The environment is stepped on the host.
    """
    if isinstance(environment, HostEnvironment):
        raise ConfigError(
            f"{environment!r} cannot be part of a compiled program, because it is stepped on the host. "
            "Run it with the executor fedrl.engines.executors.host.Host, the default for it."
        )
    return environment


def common_of(environment: AnyEnvironment) -> CommonWorld | None:
    """Return the world that the agents have in common; None if each has environments of its own."""
    return environment.common if isinstance(environment, HostEnvironment) else None


def may_fail(environment: AnyEnvironment) -> bool:
    """Return whether an environment is stepped by another library: it may raise, and its state can't be saved."""
    return isinstance(environment, HostEnvironment) and environment.common is None


def draw_nothing(key: Key, batch: tuple[int, ...]) -> Noise:
    """Return the noise of a deterministic function: none."""
    del key, batch
    return ()


def draw_keys(key: Key, batch: tuple[int, ...]) -> Noise:
    """Return the noise of a function that draws by a key of its own: one key per environment copy."""
    return jax.random.split(key, batch)


def draw_uniform(count: int) -> Callable[[Key, tuple[int, ...]], Noise]:
    """Return a `draw_step` of `count` numbers, uniform on [0, 1), of shape `[count, *batch]`."""
    return lambda key, batch: jax.random.uniform(key, (count, *batch))


def first(observation: jax.Array, players: int | None = None) -> Timestep:
    """Return the timestep that begins an episode: reward 0, of each player in a world; neither of the ends."""
    reward = jnp.float32(0.0) if players is None else jnp.zeros(players)
    return Timestep(observation, reward, jnp.bool_(False), jnp.bool_(False))
