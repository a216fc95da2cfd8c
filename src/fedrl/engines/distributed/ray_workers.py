"""Worker processes that are actors of Ray, one core each."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence
from typing import Any

from fedrl.core.errors import ConfigError, RunError
from fedrl.core.processors import VARIABLE
from fedrl.core.ray_cluster import (
    START_S,
    cause_of,
    connect,
    environment_of_workers,
    imported_ray,
    not_started,
    own_folders,
)
from fedrl.engines.distributed.worker import Facts, ShardWorker, facts
from fedrl.engines.distributed.workers import WorkerDiedError, Workers
from fedrl.launch import DEVICES

_shared: dict[tuple[Any, ...], Workers] = {}
_sharing = threading.Lock()


def ray_workers(address: str | None, workers: int | None, env_vars: Sequence[str] = ()) -> Workers:
    """Return the workers of a cluster, which all simulations of this process share that are open at a time.

    Args:
        address: Address of the cluster, as of `fedrl.core.ray_cluster.connect`.
        workers: Number of workers.
        env_vars: Names of environment variables that workers get from this process.

    Raises:
        ConfigError: Ray is not installed, there is no such cluster, or workers differ from this process.
        RunError: Workers do not start.
    """
    key = (address, workers, tuple(env_vars))
    with _sharing:
        if key not in _shared:
            transport = RayTransport(connect(address, workers), env_vars)
            found = Workers(transport, closed=lambda: _forget(key, found))
            _shared[key] = found
        return _shared[key]


def _forget(key: tuple[Any, ...], ended: Workers) -> None:
    with _sharing:
        if _shared.get(key) is ended:
            del _shared[key]


class RayTransport:
    """Carries commands to actors of Ray."""

    def __init__(self, workers: int, env_vars: Sequence[str]) -> None:
        self._ray = imported_ray()
        flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if not flag.startswith(f"{DEVICES}=")]
        # One core each: also an environment of Gymnasium would otherwise be stepped in a process for each core.
        fixed = {"XLA_FLAGS": " ".join([*flags, f"{DEVICES}=1"]), VARIABLE: "1"}
        self._environment = environment_of_workers(env_vars, **fixed)
        actor: Any = self._ray.remote(RayWorker)
        self._kind = actor.options(num_cpus=1, runtime_env={"env_vars": self._environment})
        # A worker that can't start ends the others: nothing may stay behind.
        self._actors: list[Any] = [self._kind.remote(os.getcwd()) for _ in range(workers)]
        try:
            found = self._started(self._actors)
        except BaseException:
            self.close()
            raise
        self.hosts = [each.host for each in found]

    def submit(self, worker: int, shard: int, name: str, *arguments: Any) -> Any:
        """Send a command."""
        return self._actors[worker].do.remote(shard, name, *arguments)

    def result(self, future: Any) -> tuple[Any, float]:
        """Wait for a command."""
        errors = self._ray.exceptions
        # A machine that has gone takes the results with it that it has not sent yet.
        gone = (errors.RayActorError, errors.WorkerCrashedError, errors.NodeDiedError, errors.ObjectLostError)
        try:
            value, seconds = self._ray.get(future)
        except (*gone, errors.OutOfMemoryError) as fault:
            raise WorkerDiedError(cause_of(fault)) from fault
        except errors.RayTaskError as fault:
            cause = fault.cause
            raise cause if isinstance(cause, Exception) else fault from None
        return value, seconds

    def share(self, value: Any) -> Any:
        """Store a value once for all workers."""
        return self._ray.put(value)

    def restart(self, worker: int) -> None:
        """Start a worker again."""
        self._ray.kill(self._actors[worker])
        self._actors[worker] = self._kind.remote(os.getcwd())
        self.hosts[worker] = self._started([self._actors[worker]])[0].host

    def close(self) -> None:
        """End the actors."""
        for actor in self._actors:
            self._ray.kill(actor)

    def _started(self, actors: Sequence[Any]) -> list[Facts]:
        """Return the facts of workers, once they have started.

        Raises:
            ConfigError: One lacks a module, or differs from this process.
            RunError: One does not start.
        """
        ray = self._ray
        try:
            found: list[Facts] = ray.get([actor.facts.remote() for actor in actors], timeout=START_S)
        except ray.exceptions.GetTimeoutError:
            raise RunError(not_started(ray, len(actors), START_S)) from None
        except ray.exceptions.ActorDiedError as fault:
            raise _unfit(fault) from fault
        except ray.exceptions.RuntimeEnvSetupError as fault:
            raise RunError(f"Ray can't set up the environment of workers ({cause_of(fault)}).") from fault
        here = facts()
        for each in found:
            _check_same(here, each)
        return found


class RayWorker(ShardWorker):
    """A worker as an actor of Ray."""

    def __init__(self, folder: str) -> None:
        from fedrl.launch import configure_jax

        # Environments may read files by paths from the working directory, which other machines need not have.
        with contextlib.suppress(OSError):
            os.chdir(folder)
        # The number of devices stands in XLA_FLAGS; this sets the cache of programs.
        configure_jax()
        super().__init__()

    def facts(self) -> Facts:
        """Return the facts of this process."""
        return facts()


def _check_same(here: Facts, there: Facts) -> None:
    """Refuse a worker whose results would have other bits.

    Raises:
        ConfigError: A version or the processor differs.
    """
    for name, version in here.versions.items():
        other = there.versions.get(name, "not installed")
        if other != version:
            raise ConfigError(
                f"The worker on {there.host} has {name} {other}, and this process {version}: their results would "
                f"differ. Install the same version of {name} on all machines of the cluster."
            )
    if there.processor != here.processor:
        raise ConfigError(
            f"The processor of {there.host} is {there.processor}, and here it is {here.processor}: results would "
            "differ in their last bits. Use machines of one kind."
        )


def _unfit(fault: Exception) -> ConfigError | RunError:
    """Return the error of a worker whose process started and could not become one."""
    text = str(fault)
    missing = next((line for line in text.splitlines() if "ModuleNotFoundError" in line), "")
    if missing:
        name = missing.rpartition("No module named")[2].strip().strip("'\"")
        return ConfigError(
            f"A worker can't import {name!r}. Install fedrl and the modules of your experiment on every machine of the "
            f"cluster, or set PYTHONPATH; workers looked in {', '.join(own_folders()) or 'installed packages alone'}."
        )
    return RunError(f"A worker ended while it started ({cause_of(fault)}).")
