"""One end of a stream of gRPC as a link.

    stream --> reader --> frames received --> receive
    send --> frames to send --> writer --> stream

gRPC ends a stream if a read or a write on it is cancelled, so neither is done by the task that calls: a session may
give up waiting for a frame, and ask again later. The reader also notices the end of the connection when nobody waits.
It goes no more than `AHEAD` bytes and one frame ahead of what was asked for, and the writer one frame behind what was
sent.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

from fedrl.core.errors import WireError
from fedrl.transport.seam import LinkClosedError
from fedrl.wire.frames import LARGEST

AHEAD = 64 * 1024
"""Bytes that are read before they are asked for; with it, the last words of a peer are heard while a session works."""
CLOSED, CLOSED_THERE = "The connection is closed.", "The other end has closed the connection."
SETTLE_S = 0.01
CLOSE_S = 2.0
"""Seconds that an end waits for the other one when it closes."""


class GrpcLink:
    """One end of a stream.

    `over` is set once the connection has ended.

    Args:
        peer: Name of the other end.
        stream: The stream of gRPC, with `read` and `write`.
        because: Says why the connection has ended, from what a read or a write raised.
        hang_up: What is left to do with the stream once the link is closed.
    """

    def __init__(
        self,
        peer: str,
        stream: Any,
        because: Callable[[Exception], LinkClosedError],
        hang_up: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._peer, self._stream, self._hang_up, self._because = peer, stream, hang_up, because
        self._received: deque[bytes] = deque()
        self._to_send: deque[bytes] = deque()
        self._asking, self._telling = asyncio.Lock(), asyncio.Lock()
        self._came, self._taken, self._given, self._gone = Signal(), Signal(), Signal(), Signal()
        self._ahead, self._writes = 0, False
        self.over = asyncio.Event()
        self._why: LinkClosedError | None = None
        self._closed = False
        self._tasks = [asyncio.ensure_future(self._reader()), asyncio.ensure_future(self._writer())]

    @property
    def peer(self) -> str:
        """The name of the other end."""
        return self._peer

    @property
    def why(self) -> LinkClosedError | None:
        """Why the connection has ended; None while it lasts."""
        return self._why

    async def send(self, frame: bytes) -> None:
        """Send a frame; wait while the one before is not sent yet.

        Raises:
            LinkClosedError: The connection has ended.
            WireError: The frame is larger than one may be.
        """
        if len(frame) > LARGEST:
            raise WireError(f"A frame has {len(frame):,} bytes, and at most {LARGEST:,} are allowed. Send it in parts.")
        async with self._telling:
            while self._to_send and self._why is None:
                await self._gone.wait()
            if self._why is not None or self._closed:
                self._raise()
            self._to_send.append(frame)
            self._given.set()

    async def receive(self) -> bytes:
        """Return the next frame."""
        async with self._asking:
            while not self._received and self._why is None and not self._closed:
                await self._came.wait()
            if not self._received or self._closed:
                self._raise()
            frame = self._received.popleft()
            self._ahead -= len(frame)
            self._taken.set()
            return frame

    async def close(self) -> None:
        """End the connection after the frames sent so far."""
        if self._closed:
            return
        self._closed = True
        self._came.set()
        self._taken.set()
        try:
            with contextlib.suppress(TimeoutError):  # the other end takes no more frames
                async with asyncio.timeout(CLOSE_S):
                    while (self._to_send or self._writes) and self._why is None:
                        await self._gone.wait()
            self.ended(LinkClosedError(CLOSED))
            if self._hang_up is not None:
                # The reader goes on meanwhile: gRPC cancels a stream with its read, and the other end would think that
                # the connection broke.
                await self._hang_up()
        finally:
            self.ended(LinkClosedError(CLOSED))
            self._end_tasks()

    def ended(self, why: LinkClosedError) -> None:
        """Note that the connection has ended, and why; frames that came before can still be received."""
        if self._why is None:
            self._why = why
            self.over.set()
            if not self._closed:
                self._end_tasks()
            for signal in (self._came, self._taken, self._given, self._gone):
                signal.set()

    def _end_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _raise(self) -> NoReturn:
        # A new one each time: the traceback of an exception that is raised again grows.
        why = self._why or LinkClosedError(CLOSED)
        raise type(why)(str(why))

    async def _reader(self) -> None:
        import grpc

        try:
            while (frame := await self._stream.read()) is not grpc.aio.EOF:
                if self._closed:
                    continue
                self._received.append(frame)
                self._ahead += len(frame)
                if not self._came.set():
                    while self._ahead > AHEAD and not self._closed:
                        await self._taken.wait()
            # At the coordinator, a stream that broke ends as one that was closed does; that it was cancelled, which
            # ends the link with another reason, comes a moment later.
            await asyncio.sleep(SETTLE_S)
            self.ended(LinkClosedError(CLOSED_THERE))
        except Exception as fault:
            self.ended(self._because(fault))

    async def _writer(self) -> None:
        try:
            while True:
                while not self._to_send:
                    await self._given.wait()
                self._writes = True
                frame = self._to_send.popleft()
                self._gone.set()
                await self._stream.write(frame)
                self._writes = False
                self._gone.set()
        except Exception as fault:
            self.ended(self._because(fault))


class Signal:
    """Wakes the tasks that wait for it. A set that nobody waits for is not remembered: look before waiting."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []

    async def wait(self) -> None:
        """Wait until it is set the next time."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future

    def set(self) -> bool:
        """Wake those who wait, and return whether there are any."""
        waiting = [future for future in self._waiting if not future.done()]  # others were cancelled
        self._waiting = []
        for future in waiting:
            future.set_result(None)
        return bool(waiting)
