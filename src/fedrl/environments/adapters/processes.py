"""A worker process as its parent sees it: it is watched, and replaced when it hangs or ends.

    parent --- command byte ---> worker: rows i ... j       arrays in a memory-mapped file that both share
           <--- answer byte ----

A process ends with all environment copies in it. So the worker keeps a forked copy of itself (`worker.py`), and the
parent the commands since: the forked copy repeats them, and the copy that ended the process is left out from then on.
The others are compared with their last observations; if they differ, or there is no forked copy, they fail, too.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fedrl.environments.adapters import shard, worker

REMEMBER_S = 1.0
"""Seconds of stepping after which the forked copy is renewed: what is repeated takes no longer than that."""
AWAKE_S = 5.0
"""Seconds in which a forked copy takes over, and a process ends, before it is given up."""
START_S = 60.0
"""Seconds in which a process starts, opens its copies, or is copied."""
SLICES = 8
"""Parts of a timeout, after each of which the row in progress is read."""
TRIES = 3
"""How often in one command a process that ends while no environment is stepped is replaced by its copy."""
GIVEN = {shard.RESET: ("seed", "active", "anew"), shard.STEP: ("action", "active")}
BESIDE = "was lost with its worker process, which an environment copy beside it ended"


class LostError(Exception):
    """A process has ended or was ended. `resumed` is whether its forked copy has taken over."""

    def __init__(self, said: str, resumed: bool) -> None:
        super().__init__(said)
        self.said, self.resumed = said, resumed


class RefusedError(Exception):
    """A worker refuses to go on, because the configuration asks for something that is not there."""


class Worker:
    """A worker process.

    Args:
        memory: Descriptor of the file of the shared arrays.
        timeout_s: Seconds after which a step or a reset of one environment copy counts as hung.
    """

    def __init__(self, memory: int, timeout_s: float) -> None:
        self.timeout_s, self._memory = timeout_s, memory
        self._opening: tuple[Any, ...] = ()
        self._arrays: dict[str, np.ndarray] = {}
        self._start()

    def _start(self) -> None:
        self.child = start(self._memory)
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self._in, self._out, self.pid = self.child.stdin.fileno(), self.child.stdout.fileno(), self.child.pid
        self._poll = select.poll()
        self._poll.register(self._out, select.POLLIN)
        self._log: list[tuple[bytes, dict[str, np.ndarray]]] = []
        self._stepped_s = self._sent = 0.0
        self._starting = True
        self._send(pickle.dumps(sys.path))

    def _ready(self) -> None:
        """Wait until the process has started."""
        if self._starting:
            self._answer(START_S)
            self._starting = False

    def step_s(self, spec: Any, setting: Any) -> float:
        """Return the seconds of one step of one environment copy; NaN if it fails."""
        try:
            self._send(worker.PROBE + pickle.dumps((spec, setting)))
            self._ready()
            self._answer(max(START_S, self.timeout_s))
            return float(self._read(24))
        except LostError:
            self._restart()
            return float("nan")

    def open(self, spec: Any, settings: Sequence[Any], layout: Any, rows: tuple[int, int], infos: Any) -> None:
        """Let the process open environment copies, and return before it has."""
        self._opening = (spec, settings, layout, self._memory, rows, infos)
        self._send(worker.OPEN + pickle.dumps((True, *self._opening)))

    def wait_until_open(self, arrays: Mapping[str, np.ndarray]) -> dict[int, shard.FailedRow]:
        """Wait until the copies are open, and return those that could not be opened.

        Args:
            arrays: The rows of the shared arrays that belong to these copies.
        """
        self._arrays, self._before = dict(arrays), np.empty_like(arrays["observation"])
        self._at: Any = memoryview(arrays["at"])  # type: ignore[arg-type]
        self._ready()
        try:
            failed = self._answer(max(START_S, self.timeout_s))
        except LostError as lost:
            return {max(self._at[0], 0): ("opening", lost.said, "")}
        self._remember()
        return failed

    def begin(self, command: bytes) -> None:
        """Send a command, whose arguments are in the arrays."""
        if self._stepped_s > REMEMBER_S:
            self._remember()
        self._current = command, {name: self._arrays[name].copy() for name in GIVEN[command]}
        np.copyto(self._before, self._arrays["observation"])
        self._sent = time.perf_counter()
        self._send(command)

    def finish(self) -> dict[int, shard.FailedRow]:
        """Wait until the last command is done, and return the copies that failed."""
        try:
            failed = self._answer()
        except LostError as lost:
            return self._without(lost)
        self._log.append(self._current)
        self._stepped_s += time.perf_counter() - self._sent
        return failed

    def close(self) -> None:
        """Close the environment copies, and end the process."""
        with contextlib.suppress(OSError):
            self.child.stdin.close()  # type: ignore[union-attr]
        # The answers end with the last process that could write any, be it this one or its copy.
        try:
            end = time.monotonic() + AWAKE_S
            while self._poll.poll(max(0, int(1000 * (end - time.monotonic())))):
                if not os.read(self._out, 4096):
                    break
            else:
                self._kill()
        finally:
            self.child.stdout.close()  # type: ignore[union-attr]
            if self.pid == self.child.pid:
                self.child.wait()

    def _remember(self) -> None:
        """Renew the forked copy of the process."""
        np.copyto(self._before, self._arrays["observation"])
        for _ in range(TRIES):
            try:
                self._send(worker.REMEMBER)
                self._answer(START_S)
            except LostError as lost:
                # It ended between two commands: nothing is being stepped, so nothing is left out.
                if not (lost.resumed and self._repeated()):
                    return  # the next command finds out
            else:
                self._log, self._stepped_s = [], 0.0
                return

    def _without(self, lost: LostError, tries: int = TRIES) -> dict[int, shard.FailedRow]:
        """Carry out the last command again without the copy that ended the process; return the copies that failed."""
        (command, given), failed = self._current, dict[int, shard.FailedRow]()
        doing, at = "reset" if command == shard.RESET else "step", self._at[0]
        if at >= 0:
            failed[at] = (doing, lost.said, "")
            given["active"][at] = False
        if lost.resumed and (at >= 0 or tries) and self._repeated():
            self._remember()  # the command may end this process, too, in another copy
            self._current = command, given
            try:
                self._hand(given)
                self._send(command)
                failed |= self._answer()
            except LostError as again:
                return failed | self._without(again, tries - 1)
            self._log.append(self._current)
        else:
            self._restart()
            failed |= {
                int(row): (doing, BESIDE if at >= 0 else lost.said, "") for row in np.flatnonzero(given["active"])
            }
        return failed

    def _repeated(self) -> bool:
        """Repeat the commands since the process was copied; return whether the observations are those from before."""
        np.copyto(self._arrays["observation"], self._before)
        try:
            self._send(worker.RESTORE)
            self._answer()
            for command, given in self._log:
                self._hand(given)
                self._send(command)
                self._answer()
        except LostError:
            return False
        return bool(np.array_equal(self._arrays["observation"], self._before, equal_nan=self._before.dtype.kind == "f"))

    def _hand(self, given: Mapping[str, np.ndarray]) -> None:
        for name, values in given.items():
            np.copyto(self._arrays[name], values)

    def _restart(self) -> None:
        """Start another process, whose copies are opened by their next reset."""
        self._kill()
        for pipe in (self.child.stdin, self.child.stdout):
            pipe.close()  # type: ignore[union-attr]
        self._start()
        self._ready()
        if self._opening:
            self._send(worker.OPEN + pickle.dumps((False, *self._opening)))
            self._answer(START_S)
            self._stepped_s = 2 * REMEMBER_S  # so that it is copied before its first command

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        if self.pid == self.child.pid:
            self.child.wait()

    def _send(self, message: bytes) -> None:
        try:
            sent = os.write(self._in, message)
            while sent < len(message):
                sent += os.write(self._in, message[sent:])
        except BrokenPipeError:
            pass  # the answer tells

    def _answer(self, patience_s: float | None = None) -> dict[int, shard.FailedRow]:
        """Wait for an answer, in which one copy may take so long; by default the timeout of a step.

        Raises:
            LostError: The process has ended, or hung and was ended.
            RefusedError: The worker refuses.
        """
        limit_s = self.timeout_s if patience_s is None else patience_s
        if not self._poll.poll(_slice_ms(limit_s)):
            self._watch(limit_s)
        kind = os.read(self._out, 1)
        if kind == worker.DONE:
            return {}
        if kind in (b"", worker.RESUMED):
            raise self._lost(kind, "")
        content = json.loads(self._read(int.from_bytes(self._read(4), "little")))
        if kind == worker.REFUSED:
            raise RefusedError(content)
        return {int(row): tuple(failure) for row, *failure in content}

    def _watch(self, limit_s: float) -> None:
        """Wait while copy after copy is stepped; end the process if one takes too long."""
        row, since = self._row(), time.monotonic() - limit_s / SLICES
        while not self._poll.poll(_slice_ms(limit_s)):
            if self._row() != row:
                row, since = self._row(), time.monotonic()
            elif time.monotonic() - since >= limit_s:
                self._kill()
                resumed = self._poll.poll(int(1000 * AWAKE_S))
                raise self._lost(os.read(self._out, 1) if resumed else b"", f"did not return within {limit_s:g} s")

    def _row(self) -> int:
        return int(self._at[0]) if self._arrays else shard.NOBODY

    def _lost(self, kind: bytes, said: str) -> LostError:
        """Return what to raise: after the answer RESUMED, or none."""
        if self.pid == self.child.pid:
            code = self.child.wait()
            said = said or f"ended its process ({_ended(code)})"
        if kind == worker.RESUMED:
            self.pid = int.from_bytes(self._read(8), "little")
        return LostError(said or "ended its process", kind == worker.RESUMED)

    def _read(self, count: int) -> bytes:
        found = b""
        while len(found) < count:
            part = os.read(self._out, count - len(found))
            if not part:
                raise LostError("ended its process", False)
            found += part
        return found


def start(memory: int) -> subprocess.Popen[bytes]:
    """Start a worker process with the file of the shared arrays."""
    # There is a worker per core already, so numerical libraries get one thread each.
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    with _signals_held():
        return subprocess.Popen(
            # -P keeps this folder off the path: `import gymnasium` would find the adapter in this folder.
            [sys.executable, "-P", worker.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=one_thread | dict(os.environ),
            bufsize=0,
            pass_fds=(memory,),
        )


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Hold back Ctrl-C and SIGTERM from a process that is started now, until it ignores them itself.

    They reach the whole process group, or the whole container, and would end a worker that is not yet that far.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, worker.HELD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _slice_ms(limit_s: float) -> int:
    return max(1, int(1000 * limit_s / SLICES))


def _ended(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
