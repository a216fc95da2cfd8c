"""Copies of a Gymnasium environment, opened in worker processes or in this process.

    parent --- command byte ---> worker 0: rows 0 ... n/2        arrays in a memory-mapped file that all share
           --- command byte ---> worker 1: rows n/2 ... n
           <--- answer byte ----

Every copy has its own seed and its own row, so the results do not depend on the number of workers. Workers are fresh
interpreters, because a fork after XLA's threads have started can deadlock. They end when their input is closed: when
the copies are closed or garbage-collected, and also when the parent is killed. A copy in a worker can neither end this
process nor make it wait for ever; one in this process can.
"""

from __future__ import annotations

import itertools
import mmap
import pickle
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedrl.core.errors import ConfigError
from fedrl.core.host import Failure, HostStep
from fedrl.core.processors import cores
from fedrl.environments.adapters import shard
from fedrl.environments.adapters.processes import LostError, RefusedError, Worker

# Seconds that a step of all copies has to take before several workers are faster than one.
PAYS_S = 5e-4
TIMEOUT_S = 60.0

Setting = tuple[Mapping[str, Any], Mapping[str, Any]]
Run = Callable[[bytes], Mapping[int, shard.FailedRow]]


class OpenInstances:
    """Environment copies that share arrays with the shard or the workers that step them.

    Attributes:
        name: Id of the environment.
        failed: The copies that failed in the last call, by their row. The next reset of such a copy opens it anew.
    """

    def __init__(self, name: str, arrays: dict[str, np.ndarray], run: Run, close: Callable[[], None]) -> None:
        self.failed: Mapping[int, Failure] = {}
        self.name, self._arrays, self._run = name, arrays, run
        self._broken = np.zeros(len(arrays["active"]), bool)
        self._infos = {
            name.removeprefix(shard.INFO): array for name, array in arrays.items() if name.startswith(shard.INFO)
        }
        # A finaliser also ends the workers when this object is garbage-collected without `close`.
        self._close = weakref.finalize(self, close)

    def reset(self, seeds: Sequence[int], active: np.ndarray | None = None) -> np.ndarray:
        """Begin an episode in the active copies (by default all) with these seeds; later episodes follow from them."""
        self._arrays["seed"][:] = seeds
        self._arrays["active"][:] = True if active is None else active
        self._arrays["anew"][:] = self._broken
        self._broken &= ~self._arrays["active"]
        self._note(self._run(shard.RESET))
        return self._arrays["observation"]

    def step(self, action: np.ndarray, active: np.ndarray | None = None) -> HostStep:
        """Step the active copies (by default all). In the rows of the others, only the observation is meaningful."""
        self._arrays["action"][:] = action
        self._arrays["active"][:] = True if active is None else active
        self._note(self._run(shard.STEP))
        shown = {name: self._arrays[name] for name in HostStep._fields if name in self._arrays}
        return HostStep(**shown, measures=self._infos)

    def close(self) -> None:
        """Close the environments and end the workers. Closing twice is fine."""
        self._close()

    def _note(self, failed: Mapping[int, shard.FailedRow]) -> None:
        self.failed = {row: Failure(self.name, *failure) for row, failure in failed.items()}
        self._broken[list(failed)] = True


def open_instances(
    spec: Any,
    settings: Sequence[Setting],
    workers: int | None,
    infos: Mapping[str, bool] = {},
    timeout_s: float = TIMEOUT_S,
) -> OpenInstances:
    """Open an environment copy for each setting, in one or more processes.

    Args:
        spec: Gymnasium's specification of the environment.
        settings: Keyword arguments and attributes of each copy.
        workers: Number of worker processes; 0 steps the copies in this process. By default one per core if a step of
            all copies takes longer than the messages to the workers, else 1. A class that exists in a script alone
            can't be imported in another process, so its copies are always stepped in this one.
        infos: Measured keys of `info`; the value is whether only the last step of an episode has it.
        timeout_s: Seconds after which a step or a reset of one copy has failed, in a worker process.

    Raises:
        ConfigError: A copy can't be opened; the message has the traceback in the user's code.
    """
    probe = shard.open_environment(spec, *settings[0])
    layout = shard.fields(len(settings), probe.observation_space, probe.action_space, infos)
    probe.close()
    if workers != 0 and _portable(spec, settings):
        return _in_workers(spec, settings, layout, workers, infos, timeout_s)
    arrays = shard.lay_out(bytearray(shard.size_bytes(layout)), layout)
    local = shard.Shard(spec, settings, arrays, infos)
    local.open()
    _check_opened(spec.id, local.failed)

    def run(command: bytes) -> Mapping[int, shard.FailedRow]:
        try:
            return local.run(command)
        except shard.InfoError as error:
            raise ConfigError(f"{spec.id}: {error}") from None

    return OpenInstances(spec.id, arrays, run, local.close)


