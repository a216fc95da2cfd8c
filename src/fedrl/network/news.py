"""News of agents on their way from the thread of the sessions to the loop, which is woken once for several updates.

    sessions --put--> deque --> take(seconds, enough) --> loop

To wake the loop costs about as much as to receive an update, because two threads then want the same interpreter.
"""

from __future__ import annotations

import contextlib
import math
import queue
import time
from collections import deque
from typing import NamedTuple, TypeAlias

from fedrl.engines.down_content import CopyId
from fedrl.wire.protocol import Bid, Failed, Sent
from fedrl.wire.secure_sum import Declined, JobDone, SumReply

HERE, GONE, UPDATE, FAILURE, LEFT = "here", "gone", "update", "failure", "left"
BID, MOVED = "bid", "moved"
DONE, REPLY, DECLINED = "done", "reply", "declined"
"""The kinds of news of an agent: it is ready, its connection has ended, its update or its failure has arrived, it
has left for good, its bid has arrived, it makes progress again after a job that hung; and where sums hide updates, its
job is done, it has answered in a secure sum, and it takes no part in one."""
ForLoop: TypeAlias = Sent | Bid | Failed | JobDone | SumReply | Declined
FOR_LOOP = (Sent, Bid, Failed, JobDone, SumReply, Declined)
"""The messages about jobs that the loop takes."""
KIND_OF = dict(zip(FOR_LOOP, (UPDATE, BID, FAILURE, DONE, REPLY, DECLINED), strict=True))
MANY = (UPDATE, BID, DONE, REPLY)
"""The kinds for several of which the loop is woken once."""


class AgentNews(NamedTuple):
    """Something that happened to an agent.

    Attributes:
        kind: One of the kinds above.
        agent: Number of the agent.
        job: Number of its job, for updates, bids and failures.
        version: Version of the broadcast from which it says that it trained.
        content: The encoded update, bid or answer.
        reason: Why its training failed, it left, or it takes no part in a sum; of an agent that is ready, its name.
        held: Whether the update takes a place in the window, which has to be given back.
        steps_per_s: Local steps per second, of an agent that is ready; NaN if it does not say.
        time_s: When it happened, by `time.monotonic`.
        fits: Whether the update of a job that is done is within the grid of the sum.
        last_sum: What it was told of its last sum, of a job that is done where sums hide updates.
        attempt: Number of the attempt at a secure sum, of answers in one.
        copy: What identifies the copy of an agent that is ready, after the message that it is sent at once; None for
            none.
    """

    kind: str
    agent: int
    job: int = 0
    version: int = 0
    content: bytes = b""
    reason: str = ""
    held: bool = False
    steps_per_s: float = math.nan
    time_s: float = 0.0
    fits: bool = True
    last_sum: str = ""
    attempt: int = 0
    copy: CopyId | None = None


def news_of(agent: int, message: ForLoop, held: bool) -> AgentNews:
    """Return the news of a message about a job; `held` says whether its content has a place in the window."""
    fields = {name: getattr(message, name) for name in message._fields}
    content = "content" in message._fields
    return AgentNews(KIND_OF[type(message)], agent, held=held and content, time_s=time.monotonic(), **fields)


class NewsQueue:
    """News that nobody has taken yet. One thread puts, another one takes."""

    def __init__(self) -> None:
        self._items: deque[AgentNews] = deque()
        self._wakes: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._enough = 1

    def put(self, item: AgentNews) -> None:
        """Add news, and wake whoever waits, unless it waits for more updates than there are."""
        self._items.append(item)
        # A long update keeps its place in the window until it is read, so it does not wait for others.
        if item.kind not in MANY or item.held or len(self._items) >= self._enough:
            self._wakes.put(None)

    def take(self, seconds: float, enough: int = 1) -> list[AgentNews]:
        """Return all news, after a wait of at most some seconds for `enough` updates, or for any other news."""
        self._enough = enough
        # Looked at after that line: what came before it woke nobody if it was too little for the last wait.
        if seconds > 0.0 and len(self._items) < enough:
            with contextlib.suppress(queue.Empty):
                self._wakes.get(timeout=seconds)
        while not self._wakes.empty():
            self._wakes.get_nowait()
        found = []
        while self._items:
            found.append(self._items.popleft())
        return found
