"""A relay of TCP between two ends, which makes what networks do: delay, jitter, little bandwidth, stalls, half-open
connections, resets and cuts. What it does at random follows from its seed.

It is a support of tests, and not a part of fedrl: it changes bytes on their way and knows nothing of what they mean.

    agent --> relay (here) --> coordinator
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from dataclasses import dataclass

PIECE = 16 * 1024
BUFFER = 16 * 1024
"""Bytes that the relay's own sockets hold, so that what is slow is slow for the ends, too."""


@dataclass
class Weather:
    """What the relay does to what passes; it may be changed at any time.

    Attributes:
        delay_s: Time that each piece takes.
        jitter_s: Largest additional time, uniform; the order is kept, as TCP keeps it.
        bytes_per_s: Bandwidth in each direction; 0 for no limit.
        up, down: Whether bytes pass to the coordinator, and from it. Those that don't wait, as behind a link that is
            down; the connection stays open.
    """

    delay_s: float = 0.0
    jitter_s: float = 0.0
    bytes_per_s: float = 0.0
    up: bool = True
    down: bool = True


class Recording:
    """What has passed a relay, as somebody on the way sees it: the bytes of each connection, in each direction."""

    def __init__(self) -> None:
        self._streams: dict[tuple[int, bool], bytearray] = {}

    def add(self, connection: int, is_up: bool, piece: bytes) -> None:
        """Note a piece of a connection, which goes up to the coordinator or down from it."""
        self._streams.setdefault((connection, is_up), bytearray()).extend(piece)

    def __len__(self) -> int:
        return sum(len(stream) for stream in self._streams.values())

    def found(self, needle: bytes) -> bool:
        """Return whether these bytes have passed, one after the other, in one direction of one connection."""
        return any(needle in stream for stream in self._streams.values())

    def windows(self, size: int) -> set[bytes]:
        """Return every run of so many bytes that has passed."""
        streams = [bytes(stream) for stream in self._streams.values()]
        return {stream[i : i + size] for stream in streams for i in range(len(stream) - size + 1)}


class Relay:
    """A relay to HOST:PORT; `address` is where it listens.

    Args:
        to: Address of the coordinator.
        weather: What it does to what passes.
        seed: Of the jitter, and of bytes that are damaged.
    """

    def __init__(self, to: str, weather: Weather | None = None, seed: int = 0) -> None:
        self.to, self.weather = to, weather or Weather()
        self._random = random.Random(seed)
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._damage = 0
        self.connections = 0
        self.recording: Recording | None = None
        """Takes what passes, if there is one."""

    async def __aenter__(self) -> Relay:
        here = socket.socket()
        here.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)  # before it listens: it sets the window
        here.bind(("127.0.0.1", 0))
        self._server = await asyncio.start_server(self._connected, sock=here, limit=BUFFER)
        self.address = f"127.0.0.1:{here.getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.reset()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = self.connections
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        host, _, port = self.to.rpartition(":")
        try:
            there = socket.socket()
            there.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
            there.setblocking(False)
            await asyncio.get_running_loop().sock_connect(there, (host, int(port)))
            other_reader, other = await asyncio.open_connection(sock=there, limit=BUFFER)
        except OSError:
            writer.close()
            return
        for end in (writer, other):
            end.transport.set_write_buffer_limits(BUFFER)
            end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        pair = writer, other
        self._pairs.add(pair)
        both = [
            asyncio.ensure_future(self._pass(reader, other, number, is_up=True)),
            asyncio.ensure_future(self._pass(other_reader, writer, number, is_up=False)),
        ]
        try:
            await asyncio.gather(*both)
        except (OSError, asyncio.CancelledError):
            pass  # one end has reset the connection, or the relay closes; asyncio would log a cancelled handler
        finally:
            for task in both:
                task.cancel()
            self._pairs.discard(pair)
            for end in pair:
                end.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int, is_up: bool) -> None:
        """Pass bytes on, in a pipeline: pieces may be under way at the same time, as on a long link."""
        loop = asyncio.get_running_loop()
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)

        async def deliver() -> None:
            while True:
                due, piece = await under_way.get()
                await asyncio.sleep(max(0.0, due - loop.time()))
                while not (self.weather.up if is_up else self.weather.down):
                    await asyncio.sleep(0.005)
                if not piece:
                    if writer.can_write_eof():
                        writer.write_eof()
                    return
                writer.write(piece)
                await writer.drain()

        delivery = asyncio.ensure_future(deliver())
        due = free = loop.time()
        try:
            while True:
                piece = await reader.read(PIECE)
                if self.recording is not None:
                    self.recording.add(number, is_up, piece)
                weather = self.weather
                if weather.bytes_per_s:
                    free = max(free, loop.time()) + len(piece) / weather.bytes_per_s
                    await asyncio.sleep(max(0.0, free - loop.time()))
                due = max(due, loop.time() + weather.delay_s + self._random.uniform(0, weather.jitter_s))
                await under_way.put((due, self._damaged(piece)))
                if not piece:
                    break
            await delivery
        finally:
            delivery.cancel()

    def _damaged(self, piece: bytes) -> bytes:
        if not self._damage or not piece:
            return piece
        self._damage -= 1
        at = self._random.randrange(len(piece))
        return piece[:at] + bytes([piece[at] ^ (1 << self._random.randrange(8))]) + piece[at + 1 :]

    def damage(self, pieces: int = 1) -> None:
        """Change one bit in each of the next pieces."""
        self._damage += pieces

    def stall(self) -> None:
        """Let nothing pass, with the connections open."""
        self.weather.up = self.weather.down = False

    def half_open(self) -> None:
        """Let nothing pass from the coordinator; it still hears the agents."""
        self.weather.down = False

    def go_on(self) -> None:
        """Let everything pass again."""
        self.weather.up = self.weather.down = True

    def reset(self) -> None:
        """End all connections with a reset, at both ends."""
        for pair in list(self._pairs):
            for end in pair:
                found = end.get_extra_info("socket")
                if found is not None:
                    with contextlib.suppress(OSError):
                        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.transport.abort()

    def cut(self) -> None:
        """End all connections in good order, at both ends."""
        for pair in list(self._pairs):
            for end in pair:
                end.close()
