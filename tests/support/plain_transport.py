"""A transport over TCP without any security, for tests with real processes: a name, then frames after their lengths."""

import asyncio
import contextlib

from fedrl.transport.seam import LinkClosedError


class PlainLink:
    def __init__(self, peer, reader, writer):
        self.peer, self._reader, self._writer = peer, reader, writer

    async def send(self, frame):
        try:
            self._writer.write(len(frame).to_bytes(4, "little") + frame)
            await self._writer.drain()
        except OSError as fault:
            raise LinkClosedError(str(fault)) from fault

    async def receive(self):
        try:
            size = int.from_bytes(await self._reader.readexactly(4), "little")
            return await self._reader.readexactly(size)
        except (OSError, asyncio.IncompleteReadError) as fault:
            raise LinkClosedError("The other end has closed the connection.") from fault

    async def close(self):
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


class PlainListener:
    def __init__(self, server):
        self._server = server
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def close(self):
        self._server.close()


class PlainTransport:
    credentials = None

    def __init__(self, name=""):
        self.name = name

    async def listen(self, address, session):
        host, port = address.split(":")

        async def held(reader, writer):
            name = (await reader.readline()).decode().strip()
            link = PlainLink(name, reader, writer)
            try:
                await session(link)
            finally:
                await link.close()

        return PlainListener(await asyncio.start_server(held, host, int(port)))

    async def connect(self, address):
        host, port = address.split(":")
        try:
            reader, writer = await asyncio.open_connection(host, int(port))
        except OSError as fault:
            raise LinkClosedError(f"Nobody listens at {address}.") from fault
        writer.write(f"{self.name}\n".encode())
        return PlainLink("coordinator", reader, writer)
