"""Watch and steer a coordinator on its own machine: a Unix socket for its operator, and pages for a supervisor.

    fedrl status | pause | resume | stop | optout  --a line of JSON-->  DIR/control.sock, mode 0600  --> one line back
    GET /healthz, /readyz  -->  127.0.0.1:PORT, if asked for

Whoever may open the socket may stop the run, so it belongs to the user of the coordinator alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedrl.core.errors import RunError
from fedrl.engines.network.bridge import Bridge

SOCKET = "control.sock"
COMMANDS = ("status", "pause", "resume", "stop", "optout")
MOST = 64 * 1024
ANSWER_S = 10.0


class Control:
    """The operator's end of a coordinator.

    Args:
        bridge: The coordinator's bridge.
        place: The run folder.
        health: Port of the pages on 127.0.0.1; None for none, 0 for any free one.
    """

    def __init__(self, bridge: Bridge, place: Path, health: int | None = None) -> None:
        self._bridge, self._path, self._port = bridge, place / SOCKET, health
        self.round = 0
        self._servers: list[asyncio.Server] = []
        self.health_address = ""

    async def begin(self) -> None:
        """Listen, in the event loop of the sessions.

        Raises:
            RunError: The path of the socket is too long, or the port is taken.
        """
        with contextlib.suppress(OSError):
            self._path.unlink()
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        os.fchmod(made.fileno(), 0o600)  # before it has a path: from its first moment on, nobody else may open it
        try:
            made.bind(str(self._path))
            self._servers.append(await asyncio.start_unix_server(self._asked, sock=made, limit=MOST))
        except OSError as fault:
            made.close()
            raise RunError(
                f"{self._path} can't be made: {fault}. The path of a socket has at most about 100 characters. Choose a "
                "shorter path for the run folder."
            ) from fault
        if self._port is not None:
            try:
                server = await asyncio.start_server(self._page, "127.0.0.1", self._port, limit=MOST)
            except OSError as fault:
                raise RunError(f"Port {self._port} for /healthz can't be taken: {fault}. Choose another.") from fault
            self._servers.append(server)
            self.health_address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def end(self) -> None:
        """Listen no more, and remove the socket."""
        for server in self._servers:
            server.close()
        with contextlib.suppress(OSError):
            self._path.unlink()

    async def _asked(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError, ValueError):
            line = await asyncio.wait_for(reader.readline(), ANSWER_S)
            try:
                asked = json.loads(line)
                answer = self._answer(asked if isinstance(asked, dict) else {})
            except (ValueError, RecursionError):
                answer = {"error": "The line is no JSON."}
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        writer.close()

    def _answer(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        command, bridge = asked.get("command"), self._bridge
        if command == "status":
            return self.status()
        if command == "pause":
            bridge.paused.set()
            return {"said": "No job is given any more until `fedrl resume`. Jobs at work go on."}
        if command == "resume":
            bridge.paused.clear()
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
                }
                for number, seat in enumerate(seats)
            ],
        }

    async def _page(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError, ValueError):
            line = (await asyncio.wait_for(reader.readline(), ANSWER_S)).split()
            found = {b"/healthz": (200, "ok"), b"/readyz": self._ready()}
            code, text = found.get(line[1], (404, "no such page")) if len(line) > 1 else (400, "no request")
            head = f"HTTP/1.1 {code} {'OK' if code == 200 else 'Not OK'}\r\nContent-Type: text/plain\r\n"
            writer.write(f"{head}Content-Length: {len(text)}\r\nConnection: close\r\n\r\n{text}".encode())
            await writer.drain()
        writer.close()

    def _ready(self) -> tuple[int, str]:
        status = self.status()
        here = sum(agent["state"] in ("ready", "at work") for agent in status["agents"])
        if status["paused"] or status["stopping"]:
            return 503, "paused" if status["paused"] else "stopping"
        return (200, f"{here} agents ready") if here else (503, "no agent is ready")


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
    except (OSError, ValueError) as fault:
        raise RunError(
            f"No coordinator answers at {path} ({fault}). Give the folder of a run that `fedrl coordinator` holds on "
            "this machine, as the same user."
        ) from fault
    if "error" in answer:
        raise RunError(str(answer["error"]))
    found: dict[str, Any] = answer
    return found
