"""Links that do what networks do, over sockets of this machine: cut, duplicate, reorder, corrupt, repeat later, stall.

    agent -- FaultyLink (faults, by number of frames) -- TCP -- WatchedLink -- coordinator

The end of the agent makes the faults. That of the coordinator falls silent when the coordinator is killed, and stands
still while it is stopped. Both tell the transcript.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from fedrl.transport.seam import LinkClosedError, Listener, Session
from tests.chaos.disk import Machine
from tests.chaos.transcript import Transcript
from tests.support.plain_transport import PlainLink, PlainListener, PlainTransport

UP, DOWN = "up", "down"
HOLD_S = 0.2
"""Seconds for which a frame that is to be overtaken waits for another one."""


class LinkFault(NamedTuple):
    """A fault of the next frame in a direction: cut, duplicate, reorder, corrupt, repeat or stall, of some seconds."""

    kind: str
    direction: str
    seconds: float = 0.0


class Hub:
    """The transport of one process of a coordinator."""

    credentials = None

    def __init__(self, life: int, transcript: Transcript, going: threading.Event, passed: Callable[[], None]) -> None:
        self.life, self.transcript, self.going, self.passed = life, transcript, going, passed
        self.dead, self.address = False, ""
        self._links: set[WatchedLink] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def listen(self, address: str, session: Session) -> Listener:
        """Listen at a free port."""
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(_quiet)

        async def met(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                name = (await reader.readline()).decode().strip()
                link = WatchedLink(PlainLink(name, reader, writer), self)
                self._links.add(link)
                await session(link)
            finally:
                writer.close()

        host, _, port = address.rpartition(":")
        listener = PlainListener(await asyncio.start_server(met, host, int(port)))
        self.address = listener.address
        return listener

    async def connect(self, address: str) -> Any:
        """Refuse: a coordinator connects to nobody."""
        raise LinkClosedError(f"Nobody listens at {address}.")

    def cut(self) -> None:
        """End all connections at once; nothing is sent or heard any more."""
        self.dead, self.address = True, ""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._aborted)

    def _aborted(self) -> None:
        for link in list(self._links):
            link.abort()


def _quiet(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # Before Python 3.12, asyncio reports a handler of a connection that was cancelled as a fault.
    if not isinstance(context.get("exception"), asyncio.CancelledError):
        loop.default_exception_handler(context)


class WatchedLink:
    """The coordinator's end of a link."""

    def __init__(self, link: Any, hub: Hub) -> None:
        self._link, self._hub, self.peer = link, hub, link.peer

    def abort(self) -> None:
        """End it without a word."""
        self._link._writer.transport.abort()

    async def _alive(self) -> None:
        while not self._hub.going.is_set() and not self._hub.dead:
            await asyncio.sleep(0.01)
        if self._hub.dead:
            self.abort()
            raise LinkClosedError("The process has ended.")

    async def send(self, frame: bytes) -> None:
        """Send a frame."""
        await self._alive()
        self._hub.transcript.frame("sent", frame, agent=self.peer, life=self._hub.life)
        await self._link.send(frame)

    async def receive(self) -> bytes:
        """Return the next frame."""
        frame: bytes = await self._link.receive()
        await self._alive()
        self._hub.transcript.frame("came", frame, agent=self.peer, life=self._hub.life)
        self._hub.passed()
        return frame

    async def close(self) -> None:
        """End the link."""
        self._link._writer.close()


class SiteNetwork:
    """The network of one site, over all its processes: faults that wait for a frame, and frames that come again."""

    def __init__(self, name: str, transcript: Transcript, address: Callable[[], str], seed: int) -> None:
        self.name, self.transcript, self.address = name, transcript, address
        self.waiting: deque[LinkFault] = deque()
        self.again: list[bytes] = []
        self.random = random.Random(seed)
        self.applied: list[str] = []
        self.process = 0
        self.open: list[FaultyLink] = []

    def transport(self, machine: Machine) -> SiteTransport:
        """Return the transport of a new process on a machine; that of the process before is dead from now on."""
        self.cut()
        self.process += 1
        return SiteTransport(self, self.process, machine)

    def cut(self) -> None:
        """End the connections of the process."""
        for link in self.open:
            link.abort()
        self.open.clear()

    def due(self, direction: str) -> LinkFault | None:
        """Return the fault of a frame in this direction, if there is one."""
        for fault in self.waiting:
            if fault.direction == direction:
                self.waiting.remove(fault)
                self.applied.append(fault.kind)
                return fault
        return None


