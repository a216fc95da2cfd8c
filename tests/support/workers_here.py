"""Workers in this process whose commands and results cross as bytes, and which can be killed."""

import threading
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from fedrl.engines.distributed.portable import dumps, loads
from fedrl.engines.distributed.worker import ShardWorker
from fedrl.engines.distributed.workers import WorkerDiedError, Workers
from fedrl.engines.executors.placement import Placement


class Here:
    """A transport without processes.

    Attributes:
        kill: Commands after which a worker ends, before its result is returned: `{worker: commands from now on}`.
        fatal: `name -> bool`, commands during which a worker ends each time.
        commands: Names of all commands that were carried out, with the worker of each.
        starts: How often each worker was started again.
    """

    def __init__(self, workers: int) -> None:
        self.hosts = [f"host{i}" for i in range(workers)]
        self.kill: dict[int, int] = {}
        self.fatal: Callable[[str], bool] = lambda name: False
        self.commands: list[tuple[int, str]] = []
        self.starts = [0] * workers
        self.closed = 0
        self.workers: list[ShardWorker | None] = [ShardWorker() for _ in range(workers)]
        self._one_at_a_time = [threading.Lock() for _ in range(workers)]

    def submit(self, worker: int, shard: int, name: str, *arguments: Any) -> Any:
        with self._one_at_a_time[worker]:
            return self._done(worker, shard, name, loads(dumps(arguments)))

    def _done(self, worker: int, shard: int, name: str, arguments: tuple[Any, ...]) -> Any:
        there = self.workers[worker]
        if there is None:
            return WorkerDiedError("killed")
        self.commands.append((worker, name))
        try:
            found = dumps(there.do(shard, name, *arguments))
        except Exception as fault:
            return fault
        if worker in self.kill:
            self.kill[worker] -= 1
        if self.kill.get(worker) == 0 or self.fatal(name):
            self.kill.pop(worker, None)
            self.workers[worker] = None
            return WorkerDiedError("killed")
        return found

    def result(self, future: Any) -> tuple[Any, float]:
        if isinstance(future, Exception):
            raise future
        return loads(future)

    def share(self, value: Any) -> Any:
        return value

    def restart(self, worker: int) -> None:
        self.starts[worker] += 1
        self.workers[worker] = ShardWorker()

    def close(self) -> None:
        self.closed += 1


def here(workers: int, transport: Here | None = None) -> Placement:
    """An executor with workers in this process."""
    from fedrl.engines.distributed.executor import Distributed

    carrier = Here(workers) if transport is None else transport
    shared = Workers(carrier)

    def build(*given: Any, **options: Any) -> Any:
        return Distributed(*given, cluster=shared, **options)

    return Placement(build, workers)


def differences(one: Any, other: Any, ignored: tuple[str, ...] = ("sums", "deaths")) -> list[str]:
    """The fields in which two records with the same fields differ; NaN is equal to NaN."""
    return [name for name in one._fields if name not in ignored and not same(getattr(one, name), getattr(other, name))]


def same(one: Any, other: Any) -> bool:
    """Whether two trees have equal structures and leaves, and arrays of equal types."""
    if jax.tree.structure(one) != jax.tree.structure(other):
        return False
    return all(map(_equal, jax.tree.leaves(one), jax.tree.leaves(other)))


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return bool(one == other)
    x, y = np.asarray(one), np.asarray(other)
    return x.dtype == y.dtype and np.array_equal(x, y, equal_nan=x.dtype.kind == "f")
