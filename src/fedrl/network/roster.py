"""What a coordinator's loop knows about its agents: who is there, who is at work, and on which job."""

from __future__ import annotations

import numpy as np

from fedrl.engines.down_content import CopyId


class Roster:
    """Arrays with one entry per agent, updated in place.

    Attributes:
        ready: Whether the agent is connected and has compiled its programs.
        away: Whether the scheduler was told that it is absent, and waits for its return.
        job: Number of the job it is at work on; 0 for none.
        began_s: When that job was given, by `time.monotonic`.
        gone_s: When its connection ended, by the same clock; infinity while it is connected.
        steps: Local steps of that job.
        share: Share of the agent among all agents, as of that job.
        work_s: Seconds between task and update of its last job.
        measured_s: Seconds between task and update for each local step, over its jobs, the last one for a half; NaN
            before the first.
        steps_per_s: Local steps that it says it takes in a second; NaN if it does not say.
        jobs: Number of its jobs that have ended.
        arrived: Number of those whose update arrived.
        left: Whether it has left for good.
        hung: Whether its last job hung, and it has shown no progress since.
        last_job: Number of its last job.
        late: Updates that arrived after the end of their job.
        known: Updates that arrived again.
        connections: Number of times that it became ready.
        copies: What identifies the copies of agents that have connected since their last job, under down stages, by
            number of the agent.
    """

    def __init__(self, agents: int) -> None:
        self.ready, self.away = np.zeros(agents, bool), np.zeros(agents, bool)
        self.job, self.began_s, self.steps = np.zeros(agents, np.int32), np.zeros(agents), np.ones(agents, np.int32)
        self.jobs, self.arrived, self.measured_s = np.zeros(agents, int), np.zeros(agents, int), np.full(agents, np.nan)
        self.share = np.zeros(agents, np.float32)
        self.gone_s, self.work_s = np.full(agents, np.inf), np.full(agents, np.nan)
        self.steps_per_s = np.full(agents, np.nan)
        self.late, self.known = np.zeros(agents, int), np.zeros(agents, int)
        self.left, self.hung = np.zeros(agents, bool), np.zeros(agents, bool)
        self.last_job, self.connections = np.zeros(agents, np.int32), np.zeros(agents, int)
        self.copies: dict[int, CopyId | None] = {}

    def begin(self, ids: np.ndarray, jobs: np.ndarray, steps: np.ndarray, now_s: float, share: np.ndarray) -> None:
        """Note that agents have been given jobs."""
        self.job[ids], self.began_s[ids], self.last_job[ids], self.steps[ids] = jobs, now_s, jobs, steps
        self.share[ids] = share
        # The patience with an agent that is not there begins with its job.
        self.gone_s[ids] = np.where(self.ready[ids], np.inf, now_s)

    def end(self, ids: np.ndarray) -> None:
        """Note that the jobs of agents have ended."""
        self.jobs[ids] += self.job[ids] > 0
        self.job[ids] = 0

    def arrive(self, agent: int, work_s: float) -> None:
        """Note that the update of an agent has arrived, so many seconds after its task."""
        self.arrived[agent] += 1
        step_s, before = work_s / self.steps[agent], self.measured_s[agent]
        self.measured_s[agent] = step_s if np.isnan(before) else (step_s + before) / 2

    @property
    def speed(self) -> np.ndarray:
        """Local steps per second: what was measured here, else what each agent says, else the mean of the others.

        Float `[agents]`; NaN for all if nothing is known of any. Messages are part of what was measured. What an agent
        says counts only until then, so that it gains nothing by a lie.
        """
        known = np.where(np.isfinite(self.measured_s), 1.0 / self.measured_s, self.steps_per_s)
        found = np.isfinite(known) & (known > 0.0)
        return np.where(found, known, known[found].mean() if found.any() else np.nan)

    @property
    def reliability(self) -> np.ndarray:
        """Share of the jobs of each agent whose update arrived, since this coordinator began; 1 before the first."""
        return np.where(self.jobs > 0, self.arrived / np.maximum(self.jobs, 1), 1.0)
