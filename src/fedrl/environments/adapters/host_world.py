"""Build environments of several players from worlds of other libraries, which are stepped on the host.

PackedWorld, in workers --vectors--> unpacked: observation [copies, players, *features], reward and alive
                                     [copies, players], overview [copies, features]
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import jax
import numpy as np
from gymnasium.envs.registration import EnvSpec

from fedrl.core.environment import Box, Discrete, HostEnvironment, Overview, Space, Spaces
from fedrl.core.errors import ConfigError, FedrlError
from fedrl.core.host import Failure, HostStep, Instances
from fedrl.core.imports import own_traceback
from fedrl.core.measures import Measure, counting
from fedrl.core.types import PyTree
from fedrl.environments.adapters.gymnasium import action_space
from fedrl.environments.adapters.packed_world import UnfitError
from fedrl.environments.adapters.settings import check_names, leaf_of, rows_of_settings, settings_record
from fedrl.environments.adapters.shard import open_environment
from fedrl.environments.adapters.vector import Setting, open_instances
from fedrl.environments.choices import is_choice

PACKED = "fedrl.environments.adapters.packed_world:PackedWorld"


class PackedLayout(NamedTuple):
    """What a packed vector contains.

    Attributes:
        players: The number of players.
        seen: The observation space of each player.
        overview: The size of the overview.
    """

    players: int
    seen: Space
    overview: int

    def unpacked(self, vector: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return observations, rewards, who is alive, and overviews, from `[copies, length]`."""
        size, each = int(np.prod(self.seen.shape)), self.players
        edges = np.cumsum([each * size, each, each])
        seen, reward, alive, above = np.split(vector, edges, axis=1)
        seen = seen.reshape(len(vector), each, *self.seen.shape).astype(self.seen.dtype)
        return seen, reward, alive > 0.5, above


class WorldInstances:
    """Copies of a world, whose vectors are unpacked.

    Attributes:
        name: Name of the environment.
        failed: The copies that failed in the last call, by their row.
        overview: `[copies, features]`, what an observer of each copy sees now.
    """

    def __init__(self, packed: Instances, layout: PackedLayout) -> None:
        self.name, self._packed, self._layout = packed.name, packed, layout
        self.failed: Mapping[int, Failure] = {}
        self.overview = np.zeros((0, layout.overview), np.float32)

    def reset(self, seeds: Sequence[int], active: np.ndarray | None = None) -> np.ndarray:
        """Begin an episode in the active copies, and return all current observations."""
        seen, _, _, self.overview = self._layout.unpacked(self._packed.reset(seeds, active))
        self.failed = self._packed.failed
        return seen

    def step(self, action: np.ndarray, active: np.ndarray | None = None) -> HostStep:
        """Step the active copies, with the actions of all players, `[copies, players, *action]`."""
        after = self._packed.step(action.reshape(len(action), -1), active)
        self.failed = self._packed.failed
        seen, _, _, self.overview = self._layout.unpacked(after.observation)
        reached, reward, alive, above = self._layout.unpacked(after.next_observation)
        return after._replace(
            observation=seen, reward=reward, next_observation=reached, alive=alive, next_overview=above
        )

    def close(self) -> None:
        """Close the copies."""
        self._packed.close()


class DrawnWorld:
    """One copy of a world that draws itself, in this process.

    Attributes:
        metadata: The metadata of the world, with `render_fps` if it has one.
    """

    def __init__(self, packed: gym.Env, layout: PackedLayout) -> None:
        self._packed, self._layout = packed, layout
        self.metadata, self.render, self.close = packed.unwrapped.metadata, packed.render, packed.close

    def reset(self, seed: int) -> np.ndarray:
        """Begin an episode, and return the observations of its players, `[1, players, *features]`."""
        return self._layout.unpacked(self._packed.reset(seed=seed)[0][None])[0]

    def step(self, action: np.ndarray) -> HostStep:
        """Step, with the actions of all players, `[1, players, *action]`; no episode begins after an end."""
        space: Any = self._packed.action_space
        given = np.clip(action.reshape(-1), space.low, space.high).astype(space.dtype)
        vector, _, terminated, truncated, _ = self._packed.step(given)
        seen, reward, alive, above = self._layout.unpacked(vector[None])
        over, cut = np.array([terminated]), np.array([truncated and not terminated])
        return HostStep(seen, reward, over, cut, seen, {}, alive, above)


