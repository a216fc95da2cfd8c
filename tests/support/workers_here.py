"""Workers in this process whose commands and results cross as bytes, and which can be killed."""

from typing import Any

from fedrl.engines.distributed.portable import dumps, loads
from fedrl.engines.distributed.worker import Worker
from fedrl.engines.distributed.workers import WorkerDiedError, Workers
from fedrl.engines.executors.placement import Placement


class Here:
    """A transport without processes.

    Attributes:
        kill: Commands after which a worker ends, before its result is returned: `{worker: commands from now on}`.
        commands: Names of all commands that were carried out, with the worker of each.
    """

    def __init__(self, workers: int) -> None:
        self.hosts = [f"host{i}" for i in range(workers)]
        self.kill: dict[int, int] = {}
        self.commands: list[tuple[int, str]] = []
        self.closed = False
        self._workers: list[Worker | None] = [Worker() for _ in range(workers)]

    def submit(self, worker: int, shard: int, name: str, *arguments: Any) -> Any:
        there = self._workers[worker]
        if there is None:
            return WorkerDiedError("killed")
        self.commands.append((worker, name))
        try:
            found = dumps(there.do(shard, name, *loads(dumps(arguments))))
        except Exception as fault:
            return fault
        if worker in self.kill:
            self.kill[worker] -= 1
            if self.kill[worker] <= 0:
                del self.kill[worker]
                self._workers[worker] = None
                return WorkerDiedError("killed")
        return found

    def result(self, future: Any) -> tuple[Any, float]:
        if isinstance(future, Exception):
            raise future
        return loads(future)

    def share(self, value: Any) -> Any:
        return value

    def restart(self, worker: int) -> None:
        self._workers[worker] = Worker()

    def close(self) -> None:
        self.closed = True


def here(workers: int, transport: Here | None = None) -> Placement:
    """An executor with workers in this process."""
    from fedrl.engines.distributed.executor import Distributed

    carrier = Here(workers) if transport is None else transport
    shared = Workers(carrier)

    def build(*given: Any, **options: Any) -> Any:
        return Distributed(*given, cluster=shared, **options)

    return Placement(build, workers)
