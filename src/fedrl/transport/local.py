"""A transport within one process, for tests and for agents that are tasks: queues in place of sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, ClassVar, TypeVar

from fedrl.core.errors import ConfigError
from fedrl.transport.credentials import Credentials
from fedrl.transport.seam import Link, LinkClosedError, Listener, Session

T = TypeVar("T")
WINDOW = 4
"""Frames under way in one direction before the sender waits."""
END = None


class LocalLink:
    """One end of a connection within this process."""

    def __init__(self, peer: str, incoming: asyncio.Queue[bytes | None], outgoing: asyncio.Queue[bytes | None]) -> None:
        self._peer, self._incoming, self._outgoing = peer, incoming, outgoing
        self._closed = asyncio.Event()
        self.other: LocalLink | None = None

    @property
    def peer(self) -> str:
        """The name of the other end."""
        return self._peer

    async def send(self, frame: bytes) -> None:
        """Send a frame; wait while the other end takes none.

        Raises:
            LinkClosedError: The connection has ended.
        """
        await self._or_closed(self._outgoing.put(frame))

    async def receive(self) -> bytes:
        """Return the next frame.

        Raises:
            LinkClosedError: The connection has ended.
        """
        if self._incoming.empty() or self._closed.is_set():
            frame = await self._or_closed(self._incoming.get())
        else:
            frame = self._incoming.get_nowait()
        if frame is END:
            self._closed.set()
            raise LinkClosedError("The other end has closed the connection.")
        return frame

    async def _or_closed(self, action: Coroutine[Any, Any, T]) -> T:
        if self._closed.is_set():
            action.close()  # it will never run
            raise LinkClosedError("The connection is closed.")
        doing = asyncio.ensure_future(action)
        ending = asyncio.ensure_future(self._closed.wait())
        try:
            await asyncio.wait({doing, ending}, return_when=asyncio.FIRST_COMPLETED)
            if doing.done():
                return doing.result()
            raise LinkClosedError("The connection is closed.")
        finally:
            for task in (doing, ending):
                task.cancel()

    async def close(self) -> None:
        """End the connection."""
        if not self._closed.is_set():
            self._closed.set()
            if self.other is not None:
                self.other.ended()

    def ended(self) -> None:
        """Note that the other end is closed, behind the frames that it has sent."""
        if self._incoming.full():
            self._closed.set()
        else:
            self._incoming.put_nowait(END)


class LocalTransport:
    """A transport within this process.

    Args:
        name: Whom `connect` authenticates as.
        credentials: Certificates for secure sums; the transport itself needs none.

    >>> LocalTransport("site-1").name
    'site-1'
    """

    _listening: ClassVar[dict[str, LocalListener]] = {}

    def __init__(self, name: str = "", credentials: Credentials | None = None) -> None:
        self.name, self.credentials = name, credentials

    async def listen(self, address: str, session: Session) -> Listener:
        """Listen at an address, which is any text.

        Raises:
            ConfigError: Something listens there already.
        """
        if address in self._listening:
            raise ConfigError(f"{address} is taken: something listens there already. Choose another address.")
        listener = LocalListener(address, session)
        self._listening[address] = listener
        return listener

    async def connect(self, address: str) -> Link:
        """Return a link to a listener of this process.

        Raises:
            LinkClosedError: Nobody listens there.
        """
        listener = self._listening.get(address)
        if listener is None:
            raise LinkClosedError(f"Nobody listens at {address}.")
        return listener.connected(self.name)


class LocalListener:
    """A listener within this process."""

    def __init__(self, address: str, session: Session) -> None:
        self._address, self._session = address, session
        self._sessions: dict[asyncio.Task[None], LocalLink] = {}

    @property
    def address(self) -> str:
        """The address."""
        return self._address

    def connected(self, name: str) -> LocalLink:
        """Begin a session with an agent, and return the agent's end."""
        up: asyncio.Queue[bytes | None] = asyncio.Queue(WINDOW)
        down: asyncio.Queue[bytes | None] = asyncio.Queue(WINDOW)
        theirs, ours = LocalLink("coordinator", down, up), LocalLink(name, up, down)
        theirs.other, ours.other = ours, theirs
        task = asyncio.ensure_future(self._held(ours))
        self._sessions[task] = ours
        task.add_done_callback(lambda done: self._sessions.pop(done, None))
        return theirs

    async def _held(self, link: LocalLink) -> None:
        try:
            await self._session(link)
        finally:
            await link.close()

    async def close(self) -> None:
        """End all connections and listen no more."""
        LocalTransport._listening.pop(self._address, None)
        for link in list(self._sessions.values()):
            await link.close()
        for task in list(self._sessions):
            task.cancel()
