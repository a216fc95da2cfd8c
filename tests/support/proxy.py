"""A small HTTP proxy that knows CONNECT, and nothing else."""

from __future__ import annotations

import asyncio


class Proxy:
    """A proxy; `asked` has the addresses for which it was asked, `answer` the status that it gives.

    Args:
        answer: Status of its answer; "200 OK" lets connections through.
    """

    def __init__(self, answer: str = "200 OK") -> None:
        self.answer = answer
        self.asked: list[str] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.address = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0.01)  # asyncio closes sockets a turn of its loop later

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        both: list[asyncio.Task[None]] = []
        ends = [writer]
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            method, address, _ = head.split(b" ", 2)
            assert method == b"CONNECT"
            self.asked.append(address.decode())
            writer.write(f"HTTP/1.1 {self.answer}\r\n\r\n".encode())
            if self.answer.startswith("200"):
                host, _, port = address.decode().rpartition(":")
                other_reader, other = await asyncio.open_connection(host, int(port))
                ends.append(other)
                both += [
                    asyncio.ensure_future(_pass(reader, other)),
                    asyncio.ensure_future(_pass(other_reader, writer)),
                ]
                await asyncio.gather(*both)
        except (OSError, asyncio.CancelledError, asyncio.IncompleteReadError):
            pass  # an end has gone, or the proxy closes
        finally:
            for each in both:
                each.cancel()
            for end in ends:
                end.close()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(1 << 16):
        writer.write(piece)
        await writer.drain()
    writer.close()
