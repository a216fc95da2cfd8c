"""The players of worlds that are stepped on the host: who is alive, and what that makes of a step.

This is `fedrl.core.players.copies_of` for arrays of NumPy, with the copies on the first axis and players on the second.
"""

from __future__ import annotations

import numpy as np

from fedrl.core.host import HostStep


class Living:
    """Who is alive in each environment copy.

    Args:
        players: The number of players; None for a single agent, of whom nothing is changed.
        count: The number of environment copies.

    Attributes:
        alive: `[count, players]` bool, before the next step.
    """

    def __init__(self, players: int | None, count: int) -> None:
        self._players = players
        self.alive = np.ones((count, players or 1), bool)
        self._before = self._after = self.alive

    def begin(self, where: np.ndarray) -> None:
        """Let everybody live in the copies of `where`, in which an episode begins."""
        self.alive = self.alive | where[:, None]

    def after(self, step: HostStep, where: np.ndarray) -> tuple[HostStep, np.ndarray]:
        """Return a step without what the dead observe and earn, and the mean over players of what each earns.

        Args:
            step: The step.
            where: The copies that were stepped.

        Returns:
            The step, and `[num_envs]` rewards of the copies.
        """
        if self._players is None:
            return step, step.reward
        self._before = self.alive
        # The step in which a player dies still has its reward; nobody is raised from the dead within an episode.
        living = self.alive if step.alive is None else self.alive & step.alive
        self._after = np.where(where[:, None], living, self.alive)
        done = (step.terminated | step.truncated) & where
        self.alive = self._after | done[:, None]
        reward = np.where(self._before, step.reward, np.float32(0.0))
        masked = step._replace(
            reward=reward,
            next_observation=_shown(step.next_observation, self._after),
            observation=_shown(step.observation, self.alive),
        )
        return masked, reward.mean(-1)

    def transition(self, step: HostStep) -> dict[str, np.ndarray]:
        """Return what `after` returned last as parts of a trajectory, with ends by player in a world."""
        over, cut = step.terminated, step.truncated
        if self._players is not None:
            # A death is a termination: nothing is earned after it, however the others go on.
            over = over[:, None] | (self._before & ~self._after)
            cut = cut[:, None] & ~over
        parts = {"reward": step.reward, "terminated": over, "truncated": cut}
        return parts | {"next_observation": step.next_observation}


def _shown(observation: np.ndarray, alive: np.ndarray) -> np.ndarray:
    mask = alive.reshape(*alive.shape, *[1] * (observation.ndim - 2))
    return np.where(mask, observation, np.zeros((), observation.dtype))
