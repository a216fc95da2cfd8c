"""Actions of Gymnasium as rows of entries, and back: an action of several choices is one flat array within fedrl.

    MultiDiscrete, MultiBinary, Tuple, Dict --leaves--> Discrete and Box, in order      row --element_of--> element

A worker process loads this file by its path, so it imports nothing of fedrl.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np


def shape_of(space: gym.Space) -> tuple[int, ...]:
    """Return the shape of an element in a shared array: of several choices at once, their entries in a row."""
    if isinstance(space, gym.spaces.Discrete | gym.spaces.Box):
        return space.shape or ()
    return (sum(int(np.prod(part.shape or ())) for part in leaves(space)),)


def leaves(space: gym.Space) -> list[gym.Space]:
    """Return the single choices, each Discrete or a Box, of which an action is made.

    Raises:
        TypeError: There is another kind of space.
    """
    if isinstance(space, gym.spaces.Discrete | gym.spaces.Box):
        return [space]
    if isinstance(space, gym.spaces.MultiDiscrete):
        each = zip(space.nvec.reshape(-1).tolist(), space.start.reshape(-1).tolist(), strict=True)
        return [gym.spaces.Discrete(n, start=start) for n, start in each]
    if isinstance(space, gym.spaces.MultiBinary):
        return [gym.spaces.Discrete(2)] * int(np.prod(space.shape))
    if isinstance(space, gym.spaces.Tuple | gym.spaces.Dict):
        parts = space.spaces.values() if isinstance(space, gym.spaces.Dict) else space.spaces
        return [leaf for part in parts for leaf in leaves(part)]
    raise TypeError(f"{space} is neither discrete nor continuous, nor made of such spaces")


def element_of(space: gym.Space) -> Any:
    """Return the function from the entries of an action, `[..., entries]`, to the element of a space.

    Entries of discrete choices are counted from 0; continuous ones are clipped to their bounds. Of a batch, each
    array of the element has the batch's axes in front.
    """
    if isinstance(space, gym.spaces.Discrete):
        return lambda row: row[..., 0].astype(space.dtype) + space.start
    if isinstance(space, gym.spaces.Box):
        return lambda row: np.clip(row.reshape(*row.shape[:-1], *space.shape), space.low, space.high).astype(
            space.dtype
        )
    if isinstance(space, gym.spaces.MultiDiscrete):
        return lambda row: row.reshape(*row.shape[:-1], *space.nvec.shape).astype(space.dtype) + space.start
    if isinstance(space, gym.spaces.MultiBinary):
        return lambda row: row.reshape(*row.shape[:-1], *space.shape).astype(space.dtype)
    assert isinstance(space, gym.spaces.Tuple | gym.spaces.Dict)
    parts = list(space.spaces.values() if isinstance(space, gym.spaces.Dict) else space.spaces)
    ends = np.cumsum([sum(int(np.prod(leaf.shape or ())) for leaf in leaves(part)) for part in parts]).tolist()
    each = [(element_of(part), slice(first, end)) for part, first, end in zip(parts, [0, *ends], ends, strict=False)]
    if isinstance(space, gym.spaces.Tuple):
        return lambda row: tuple(read(row[..., where]) for read, where in each)
    return lambda row: {key: read(row[..., where]) for key, (read, where) in zip(space.spaces, each, strict=True)}


def entries_of(space: gym.Space, element: Any) -> np.ndarray:
    """Return the entries of a batch of elements, `[batch, entries]`, discrete ones with the numbers they have there."""
    if isinstance(space, gym.spaces.Dict):
        return np.concatenate([entries_of(part, element[key]) for key, part in space.spaces.items()], 1)
    if isinstance(space, gym.spaces.Tuple):
        return np.concatenate([entries_of(*each) for each in zip(space.spaces, element, strict=True)], 1)
    return np.asarray(element).reshape(len(element), -1)
