"""The log of a coordinator: a line of JSON for each event, with its run, version and agent, and nothing secret."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from fedrl.transport.notices import NetworkNotice

LOG = "coordinator.jsonl"
"""Name of the log in a run folder."""
SAME_S = 60.0
"""Seconds in which the same event of an agent is written once: a peer that tries again and again fills no disk."""
MOST_KNOWN = 1000
"""The largest number of events that are compared with a new one."""


class TransportMessages(logging.Handler):
    """Passes warnings of a transport on: certificates that were refused, and sessions that were ended for them.

    Args:
        tell: Called with each text.
    """

    def __init__(self, tell: Callable[[str], object]) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        """Pass a warning on."""
        self._tell(record.getMessage())


class CoordinatorLog:
    """A file to which lines are added, from any thread. A log that can't be written stops no run.

    Args:
        path: The file; only its owner may read it.
        clock: The time in seconds since 1970.

    Attributes:
        left_out: Number of events that are not in the file, because they came again within `SAME_S`.
        fault: Why lines are missing; "" if none is.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock, self._lock = path, clock, threading.Lock()
        self._last: dict[tuple[str, str, str], float] = {}
        self.left_out, self.fault = 0, ""

    def write(
        self,
        event: str,
        text: str,
        *,
        run: str = "",
        version: int | None = None,
        agent: int | None = None,
        name: str = "",
        job: int | None = None,
    ) -> None:
        """Add a line, as of `NetworkNotice`."""
        with self._lock:
            now = self._clock()
            if self._is_known((event, name, text), now):
                self.left_out += 1
                return
            line = NetworkNotice(now, event, text, run, agent, version, job, name).as_json()
            try:
                descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                with os.fdopen(descriptor, "a") as file:
                    file.write(f"{line}\n")
            except OSError as fault:
                self.fault = f"{self._path} can't be written to ({fault.strerror}), so lines of it are missing."

    def _is_known(self, what: tuple[str, str, str], now: float) -> bool:
        """Return whether this was written a short while ago; else note that it is written now."""
        last = self._last.get(what)
        if last is not None and 0.0 <= now - last < SAME_S:
            return True
        self._last.pop(what, None)
        self._last[what] = now
        if len(self._last) > MOST_KNOWN:
            del self._last[next(iter(self._last))]
        return False
