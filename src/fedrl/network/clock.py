"""Real time: what a virtual clock simulates happens here, and is waited for.

    dispatch(ids)     which of them are there now; the others are reported when they are back
    peek(until, n)    wait for n updates, or until a second has come: the news of agents, as events
    collect(ids)      answer bids, and wait for the updates that are wanted

An agent whose connection breaks keeps its job for `patience_s`; then the job counts as dropped. If an agent
is connected and shows no progress for `hang_s`, its job counts as hung, and it gets the next one when it moves again.
What is done with the events is the scheduler's business, which knows no more about time than under a virtual clock.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fedrl.clocks.events import ARRIVED, BACK, DROPPED, HUNG, MALFORMED, NOBODY, TIMER, Events
from fedrl.core.errors import NoMoreUpdatesError
from fedrl.network.bridge import POLL_S, Bridge
from fedrl.network.listening import MOST_TOGETHER, Listening
from fedrl.network.log import Dispatched, Happened, Opened
from fedrl.network.news import BID, DECLINED, DONE, FAILURE, HERE, LEFT, MOVED, REPLY, UPDATE, AgentNews
from fedrl.network.roster import Roster
from fedrl.server.decisions import Capacity
from fedrl.wire.protocol import Taken

LATER = (BID, DONE)
"""Messages at the end of a job whose update comes later: if it is asked for, or in a secure sum."""
WAITING_S = 5.0
"""Seconds of waiting for agents after which people are told."""


class RealTime(NamedTuple):
    """The state of the clock.

    Attributes:
        now_s: Seconds that the run has taken so far, `[1]`.
        away: Agents of whose absence the scheduler knows, bool `[agents]`.
    """

    now_s: np.ndarray
    away: np.ndarray


class RealClock(Listening):
    """The clock of agents at other sites.

    Args:
        bridge: Where news come from.
        roster: What is known about agents.
        receive: `(agent, version, update) -> reason`: takes an update, and returns why it is refused, or "".
        announced: `news -> reason`: takes a bid, or that a job is done whose update is summed later, and returns why
            it is refused, or "".
        fail: `(agent, reason)`: takes the failure of a job.
        drop: `ids`: takes note that the jobs of these agents were dropped.
        gather: Number of agents that have to be there before the first job of this process is given.
        patience_s: Seconds for which an agent may be away before its job counts as dropped.
        hang_s: Seconds without progress after which the job of an agent that is there counts as hung.
    """

    timed = True

    def __init__(
        self,
        bridge: Bridge,
        roster: Roster,
        receive: Callable[[int, int, bytes], str],
        announced: Callable[[AgentNews], str],
        fail: Callable[[int, str], None],
        drop: Callable[[np.ndarray], None],
        gather: int,
        patience_s: float,
        hang_s: float,
    ) -> None:
        super().__init__(bridge, roster, receive, patience_s)
        self._announced, self._fail, self._drop_jobs = announced, fail, drop
        self.gather, self.hang_s, self._hang_at_s = gather, hang_s, 0.0  # no job hangs before that second
        self._gathered, self._began, self._told_s = False, math.nan, math.nan
        self._failures: set[tuple[int, int]] = set()
        """Agents and jobs of the failures since the last entry of the log."""
        self.said_again: Callable[[AgentNews], None] = lambda news: None
        """Takes that a job is done once more, which an agent says that has begun anew since."""

    def start(self, seed: int) -> RealTime:
        """Return the state at the start of a run."""
        del seed
        self._began = math.nan
        return RealTime(np.zeros(1), np.zeros(len(self.roster.job), bool))

    def now_s(self, state: RealTime) -> float:
        """Return the seconds that the run has taken, without those between two processes of a coordinator."""
        now = time.monotonic()
        if math.isnan(self._began):
            self._began = now - float(state.now_s[0])
            self.roster.away[:] = state.away
        self._told_s = now - self._began
        return self._told_s

    def capacity(self) -> Capacity:
        """Return what is known of the agents' speed and reliability."""
        self._gather()  # what agents say comes with them
        self._listen(0.0)
        # With one more job that arrived: a first job that is lost is no reason to never select an agent again.
        found = Capacity(self.roster.speed, (self.roster.arrived + 1) / (self.roster.jobs + 1))
        self.log.append(Opened(*(column.tolist() for column in found)))
        return found

    def dispatch(
        self, state: RealTime, ids: np.ndarray, since_s: np.ndarray, steps: np.ndarray, down_bytes: np.ndarray
    ) -> tuple[RealTime, np.ndarray]:
        """Return which of these agents are there; the executor gives them their jobs."""
        del since_s, steps, down_bytes
        self._gather()
        while self.bridge.paused.is_set():
            self._listen(POLL_S)
        self._listen(0.0)
        there = self.roster.ready[ids] & ~self.roster.hung[ids]
        self.roster.away[ids[~there]] = True
        state.away[:] = self.roster.away
        self.log.append(Dispatched(ids.tolist(), there.tolist(), self._told_s))
        return state, there

    def peek(
        self, state: RealTime, until_s: float, wants: int, again: np.ndarray | None, one: bool
    ) -> tuple[RealTime, Events]:
        """Wait, and return what has happened: `wants` arrivals, or everything until no agent is at work or time is up.

        Args:
            state: State of the clock.
            until_s: Second until which to wait.
            wants: Largest number of arrivals to return.
            again: Not None if an agent may begin its next job after its event: then whatever is there is returned.
            one: Whether to return a single event.
        """
        roster, found, told_s = self.roster, list[tuple[int, int, float, int]](), self._told_s
        while True:
            arrived = sum(each[0] == ARRIVED for each in found)
            while self._raw and arrived < wants and not (one and found):
                found += self._event(self._raw.popleft())
                arrived = sum(each[0] == ARRIVED for each in found)
            if not (one and found):
                found += self._dropped(one) or self._hung(one)
            enough = arrived >= wants or one or again is not None or not (roster.job > 0).any()
            now = self.now_s(state)
            self._settle()
            if (found and enough) or now >= until_s:
                break
            if roster.left.all() and not found:
                raise NoMoreUpdatesError(
                    "Every agent has left for good, so no update will ever arrive. The rounds before that are complete."
                )
            # Half of those that are missing: they are read while the others arrive.
            missing = 0 if one else min(wants - arrived, int((roster.job > 0).sum()))
            self._listen(min(until_s - now, self._patience()), max(1, min(missing // 2, MOST_TOGETHER)))
        state.now_s[0], state.away[:] = now, roster.away
        found = found or [(TIMER, -1, now, 0)]
        kind, agent, when, job = (list(column) for column in zip(*found, strict=True))
        happened, failed = Happened(kind, agent, when, job, self._work_s(found), told_s), self._failures
        self.log.append(happened.without_failures(failed))
        failed.clear()
        return state, happened.events

    def _gather(self) -> None:
        """Wait until enough agents are there, and say so if that takes time."""
        told = False
        while not self._gathered:
            here = int(self.roster.ready.sum())
            self._gathered = here >= self.gather
            if self._gathered:
                return
            self._listen(math.inf if told else WAITING_S)
            if not told and int(self.roster.ready.sum()) < self.gather:
                told = True
                here = int(self.roster.ready.sum())
                self._tell("waiting", f"Waiting for {self.gather} agents to be ready; {here} are.")

    def _work_s(self, found: list[tuple[int, int, float, int]]) -> list[float]:
        return [float(self.roster.work_s[agent]) if kind == ARRIVED else math.nan for kind, agent, _, _ in found]

    def _event(self, news: AgentNews) -> list[tuple[int, int, float, int]]:
        """Return the event of a piece of news, if it is one: kind, agent, second and job."""
        roster, agent = self.roster, news.agent
        job, at = int(roster.job[agent]), news.time_s - self._began
        if news.kind in (HERE, MOVED) and roster.away[agent] and roster.ready[agent]:
            roster.away[agent] = False
            return [(BACK, agent, at, 0)]
        if news.kind == LEFT and job:
            return self._drop(np.array([agent]), at)
        if news.kind not in (UPDATE, FAILURE, *LATER, REPLY, DECLINED):
            return []
        self.take_over(news)
        if news.kind in (REPLY, DECLINED):  # to a sum that is over
            roster.late[agent] += 1
            return []
        return self._ended(news, job, at) if news.job == job else self._left_over(news, job)

    def _left_over(self, news: AgentNews, job: int) -> list[tuple[int, int, float, int]]:
        """Count what came again or after the end of its job."""
        roster, agent = self.roster, news.agent
        known = news.job == roster.last_job[agent] and not job
        if known and news.kind == DONE:
            self.said_again(news)
        (roster.known if known else roster.late)[agent] += 1
        came = "again" if known else "after the end of its job"
        self._tell("not_taken", f"The message of {self._name(agent)} for job {news.job} came {came}.", agent, news.job)
        if not (known and news.kind in LATER):  # the answer is still to come
            self._receipts.append((agent, Taken(news.job, "known" if known else "late", "")))
        return []

    def _ended(self, news: AgentNews, job: int, at: float) -> list[tuple[int, int, float, int]]:
        """Return the event of a job that ends with an update, a bid or a failure."""
        roster, agent = self.roster, news.agent
        roster.end(np.array([agent]))
        roster.work_s[agent] = news.time_s - roster.began_s[agent]
        if news.kind == FAILURE:
            self._fail(agent, news.reason)
            self._failures.add((agent, job))
            self._receipts.append((agent, None))
            why = news.reason or "it keeps the reason to itself"
            self._tell("failed", f"{self._name(agent)} has no update for job {job}: {why}.", agent, job)
            return [(ARRIVED, agent, at, job)]
        later = news.kind in LATER
        reason = self._announced(news) if later else self._receive(agent, news.version, news.content)
        if not reason:
            roster.arrive(agent, float(roster.work_s[agent]))
        if later and not reason:
            return [(ARRIVED, agent, at, job)]  # its task ends when it is answered
        self._receipts.append((agent, self._receipt(agent, job, reason)))
        return [(MALFORMED if reason else ARRIVED, agent, at, job)]

    def _dropped(self, one: bool) -> list[tuple[int, int, float, int]]:
        """Return the ends of jobs whose agents have been away for too long."""
        now = time.monotonic()
        gone = np.flatnonzero((self.roster.job > 0) & (now - self.roster.gone_s > self.patience_s))
        gone = gone[:1] if one else gone
        for agent in gone.tolist():
            job = int(self.roster.job[agent])
            text = f"{self._name(agent)} has been away for {self.patience_s:g} s. Its job {job} is dropped."
            self._tell("dropped", text, agent, job)
        return self._drop(gone, now - self._began)

    def _hung(self, one: bool) -> list[tuple[int, int, float, int]]:
        """Return the ends of jobs whose agents are there and have shown no progress for too long."""
        now, roster = time.monotonic(), self.roster
        if now < self._hang_at_s:
            return []
        at_work = np.flatnonzero((roster.job > 0) & roster.ready)
        moved = np.array([max(roster.began_s[agent], self.bridge.moved_s(agent)) for agent in at_work.tolist()])
        over = np.flatnonzero(now - moved > self.hang_s)[: 1 if one else None]
        # Progress only puts this off, and a job that begins later can't hang earlier.
        self._hang_at_s = float(np.delete(moved, over).min(initial=now)) + self.hang_s
        ids = at_work[over]
        if not len(ids):
            return []
        for agent in ids.tolist():
            job = int(roster.job[agent])
            self._tell(
                "hung",
                f"{self._name(agent)} has shown no progress in job {job} for {self.hang_s:g} s. The job is "
                "dropped, and the agent gets the next one when it moves again.",
                agent,
                job,
            )
        roster.hung[ids] = True
        self.bridge.hang(ids.tolist())
        return self._drop(ids, now - self._began, HUNG)

    def _drop(self, ids: np.ndarray, at: float, kind: int = DROPPED) -> list[tuple[int, int, float, int]]:
        jobs = self.roster.job[ids].copy()
        self.roster.end(ids)
        self._drop_jobs(ids)
        self._receipts += [(agent, None) for agent in ids.tolist()]
        return [(kind, agent, at, job) for agent, job in zip(ids.tolist(), jobs.tolist(), strict=True)]

    def _patience(self) -> float:
        """Return the seconds until the next job may count as dropped or hung."""
        waiting = self.roster.gone_s[self.roster.job > 0]
        first = float(waiting.min(initial=math.inf))
        return max(min(first + self.patience_s, self._hang_at_s) - time.monotonic(), 0.001)

    def cancel(self, state: RealTime, ids: np.ndarray) -> RealTime:
        """Cancel the jobs of these agents."""
        self.roster.end(ids)
        self.bridge.ended([(agent, None) for agent in ids.tolist()])
        return state

    def hanging(self, state: RealTime, ids: np.ndarray) -> int:
        """Return 0: a hang is not known before it is noticed."""
        del state, ids
        return 0

    def soon(self, state: RealTime) -> np.ndarray:
        """Return nobody: no agent trains ahead of time."""
        del state
        return NOBODY

    def costs(self, state: RealTime, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the seconds between task and update, and 0 for messages, which are part of them."""
        del state
        return self.roster.work_s[ids].copy(), np.zeros(len(ids))
