"""The seam of all transports: a listener that hands each connection to a session, and links that carry frames.

    coordinator   transport.listen(address, session)  --> session(link) once per connection
    agent         transport.connect(address)          --> link

Nothing above this file knows what carries the frames: gRPC with mutual TLS, or a queue in this process for tests.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias, runtime_checkable

from fedrl.transport.credentials import Credentials


class LinkClosedError(Exception):
    """The connection has ended. The message says why, as far as this end knows."""


class LinkRefusedError(LinkClosedError):
    """The same, for a reason that stays: to connect again is of no use before a person has changed something."""


@runtime_checkable
class Link(Protocol):
    """One end of a connection. Frames arrive in the order in which they were sent, or not at all."""

    @property
    def peer(self) -> str:
        """The name of the other end, as authenticated by its certificate."""

    async def send(self, frame: bytes) -> None:
        """Send a frame; wait while the other end takes none.

        Raises:
            LinkClosedError: The connection has ended.
        """

    async def receive(self) -> bytes:
        """Return the next frame. Frames that nobody has asked for stay at the other end, within a small window.

        Raises:
            LinkClosedError: The connection has ended.
        """

    async def close(self) -> None:
        """End the connection after the frames sent so far; the other end's `receive` then raises."""


Session: TypeAlias = Callable[[Link], Awaitable[None]]
"""What a listener does with a connection. The connection ends when it returns or raises."""


@runtime_checkable
class Listener(Protocol):
    """A place that connections may come to."""

    @property
    def address(self) -> str:
        """The address with the port that was really taken, HOST:PORT."""

    async def close(self) -> None:
        """End all connections and listen no more."""


@runtime_checkable
class Transport(Protocol):
    """A way to carry frames."""

    @property
    def credentials(self) -> Credentials | None:
        """By which this end proves who it is, and checks who others are; None where nobody is authenticated."""

    async def listen(self, address: str, session: Session) -> Listener:
        """Listen at an address, such as "127.0.0.1:0" for any free port.

        Raises:
            ConfigError: The address is none, or is taken.
        """

    async def connect(self, address: str) -> Link:
        """Return a link to a listener.

        Raises:
            LinkClosedError: Nobody listens there, or the other end refuses this one.
        """