def _portable(spec: Any, settings: Sequence[Setting]) -> bool:
    """Return whether another process can open the environment: a class of a script can't be imported elsewhere."""
    try:
        return b"__main__" not in pickle.dumps((spec, settings))
    except (pickle.PicklingError, AttributeError, TypeError):
        return False


def _check_opened(name: str, failed: Mapping[int, shard.FailedRow]) -> None:
    for row, (_, said, trace) in failed.items():
        raise ConfigError(f"Copy {row} of {name} can't be opened: it {said}." + (f"\n{trace}" if trace else ""))


def _in_workers(
    spec: Any,
    settings: Sequence[Setting],
    layout: dict[str, tuple[tuple[int, ...], str]],
    workers: int | None,
    infos: Mapping[str, bool],
    timeout_s: float,
) -> OpenInstances:
    # Shared memory where there is some: a file on a disk would be written back to it.
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    # It has no name from the beginning, so nothing is left of it however this process ends.
    file = tempfile.TemporaryFile(prefix="fedrl-", dir=place)  # noqa: SIM115  (open as long as the copies are)
    file.truncate(shard.size_bytes(layout))
    memory = mmap.mmap(file.fileno(), 0)
    children: list[Worker] = []

    def close() -> None:
        for child in children:
            child.close()
        children.clear()
        file.close()

    edges: list[int] = []

    def run(command: bytes) -> Mapping[int, shard.FailedRow]:
        failed: dict[int, shard.FailedRow] = {}
        try:
            for child in children:
                child.begin(command)
            for child, first in zip(children, edges, strict=False):
                failed |= {first + row: failure for row, failure in child.finish().items()}
        except RefusedError as error:
            close()
            raise ConfigError(f"{spec.id}: {error}") from None
        except BaseException:
            # After Ctrl-C an answer may be outstanding, and the next command would read it as its own.
            close()
            raise
        return failed

    arrays = shard.lay_out(memory, layout)
    opened = OpenInstances(spec.id, arrays, run, close)
    try:
        edges += _started(children, file.fileno(), spec, settings, workers, timeout_s)
        each = list(itertools.pairwise(edges))
        for child, rows in zip(children, each, strict=True):
            child.open(spec, list(settings[slice(*rows)]), layout, rows, dict(infos))
        for child, (first, end) in zip(children, each, strict=True):
            found = child.wait_until_open({name: array[first:end] for name, array in arrays.items()})
            _check_opened(spec.id, {first + row: failure for row, failure in found.items()})
    except LostError as lost:
        close()
        raise ConfigError(f"A worker process for {spec.id} {lost.said} when it started.") from None
    except BaseException:
        close()
        raise
    return opened


def _started(
    children: list[Worker], memory: int, spec: Any, settings: Sequence[Setting], workers: int | None, timeout_s: float
) -> list[int]:
    """Start worker processes, and return the first row of each and the number of all rows."""
    children.append(Worker(memory, timeout_s))
    if workers is None:
        # Measured in the worker: nothing that an environment does to its process reaches this one.
        pays = cores() > 1 and len(settings) * children[0].step_s(spec, settings[0]) > PAYS_S
        workers = cores() if pays else 1
    count = min(len(settings), workers)
    children += [Worker(memory, timeout_s) for _ in range(count - 1)]
    return np.linspace(0, len(settings), count + 1).astype(int).tolist()
