"""A world of another library as one environment of Gymnasium, so that workers step worlds as they step all else.

    world --reset, step--> what each player sees and earns, who is alive, what an observer sees
          --packed-------> one vector: observations | rewards | alive | overview --unpacked--> arrays, in the parent

Two forms of worlds are known: `Parallel`, the dictionaries of PettingZoo, and `Tuples`, an environment of Gymnasium
with an entry per player. This file imports nothing of fedrl but `entries` and `observations`: a worker process
loads it by its path.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from fedrl.environments.adapters.entries import element_of, leaves
from fedrl.environments.adapters.observations import remaining, without_text


class UnfitError(ValueError):
    """A world can't be packed; the message is the end of a sentence about it."""


class Moved(NamedTuple):
    """The outcome of a step of a world, by player.

    Attributes:
        seen: What each player observes; None for one that is gone.
        reward: What each earns.
        ended: Whether each has reached an end of its own.
        cut: Whether each was cut off.
        info: Numbers for measures.
    """

    seen: list[Any]
    reward: list[float]
    ended: list[bool]
    cut: list[bool]
    info: Mapping[str, Any]


class Parallel:
    """A world with the parallel interface of PettingZoo: dictionaries by the name of the player."""

    def __init__(self, world: Any) -> None:
        self.world, self.names = world, list(world.possible_agents)
        self.observation_spaces = [world.observation_space(name) for name in self.names]
        self.action_spaces = [world.action_space(name) for name in self.names]
        self.max_steps = getattr(getattr(world, "unwrapped", world), "max_cycles", None)

    def reset(self, seed: int) -> list[Any]:
        """Begin an episode, and return what each player sees."""
        seen, _ = self.world.reset(seed=seed)
        missing = [name for name in self.names if name not in seen]
        if missing:
            raise ValueError(f"reset returned no observation of {missing}, and every player has to begin an episode")
        return [seen[name] for name in self.names]

    def step(self, actions: Sequence[Any], alive: Sequence[bool]) -> Moved:
        """Let the living act."""
        here = {name for name, lives in zip(self.names, alive, strict=True) if lives}
        given = {name: action for name, action in zip(self.names, actions, strict=True) if name in here}
        seen, reward, ended, cut, infos = self.world.step(given)
        left = set(self.world.agents)
        # A player that is gone without a flag has reached its end.
        over = {
            name: bool(ended.get(name, False)) or name not in left | {n for n in here if cut.get(n)} for name in here
        }
        whole: Any = next((infos[name] for name in self.names if infos.get(name)), {})
        return Moved(
            [seen.get(name) for name in self.names],
            [float(reward.get(name, 0.0)) for name in self.names],
            [over.get(name, True) for name in self.names],
            [bool(cut.get(name, False)) for name in self.names],
            whole if isinstance(whole, Mapping) else {},
        )

    def overview(self) -> Any:
        """Return what an observer of the whole world sees; None if the world does not say."""
        try:
            return self.world.state()
        except (AttributeError, NotImplementedError):
            return None


class Tuples:
    """An environment of Gymnasium whose observations and actions are tuples with an entry per player."""

    def __init__(self, world: gym.Env) -> None:
        seen, done = world.observation_space, world.action_space
        if not isinstance(seen, gym.spaces.Tuple) or not isinstance(done, gym.spaces.Tuple) or len(seen) != len(done):
            raise UnfitError(f"has observations in {seen} and actions in {done}, and a player has an entry in both")
        self.world, self.names = world, [f"player_{i}" for i in range(1, len(seen) + 1)]
        self.observation_spaces, self.action_spaces = list(seen), list(done)
        self.max_steps = getattr(world.spec, "max_episode_steps", None)

    def reset(self, seed: int) -> list[Any]:
        """Begin an episode, and return what each player sees."""
        return list(self.world.reset(seed=seed)[0])

    def step(self, actions: Sequence[Any], alive: Sequence[bool]) -> Moved:
        """Let all act; the dead are ignored afterwards."""
        del alive
        outcome: Any = self.world.step(tuple(actions))
        seen, reward, ended, cut, info = outcome
        # highway-env gives one number and one flag, and those of each player in `info`.
        each = info.get("agents_rewards", reward) if np.ndim(reward) == 0 else reward
        over = info.get("agents_terminated", ended) if np.ndim(ended) == 0 else ended
        count = len(self.names)
        rewards = np.broadcast_to(np.asarray(each, float), count).tolist()
        ends, cuts = (np.broadcast_to(np.asarray(x, bool), count).tolist() for x in (over, cut))
        return Moved(list(seen), rewards, ends, cuts, info)

    def overview(self) -> Any:
        """Return None: Gymnasium knows no observer."""
        return None


FORMS: Mapping[str, Any] = {"parallel": Parallel, "tuples": Tuples}


