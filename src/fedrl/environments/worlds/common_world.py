"""One world for all agents: its players are the agents of the federation, each with a learner of its own.

    agents   0  1  2 --parameters--> actions [players * num_envs] --step--> observations, rewards: a row of each player
             (the first player is the first agent)                          to its agent alone

Training steps the copies of the world inside a compiled program (`fedrl.engines.executors.common_world`), and keeps
them in the state of the run. Here are the copies in which policies are evaluated, all players together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core.checks import check_one_of
from fedrl.core.component import component, written
from fedrl.core.environment import CommonWorld, Environment, HostEnvironment, Noise, State, Timestep
from fedrl.core.errors import ConfigError
from fedrl.core.host import Failure, HostStep
from fedrl.core.measures import Measure, counting
from fedrl.core.players import Seen, copies_of, rows
from fedrl.core.types import Key, PyTree

RESET, STEP = 0, 1
"""The purposes of noise, below the key of a copy's episodes."""
PRESENT = "players_present"
"""The measure of how many players are in the world, where agents that do not train leave it."""


@component(
    "environment",
    reference="agents that learn independently in one world: Tan (1993), "
    "https://doi.org/10.1016/B978-1-55860-307-3.50049-6",
)
def common_world(world: Environment, absent: Literal["act", "leave"] = "act") -> HostEnvironment:
    """Build a world in which the agents of a federation are the players, instead of a world for each agent.

    There are as many agents as players, and each has a learner and parameters of its own. All share `num_envs` copies
    of the world: in each, every agent is one player. An agent gets the observations, rewards and deaths of its own
    player and no other's, and sends what every agent sends, an update.

    With "leave", the measure `players_present` is the number of players in the world, a mean over steps.

    Args:
        world: A world with several players.
        absent: What the player of an agent does while that agent does not train, since it was not selected, is offline,
            or has taken all its local steps: "act" with the parameters that the agent holds, or "leave" the world,
            which has to know how (`Environment.attend`).

    Raises:
        ConfigError: The environment has no players, `absent` is no such word, or it is "leave" and the world needs all
            of its players.

    >>> from fedrl.environments import navigation
    >>> common_world(navigation(players=3)).spaces.action
    Discrete(n=5)
    """
    check_one_of(absent, ("act", "leave"), "absent")
    if world.players is None:
        raise ConfigError(
            f"world is {world!r}, which has a single agent, and in a common world every agent of the federation is a "
            "player. Give a world with players, such as navigation(players=3), or use the environment itself."
        )
    leaves = absent == "leave"
    if leaves and world.attend is None:
        raise ConfigError(
            f"absent is 'leave', and {world!r} does not say what it is without one of its players. Set absent = 'act', "
            "or give the world a function `attend`."
        )
    if PRESENT in world.measures:
        raise ConfigError(
            f"{world!r} has a measure {PRESENT!r}, which is that of a common world. Give it another name."
        )
    play = _Play(world, leaves)

    def open(params: PyTree, workers: int | None = None) -> WorldCopies:
        del workers  # one compiled program
        return WorldCopies(world, play, params)

    measures = {**world.measures, PRESENT: Measure("step")} if leaves else world.measures
    return HostEnvironment(
        world.params,
        world.spaces,
        world.max_steps,
        open,
        measures,
        world.bounds,
        common=CommonWorld(world, leaves),
    )


class Playing(NamedTuple):
    """Copies of a world in the middle of an episode; every leaf has them on the last axis but `key`, on the first.

    Attributes:
        key: The key of the episodes of each copy.
        time: The steps since that key was given.
        state: The states.
        seen: What the players see, and who is alive.
    """

    key: Key
    time: jax.Array
    state: State
    seen: Seen


class _Play:
    """The compiled programs that step copies of a world, for any number of them."""

    def __init__(self, world: Environment, leaves: bool) -> None:
        self._world, self._leaves = world, leaves
        self._parts = counting(world.measures).parts
        self.begin: Callable[..., Playing] = jax.jit(self._begin)
        self.step: Callable[..., tuple[Playing, dict[str, jax.Array], dict[str, jax.Array]]] = jax.jit(self._step)

    def _begin(self, params: PyTree, key: Key, playing: Playing | None, anew: jax.Array) -> Playing:
        timestep, state = self._opened(params, key, jnp.zeros(len(key), jnp.int32))
        fresh = Playing(key, jnp.zeros(len(key), jnp.int32), state, Seen(timestep.observation, timestep.alive))
        return fresh if playing is None else _chosen(anew, fresh, playing)

    def _opened(self, params: PyTree, key: Key, time: jax.Array) -> tuple[Timestep, State]:
        noise = _drawn(self._world.draw_reset, RESET, key, time)
        return copies_of(self._world, None, len(key)).reset(noise, params)

    def _step(
        self, params: PyTree, playing: Playing, action: jax.Array, going: jax.Array
    ) -> tuple[Playing, dict[str, jax.Array], dict[str, jax.Array]]:
        """Step the copies of the mask `going`; return also what the rows see, and the measures."""
        world, players, (key, time, state, seen) = self._world, self._world.players, playing
        copies = copies_of(world, None, len(key))
        noise = _drawn(world.draw_step, STEP, key, time)
        timestep, after = copies.step(noise, params, state, seen.alive, action)
        moved = copies.transition(seen, action, timestep)
        opening, fresh = self._opened(params, key, time + 1)
        done = timestep.terminated | timestep.truncated
        reached = Playing(key, time + 1, after, Seen(timestep.observation, timestep.alive))
        begun = Playing(key, time + 1, fresh, Seen(opening.observation, opening.alive))
        now = _chosen(going, _chosen(done, begun, reached), playing)
        found = {
            "observation": rows(now.seen.observation, players),
            "reward": moved.reward,
            "terminated": moved.terminated,
            "truncated": moved.truncated,
            "next_observation": moved.next_observation,
        }
        # What is measured is the world's, so it is the same for each of its players.
        values = {name: jnp.tile(timestep.measures[name].astype(jnp.float32), players) for name in self._parts}
        if self._leaves:
            alive = jnp.ones((players, len(key))) if seen.alive is None else seen.alive.astype(jnp.float32)
            values[PRESENT] = jnp.tile(alive.sum(0), players)
        return now, {name: jnp.moveaxis(x, -1, 0) for name, x in found.items()}, values


