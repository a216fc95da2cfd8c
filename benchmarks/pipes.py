"""Worker processes over plain pipes, against which Ray is measured; they are not started again."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from typing import Any

from fedrl.engines.distributed.workers import Workers
from fedrl.engines.executors.placement import Placement


class Pipes:
    """Carries commands to processes of this machine; the results of each come in the order of its commands."""

    def __init__(self, workers: int) -> None:
        os.environ["XLA_FLAGS"] = " ".join(
            flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag
        )
        os.environ["XLA_FLAGS"] += " --xla_force_host_platform_device_count=1"
        spawn = multiprocessing.get_context("spawn")
        self.hosts = ["here"] * workers
        self._pipes, self._known = [], []
        for _ in range(workers):
            ours, theirs = spawn.Pipe()
            spawn.Process(target=_serve, args=(theirs,), daemon=True).start()
            self._pipes.append(ours)
            self._known.append((0, {}))
        self._sent = [0] * workers

    def submit(self, worker: int, shard: int, name: str, *arguments: Any) -> tuple[int, int]:
        self._pipes[worker].send((shard, name, arguments))
        self._sent[worker] += 1
        return worker, self._sent[worker]

    def result(self, future: tuple[int, int]) -> tuple[Any, float]:
        worker, number = future
        received, kept = self._known[worker]
        while received < number:
            received += 1
            kept[received] = self._pipes[worker].recv()
        self._known[worker] = received, kept
        found: tuple[Any, float] = kept.pop(number)
        return found

    def share(self, value: Any) -> Any:
        return value

    def restart(self, worker: int) -> None:
        raise RuntimeError(f"worker {worker} has ended")

    def close(self) -> None:
        for pipe in self._pipes:
            with contextlib.suppress(OSError):  # closed twice
                pipe.send(None)


def _serve(pipe: Any) -> None:
    import fedrl.launch

    fedrl.launch.configure_jax()
    from fedrl.engines.distributed.worker import ShardWorker

    worker = ShardWorker()
    while (command := pipe.recv()) is not None:
        shard, name, arguments = command
        pipe.send(worker.do(shard, name, *arguments))


def pipes(workers: int) -> Placement:
    """Processes over pipes as an executor."""
    from fedrl.engines.distributed.executor import Distributed

    shared = Workers(Pipes(workers))

    def build(*given: Any, **options: Any) -> Any:
        return Distributed(*given, cluster=shared, **options)

    return Placement(build, workers)
