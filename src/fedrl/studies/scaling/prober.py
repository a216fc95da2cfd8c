"""Start a process for each number of agents, watch it, and return what it measured.

    Prober(agents) --> process of fedrl.studies.scaling.measure --> Probe: measured, failed or refused

The process is ended if it takes too long, if the memory of the machine runs out, or if it uses so much that a limit is
broken for certain. None of this ends the search.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, cast

from fedrl.core.errors import RunError
from fedrl.records.formatting import duration, size
from fedrl.studies.scaling.limits import Limit
from fedrl.studies.scaling.memory import is_short, resident_bytes
from fedrl.studies.scaling.records import Probe, value_in

Doing: TypeAlias = Callable[[int, str], None]
"""Is called with the number of agents and what its process is doing."""

START = (
    "import json, sys; request = json.loads(sys.stdin.buffer.readline()); sys.path[:] = request['path']; "
    "from fedrl.studies.scaling.measure import main; main(request)"
)
"""The process finds modules where this one does; `-P` keeps the working directory from coming first."""
WATCH_S = 0.1
END_S = 3.0
"""Seconds in which a process may close its worker processes."""
CERTAIN = 1.5
"""A process with so many times the memory of a limit is not watched any longer."""
COMPILING_S = 1.0
"""Compiling for longer than this takes memory that a process which reads compiled programs does not need."""


class Prober:
    """Measures one number of agents after another.

    Args:
        tables: The configuration; its `federation.agents` is replaced.
        beside: The folder in which modules of the configuration may be; None if it is no file.
        devices: Number of devices of the processor; None for one per core.
        limit: The limit; None to measure only.
        timeout_s: Seconds after which a process is ended.
        stop: An event that ends the process in progress.
        doing: Is called with the number of agents and what its process is doing.
        names: Modules and references of components of one's own that the configuration names.
    """

    def __init__(
        self,
        tables: Mapping[str, Any],
        beside: str | None,
        devices: int | None,
        limit: Limit | None,
        timeout_s: float,
        stop: threading.Event,
        doing: Doing,
        names: tuple[Sequence[str], Sequence[str]] = ((), ()),
    ) -> None:
        self.tables, self.beside, self.devices, self.limit = tables, beside, devices, limit
        self.timeout_s, self.stop, self.doing, self.names = timeout_s, stop, doing, names
        self.machine: dict[str, Any] = {}
        self.interrupted = False
        self._cached = True

    def __call__(self, agents: int) -> Probe | None:
        """Return what was measured with so many agents; None if it was interrupted."""
        answer = self._answer(agents)
        if answer is not None and _compiled(answer) and self._cached:
            self.doing(agents, "measuring again, without the memory that compiling takes")
            answer = self._answer(agents)
            # The programs are in the cache now, unless this user has none: then every process compiles.
            self._cached = answer is None or not _compiled(answer)
        if answer is None:
            self.interrupted = True
            return None
        self.machine |= answer.pop("machine", {})
        found = cast(Probe, {"agents": agents, "holds": None, **answer})
        if self.limit is not None and found["state"] != "refused":
            found["holds"] = found["state"] == "measured" and value_in(found, self.limit.quantity) <= self.limit.most
        return found

    def _answer(self, agents: int) -> dict[str, Any] | None:
        """Return the answer of a process, or why there is none; None if it was interrupted."""
        tables = {**self.tables, "federation": {**self.tables["federation"], "agents": agents}}
        request = {"tables": tables, "beside": self.beside, "devices": self.devices, "path": sys.path}
        request |= {"modules": list(self.names[0]), "references": list(self.names[1])}
        with _process() as child:
            assert child.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                child.stdin.write((json.dumps(request) + "\n").encode())
                child.stdin.flush()
            return self._watched(child, agents)

    def _watched(self, child: subprocess.Popen[bytes], agents: int) -> dict[str, Any] | None:
        assert child.stdout is not None
        out, text, began, doing = child.stdout.fileno(), b"", time.monotonic(), "starting"
        while not self.stop.is_set():
            reason = self._too_much(child.pid, time.monotonic() - began, doing)
            if reason is not None:
                return {"state": "failed", "reason": reason}
            if not select.select([out], [], [], WATCH_S)[0]:
                continue
            part = os.read(out, 65536)
            if not part:
                return {"state": "failed", "reason": _ended(child.wait(), doing)}
            *lines, text = (text + part).split(b"\n")
            for message in map(json.loads, lines):
                if "state" in message:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        child.wait(END_S)
                    return dict(message)
                doing = message["doing"]
                self.doing(agents, doing)
        return None

    def _too_much(self, pid: int, passed_s: float, doing: str) -> str | None:
        """Return why a process can't go on; None if it can."""
        if passed_s > self.timeout_s:
            return f"It took longer than {duration(self.timeout_s)} and was ended while {_gerund(doing)}."
        used = resident_bytes(pid)
        if self.limit is not None and self.limit.quantity == "memory" and used > CERTAIN * self.limit.most:
            return f"It used {size(used)} of memory, far more than the limit, and was ended while {_gerund(doing)}."
        if is_short():
            return f"The machine ran out of memory; it used {size(used)} and was ended while {_gerund(doing)}."
        return None


def _compiled(answer: Mapping[str, Any]) -> bool:
    return float(answer.get("compiled_s", 0.0)) > COMPILING_S


@contextlib.contextmanager
def _process() -> Iterator[subprocess.Popen[bytes]]:
    """Start a process in a group of its own, and end the group."""
    try:
        child = subprocess.Popen(
            [sys.executable, "-P", "-c", START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # so that Ctrl-C reaches this process alone, which ends the other in order
        )
    except OSError as fault:
        raise RunError(f"No process can be started ({fault.strerror}). End other programs, and try again.") from fault
    try:
        yield child
    finally:
        _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started."""
    if child.poll() is None:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(END_S)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    child.wait()


def _ended(code: int, doing: str) -> str:
    how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
    cause = ", as the system does where memory is short" if code == -signal.SIGKILL else ""
    return f"Its process ended ({how}{cause}) while {_gerund(doing)}."


def _gerund(doing: str) -> str:
    return f"measuring {doing}" if doing.startswith("round") else doing
