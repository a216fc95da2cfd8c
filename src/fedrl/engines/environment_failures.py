"""Failures of environments outside compiled programs: what happened, to which agent, in which step.

An agent whose environment fails loses the round, as one whose training ends in a number that is not finite.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from fedrl.core.host import Failure


class EnvironmentFailure(NamedTuple):
    """A failure of an agent's environment.

    Attributes:
        agent: Number of the agent.
        copy: Number of the environment copy among those of the agent.
        step: Number of the step in its episode, from 1; 0 before the first.
        environment: Name of the environment, such as its id.
        doing: "step", "reset" or "opening".
        said: What went wrong, as the end of a sentence.
        traceback: The traceback in the user's own code; empty if there is none.
        repeated: Whether the round of the agent, or the episode, was repeated afterwards; else it is left out.
    """

    agent: int
    copy: int
    step: int
    environment: str
    doing: str
    said: str
    traceback: str = ""
    repeated: bool = False

    @property
    def reason(self) -> str:
        """The failure as a sentence without the agent and without a full stop.

        >>> EnvironmentFailure(4, 1, 7, "Odd-v0", "step", "returned the reward None, and a reward is one number").reason
        'in step 7 of an episode, copy 1 of Odd-v0 returned the reward None, and a reward is one number'
        """
        when = {"step": f"in step {self.step} of an episode", "reset": "at a reset", "opening": "when it was opened"}
        return f"{when[self.doing]}, copy {self.copy} of {self.environment} {self.said}"


def unusable(seen: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name of an array and where, on its first two axes, it has a number that training can't use.

    Infinite observations are left to the check of the training's result: an environment may use them as a mark.
    """
    reward = ~np.isfinite(seen["reward"])
    if reward.any():
        yield "reward", reward.reshape(*reward.shape[:2], -1).any(-1)
    for name in ("next_observation", "observation"):
        array = seen[name]
        # The sum is a tenth of the work, and only NaN can make NaN of finite numbers or of infinities.
        if array.dtype.kind == "f" and np.isnan(np.einsum("i->", array.reshape(-1))):
            bad = np.isnan(array).reshape(*array.shape[:2], -1).any(-1)
            if bad.any():
                yield name, bad


def not_finite(environment: str, name: str, wrong: np.ndarray | np.floating) -> Failure:
    """Return the failure of an environment that returned a number that is not finite."""
    if name == "reward":
        value = np.extract(~np.isfinite(wrong), wrong)[0]
        return Failure(environment, "step", f"returned the reward {value:g}, which is not finite")
    entry = np.flatnonzero(np.isnan(wrong).reshape(-1))[0]
    return Failure(environment, "step", f"returned an observation of which entry {entry} is not finite")


def in_attempts(failures: Iterable[EnvironmentFailure]) -> tuple[EnvironmentFailure, ...]:
    """Return failures by attempt, and then by agent; those of each agent are in the order of its attempts."""
    attempts: Counter[int] = Counter()
    keyed = []
    for each in failures:
        keyed.append((attempts[each.agent], each.agent, each))
        attempts[each.agent] += 1
    return tuple(each for *_, each in sorted(keyed, key=lambda entry: entry[:2]))
