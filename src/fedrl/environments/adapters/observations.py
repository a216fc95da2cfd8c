"""Observations as one array: what is composite is flattened, and fields that are text are left out.

    Dict(image, direction, mission) --without_text--> Dict(image, direction) --flatten--> Box

This file imports nothing of fedrl: a worker process loads it by its path.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np


def flat_observations(environment: gym.Env) -> gym.Env:
    """Let composite observations come as one flat array, without their fields that are text."""
    space = environment.observation_space
    kept, left_out = without_text(space)
    if kept is None:  # nothing but text: whoever opens it refuses it
        return environment
    if left_out:
        environment = WithoutText(environment, kept, left_out)
    if not isinstance(kept, gym.spaces.Discrete | gym.spaces.Box):
        environment = gym.wrappers.FlattenObservation(environment)
    return environment


class WithoutText(gym.ObservationWrapper):
    """An environment whose observations have lost their fields that are text, such as the mission of MiniGrid.

    Args:
        environment: The environment.
        space: The space of what remains.
        left_out: The names of the fields that are left out.
    """

    def __init__(self, environment: gym.Env, space: gym.Space, left_out: Sequence[str]) -> None:
        super().__init__(environment)
        self.observation_space, self.left_out = space, tuple(left_out)

    def observation(self, observation: Any) -> Any:
        """Return what remains of an observation."""
        return remaining(self.env.observation_space, observation)


def without_text(space: gym.Space, name: str = "") -> tuple[gym.Space | None, list[str]]:
    """Return the part of a space that is no text, None if there is none, and the names of the fields that are text."""
    if _is_text(space):
        return None, [name or "observation"]
    if not isinstance(space, gym.spaces.Dict | gym.spaces.Tuple):
        return space, []
    inner: Any = space.items() if isinstance(space, gym.spaces.Dict) else enumerate(space)
    parts = {key: without_text(each, f"{name}.{key}" if name else str(key)) for key, each in inner}
    left_out = [field for _, fields in parts.values() for field in fields]
    if not left_out:
        return space, []
    kept = {key: each for key, (each, _) in parts.items() if each is not None}
    if not kept:
        return None, left_out
    whole = gym.spaces.Dict(kept) if isinstance(space, gym.spaces.Dict) else gym.spaces.Tuple(tuple(kept.values()))
    return whole, left_out


def _is_text(space: gym.Space) -> bool:
    # MiniGrid's missions are in a space of their own, which is no Text; the type of its elements says what they are.
    return space.dtype is not None and np.dtype(space.dtype).kind == "U"


def remaining(space: gym.Space, observation: Any) -> Any:
    """Return an observation without its text, as `without_text` does it for the space."""
    if isinstance(space, gym.spaces.Dict):
        kept = {key: each for key, each in space.items() if without_text(each)[0] is not None}
        return {key: remaining(each, observation[key]) for key, each in kept.items()}
    if isinstance(space, gym.spaces.Tuple):
        pairs = zip(space, observation, strict=True)
        return tuple(remaining(each, seen) for each, seen in pairs if without_text(each)[0] is not None)
    return observation
