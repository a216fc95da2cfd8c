"""A limit on what an agent may say: what the coordinator does not read stays at the other end of the connection."""

from __future__ import annotations

import asyncio
import time

from fedrl.network.news import FOR_LOOP
from fedrl.network.seat import Seat
from fedrl.wire.protocol import Message

MOST_UNREAD = 4
"""The largest number of updates, bids and failures of one agent that wait for the loop; others stay with the agent."""
UNREAD_S = 0.05
"""Seconds between two looks whether the loop has taken them."""


class MessageRateLimit:
    """Lets an agent say no more than the coordinator takes; what is not read stays with the agent.

    Args:
        most: The largest number of messages in a second, apart from those that the loop takes, such as updates.
    """

    def __init__(self, most: int) -> None:
        self._most, self._count, self._since_s = most, 0, 0.0

    async def wait(self, seat: Seat, message: Message) -> None:
        """Wait until this message may be handled."""
        if isinstance(message, FOR_LOOP):
            while seat.unread >= MOST_UNREAD:
                await asyncio.sleep(UNREAD_S)
            return
        if self._count == 0:
            self._since_s = time.monotonic()
        self._count += 1
        if self._count >= self._most:
            self._count = 0
            await asyncio.sleep(max(0.0, self._since_s + 1.0 - time.monotonic()))
