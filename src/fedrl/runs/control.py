"""Watch and steer a coordinator on its own machine: a Unix socket for its operator, and pages for a supervisor.

    fedrl status | pause | resume | stop | optout  --a line of JSON-->  DIR/control.sock, mode 0600  --> one line back
    GET /healthz, /readyz  -->  127.0.0.1:PORT, if asked for

Whoever may open the socket may stop the run, so it belongs to the user of the coordinator alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from fedrl.core.errors import RunError, reason
from fedrl.network.bridge import Bridge
from fedrl.network.roster import Roster

SOCKET = "control.sock"
COMMANDS = ("status", "pause", "resume", "stop", "optout")
MOST = 64 * 1024
"""The largest number of bytes of a command or of a request."""
ANSWER_S = 10.0
"""Seconds that one connection may take, from its first byte to the end."""
MOST_CLIENTS = 32
"""The largest number of connections to the socket, and to the pages. The oldest one ends when another comes."""


class Control:
    """The operator's end of a coordinator.

    Args:
        bridge: The coordinator's bridge.
        place: The run folder.
        health: Port of the pages on 127.0.0.1; None for none, 0 for any free one.

    Attributes:
        round: The last complete version.
        privacy: What was spent of the privacy budget until then; None without one, or before the first round.
        roster: What is known of agents.
    """

    def __init__(self, bridge: Bridge, place: Path, health: int | None = None) -> None:
        self._bridge, self._path, self._port = bridge, place / SOCKET, health
        self.round = 0
        self.privacy: Mapping[str, Any] | None = None
        self.roster: Roster | None = None
        self._servers: list[asyncio.Server] = []
        self._lines, self._requests = Clients(self._asked), Clients(self._page)
        self.health_address = ""

    @property
    def clients(self) -> int:
        """Number of connections that are open."""
        return sum(len(each.open) for each in (self._lines, self._requests))

    async def begin(self) -> None:
        """Listen, in the event loop of the sessions.

        Raises:
            RunError: The path of the socket is too long or taken, or the port is taken.
        """
        self._servers.append(await self._listening())
        if self._port is not None:
            try:
                server = await asyncio.start_server(self._requests.serve, "127.0.0.1", self._port, limit=MOST)
            except OSError as fault:
                raise RunError(
                    f"Port {self._port} for /healthz can't be taken: {reason(fault)}. Choose another."
                ) from fault
            self._servers.append(server)
            self.health_address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _listening(self) -> asyncio.Server:
        if self._path.is_dir() and not self._path.is_symlink():
            raise RunError(f"{self._path} is a folder, where the socket of the coordinator belongs. Remove it.")
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._path.unlink(missing_ok=True)  # of a coordinator that was killed: the folder's lock says that it ended
            os.fchmod(made.fileno(), 0o600)  # before it has a path: from its first moment on, nobody else may open it
            made.bind(str(self._path))
            return await asyncio.start_unix_server(self._lines.serve, sock=made, limit=MOST)
        except OSError as fault:
            made.close()
            raise RunError(
                f"{self._path} can't be made: {reason(fault)}. The path of a socket has at most about 100 characters. "
                "Choose a shorter path for the run folder."
            ) from fault

    async def end(self) -> None:
        """Listen no more, end all connections, and remove the socket."""
        for server in self._servers:
            server.close()
        for clients in (self._lines, self._requests):
            await clients.end()
        with contextlib.suppress(OSError):
            self._path.unlink()

    async def _asked(self, reader: asyncio.StreamReader) -> bytes:
        """Return the answer to a line."""
        try:
            line = await reader.readline()
        except ValueError:
            return _line({"error": f"The line is too long. A command has at most {MOST:,} bytes."})
        try:
            asked = json.loads(line)
        except (ValueError, RecursionError):
            return _line({"error": "The line is no JSON."})
        return _line(self._answer(asked if isinstance(asked, dict) else {}))

    def _answer(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        command, bridge = asked.get("command"), self._bridge
        if command == "status":
            return self.status()
        if command == "pause":
            bridge.pause(True)
            return {"said": "No job is given any more until `fedrl resume`. Jobs at work go on."}
        if command == "resume":
            bridge.pause(False)
            return {"said": "Jobs are given again."}
        if command == "stop":
            bridge.stopping.set()
            return {"said": "The run stops. The command that started it goes on with it."}
        if command == "optout" and isinstance(asked.get("name"), str):
            return self._opted_out(asked["name"])
        return {"error": f"{command!r} is no command. Commands are {', '.join(COMMANDS)}."}

    def _opted_out(self, name: str) -> dict[str, Any]:
        sessions = self._bridge.sessions
        known = [] if sessions is None else [seat.name for seat in sessions.seats if seat.name]
        if sessions is None or name not in known:
            return {"error": f"{name!r} is no agent of this run so far. There are: {', '.join(known) or 'none'}."}
        sessions.opt_out(name)
        return {"said": f"{name} takes part no more. Revoke its certificate as well: fedrl certs revoke {name}."}

    def status(self) -> dict[str, Any]:
        """Return the state of the coordinator, for JSON."""
        bridge = self._bridge
        seats = [] if bridge.sessions is None else bridge.sessions.seats
        return {
            "run": bridge.run,
            "name": bridge.name,
            "address": bridge.address,
            "round": self.round,
            "privacy": None if self.privacy is None else dict(self.privacy),
            "paused": bridge.paused.is_set(),
            "stopping": bridge.stopping.is_set(),
            "sent_away": {} if bridge.sessions is None else dict(bridge.sessions.refused),
            "agents": [
                {
                    "number": number,
                    "name": seat.name,
                    "state": seat.state,
                    "job": None if seat.task is None else seat.task[0].job,
                    "version": None if seat.task is None else seat.task[0].version,
                    **self._measured(number),
                }
                for number, seat in enumerate(seats)
            ],
        }

    def _measured(self, number: int) -> dict[str, Any]:
        """Return what is known of an agent's speed, and which share of its jobs has arrived; None if nothing is."""
        roster = self.roster
        if roster is None:
            return {"jobs": 0, "reliability": None, "steps_per_s": None, "measured_steps_per_s": None}
        said, step_s = float(roster.steps_per_s[number]), float(roster.measured_s[number])
        jobs = int(roster.jobs[number])
        return {
            "jobs": jobs,
            "reliability": round(float(roster.reliability[number]), 4) if jobs else None,
            "steps_per_s": said if math.isfinite(said) else None,
            "measured_steps_per_s": 1.0 / step_s if step_s > 0.0 else None,
        }

    async def _page(self, reader: asyncio.StreamReader) -> bytes:
        """Return the answer to a request."""
        try:
            # All of it: a connection that is closed with something unread is reset, and its answer lost.
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as ended:
            head = ended.partial
        except asyncio.LimitOverrunError:
            head = b""
        method, path, *_ = [*head.partition(b"\r\n")[0].split(), b"", b""]
        code, text = 400, "no request"
        if path:
            pages = {b"/healthz": (200, "ok"), b"/readyz": self._ready()}
            code, text = pages.get(path, (404, "no such page"))
            if method not in (b"GET", b"HEAD"):
                code, text = 405, "GET is the only method"
        said = "OK" if code == 200 else "Not OK"
        lines = (f"HTTP/1.1 {code} {said}", "Content-Type: text/plain", f"Content-Length: {len(text)}")
        allowed = ("Allow: GET, HEAD",) if code == 405 else ()
        return "\r\n".join((*lines, *allowed, "Connection: close", "", "" if method == b"HEAD" else text)).encode()

    def _ready(self) -> tuple[int, str]:
        status = self.status()
        here = sum(agent["state"] in ("ready", "at work") for agent in status["agents"])
        if status["paused"] or status["stopping"]:
            return 503, "paused" if status["paused"] else "stopping"
        return (200, f"{here} agents ready") if here else (503, "no agent is ready")


