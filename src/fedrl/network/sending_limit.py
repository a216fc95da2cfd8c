"""A limit on long messages that are on their way at the same time, because they take memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class SendingLimit:
    """A number of places, of which each is held for a time: who takes longer goes on without one.

    So a few slow connections can't hold up all others.

    Args:
        count: Number of places.
        longest_s: Seconds for which a place may be held.
    """

    def __init__(self, count: int, longest_s: float) -> None:
        self._free, self._longest_s = asyncio.Semaphore(count), longest_s

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Wait for a place, and hold it."""
        await self._free.acquire()
        mine = True

        def leave() -> None:
            nonlocal mine
            if mine:
                mine = False
                self._free.release()

        timer = asyncio.get_running_loop().call_later(self._longest_s, leave)
        try:
            yield
        finally:
            timer.cancel()
            leave()
