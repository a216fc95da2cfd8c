"""What a coordinator's loop knows about its agents: who is there, who is at work, and on which job."""

from __future__ import annotations

import numpy as np


class Roster:
    """Arrays with one entry per agent, updated in place.

    Attributes:
        ready: Whether the agent is connected and has compiled its programs.
        away: Whether the scheduler was told that it is absent, and waits for its return.
        job: Number of the job it is at work on; 0 for none.
        began_s: When that job was given, by `time.monotonic`.
        gone_s: When its connection ended, by the same clock; infinity while it is connected.
        work_s: Seconds between task and update of its last job.
        steps_per_s: Local steps that it says it takes in a second; NaN if it does not say.
        left: Whether it has left for good.
        hung: Whether its last job hung, and it has shown no progress since.
        last_job: Number of its last job.
        late: Updates that arrived after the end of their job.
        known: Updates that arrived again.
    """

    def __init__(self, agents: int) -> None:
        self.ready, self.away = np.zeros(agents, bool), np.zeros(agents, bool)
        self.job, self.began_s = np.zeros(agents, np.int32), np.zeros(agents)
        self.gone_s, self.work_s = np.full(agents, np.inf), np.full(agents, np.nan)
        self.steps_per_s = np.full(agents, np.nan)
        self.late, self.known = np.zeros(agents, int), np.zeros(agents, int)
        self.left, self.hung = np.zeros(agents, bool), np.zeros(agents, bool)
        self.last_job = np.zeros(agents, np.int32)

    def begin(self, ids: np.ndarray, jobs: np.ndarray, now_s: float) -> None:
        """Note that agents have been given jobs."""
        self.job[ids], self.began_s[ids], self.last_job[ids] = jobs, now_s, jobs
        # The patience with an agent that is not there begins with its job.
        self.gone_s[ids] = np.where(self.ready[ids], np.inf, now_s)

    def end(self, ids: np.ndarray) -> None:
        """Note that the jobs of agents have ended."""
        self.job[ids] = 0
