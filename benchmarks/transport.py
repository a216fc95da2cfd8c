"""What the transport of a network costs: rounds over gRPC with mutual TLS against raw asyncio TLS, on this machine.

A round sends the same bytes to K agents, tasks of another process, and waits until all have sent them back. Three ways
take turns, in blocks of rounds:

    raw        asyncio streams over TLS 1.3 with both certificates, a length and the bytes
    frames     links of `GrpcTransport`, frames that are made once
    messages   the same, with every message put together and its hash compared, at both ends

`python -m benchmarks.transport 10 80000` measures one size alone, `python -m benchmarks.transport memory` the memory of
a coordinator to which more is sent than it reads.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import ssl
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks.measure import Figure, emit
from fedrl.transport.certificates import init, issue
from fedrl.transport.credentials import load
from fedrl.transport.grpc_transport import GrpcTransport
from fedrl.transport.seam import Link, LinkClosedError
from fedrl.wire.frames import MOST_BODY
from fedrl.wire.protocol import Reader, Sent, Task, sent

SIZES = ((10, 80_000, 60, 2.5, 7.5), (50, 80_000, 20, 1.2, 35.0), (10, 4_000_000, 8, 1.2, 175.0))
"""Agents, bytes, rounds of a block, and the goals: times raw, and ms of the server's processor a round."""
PAIRS = 9
LENGTH = struct.Struct("<I")
WAYS = ("raw", "frames", "messages")
STILL_S = 3.0
MEBI = 1 << 20


class Measured(NamedTuple):
    """Milliseconds a round, of the clock and of the server's processor."""

    wall: float
    cpu: float


def cpu_s() -> float:
    """Seconds of the processor that this process has used."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def resident_mib() -> float:
    """Memory of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / MEBI


def task(content: bytes) -> Task:
    return Task(1, 1, 1, 1, 1.0, 0, "", content)


class Server:
    """The coordinator's ends of all connections, as they come.

    Args:
        folder: Its certificate.
        expected: Number of connections of each way.
    """

    def __init__(self, folder: Path, expected: int) -> None:
        self.folder, self.expected = folder, expected
        self.streams: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.links: dict[str, list[Link]] = {"frames": [], "messages": [], "full": []}
        self.ready, self._never = asyncio.Event(), asyncio.Event()

    async def __aenter__(self) -> Server:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.folder / "ca.pem")
        context.verify_mode, context.minimum_version = ssl.CERT_REQUIRED, ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(self.folder / "certificate.pem", self.folder / "key.pem")
        self._raw = await asyncio.start_server(self._stream, "127.0.0.1", 0, ssl=context, limit=1 << 22)
        self._listener = await GrpcTransport(load(self.folder, "coordinator")).listen("127.0.0.1:0", self._session)
        self.ports = self._raw.sockets[0].getsockname()[1], int(self._listener.address.rpartition(":")[2])
        return self

    async def __aexit__(self, *_: object) -> None:
        for _, writer in self.streams:
            writer.close()
        self._raw.close()
        await self._listener.close()

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.streams.append((reader, writer))
        self._count()

    async def _session(self, link: Link) -> None:
        self.links[(await link.receive()).decode()].append(link)
        self._count()
        await self._never.wait()

    def _count(self) -> None:
        if all(len(each) >= self.expected for each in (self.streams, *list(self.links.values())[:2])):
            self.ready.set()