class SiteTransport:
    """The transport of one process of a site."""

    credentials = None

    def __init__(self, network: SiteNetwork, process: int, machine: Machine) -> None:
        self._network, self._process, self._machine = network, process, machine

    async def listen(self, address: str, session: Session) -> Listener:
        """Refuse: a site listens nowhere."""
        raise LinkClosedError("A site does not listen.")

    async def connect(self, address: str) -> FaultyLink:
        """Connect to the coordinator, wherever it is now."""
        del address
        network = self._network
        where = network.address()
        if self._process != network.process or self._machine.dead or not where:
            raise LinkClosedError("Nobody listens.")
        link = FaultyLink(await PlainTransport(network.name).connect(where), network, self._process, self._machine)
        network.open.append(link)
        return link


class FaultyLink:
    """The agent's end of a link."""

    def __init__(self, link: Any, network: SiteNetwork, process: int, machine: Machine) -> None:
        self._link, self._network, self._process, self.peer = link, network, process, link.peer
        self._machine = machine
        self._held: bytes | None = None
        self._next: deque[bytes] = deque()
        self._flush: asyncio.Task[None] | None = None
        self._reading: asyncio.Future[bytes] | None = None

    def abort(self) -> None:
        """End it without a word."""
        self._link._writer.transport.abort()

    async def _raw(self, timeout_s: float | None = None) -> bytes:
        # A read that is given up would lose the place in the stream, so it goes on and is taken up again.
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._link.receive())
        done, _ = await asyncio.wait({self._reading}, timeout=timeout_s)
        if not done:
            raise TimeoutError
        read, self._reading = self._reading, None
        if read is None or read.cancelled():
            raise LinkClosedError("The connection is closed.")
        return read.result()

    def _check(self) -> None:
        if self._process != self._network.process or self._machine.dead:
            self.abort()
            raise LinkClosedError("The process has ended.")

    async def send(self, frame: bytes) -> None:
        """Send a frame, or what a bad network makes of it."""
        self._check()
        network = self._network
        network.transcript.frame("left", frame, agent=network.name)
        fault = network.due(UP)
        kind = "" if fault is None else fault.kind
        if kind == "stall" and fault is not None:
            await asyncio.sleep(fault.seconds)
        if kind == "cut":
            await self._end()
        if kind == "reorder" and self._held is None:
            self._held = frame
            self._flush = asyncio.ensure_future(self._flushed())
            return
        await self._link.send(self._damaged(frame) if kind == "corrupt" else frame)
        if self._held is not None:
            held, self._held = self._held, None
            await self._link.send(held)
        if kind == "duplicate":
            await self._link.send(frame)
        if kind == "repeat":
            network.again.append(frame)
        elif network.again and network.random.random() < 0.2:
            await self._link.send(network.again.pop())

    async def _flushed(self) -> None:
        await asyncio.sleep(HOLD_S)
        if self._held is not None:
            held, self._held = self._held, None
            try:
                await self._link.send(held)
            except LinkClosedError:
                return

    async def receive(self) -> bytes:
        """Return the next frame, or what a bad network makes of it."""
        if self._next:
            return self._next.popleft()
        frame = await self._raw()
        self._check()
        fault = self._network.due(DOWN)
        kind = "" if fault is None else fault.kind
        if kind == "stall" and fault is not None:
            await asyncio.sleep(fault.seconds)
        if kind == "cut":
            await self._end()
        if kind in ("duplicate", "repeat"):
            self._next.append(frame)
        if kind == "reorder":
            try:
                other = await self._raw(HOLD_S)
            except TimeoutError:
                return frame
            self._next.append(frame)
            return other
        return self._damaged(frame) if kind == "corrupt" else frame

    async def _end(self) -> None:
        self.abort()
        raise LinkClosedError("The network has cut the connection.")

    def _damaged(self, frame: bytes) -> bytes:
        at = self._network.random.randrange(len(frame))
        return frame[:at] + bytes([frame[at] ^ (1 << self._network.random.randrange(8))]) + frame[at + 1 :]

    async def close(self) -> None:
        """End the link."""
        if self._flush is not None:
            self._flush.cancel()
        if self._reading is not None:
            self._reading.cancel()  # `_raw` hears of it
        await self._link.close()
