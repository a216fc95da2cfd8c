"""Define environment copies outside compiled programs, as `HostEnvironment.open` returns them.

    reset(seeds, active) --> observation          step(action, active) --> HostStep          failed: of the last call

Arrays are NumPy arrays with the environment copies on the first axis, in a world with the players on the second one.
They are reused: valid until the next call.

A copy that raises, hangs, ends its process or returns nonsense is in `failed`, and the others continue. Its rows are
undefined until its next reset, which opens it anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np


class Failure(NamedTuple):
    """Why an environment copy failed.

    Attributes:
        environment: Name of the environment, such as its id.
        doing: "step", "reset" or "opening".
        said: What went wrong, as the end of a sentence: "raised ValueError: no route (site.py, line 7)".
        traceback: The traceback in the user's own code; empty if there is none.
    """

    environment: str
    doing: str
    said: str
    traceback: str = ""


class HostStep(NamedTuple):
    """The outcome of one step of all environment copies. Where an episode ended, the next one has begun.

    Attributes:
        observation: The current observations, `[num_envs, *features]`, after any reset; in a world
            `[num_envs, players, *features]`.
        reward: `[num_envs]` float32, the rewards of the transitions; in a world `[num_envs, players]`.
        terminated: `[num_envs]` bool, whether the episode ended in a terminal state.
        truncated: `[num_envs]` bool, whether the episode was cut off. False where it also terminated.
        next_observation: The observations that the transitions reached, before any reset.
        measures: The quantities from which `Environment.measures` are computed, keyed by name, each `[num_envs]`
            float32. Those counted at the end of an episode are undefined in other steps.
        alive: `[num_envs, players]` bool, which players of a world are alive after the transition, before any reset.
            What a player observes and is rewarded after its death is ignored. None if no player ever dies.
        next_overview: `[num_envs, features]`, what an observer of the world saw after the transition, before any reset;
            None without an overview.
    """

    observation: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    next_observation: np.ndarray
    measures: Mapping[str, np.ndarray] = {}
    alive: np.ndarray | None = None
    next_overview: np.ndarray | None = None


@runtime_checkable
class Instances(Protocol):
    """The open copies of a host environment.

    Attributes:
        name: Name of the environment, such as its id.
        failed: The copies that failed in the last call, by their row.

    The copies of a world with an overview also have the attribute `overview`, `[num_envs, features]`: what an observer
    of each of them sees now.
    """

    name: str
    failed: Mapping[int, Failure]

    def reset(self, seeds: Sequence[int], active: np.ndarray | None = None) -> np.ndarray:
        """Begin an episode in the active environment copies, all by default, and return all current observations.

        Each copy gets its own seed, which also determines its later episodes; inactive copies are unchanged.
        """
        ...

    def step(self, action: np.ndarray, active: np.ndarray | None = None) -> HostStep:
        """Step the active environment copies, all by default; in rows of others only the observation is defined."""
        ...

    def close(self) -> None:
        """Release all resources. Closing twice is allowed."""
        ...
