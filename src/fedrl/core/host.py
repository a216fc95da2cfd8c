"""Instances that live outside compiled programs: what `HostEnvironment.open` opens, and what steps them sees.

    reset(seeds, active) --> observation          step(action, active) --> HostStep

Arrays are NumPy's and have the instances first. They are the instances' own: valid until the next call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np


class HostStep(NamedTuple):
    """What one step of all instances shows. Where an episode ended, the next one has begun.

    Attributes:
        observation: What each instance shows now: `[num_envs, *features]`.
        reward: `[num_envs]` float32, of the transition just made.
        terminated: `[num_envs]` bool; the episode ended in the environment.
        truncated: `[num_envs]` bool; it was cut off. An episode that ends both ways has terminated.
        next_observation: The observation the transition reached, seen before any reset.
        measures: What `Environment.measures` are made of, by name, each `[num_envs]` float32; what is counted at the
            end of an episode means nothing elsewhere.
    """

    observation: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    next_observation: np.ndarray
    measures: Mapping[str, np.ndarray] = {}


@runtime_checkable
class Instances(Protocol):
    """Open instances of an environment."""

    def reset(self, seeds: Sequence[int], active: np.ndarray | None = None) -> np.ndarray:
        """Begin an episode in the active instances, all by default, each with its own seed; later ones go on from it.

        Returns what every instance shows now; the others go on from where they are.
        """
        ...

    def step(self, action: np.ndarray, active: np.ndarray | None = None) -> HostStep:
        """Step the active instances, all by default. The rows of the others mean nothing, but their observation."""
        ...

    def close(self) -> None:
        """Let go of everything held. Closing twice is fine."""
        ...