async def rounds_of(server: Server, content: bytes, count: int) -> dict[str, list[Measured]]:
    """Measure blocks of rounds of each way, in turns, after one that does not count."""
    frames = list(sent(task(content)))

    async def raw(end: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        reader, writer = end
        writer.write(LENGTH.pack(len(content)) + content)
        await writer.drain()
        await reader.readexactly(LENGTH.unpack(await reader.readexactly(LENGTH.size))[0])

    async def by_frames(link: Link) -> None:
        for frame in frames:
            await link.send(frame)
        for _ in frames:
            await link.receive()

    async def by_messages(link: Link) -> None:
        for frame in frames:
            await link.send(frame)
        reader = Reader(len(content))
        while reader.take(await link.receive()) is None:
            pass

    works: tuple[tuple[str, Sequence[Any], Callable[[Any], Awaitable[None]]], ...] = (
        ("raw", server.streams, raw),
        ("frames", server.links["frames"], by_frames),
        ("messages", server.links["messages"], by_messages),
    )
    found: dict[str, list[Measured]] = {way: [] for way in WAYS}
    for block in range(PAIRS + 1):
        for way, ends, work in works:
            walls, begun = [], cpu_s()
            for _ in range(count):
                start = time.perf_counter()
                await asyncio.gather(*map(work, ends))
                walls.append(time.perf_counter() - start)
            if block:
                found[way].append(Measured(1e3 * median(walls), 1e3 * (cpu_s() - begun) / count))
    return found


async def measure(agents: int, size: int, count: int, times: float, cpu_ms: float) -> None:
    """Measure one size, and print its figures."""
    with tempfile.TemporaryDirectory() as name:
        hub, site = certified(Path(name))
        async with Server(hub, agents) as server:
            with in_another_process("echo", site, agents, size, *server.ports):
                await asyncio.wait_for(server.ready.wait(), 60)
                found = await rounds_of(server, os.urandom(size), count)
    what = f"K = {agents}, {size / 1000:,.0f} kB"
    for way in WAYS:
        wall, cpu = (median(getattr(each, name) for each in found[way]) for name in Measured._fields)
        print(f"{what}, {way}: {wall:.2f} ms a round, {cpu:.2f} ms of the server's processor", flush=True)
    for way in WAYS[1:]:
        ratio = median(each.wall / raw.wall for each, raw in zip(found[way], found["raw"], strict=True))
        emit(
            Figure(f"a round of {way}, {what}, against raw", ratio, times, "times", at_least=False),
            Figure(f"server, {way}, {what}", median(each.cpu for each in found[way]), cpu_ms, "ms", at_least=False),
        )


async def measure_memory(agents: int = 50, size: int = 4_000_000, window: int = 8) -> None:
    """Measure the memory of a coordinator to which all agents send at once, and which reads from a few at a time."""
    with tempfile.TemporaryDirectory() as name:
        hub, site = certified(Path(name))
        async with Server(hub, 0) as server:
            before = resident_mib()
            with in_another_process("full", site, agents, size, *server.ports):
                while len(server.links["full"]) < agents:
                    await asyncio.sleep(0.05)
                await asyncio.sleep(STILL_S)
                waiting = resident_mib() - before
                most, free = [0.0], asyncio.Semaphore(window)

                async def take(link: Link) -> None:
                    async with free:
                        reader = Reader(size)
                        while reader.take(await link.receive()) is None:
                            pass
                        most[0] = max(most[0], resident_mib() - before)

                await asyncio.gather(*map(take, server.links["full"]))
    print(f"{agents} agents send {size / 1e6:g} MB each, read from {window} at a time", flush=True)
    emit(
        Figure("memory while nothing is read", waiting, 100.0, "MiB", at_least=False),
        Figure(f"memory while {window} are read", most[0], 200.0, "MiB", at_least=False),
    )


def certified(folder: Path) -> tuple[Path, Path]:
    init(folder / "certs")
    return issue(folder / "certs", "hub", "coordinator", ["localhost"]).folder, issue(folder / "certs", "site").folder


@contextlib.contextmanager
def in_another_process(*arguments: object) -> Any:
    command = [sys.executable, "-m", "benchmarks.transport", "agents", *map(str, arguments)]
    with subprocess.Popen(command) as process:
        try:
            yield
        finally:
            process.kill()


class Agents:
    """All agents, each a task.

    Args:
        folder: Their certificate.
        size: Bytes of the content.
        raw_port: Where streams connect.
        port: Where links connect.
    """

    def __init__(self, folder: Path, size: int, raw_port: int, port: int) -> None:
        self.size, self.raw_port, self.port = size, raw_port, port
        self.credentials = load(folder, "agent")
        self.context = ssl.create_default_context(cafile=folder / "ca.pem")
        self.context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")

    async def run(self, way: str, count: int) -> None:
        works = (self.full,) if way == "full" else (self.raw, self.by_frames, self.by_messages)
        with contextlib.suppress(LinkClosedError, asyncio.IncompleteReadError, ConnectionError):  # the server has ended
            await asyncio.gather(*(work() for work in works for _ in range(count)))

    async def raw(self) -> None:
        reader, writer = await asyncio.open_connection("localhost", self.raw_port, ssl=self.context, limit=1 << 22)
        while True:
            length = await reader.readexactly(LENGTH.size)
            writer.write(length + await reader.readexactly(LENGTH.unpack(length)[0]))
            await writer.drain()

    async def by_frames(self) -> None:
        link, parts = await self.connected("frames"), -(-self.size // MOST_BODY)
        while True:
            for frame in [await link.receive() for _ in range(parts)]:
                await link.send(frame)

    async def by_messages(self) -> None:
        link, reader = await self.connected("messages"), Reader(self.size)
        while True:
            while (message := reader.take(await link.receive())) is None:
                pass
            assert isinstance(message, Task)
            for frame in sent(Sent(1, 1, message.content)):
                await link.send(frame)

    async def full(self) -> None:
        """Send as much as is taken, and wait."""
        link = await self.connected("full")
        for frame in sent(Sent(1, 1, bytes(self.size))):
            await link.send(frame)
        await link.receive()

    async def connected(self, name: str) -> Link:
        link = await GrpcTransport(self.credentials).connect(f"localhost:{self.port}")
        await link.send(name.encode())
        return link


def main() -> None:
    match sys.argv[1:]:
        case ["agents", way, folder, count, *numbers]:
            asyncio.run(Agents(Path(folder), *map(int, numbers)).run(way, int(count)))
        case ["memory"]:
            asyncio.run(measure_memory())
        case asked:
            for size in SIZES:
                if not asked or [*map(int, asked)] == [*size[:2]]:
                    asyncio.run(measure(*size))
            if not asked:  # in a process that has allocated nothing before
                subprocess.run([sys.executable, "-m", "benchmarks.transport", "memory"], check=True)


if __name__ == "__main__":
    main()
