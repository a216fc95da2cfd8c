"""What a coordinator hears of its agents: who is there, and the updates whose bids were accepted.

bridge --news--> listen: roster, notices --> news that the clock turns into events
collect(ids, wanted)   answers to bids --> the updates that were asked for
settle()               receipts, and places in the window that are free again --> bridge
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Container, Mapping

import numpy as np

from fedrl.network.bridge import Bridge
from fedrl.network.known_copies import CopiesClock
from fedrl.network.log import Collected, Entry, Summed
from fedrl.network.news import FAILURE, GONE, HERE, LEFT, MOVED, UPDATE, AgentNews
from fedrl.network.roster import Roster
from fedrl.wire.protocol import Answer, Taken, one_line

MOST_TOGETHER = 16
"""The largest number of updates for which the loop waits before it reads them."""


class Listening(CopiesClock):
    """The part of a clock that listens.

    Args:
        bridge: Where news come from.
        roster: What is known about agents.
        receive: `(agent, version, update) -> reason`: takes an update, and returns why it is refused, or "".
        patience_s: Seconds for which an agent may be away before its job counts as dropped.

    Attributes:
        log: What the scheduler was told since the log was last taken away.
    """

    def __init__(
        self, bridge: Bridge, roster: Roster, receive: Callable[[int, int, bytes], str], patience_s: float
    ) -> None:
        self.bridge, self.roster, self._receive, self.patience_s = bridge, roster, receive, patience_s
        self._names: dict[int, str] = {}
        self._raw: deque[AgentNews] = deque()
        self._receipts: list[tuple[int, Taken | None]] = []
        self._held = 0
        self.log: list[Entry] = []

    def _listen(self, seconds: float, enough: int = 1) -> None:
        """Wait for news, and note at once who is there."""
        for each in self.bridge.wait(seconds, enough):
            if each.kind in (HERE, MOVED):
                self.roster.hung[each.agent] = False
            if each.kind == HERE:
                self.roster.connections[each.agent] += 1
                self.roster.ready[each.agent], self.roster.gone_s[each.agent] = True, math.inf
                self.roster.steps_per_s[each.agent], self.roster.copies[each.agent] = each.steps_per_s, each.copy
                self._names[each.agent] = each.reason
                here = f"{int(self.roster.ready.sum())} of {len(self.roster.ready)}"
                self._tell("ready", f"{each.reason} is ready, {here}.", each.agent)
            elif each.kind in (GONE, LEFT):
                self.roster.left[each.agent] |= each.kind == LEFT
                if each.kind == LEFT or self.roster.ready[each.agent]:
                    verb = "has left for good" if each.kind == LEFT else "has lost its connection"
                    event = "left" if each.kind == LEFT else "disconnected"
                    self._tell(event, f"{self._name(each.agent)} {verb}.", each.agent)
                self.roster.ready[each.agent], self.roster.gone_s[each.agent] = False, each.time_s
            self._raw.append(each)

    def collect(self, ids: np.ndarray, wanted: np.ndarray, within_s: float) -> tuple[np.ndarray, dict[int, str]]:
        """Answer the bids of agents, and wait for the updates that are wanted.

        An update is given up after `within_s`, and when nothing has come from its agent for as long as one may be away.

        Args:
            ids: Agents that have bid.
            wanted: Mask of those whose updates are wanted.
            within_s: Seconds after which to wait no more.

        Returns:
            Mask of the agents whose updates came and could be read, and why those of the other wanted ones are missing.
        """
        jobs = self.roster.last_job[ids].tolist()
        self.bridge.answer([(k, Answer(job, bool(w))) for k, job, w in zip(ids.tolist(), jobs, wanted, strict=True)])
        due = {agent: job for agent, job, w in zip(ids.tolist(), jobs, wanted, strict=True) if w}
        began, missing = time.monotonic(), dict[int, str]()

        def take(news: AgentNews) -> None:
            del due[news.agent]
            reason = self._collected(news)
            missing.update({news.agent: reason} if reason else {})

        self.until_answered(due, (UPDATE, FAILURE), take, lambda: self._overdue(due, missing, began, within_s))
        self.roster.arrived[list(missing)] -= 1  # their bids came, and not their updates
        self._settle()
        came = wanted & ~np.isin(ids, list(missing))
        self.log.append(Collected(ids.tolist(), came.tolist()))
        return came, missing

    def until_answered(
        self,
        due: Mapping[int, int],
        kinds: tuple[str, ...],
        take: Callable[[AgentNews], None],
        over: Callable[[], float],
    ) -> None:
        """Wait until all answers that are due have come or are given up; other news stays for later.

        Args:
            due: Jobs of the agents whose answers are due, by number; `take` and `over` remove agents from it.
            kinds: Kinds of news that are answers.
            take: Takes an answer.
            over: Gives up what is overdue, and returns when something will be next, by `time.monotonic`.
        """
        others = list[AgentNews]()
        while due:
            for news in self._raw:
                if due.get(news.agent) == news.job and news.kind in kinds:
                    take(news)
                else:
                    others.append(news)
            self._raw.clear()
            self._settle()  # others wait for places in the window
            until_s = over()
            if due:
                # Half of those that are missing: they are read while the others arrive.
                enough = max(1, min(len(due) // 2, MOST_TOGETHER))
                self._listen(max(until_s - time.monotonic(), 0.001), enough)
        self._raw.extendleft(reversed(others))

    def take_over(self, news: AgentNews) -> None:
        """Note that an answer has been read: its place in the window is free again."""
        self._held += news.held

    def note_sum(self, jobs: Mapping[int, int], included: Container[int]) -> None:
        """Note which agents were in a secure sum; the tasks of all that were to be have ended."""
        came = [agent in included for agent in jobs]
        self.roster.arrived[[agent for agent in jobs if agent not in included]] -= 1  # their jobs were done
        self._receipts += [(agent, None) for agent in jobs]
        self._settle()
        self.log.append(Summed(list(jobs), came))

    def tell_sum(self, text: str, agent: int | None = None) -> None:
        """Tell what happened in a secure sum."""
        self._tell("sum", text if agent is None else f"{self._name(agent)}: {text}.", agent)

    def _collected(self, news: AgentNews) -> str:
        """Take an update that was asked for, and return why it is refused, or ""."""
        self._held += news.held
        if news.kind == FAILURE:
            reason = "it made a bid and has no update"
        else:
            reason = self._receive(news.agent, news.version, news.content)
        self._receipts.append((news.agent, self._receipt(news.agent, news.job, reason)))
        return reason

    def _overdue(self, due: dict[int, int], missing: dict[int, str], began: float, within_s: float) -> float:
        """Give up updates that were asked for and do not come, and return when the next one will be."""
        now, first = time.monotonic(), math.inf
        for agent in list(due):
            until_s = min(max(began, self.bridge.heard_s(agent)) + self.patience_s, began + within_s)
            if now >= until_s or self.roster.left[agent]:
                del due[agent]
                missing[agent] = "its bid was accepted, and its update did not come"
                self.roster.last_job[agent] = 0  # so that it is late if it comes after all
                self._receipts.append((agent, None))
            else:
                first = min(first, until_s)
        return first

    def _receipt(self, agent: int, job: int, reason: str) -> Taken | None:
        """Return the receipt for an update that is refused for a reason; the next task has the verdict on others."""
        if not reason:
            return None
        self._tell("not_taken", f"The update of {self._name(agent)} for job {job} is refused: {reason}.", agent, job)
        return Taken(job, "refused", one_line(reason))

    def _settle(self) -> None:
        """Tell the sessions, once for all, which jobs have ended and which updates were read."""
        if self._receipts:
            self.bridge.ended(self._receipts)
            self._receipts = []
        if self._held:
            self.bridge.taken_over(self._held)
            self._held = 0

    def _tell(self, event: str, text: str, agent: int | None = None, job: int | None = None) -> None:
        name = "" if agent is None else self._names.get(agent, "")
        self.bridge.observer.tell(event, text, agent, name, job)

    def _name(self, agent: int) -> str:
        return self._names.get(agent, f"agent {agent}")
