"""The Gymnasium spaces of a policy: conversion of observations and actions, and their form in a file.

observation --batched--> int32 or float32 [batch, *features] --> the learner --> actions_of --> NumPy, or an int
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import gymnasium as gym
import numpy as np

from fedrl.core.environment import AnyEnvironment, Box, Discrete, Space, Spaces
from fedrl.core.errors import ConfigError

GymSpace: TypeAlias = gym.spaces.Discrete | gym.spaces.Box
"""The kinds of spaces that a policy can have."""


class GymSpaces(NamedTuple):
    """The Gymnasium spaces of observations and actions."""

    observation: GymSpace
    action: GymSpace


def gymnasium_spaces(environment: AnyEnvironment) -> GymSpaces:
    """Return the Gymnasium spaces of an environment; its own where it has some, with the bounds of each entry.

    >>> from fedrl.environments import pendulum
    >>> gymnasium_spaces(pendulum()).action
    Box(-2.0, 2.0, (1,), float32)
    """
    if environment.gymnasium_spaces is not None:
        return GymSpaces(*environment.gymnasium_spaces)
    return GymSpaces(*(_gymnasium(space) for space in environment.spaces))


def learned_spaces(spaces: GymSpaces) -> Spaces:
    """Return the spaces in the form of a learner: numbers from 0 on, and one bound for all entries."""
    return Spaces(*(_learned(space) for space in spaces))


def space_table(space: GymSpace) -> dict[str, Any]:
    """Return a space as a table for a file; equal bounds of all entries are one number.

    >>> space_table(gym.spaces.Discrete(3, start=1))
    {'discrete': 3, 'start': 1}
    """
    if isinstance(space, gym.spaces.Discrete):
        return {"discrete": int(space.n), "start": int(space.start)}
    bounds = {"low": _bound(space.low), "high": _bound(space.high)}
    return {"box": list(space.shape), **bounds, "dtype": np.dtype(space.dtype).name}


def space_of(table: Mapping[str, Any]) -> GymSpace:
    """Return the space of a table that `space_table` returned."""
    if "discrete" in table:
        return gym.spaces.Discrete(int(table["discrete"]), start=int(table["start"]))
    shape, dtype = tuple(table["box"]), np.dtype(table["dtype"])
    low, high = (np.broadcast_to(np.asarray(table[name], dtype), shape) for name in ("low", "high"))
    return gym.spaces.Box(low, high, shape, dtype.type)


def batched(space: GymSpace, observation: Any) -> tuple[np.ndarray, bool]:
    """Return observations in the form of the learner, `[batch, *features]`, and whether a single one was given.

    Raises:
        ConfigError: It is not of the space: its shape, its type or a number is another.
    """
    try:
        seen = np.asarray(observation)
    except ValueError:
        seen = np.asarray(None)
    discrete, shape = isinstance(space, gym.spaces.Discrete), space.shape or ()
    wanted = np.integer if discrete else np.number
    if not (np.issubdtype(seen.dtype, wanted) or (seen.dtype == np.bool_ and not discrete)):
        kind = "whole numbers" if discrete else "numbers"
        raise ConfigError(
            f"The observation is of type {seen.dtype}. This policy observes {space}, which has {kind}. Give an array "
            "or a list of them."
        )
    if seen.shape not in (shape, seen.shape[:1] + shape):
        raise ConfigError(
            f"The observation has the shape {seen.shape}. This policy observes {space}: one observation has the shape "
            f"{shape}, a batch one axis more in front. Give one of the two."
        )
    single = seen.shape == shape
    seen = seen[None] if single else seen
    if isinstance(space, gym.spaces.Discrete):
        first, last = int(space.start), int(space.start + space.n - 1)
        if seen.size and not first <= seen.min() <= seen.max() <= last:
            wrong = seen.min() if seen.min() < first else seen.max()
            raise ConfigError(
                f"The observation is {wrong}. This policy observes the numbers {first} to {last}. Give one."
            )
        return (seen - first).astype(np.int32), single
    seen = seen.astype(np.float32)
    if np.isnan(seen).any():
        raise ConfigError("The observation has an entry that is not a number. No action follows from it. Replace it.")
    return seen, single


def actions_of(space: GymSpace, actions: np.ndarray, single: bool) -> Any:
    """Return a learner's actions, `[batch, *features]`, as elements of the space, clipped to its bounds."""
    if isinstance(space, gym.spaces.Discrete):
        numbers = actions.astype(np.int64) + int(space.start)
        return int(numbers[0]) if single else numbers
    clipped = np.clip(actions, space.low, space.high).astype(space.dtype)
    return clipped[0] if single else clipped


def start_of(space: GymSpace) -> int:
    """Return the first number of a discrete space; 0 for other spaces."""
    return int(space.start) if isinstance(space, gym.spaces.Discrete) else 0


def check_alike(ours: GymSpaces, theirs: GymSpaces, name: str) -> None:
    """Refuse an environment whose spaces differ from those of a policy.

    Raises:
        ConfigError: It names both spaces.
    """
    for what, mine, other in (("observations", ours[0], theirs[0]), ("actions", ours[1], theirs[1])):
        if type(mine) is not type(other) or _sizes(mine) != _sizes(other):
            raise ConfigError(
                f"{name} has {what} in {other}, and those of the policy are in {mine}. A policy can only act where "
                "both are of the same kind and size. Evaluate it in another environment."
            )


def _sizes(space: Any) -> Any:
    return (int(space.n), int(space.start)) if isinstance(space, gym.spaces.Discrete) else space.shape


def _gymnasium(space: Space) -> GymSpace:
    if isinstance(space, Discrete):
        return gym.spaces.Discrete(space.n)
    return gym.spaces.Box(space.low, space.high, space.shape, np.float32)


def _learned(space: GymSpace) -> Space:
    if isinstance(space, gym.spaces.Discrete):
        return Discrete(int(space.n))
    if not space.low.size:
        return Box(space.shape)
    return Box(space.shape, float(space.low.min()), float(space.high.max()))


def _bound(values: np.ndarray) -> Any:
    """Return one number if all entries are equal, else all; infinity is a string, because JSON has none."""
    plain = values.astype(np.float64)
    if not plain.size:
        return 0.0
    if (plain == plain.flat[0]).all():
        return _number(float(plain.flat[0]))
    nested = np.asarray([_number(x) for x in plain.reshape(-1).tolist()], object).reshape(plain.shape)
    return nested.tolist()


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