def made(id: str, module: str = "", **options: Any) -> gym.Env:
    """Make a registered environment of Gymnasium; first import the module that registers it."""
    if module:
        importlib.import_module(module)
    return gym.make(id, disable_env_checker=True, **options)


class PackedWorld(gym.Env):
    """A world as one environment of Gymnasium.

    Unlike spaces of players are made alike: observations become vectors, padded with zeros to the longest, with the
    one-hot of the player appended; a discrete choice beyond a player's last one is its first, as in SuperSuit, and
    further entries of continuous ones are ignored.

    Args:
        form: "parallel" or "tuples".
        build: What makes the world, or "module:name".
        options: Keyword arguments of it.
        max_steps: The largest number of steps of an episode; the world's own by default.
        drawn: Whether the world is to draw itself, as arrays.
        settings: More keyword arguments of it.

    Attributes:
        players: The number of players.
        seen_space: The observation space of each player.
        done_space: The action space of each player.
        above: The size of the overview; 0 if there is none.
        left_out: The names of the fields of observations that are text.
        alike: Whether the spaces of all players are equal.
    """

    def __init__(
        self,
        form: str,
        build: Any,
        options: Mapping[str, Any],
        max_steps: int | None = None,
        drawn: bool = False,
        **settings: Any,
    ) -> None:
        if isinstance(build, str):
            module, _, name = build.partition(":")
            build = functools.reduce(getattr, name.split("."), importlib.import_module(module))
        mode = {"render_mode": "rgb_array"} if drawn else {}
        self.inner = FORMS[form](build(**{**options, **settings, **mode}))
        self.players, self.max_steps = len(self.inner.names), max_steps or self.inner.max_steps
        if not self.players:
            raise UnfitError("has no players")
        self.metadata = getattr(self.inner.world, "metadata", {})
        self._spaces = [without_text(space) for space in self.inner.observation_spaces]
        self.left_out = [
            f"{n}.{x}" for n, (_, fields) in zip(self.inner.names, self._spaces, strict=True) for x in fields
        ]
        seen, done = [space for space, _ in self._spaces], self.inner.action_spaces
        self.alike = all(x == seen[0] for x in seen) and all(x == done[0] for x in done)
        self._observed(seen)
        self._acted(done)
        opening = self.inner.reset(0)
        del opening  # only after a reset there is a state
        above = self.inner.overview()
        self.above = 0 if above is None else int(np.asarray(above).size)
        length = self.players * (self.size + 2) + self.above
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (length,), np.float32)
        self._alive = [True] * self.players
        self._begun = False

    def _observed(self, spaces: Sequence[Any]) -> None:
        """Choose the observation space of each player."""
        if any(space is None for space in spaces):
            raise UnfitError(f"has a player that observes {self.inner.observation_spaces}, which is text alone")
        plain = isinstance(spaces[0], gym.spaces.Discrete | gym.spaces.Box) and self.alike
        self._flat = None if plain else [gym.spaces.flatten_space(space) for space in spaces]
        if self._flat is None:
            self.seen_space: Any = spaces[0]
        else:
            if not all(isinstance(space, gym.spaces.Box) for space in self._flat):
                raise UnfitError(f"has observations in {spaces}, which are of no fixed size")
            extra = 0 if self.alike else self.players
            self.seen_space = gym.spaces.Box(
                -np.inf, np.inf, (max(int(np.prod(space.shape or ())) for space in self._flat) + extra,), np.float32
            )
        self.size = int(np.prod(self.seen_space.shape or ()))

    def _acted(self, spaces: Sequence[Any]) -> None:
        """Choose the action space of each player, and of all of them."""
        try:
            self._choices = [leaves(space) for space in spaces]
        except TypeError as error:
            raise UnfitError(f"has actions in {spaces}; {error}") from None
        kinds = {tuple(isinstance(choice, gym.spaces.Discrete) for choice in own) for own in self._choices}
        if len(kinds) > 1:
            raise UnfitError(
                f"has actions in {spaces}. Players share a policy, and a choice that is discrete for one player and "
                "continuous or missing for another has no common distribution"
            )
        self._common = [_widest(same) for same in zip(*self._choices, strict=True)]
        self._ends = np.cumsum([int(np.prod(choice.shape or ())) for choice in self._common]).tolist()
        self.done_space: Any = spaces[0] if self.alike else _whole(self._common)
        whole = all(isinstance(choice, gym.spaces.Discrete) for choice in self._common)
        low, high = (np.tile(bounds, self.players) for bounds in _bounds(self._common))
        dtype = np.int64 if whole else np.float32
        self.action_space = gym.spaces.Box(low.astype(dtype), high.astype(dtype), dtype=dtype)
        self._elements = [element_of(space) for space in spaces]

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode. Later episodes have seeds of their own, since a world may draw one from the system."""
        super().reset(seed=seed)
        chosen = int(self.np_random.integers(2**31)) if seed is None else seed
        seen, self._alive = self.inner.reset(chosen), [True] * self.players
        return self._packed(seen, [0.0] * self.players), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Let all players act."""
        before = self._alive
        moved = self.inner.step(self._dealt(action), before)
        self._alive = [lives and not over for lives, over in zip(before, moved.ended, strict=True)]
        cut = [lives and x for lives, x in zip(self._alive, moved.cut, strict=True)]
        # The episode is over when nobody is left; whoever was cut off in the last step bootstraps.
        left = any(lives and not x for lives, x in zip(self._alive, cut, strict=True))
        truncated, terminated = any(cut) and not left, not any(self._alive)
        if terminated:  # the flag of the episode says it of all that were left, and what they see last is kept
            self._alive = before
        if left:  # one that is cut off while others go on is gone
            self._alive = [lives and not x for lives, x in zip(self._alive, cut, strict=True)]
        reward = [x if lives else 0.0 for x, lives in zip(moved.reward, before, strict=True)]
        return self._packed(moved.seen, reward), float(np.mean(reward)), terminated, truncated, dict(moved.info)

    def render(self) -> Any:
        """Draw the world."""
        return self.inner.world.render()

    def close(self) -> None:
        """Close the world."""
        self.inner.world.close()

    def _dealt(self, action: np.ndarray) -> list[Any]:
        """Return the action of each player, in its own space."""
        rows = np.split(action.reshape(self.players, -1), self._ends[:-1], axis=1)
        found: list[Any] = []
        for player, (own, element) in enumerate(zip(self._choices, self._elements, strict=True)):
            parts = zip(own, (part[player] for part in rows), strict=True)
            found.append(element(np.concatenate([_within(choice, part) for choice, part in parts])))
        return found

    def _packed(self, seen: Sequence[Any], reward: Sequence[float]) -> np.ndarray:
        """Return the vector of all that players see and earn."""
        table = np.zeros((self.players, self.size), np.float32)
        for player, observation in enumerate(seen):
            if observation is not None and self._alive[player]:
                table[player] = self._row(player, observation)
        above = self.inner.overview() if self.above else np.zeros(0)
        whole = (table.reshape(-1), reward, self._alive, np.asarray(above, np.float32).reshape(-1))
        return np.concatenate([np.asarray(part, np.float32) for part in whole])

    def _row(self, player: int, observation: Any) -> np.ndarray:
        """Return what one player sees as numbers."""
        space: Any = self._spaces[player][0]
        whole = self.inner.observation_spaces[player]
        if self._spaces[player][1]:
            observation = remaining(whole, observation)
        if self._flat is None:
            if isinstance(space, gym.spaces.Discrete):
                if not space.contains(observation):
                    raise ValueError(f"{self.inner.names[player]} observes {observation!r}, which is not in {space}")
                return np.array([int(observation) - int(space.start)], np.float32)
            array = np.asarray(observation, np.float32)
            if array.shape != space.shape:
                raise ValueError(f"{self.inner.names[player]} observes an array of shape {array.shape}, not {space}")
            return array.reshape(-1)
        row, flat = np.zeros(self.size, np.float32), np.asarray(gym.spaces.flatten(space, observation))
        row[: flat.size] = flat.reshape(-1)
        if not self.alike:
            row[self.size - self.players + player] = 1.0
        return row


