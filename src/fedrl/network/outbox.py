"""What is to be sent in one session with an agent, however slowly the agent reads.

    put_nowait --> messages, in order --next--> the writer of the session
    the task of the seat ---------------^       one that has ended before its turn is left out

Under down stages the content of a task is chosen at its turn, for the copy of the parameters that the agent has then.

An agent that does not read makes nothing grow: tasks wait as one mark and not as their contents, and when more than
`MOST_WAITING` other messages wait, the session ends. An agent on a slow link is not sent tasks that have ended
meanwhile, which would keep it behind for good.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

from fedrl.engines.down_content import CopyId, DownContents
from fedrl.wire.protocol import Message, Stop, Task

MOST_WAITING = 64
"""The largest number of messages that wait for an agent."""
LINGER_S = 2.0
"""Seconds that the last words of a session may take."""

Item: TypeAlias = tuple[Message, bytes | None]
"""A message, with the digest of its content if that is known."""
Waiting: TypeAlias = tuple[Task, bytes | DownContents]
"""A task with the digest of its content; under down stages without content, with the messages of which one is that."""


class Outbox:
    """What is to be sent in one session.

    Args:
        task: Returns the current task of the agent, or None.

    Attributes:
        ending: Whether the session is about to end: nothing that still comes from the agent counts.
        over: Set when the session has to end, whether or not everything was sent.
        copy: What identifies the agent's copy after all that it was sent, under down stages; None if it has none.
    """

    def __init__(self, task: Callable[[], Waiting | None]) -> None:
        self._task = task
        self.copy: CopyId | None = None
        self._sent = 0  # job of the last task; its content is not kept
        self._items: deque[Item | None] = deque()  # None marks the place of the task
        self._marked = False
        self._filled = asyncio.Event()
        self.ending, self.over = False, asyncio.Event()

    def __len__(self) -> int:
        return len(self._items)

    def copy_then(self) -> CopyId | None:
        """Return what identifies the agent's copy after its current task."""
        task = self._task()
        return self.copy if task is None or isinstance(task[1], bytes) else task[1].after(self.copy)

    def put_nowait(self, item: Item | Waiting) -> None:
        """Add a message behind those that are there; of tasks, the one that is current at its turn is sent."""
        if self.ending:
            return
        if isinstance(item[0], Task):
            if not self._marked:
                self._marked = True
                self._items.append(None)
                self._filled.set()
            return
        if len(self._items) >= MOST_WAITING:
            # It reads nothing, so it would not read why, either.
            self._items.clear()
            self.ending = True
            self.over.set()
            return
        message, digest = item
        assert not isinstance(digest, DownContents)  # those are of tasks
        self._items.append((message, digest))
        self._filled.set()

    def finish(self, last: Stop | None = None) -> None:
        """End the session after what is there and a last message, or after `LINGER_S`."""
        if self.ending:
            return
        if last is not None:
            self.put_nowait((last, None))
        self.ending = True
        self._filled.set()
        asyncio.get_running_loop().call_later(LINGER_S, self.over.set)

    async def next(self) -> Item | None:
        """Wait for the next message to send, and return it; None after the last one."""
        while True:
            while not self._items:
                if self.ending:
                    return None
                self._filled.clear()
                await self._filled.wait()
            item = self._items.popleft()
            if item is not None:
                return item
            self._marked = False
            task = self._task()
            if task is not None and task[0].job != self._sent:
                self._sent = task[0].job
                return self._addressed(*task)

    def _addressed(self, task: Task, content: bytes | DownContents) -> Item:
        if isinstance(content, bytes):
            return task, content
        data, digest = content.message(self.copy)
        self.copy = content.after(self.copy)
        return task._replace(content=data), digest
