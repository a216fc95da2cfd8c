"""Copies of a Gymnasium environment, opened in this process or in one worker process per core.

    parent --- command byte ---> worker 0: rows 0 ... n/2        arrays in a memory-mapped file that all share
           --- command byte ---> worker 1: rows n/2 ... n
           <--- answer byte ----

Every copy has its own seed and its own row, so the results do not depend on the number of workers. Workers are fresh
interpreters, because a fork after XLA's threads have started can deadlock. They end when their input is closed: when
the copies are closed or garbage-collected, and also when the parent is killed.
"""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import pickle
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from fedrl.core.errors import ConfigError, FedrlError
from fedrl.core.host import HostStep
from fedrl.environments.adapters import shard

# Seconds that a step of all copies has to take before workers are faster than this process.
PAYS_S = 5e-4
PROBE_STEPS, PROBE_S = 20, 0.2

Setting = tuple[Mapping[str, Any], Mapping[str, Any]]


class OpenInstances:
    """Environment copies that share arrays with the shard or the workers that step them."""

    def __init__(self, arrays: dict[str, np.ndarray], run: Callable[[bytes], None], close: Callable[[], None]) -> None:
        self._arrays, self._run = arrays, run
        self._infos = {
            name.removeprefix(shard.INFO): array for name, array in arrays.items() if name.startswith(shard.INFO)
        }
        # A finaliser also ends the workers when this object is garbage-collected without `close`.
        self._close = weakref.finalize(self, close)

    def reset(self, seeds: Sequence[int], active: np.ndarray | None = None) -> np.ndarray:
        """Begin an episode in the active copies (by default all) with these seeds; later episodes follow from them."""
        self._arrays["seed"][:] = seeds
        self._arrays["active"][:] = True if active is None else active
        self._run(shard.RESET)
        return self._arrays["observation"]

    def step(self, action: np.ndarray, active: np.ndarray | None = None) -> HostStep:
        """Step the active copies (by default all). In the rows of the others, only the observation is meaningful."""
        self._arrays["action"][:] = action
        self._arrays["active"][:] = True if active is None else active
        self._run(shard.STEP)
        shown = {name: self._arrays[name] for name in HostStep._fields if name != "measures"}
        return HostStep(**shown, measures=self._infos)

    def close(self) -> None:
        """Close the environments and end the workers. Closing twice is fine."""
        self._close()


def open_instances(
    spec: Any, settings: Sequence[Setting], workers: int | None, infos: Mapping[str, bool] = {}
) -> OpenInstances:
    """Open an environment copy for each setting, in one or more processes.

    Args:
        spec: Gymnasium's specification of the environment.
        settings: Keyword arguments and attributes of each copy.
        workers: Number of worker processes; 1 steps the copies in this process. By default one per core if a step of
            all copies takes longer than the messages to the workers, else 1.
        infos: Measured keys of `info`; the value is whether only the last step of an episode has it.

    Raises:
        FedrlError: A worker could not open its copies.
    """
    probe = shard.open_environment(spec, *settings[0])
    layout = shard.fields(len(settings), probe.observation_space, probe.action_space, infos)
    count = min(len(settings), _workers_that_pay(probe, len(settings)) if workers is None else workers)
    probe.close()
    if count > 1 and _portable(spec, settings):
        return _in_workers(spec, settings, layout, count, infos)
    arrays = shard.lay_out(bytearray(shard.size_bytes(layout)), layout)
    local = shard.Shard([shard.open_environment(spec, *setting) for setting in settings], arrays, infos)

    def run(command: bytes) -> None:
        try:
            local.run(command)
        except shard.InfoError as error:
            raise ConfigError(_refusal(spec, str(error))) from None

    return OpenInstances(arrays, run, local.close)


def cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _workers_that_pay(probe: gym.Env, count: int) -> int:
    """Return one worker per core if stepping all copies in this process takes longer than a few messages, else 1."""
    if cores() == 1:
        return 1
    probe.reset(seed=0)
    probe.action_space.seed(0)
    begun, steps = time.perf_counter(), 0
    while steps < PROBE_STEPS and time.perf_counter() - begun < PROBE_S:
        *_, terminated, truncated, _ = probe.step(probe.action_space.sample())
        if terminated or truncated:
            probe.reset()
        steps += 1
    return cores() if count * (time.perf_counter() - begun) / steps > PAYS_S else 1


def _portable(spec: Any, settings: Sequence[Setting]) -> bool:
    """Return whether another process can open the environment: a class of a script can't be imported elsewhere."""
    try:
        return b"__main__" not in pickle.dumps((spec, settings))
    except (pickle.PicklingError, AttributeError, TypeError):
        return False


def _in_workers(
    spec: Any,
    settings: Sequence[Setting],
    layout: dict[str, tuple[tuple[int, ...], str]],
    count: int,
    infos: Mapping[str, bool],
) -> OpenInstances:
    # Shared memory where there is some: a file on a disk would be written back to it.
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.NamedTemporaryFile(prefix="fedrl-", dir=place, delete=False) as file:
        file.truncate(shard.size_bytes(layout))
        memory = mmap.mmap(file.fileno(), 0)
    edges = np.linspace(0, len(settings), count + 1).astype(int).tolist()
    children: list[subprocess.Popen[bytes]] = []

    def close() -> None:
        for child in children:
            _end(child)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(file.name)

    def run(command: bytes) -> None:
        try:
            for child in children:
                _send(child, command, spec)
            for child in children:
                _await(child, spec)
        except BaseException:
            # After Ctrl-C an answer may be outstanding, and the next command would read it as its own.
            close()
            raise

    opened = OpenInstances(shard.lay_out(memory, layout), run, close)
    for rows in itertools.pairwise(edges):
        children.append(_start())
        _send(children[-1], pickle.dumps(sys.path), spec)
        given = (spec, list(settings[slice(*rows)]), layout, file.name, rows, dict(infos))
        _send(children[-1], pickle.dumps(given), spec)
    for child in children:
        _await(child, spec)
    with contextlib.suppress(PermissionError):  # where a mapped file has to stay, `close` removes it
        os.unlink(file.name)
    return opened


def _start() -> subprocess.Popen[bytes]:
    # There is a worker per core already, so numerical libraries get one thread each.
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    # -P keeps this folder off the path: `import gymnasium` would find the adapter in this folder.
    command = [sys.executable, "-P", shard.__file__]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=one_thread | dict(os.environ), bufsize=0
    )


def _send(child: subprocess.Popen[bytes], message: bytes, spec: Any) -> None:
    assert child.stdin is not None
    rest = memoryview(message)
    try:
        while rest:
            rest = rest[child.stdin.write(rest) :]
    except BrokenPipeError:
        _await(child, spec)  # a worker that failed has sent its reason before it ended


def _await(child: subprocess.Popen[bytes], spec: Any) -> None:
    assert child.stdout is not None
    answer = child.stdout.read(1)
    if answer == shard.DONE:
        return
    said = child.stdout.read().decode() if answer else ""
    if answer == shard.REFUSED:
        child.wait()
        raise ConfigError(_refusal(spec, said))
    raise FedrlError(
        f"A worker process for environments failed (exit code {child.wait()}). "
        f"{said or 'It was killed, or ended by itself.'}\n"
        "With workers=1 the environments run in this process, where a debugger sees them."
    )


def _refusal(spec: Any, said: str) -> str:
    return f"{spec.id}: {said}"


def _end(child: subprocess.Popen[bytes]) -> None:
    assert child.stdin is not None
    assert child.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        child.stdin.close()
    try:
        child.wait(timeout=5.0)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    child.stdout.close()