def _widest(choices: Sequence[Any]) -> gym.Space:
    """Return the choice that has those of all players."""
    if all(choice == choices[0] for choice in choices):
        return choices[0]
    if isinstance(choices[0], gym.spaces.Discrete):
        return gym.spaces.Discrete(max(int(choice.n) for choice in choices))
    low, high = np.zeros((2, len(choices), max(int(np.prod(choice.shape)) for choice in choices)), np.float32)
    for player, choice in enumerate(choices):
        count = int(np.prod(choice.shape))
        low[player, :count], high[player, :count] = choice.low.reshape(-1), choice.high.reshape(-1)
    return gym.spaces.Box(low.min(0), high.max(0), dtype=np.float32)


def _whole(choices: Sequence[gym.Space]) -> gym.Space:
    """Return the space of an action that is all of these choices."""
    return choices[0] if len(choices) == 1 else gym.spaces.Tuple(choices)


def _bounds(choices: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounds of all entries of an action; discrete ones are counted from 0."""
    pairs = [(0, c.n - 1) if isinstance(c, gym.spaces.Discrete) else (c.low, c.high) for c in choices]
    low, high = (np.concatenate([np.asarray(bound).reshape(-1) for bound in side]) for side in zip(*pairs, strict=True))
    return low, high


def _within(choice: Any, entries: np.ndarray) -> np.ndarray:
    """Return what a player takes of the entries of a choice: its first action for one that it does not have."""
    if isinstance(choice, gym.spaces.Discrete):
        return np.where(entries < choice.n, entries, 0)
    return entries[: int(np.prod(choice.shape))]