def _drawn(source: Callable[[Key, tuple[int, ...]], Noise], purpose: int, key: Key, time: jax.Array) -> Noise:
    """Return the noise of each copy, on the last axis, by its own key."""

    def draw(key: Key, time: jax.Array) -> Noise:
        return source(jax.random.fold_in(jax.random.fold_in(key, purpose), time), ())

    return jax.vmap(draw, 0, -1)(key, time)


def _chosen(where: jax.Array, new: Playing, old: Playing) -> Playing:
    """Return the copies of the mask from the one, and the others from the other."""
    key, time = (jnp.where(where, a, b) for a, b in ((new.key, old.key), (new.time, old.time)))
    rest = jax.tree.map(lambda a, b: jnp.where(where, a, b), (new.state, new.seen), (old.state, old.seen))
    return Playing(key, time, *rest)


class WorldCopies:
    """Copies of a common world, `fedrl.core.host.Instances`: the rows of the first player in all copies come first.

    A copy is stepped while any of its rows is active, and begins again for all its players at once.
    """

    def __init__(self, world: Environment, play: _Play, params: PyTree) -> None:
        assert world.players is not None
        self.name = written(world)
        self.failed: Mapping[int, Failure] = {}
        self._play, self._players = play, world.players
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(params)]
        self._copies = check_rows(world, len(leaves[0]))
        self._params = one_for_all(world, params)
        self._playing: Playing | None = None

    def reset(self, seeds: Sequence[int], active: np.ndarray | None = None) -> np.ndarray:
        """Begin an episode in the copies of active rows, by the seeds of their first player."""
        anew = self._of_copies(active)
        keys = jax.vmap(jax.random.key)(np.asarray(seeds[: self._copies], np.uint32))
        self._playing = self._play.begin(self._params, keys, self._playing, anew)
        return np.moveaxis(np.asarray(rows(self._playing.seen.observation, self._players)), -1, 0)

    def step(self, action: np.ndarray, active: np.ndarray | None = None) -> HostStep:
        """Step the copies that have an active row."""
        assert self._playing is not None
        moved = np.moveaxis(np.asarray(action), 0, -1)
        self._playing, found, values = self._play.step(self._params, self._playing, moved, self._of_copies(active))
        measures: Mapping[str, np.ndarray] = {name: np.asarray(x) for name, x in values.items()}
        return HostStep(**{name: np.asarray(x) for name, x in found.items()}, measures=measures)

    def close(self) -> None:
        """Do nothing: nothing is open outside of this process."""

    def _of_copies(self, active: np.ndarray | None) -> np.ndarray:
        if active is None:
            return np.ones(self._copies, bool)
        return np.asarray(np.reshape(active, (self._players, self._copies)).any(0))


def check_rows(world: Environment, count: int) -> int:
    """Return how many copies of a world have so many rows.

    Raises:
        ConfigError: They are no whole number of copies.
    """
    assert world.players is not None
    if count % world.players:
        raise ConfigError(
            f"{world!r} has {world.players} players and gets {count} rows, which are no whole number of worlds. Give "
            "as many agents as there are players."
        )
    return count // world.players


def one_for_all(world: Environment, fleet: PyTree) -> PyTree:
    """Return the parameters of a common world, from those of the rows or agents of a fleet.

    Raises:
        ConfigError: Agents differ in them.
    """
    names = getattr(fleet, "_fields", ())
    for i, leaf in enumerate(np.asarray(leaf) for leaf in jax.tree.leaves(fleet)):
        if (leaf != leaf[:1]).any():
            name = f"The parameter {names[i]!r}" if i < len(names) else "A parameter"
            raise ConfigError(
                f"{name} of {world!r} differs between agents, and the agents are players of one world, which has one "
                "value of it. Set the same value for all agents."
            )
    return jax.tree.map(lambda leaf: np.asarray(leaf)[0], fleet)
