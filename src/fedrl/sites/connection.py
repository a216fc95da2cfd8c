"""A connection to the coordinator: messages over a link, each of which is logged before it leaves.

Message --frames--> SentLog --> Link --> coordinator --> Link --frames--> Message
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedrl.core.errors import WireError
from fedrl.engines.down_content import DownCodec
from fedrl.engines.messages import messages
from fedrl.federation.federation import Federation
from fedrl.sites.sent_log import SentLog
from fedrl.transport.seam import Link
from fedrl.wire.protocol import Answer, Message, Pause, Reader, Resume, Stop, Taken, Task, Welcome, names_sent, sent
from fedrl.wire.secure_sum import Invitation, SumRequest

RECEIVED = (Welcome, Task, Taken, Pause, Resume, Stop, Answer, Invitation, SumRequest)
"""The kinds of messages that a coordinator may send."""
SLACK = 1024
"""Bytes by which a broadcast may exceed the expected size; its content is checked later."""


class Connection:
    """One connection of an agent.

    Args:
        link: The link.
        log: The log of the site.
        largest: The largest content that the coordinator may send, in bytes.
        clock: The time in seconds since 1970.
    """

    def __init__(self, link: Link, log: SentLog, largest: int, clock: Callable[[], float] = time.time) -> None:
        self._link, self._log, self._clock = link, log, clock
        self._reader = Reader(largest, RECEIVED)
        self._sending = asyncio.Lock()
        self.run = ""

    async def send(self, message: Message) -> None:
        """Write a message to the log, then send it.

        Raises:
            LinkClosedError: The connection has ended.
            RunError: The log can't be written; nothing was sent.
        """
        frames = list(sent(message))
        async with self._sending:  # the frames of two messages may not mix
            job = int(getattr(message, "job", 0))
            # A number that the site withholds is sent as NaN, and says nothing.
            said = tuple(name for name in names_sent(message) if not _is_nan(getattr(message, name)))
            self._log.append(self._clock(), self.run, type(message).__name__, job, said, frames)
            for frame in frames:
                await self._link.send(frame)

    def allow(self, largest: int) -> None:
        """Let content from the coordinator have up to so many bytes, if that is more than before."""
        self._reader.allow(largest)

    async def receive(self) -> Message:
        """Return the next message.

        Raises:
            LinkClosedError: The connection has ended.
            WireError: What came is no message of a coordinator.
        """
        while True:
            message = self._reader.take(await self._link.receive())
            if message is not None:
                return message

    async def close(self) -> None:
        """End the connection."""
        await self._link.close()


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def expected(message: Message, *kinds: type) -> Message:
    """Return a message if it is of one of these kinds.

    Raises:
        WireError: It is not.
    """
    if not isinstance(message, kinds):
        names = " or ".join(kind.__name__ for kind in kinds)
        raise WireError(f"A message {type(message).__name__} came where {names} should come. The coordinator is wrong.")
    return message


def largest_broadcast(federation: Federation) -> int:
    """Return the largest broadcast that a coordinator of this federation may send, in bytes."""
    setting = federation.learner.environment.params
    shapes = messages(federation, jax.tree.map(lambda x: jnp.asarray(x)[None], setting)).sent
    if federation.downlink is not None:
        return DownCodec(federation, shapes).largest + SLACK
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes)) + SLACK
