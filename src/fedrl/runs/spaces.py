"""The Gymnasium spaces of a policy: conversion of observations and actions, and their form in a file.

observation --batched--> int32 or float32 [batch, *features] --> the learner --> actions_of --> NumPy, or an int
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import gymnasium as gym
import numpy as np

from fedrl.core.environment import ActionSpace, AnyEnvironment, Box, Discrete, Product, Spaces
from fedrl.core.errors import ConfigError
from fedrl.environments.adapters.entries import element_of
from fedrl.environments.adapters.gymnasium import action_space

GymSpace: TypeAlias = gym.spaces.Discrete | gym.spaces.Box
"""The kinds of spaces that a policy can observe."""
GymAction: TypeAlias = gym.Space
"""The space of actions: one of these, MultiDiscrete, MultiBinary, or a Tuple or Dict of such spaces."""


class GymSpaces(NamedTuple):
    """The Gymnasium spaces of observations and actions."""

    observation: GymSpace
    action: GymAction


def gymnasium_spaces(environment: AnyEnvironment) -> GymSpaces:
    """Return the Gymnasium spaces of an environment; its own where it has some, with the bounds of each entry.

    >>> from fedrl.environments import pendulum
    >>> gymnasium_spaces(pendulum()).action
    Box(-2.0, 2.0, (1,), float32)
    """
    if environment.gymnasium_spaces is not None:
        return GymSpaces(*environment.gymnasium_spaces)
    observation, action = environment.spaces
    seen: Any = _gymnasium(observation)
    return GymSpaces(seen, _gymnasium(action))


def learned_spaces(spaces: GymSpaces) -> Spaces:
    """Return the spaces in the form of a learner: numbers from 0 on, and one bound for all entries."""
    return Spaces(_learned(spaces.observation), action_space(spaces.action))


def space_table(space: gym.Space) -> dict[str, Any]:
    """Return a space as a table for a file; equal bounds of all entries are one number.

    >>> space_table(gym.spaces.Discrete(3, start=1))
    {'discrete': 3, 'start': 1}
    """
    if isinstance(space, gym.spaces.Discrete):
        return {"discrete": int(space.n), "start": int(space.start)}
    if isinstance(space, gym.spaces.MultiDiscrete):
        return {"multi_discrete": space.nvec.tolist(), "start": space.start.tolist(), "dtype": space.dtype.name}
    if isinstance(space, gym.spaces.MultiBinary):
        return {"multi_binary": space.n if isinstance(space.n, int) else list(space.shape)}
    if isinstance(space, gym.spaces.Tuple):
        return {"tuple": [space_table(part) for part in space.spaces]}
    if isinstance(space, gym.spaces.Dict):  # a list, whose order is that of the entries of an action
        return {"dict": [[key, space_table(part)] for key, part in space.spaces.items()]}
    assert isinstance(space, gym.spaces.Box)
    bounds = {"low": _bound(space.low), "high": _bound(space.high)}
    return {"box": list(space.shape), **bounds, "dtype": np.dtype(space.dtype).name}


def space_of(table: Mapping[str, Any]) -> Any:
    """Return the space of a table that `space_table` returned."""
    if "discrete" in table:
        return gym.spaces.Discrete(int(table["discrete"]), start=int(table["start"]))
    if "multi_discrete" in table:
        return gym.spaces.MultiDiscrete(
            np.asarray(table["multi_discrete"]), np.dtype(table["dtype"]).type, start=np.asarray(table["start"])
        )
    if "multi_binary" in table:
        return gym.spaces.MultiBinary(table["multi_binary"])
    if "tuple" in table:
        return gym.spaces.Tuple([space_of(part) for part in table["tuple"]])
    if "dict" in table:
        return gym.spaces.Dict(OrderedDict((key, space_of(part)) for key, part in table["dict"]))
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


def actions_of(space: GymAction, actions: np.ndarray, single: bool) -> Any:
    """Return a learner's actions, `[batch, *features]`, as elements of the space, clipped to its bounds.

    A batch of tuples or dictionaries is a tuple or a dictionary of batches, as in `gymnasium.vector`.
    """
    if isinstance(space, gym.spaces.Discrete):
        numbers = actions.astype(np.int64) + int(space.start)
        return int(numbers[0]) if single else numbers
    if not isinstance(space, gym.spaces.Box):
        return element_of(space)(actions[0] if single else actions)
    clipped = np.clip(actions, space.low, space.high).astype(space.dtype)
    return clipped[0] if single else clipped


def start_of(space: gym.Space) -> int:
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
    """Return the facts of a space that have to be equal: all but the bounds of continuous parts."""
    if isinstance(space, gym.spaces.Discrete):
        return int(space.n), int(space.start)
    if isinstance(space, gym.spaces.MultiDiscrete):
        return space.nvec.tolist(), space.start.tolist()
    if isinstance(space, gym.spaces.Tuple):
        return [(type(part).__name__, _sizes(part)) for part in space.spaces]
    if isinstance(space, gym.spaces.Dict):
        return [(key, type(part).__name__, _sizes(part)) for key, part in space.spaces.items()]
    return space.shape


def _gymnasium(space: ActionSpace) -> GymAction:
    if isinstance(space, Product):
        if all(isinstance(part, Discrete) for part in space.parts):
            return gym.spaces.MultiDiscrete([part.n for part in space.parts if isinstance(part, Discrete)])
        return gym.spaces.Tuple([_gymnasium(part) for part in space.parts])
    if isinstance(space, Discrete):
        return gym.spaces.Discrete(space.n)
    return gym.spaces.Box(space.low, space.high, space.shape, np.float32)


def _learned(space: GymSpace) -> Discrete | Box:
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
