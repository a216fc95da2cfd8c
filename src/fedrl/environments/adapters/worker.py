"""A worker process that steps a shard of environment copies. It is a script, and imports nothing that loads JAX.

    stdin:  O settings | P settings | r | s | f | =    -->  stdout: .  |  ! failed copies  |  ? refusal  |  + process id

The command `f` forks a copy of this process, which sleeps until this one has ended, then takes its place with the state
of that moment: what one environment does to its process costs the environments beside it nothing.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import mmap
import os
import pickle
import signal
import sys
import time
import warnings
from typing import Any, BinaryIO

OPEN, PROBE, REMEMBER, RESTORE = b"O", b"P", b"f", b"="
LIGHT = ("entries", "observations", "packed_world", "shard")
"""The files of this folder that a worker process loads, each after those that it imports."""
DONE, FAILED, REFUSED, RESUMED = b".", b"!", b"?", b"+"
PROBE_STEPS, PROBE_S = 20, 0.2
HELD = (signal.SIGINT, signal.SIGTERM)
"""The signals that only the parent process hears."""


def _sibling(name: str) -> Any:
    """Load a file of this folder by its path: importing it as a part of fedrl would load JAX."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), name + ".py")
    full = "fedrl.environments.adapters." + name
    spec = importlib.util.spec_from_file_location(full, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Under its full name, so that an import of it in another of these files, which is the same module to Python, does
    # not import the packages around it.
    sys.modules[full] = module
    spec.loader.exec_module(module)
    return module


class Guard:
    """The forked copy of this process, and the pipe whose closing wakes it."""

    def __init__(self, commands: BinaryIO, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._copy: tuple[int, int] | None = None

    def renew(self) -> None:
        """Replace the copy by one of now."""
        self.drop()
        if not hasattr(os, "fork"):
            return
        asleep, awake = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a fork beside threads: the copy only sleeps, or is found out to differ
            process = os.fork()
        if process:
            os.close(asleep)
            self._copy = process, awake
            return
        os.close(awake)
        os.read(asleep, 1)  # returns when the other process, which alone can write, has ended
        os.close(asleep)
        os.write(self._answers, RESUMED + os.getpid().to_bytes(8, "little"))
        while self._commands.read(1) not in (RESTORE, b""):  # commands that the other did not read
            pass

    def drop(self) -> None:
        """End the copy."""
        if self._copy is not None:
            process, awake = self._copy
            self._copy = None
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
            os.close(awake)


def attached(shard: Any, spec: Any, settings: Any, layout: Any, file: int, rows: tuple[int, int], infos: Any) -> Any:
    """Return a shard of closed copies that shares the arrays in a file."""
    memory = mmap.mmap(file, 0)
    arrays = {name: array[slice(*rows)] for name, array in shard.lay_out(memory, layout).items()}
    return shard.Shard(spec, settings, arrays, infos)


def probed(shard: Any, spec: Any, setting: Any) -> float:
    """Return the seconds of one step of one environment copy; NaN if it fails, which is told where it is stepped."""
    with contextlib.suppress(Exception, SystemExit):
        return _timed(shard, spec, setting)
    return float("nan")


def _timed(shard: Any, spec: Any, setting: Any) -> float:
    probe = shard.open_environment(spec, *setting)
    probe.reset(seed=0)
    probe.action_space.seed(0)
    begun, steps = time.perf_counter(), 0
    while steps < PROBE_STEPS and time.perf_counter() - begun < PROBE_S:
        *_, terminated, truncated, _ = probe.step(probe.action_space.sample())
        if terminated or truncated:
            probe.reset()
        steps += 1
    took = (time.perf_counter() - begun) / steps
    probe.close()
    return took


def work() -> None:
    """Run until the parent closes this process's standard input, or dies."""
    # Ctrl-C reaches the whole process group: the parent handles it and then closes our input.
    for number in HELD:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):  # the parent starts this process with these held back
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)
    # Answers go to a copy of stdout, and stdout to stderr, so that prints of an environment don't mix with answers.
    commands, answers = sys.stdin.buffer, os.dup(1)
    os.dup2(2, 1)
    guard, copies = Guard(commands, answers), None
    try:
        sys.path[:] = pickle.load(commands)
        from fedrl.core.pipes import keep_printing  # found only on the parent's path

        keep_printing()  # what an environment prints must not end it when the parent's reader has left
        *_, shard = (_sibling(name) for name in LIGHT)
        os.write(answers, DONE)
        while command := commands.read(1):
            if command == REMEMBER:
                guard.renew()
                answer = DONE
            elif command == PROBE:
                answer = DONE + f"{probed(shard, *pickle.load(commands)):24.9f}".encode()
            elif command == OPEN:
                now, *given = pickle.load(commands)
                copies = attached(shard, *given)
                copies.open(now)
                answer = _answer(copies.failed)
            else:
                assert copies is not None
                try:
                    answer = _answer(copies.run(command))
                except shard.InfoError as error:
                    answer = _framed(REFUSED, str(error))
            os.write(answers, answer)
    except BrokenPipeError:
        pass  # the parent is gone
    finally:
        guard.drop()
    if copies is not None:
        copies.close()


def _answer(failed: dict[int, tuple[str, str, str]]) -> bytes:
    return _framed(FAILED, [(row, *failure) for row, failure in failed.items()]) if failed else DONE


def _framed(kind: bytes, content: Any) -> bytes:
    text = json.dumps(content).encode()
    return kind + len(text).to_bytes(4, "little") + text


if __name__ == "__main__":
    work()
