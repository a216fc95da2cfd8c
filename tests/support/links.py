"""Two ends of a connection in one test, over any transport."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedrl.transport.certificates import enrolment_of
from fedrl.transport.grpc_transport import GrpcTransport
from fedrl.transport.local import LocalTransport
from fedrl.transport.seam import Link, LinkClosedError, Listener, Transport
from tests.support.certified import credentials


@dataclass
class Ends:
    """The transports of both ends.

    Attributes:
        coordinator: That of the coordinator.
        agent: That of the agent of a name.
        address: Where the coordinator listens.
    """

    coordinator: Transport
    agent: Callable[[str], Transport]
    address: str


def local(folder: Path) -> Ends:
    return Ends(LocalTransport(), LocalTransport, f"here-{folder.name}")


def over_grpc(folder: Path, **options: Any) -> Ends:
    """The ends over gRPC, with the certificates of an authority."""
    coordinator = GrpcTransport(credentials(folder, "hub"), enrolment_of(folder), **options)
    return Ends(coordinator, lambda name: GrpcTransport(credentials(folder, name), **options), "127.0.0.1:0")


@dataclass
class Meeting:
    """A listener, and the coordinator's ends of the links that have come to it."""

    listener: Listener
    came: asyncio.Queue[Link] = field(default_factory=asyncio.Queue)

    async def link(self) -> Link:
        """The coordinator's end of the next link."""
        return await asyncio.wait_for(self.came.get(), 10)


@asynccontextmanager
async def listening(ends: Ends, stay: bool = True) -> AsyncIterator[Meeting]:
    """A listener whose sessions hand over their link, and stay until the test is over."""
    over = asyncio.Event()
    came: asyncio.Queue[Link] = asyncio.Queue()

    async def session(link: Link) -> None:
        await came.put(link)
        if stay:
            await over.wait()

    listener = await ends.coordinator.listen(ends.address, session)
    try:
        yield Meeting(listener, came)
    finally:
        over.set()
        await listener.close()


@asynccontextmanager
async def linked(ends: Ends, name: str = "site-1", via: str | None = None) -> AsyncIterator[tuple[Link, Link]]:
    """A link: the agent's end, and the coordinator's."""
    async with listening(ends) as meeting:
        agent = await ends.agent(name).connect(via or meeting.listener.address)
        try:
            yield agent, await meeting.link()
        finally:
            await agent.close()


async def end_of(link: Link, within_s: float = 10.0) -> str:
    """Why a link ends, once it does; frames before are dropped."""
    try:
        async with asyncio.timeout(within_s):
            while True:
                await link.receive()
    except LinkClosedError as fault:
        return str(fault)


def run(work: Awaitable[Any], within_s: float = 60.0) -> Any:
    """Run a test's coroutine, and fail if it hangs."""

    async def limited() -> Any:
        return await asyncio.wait_for(work, within_s)

    return asyncio.run(limited(), debug=False)