def host_world(
    title: str,
    form: str,
    build: str | Callable[..., Any],
    max_steps: int | None,
    settings: Mapping[str, Any] | None,
    options: Mapping[str, Any] | None,
    measures: Mapping[str, Measure] | None,
    timeout_s: float,
) -> HostEnvironment:
    """Build the environment of a world.

    Args:
        title: Its name in sentences.
        form: The form of the world, see `packed_world`.
        build: What makes a world, or "module:name" of it.
        max_steps: As in `gymnasium`.
        settings: Names and defaults of keyword arguments that may differ between agents.
        options: More keyword arguments.
        measures: As in `gymnasium`.
        timeout_s: As in `gymnasium`.

    Raises:
        ConfigError: The world can't be opened, its spaces are not supported, or it has no time limit.
    """
    defaults, fixed, measured = dict(settings or {}), dict(options or {}), dict(measures or {})
    check_names(defaults)
    for name in defaults:
        if name in fixed:
            raise ConfigError(
                f"{name!r} is both a setting and an option of {title}. It can only be one. Leave one out."
            )
    kwargs = {"form": form, "build": build, "options": fixed, "max_steps": max_steps}
    spec = EnvSpec(re.sub(r"[^\w:.-]", "-", title), PACKED, kwargs=kwargs)
    example = _opened(title, spec, fixed | defaults, defaults)
    world: Any = example.unwrapped
    limit = world.max_steps
    example.close()
    if limit is None:
        raise ConfigError(f"{title} has no time limit. Episodes have to end. Set max_steps.")
    spec.max_episode_steps = int(limit)
    spaces = Spaces(_space(world.seen_space), action_space(world.done_space))
    layout = PackedLayout(world.players, spaces.observation, world.above)
    infos = {key: key in how.last for how in (counting(measured),) for key in how.parts}

    def open(params: PyTree, workers: int | None = None) -> Instances:
        rows: list[Setting] = [(row, {}) for row in rows_of_settings(params, defaults)]
        return WorldInstances(open_instances(spec, rows, workers, infos, timeout_s), layout)

    def open_rendered(params: PyTree) -> Any:
        (row,) = rows_of_settings(jax.tree.map(lambda leaf: np.asarray(leaf)[None], params), defaults)
        modes = world.metadata.get("render_modes", ())
        if "rgb_array" not in modes:
            raise ConfigError(
                f"{title} can't be filmed: its render modes are {list(modes)}, and a film needs 'rgb_array'."
            )
        return DrawnWorld(open_environment(spec, row | {"drawn": True}, {}), layout)

    return HostEnvironment(
        settings_record({name: leaf_of(name, value) for name, value in defaults.items()}),
        spaces,
        int(limit),
        open,
        measured,
        gymnasium_spaces=(world.seen_space, world.done_space),
        choices=tuple(name for name, value in defaults.items() if is_choice(value)),
        open_rendered=open_rendered,
        notes=_notes(title, world),
        players=world.players,
        overview=Overview(Box((world.above,))) if world.above else None,
    )


def _opened(title: str, spec: EnvSpec, told: Mapping[str, Any], defaults: Mapping[str, Any]) -> gym.Env:
    try:
        return open_environment(spec, defaults, {})
    except FedrlError:
        raise
    except UnfitError as error:
        raise ConfigError(f"{title} {error}. Choose another world, or wrap this one.") from error
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{title} can't be opened with {dict(told)}.\n{own_traceback(error)}") from error


def _notes(title: str, world: Any) -> tuple[str, ...]:
    """Return what a user has to know of how a world is seen."""
    notes = []
    if world.left_out:
        notes.append(
            f"{title} has text in its observations ({', '.join(world.left_out)}). A network reads numbers, so it is "
            "left out, and no policy sees it. Wrap the world to give its content as numbers."
        )
    if not world.alike:
        notes.append(
            f"The players of {title} have unlike spaces. Observations are padded with zeros to the longest, with the "
            "one-hot of the player at the end; a choice that a player does not have is its first one, and further "
            "entries of continuous actions are ignored."
        )
    return tuple(notes)


def _space(space: Any) -> Space:
    if isinstance(space, gym.spaces.Discrete):
        return Discrete(int(space.n))
    return Box(space.shape, float(space.low.min()), float(space.high.max()))