class Clients:
    """Connections with one question each: none lasts longer than `ANSWER_S`, and there are no more than `MOST_CLIENTS`.

    Args:
        answer: Reads a question, and returns the answer.
    """

    def __init__(self, answer: Callable[[asyncio.StreamReader], Awaitable[bytes]]) -> None:
        self._answer = answer
        self.open: dict[asyncio.StreamWriter, asyncio.Task[None] | None] = {}
        """By connection, the oldest first, the task that serves it."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer a question, and close the connection."""
        while len(self.open) >= MOST_CLIENTS:
            # Whoever says nothing keeps nobody out, and the files of a process are not used up.
            oldest = next(iter(self.open))
            del self.open[oldest]
            oldest.transport.abort()
        self.open[writer] = asyncio.current_task()
        # A cancelled handler ends as others do, else asyncio would log it.
        with contextlib.suppress(ConnectionError, TimeoutError, asyncio.CancelledError):
            async with asyncio.timeout(ANSWER_S):
                writer.write(await self._answer(reader))
                writer.write_eof()
                while await reader.read(MOST):
                    pass  # the rest of a question that was too long: unread, it would reset the connection
                writer.close()
                await writer.wait_closed()
        self.open.pop(writer, None)
        writer.transport.abort()

    async def end(self) -> None:
        """End all connections."""
        tasks = [task for task in self.open.values() if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _line(answer: Mapping[str, Any]) -> bytes:
    return json.dumps(answer).encode() + b"\n"


def asked(place: Path, command: str, **more: str) -> dict[str, Any]:
    """Ask the coordinator of a run folder on this machine.

    Args:
        place: The run folder.
        command: One of `COMMANDS`.
        **more: Its arguments.

    Raises:
        RunError: No coordinator runs there, or it refuses.
    """
    path = place / SOCKET
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            line.settimeout(ANSWER_S)
            line.connect(str(path))
            line.sendall(json.dumps({"command": command, **more}).encode() + b"\n")
            with line.makefile("rb") as file:
                answer = json.loads(file.readline())
        if not isinstance(answer, dict) or not {"error", "said", "run"} & answer.keys():
            raise ValueError("what answers there is no coordinator")
    except (OSError, ValueError, RecursionError) as fault:
        raise RunError(
            f"No coordinator answers at {path} ({reason(fault)}). Give the folder of a run that `fedrl coordinator` "
            "holds on this machine, as the same user."
        ) from fault
    if "error" in answer:
        raise RunError(str(answer["error"]))
    return answer
