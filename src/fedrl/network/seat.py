"""What a coordinator's sessions know about one agent, also while it is away."""

from __future__ import annotations

import time

from fedrl.network.news import ForLoop
from fedrl.network.outbox import Outbox, Waiting
from fedrl.wire.protocol import Answer, Beat, Bid
from fedrl.wire.secure_sum import Invitation, JobDone, SumRequest


class Seat:
    """What the sessions know about one agent.

    Attributes:
        outbox: Messages to send in its current session; None if it is not connected.
        ready: Whether it has compiled its programs.
        task: Its current task, `fedrl.network.outbox.Waiting`; None if it has none.
        request: The last message to it in a secure sum over the vector of its task; None if there is none.
        certified: Whether its current session has said by which key it signs in secure sums.
        answer: The answer to its last bid, if its update is wanted and has not arrived; else None.
        beat_s: When its current session last said anything, by `time.monotonic`.
        moved_s: When its current session last showed progress, by the same clock.
        unread: Number of its updates, bids and failures that the loop has not taken yet.
        hung: Whether its last job hung, and it has shown no progress since.
        name: Its name; "" before it has come.
        out: Whether it takes part no more.
    """

    def __init__(self) -> None:
        self.name, self.out = "", False
        self.outbox: Outbox | None = None
        self.ready = False
        self.task: Waiting | None = None
        self.answer: Answer | None = None
        self.request: Invitation | SumRequest | None = None
        self.certified = False
        self.beat_s = self.moved_s = 0.0
        self.hung, self.unread = False, 0
        self._at = (0, -1)  # job and number of steps of its last beat

    def move(self, beat: Beat | None = None) -> bool:
        """Note a sign of progress, unless it is a beat as far in its job as the last one; return if it ends a hang."""
        if beat is not None and (beat.job, beat.steps) == self._at:
            return False
        self._at = self._at if beat is None else (beat.job, beat.steps)
        self.moved_s, was, self.hung = time.monotonic(), self.hung, False
        return was

    def answered(self, message: ForLoop) -> Answer | Invitation | SumRequest | None:
        """Return what has been answered to a message before, if it comes again; else None."""
        asked = self.answer if isinstance(message, Bid) else self.request if isinstance(message, JobDone) else None
        return asked if asked is not None and asked.job == message.job else None

    @property
    def state(self) -> str:
        """What it is doing, in a word."""
        if self.out:
            return "opted out"
        if self.outbox is None:
            return "away"
        if self.hung:
            return "hung"
        return "compiling" if not self.ready else "ready" if self.task is None else "at work"
