"""The disk of a party under chaos: it can be full, its process can be killed between two operations, or stand still.

The functions of the operating system that change files are replaced once for this process. Whatever they do in the
folder of a `Machine` passes that machine first:

    os.write, os.fsync, os.replace, opening for writing --> Machine.passed --> OSError "No space left" or KilledError

A kill copies the folder at that moment, and the copy is where the next process of the party begins. The process that
was killed can do nothing more that counts: its folder is read by nobody, and its connections are cut before.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

OPEN, WRITE, SYNC, REPLACE, REPLACED = "open", "write", "sync", "replace", "replaced"
CHANGES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class KilledError(BaseException):
    """The process ends here."""


class Machine:
    """One process of a party, with its folder.

    Args:
        folder: Its folder; the copy at its end is beside it.
        cut: Called first when it is killed: nothing that it says is heard from then on.
        committed: Called with a path that was just replaced.
        happened: Called with the kind of a fault when it happens, "kill at disk" or "disk full".
    """

    def __init__(
        self,
        folder: Path,
        cut: Callable[[], None] = lambda: None,
        committed: Callable[[Path], None] = lambda path: None,
        happened: Callable[[str], None] = lambda kind: None,
    ) -> None:
        self.folder, self.cut, self.committed, self.happened = folder, cut, committed, happened
        self.dead = self.dying = False
        self.full = 0
        """Number of further operations that find the disk full."""
        self.countdown: int | None = None
        """Number of operations that it lives on; None if nobody wants to kill it."""
        self.going = threading.Event()
        self.going.set()
        self.lock = threading.RLock()
        DISK.add(self)

    def passed(self, operation: str, path: str) -> None:
        """Take note of an operation.

        Raises:
            OSError: The disk is full.
            KilledError: The process is killed at this moment.
        """
        if self.dead:
            return
        self.going.wait(30)
        with self.lock:
            if self.dead:
                return
            if operation == REPLACED:  # it has happened, whatever happens now
                self.committed(Path(path))
            if self.countdown is not None and not self.dying:
                self.countdown -= 1
                if self.countdown < 0:
                    self.dying, self.countdown = True, None
                    self.happened("kill at disk")
            if self.dying:
                self.kill()
                raise KilledError
            if self.full and operation in (OPEN, WRITE, SYNC):
                self.full -= 1
                if not self.full:
                    self.happened("disk full")
                raise OSError(errno.ENOSPC, "No space left on device", path)

    def kill(self) -> None:
        """End the process now; `next_folder` is what it leaves."""
        with self.lock:
            if self.dead:
                return
            self.cut()
            if self.folder.exists():
                shutil.copytree(self.folder, self.next_folder, ignore=shutil.ignore_patterns("*.sock"))
            self.dead = True

    def next(self) -> Machine:
        """Return the machine of the next process, with what was to come of this one."""
        after = Machine(self.next_folder, happened=self.happened)
        after.full, after.countdown = self.full, self.countdown
        return after

    @property
    def next_folder(self) -> Path:
        """Where the next process of this party begins."""
        stem, _, number = self.folder.name.rpartition(".")
        return self.folder.with_name(f"{stem}.{int(number) + 1}")


class Disk:
    """The functions of the operating system, with the machines that they pass."""

    def __init__(self) -> None:
        self._machines: dict[str, Machine] = {}
        self._installed = False
        self._write, self._fsync, self._replace = os.write, os.fsync, os.replace

    def add(self, machine: Machine) -> None:
        """Let operations in the folder of a machine pass it."""
        self._install()
        self._machines = {**self._machines, str(machine.folder): machine}

    def clear(self) -> None:
        """Forget all machines."""
        self._machines = {}

    def _of(self, path: Any) -> Machine | None:
        text = os.fspath(path) if isinstance(path, str | os.PathLike) else ""
        for place, machine in self._machines.items():
            if text.startswith(place) and text[len(place) : len(place) + 1] in ("", "/"):
                return machine
        return None

    def _install(self) -> None:
        if self._installed:
            return
        self._installed = True
        sys.addaudithook(self._opened)
        os.write, os.fsync, os.replace = self.write, self.fsync, self.replace

    def _opened(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" or not self._machines:
            return
        path, _, flags = arguments
        if isinstance(flags, int) and flags & CHANGES:
            machine = self._of(path)
            if machine is not None and not str(path).endswith(".lock"):
                machine.passed(OPEN, str(path))

    def _of_descriptor(self, descriptor: int) -> tuple[Machine | None, str]:
        try:
            path = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:
            return None, ""
        return self._of(path), path

    def write(self, descriptor: int, content: Any) -> int:
        machine, path = self._of_descriptor(descriptor)
        if machine is None or path.endswith(".lock"):
            return self._write(descriptor, content)
        with machine.lock:
            machine.passed(WRITE, path)
            return self._write(descriptor, content)

    def fsync(self, descriptor: int) -> None:
        machine, path = self._of_descriptor(descriptor)
        if machine is not None:
            machine.passed(SYNC, path)
        self._fsync(descriptor)

    def replace(self, source: Any, target: Any, **more: Any) -> None:
        machine = self._of(target)
        if machine is None:
            self._replace(source, target, **more)
            return
        machine.passed(REPLACE, str(target))
        with machine.lock:
            if not machine.dead:
                self._replace(source, target, **more)
        machine.passed(REPLACED, str(target))


DISK = Disk()
