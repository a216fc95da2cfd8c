"""The executors that users choose from, beside the one in this process, which is the default."""

from __future__ import annotations

from typing import Any

from fedrl.core.component import component
from fedrl.core.ranges import Count
from fedrl.core.ray_cluster import check_installed
from fedrl.engines.executors.executor import Executor
from fedrl.engines.executors.placement import Placement


@component("executor")
def process() -> Placement:
    """Let agents train in this process, in blocks on its devices.

    >>> process()
    process()
    """
    return Placement(None)


@component("executor", reference="Moritz et al. (2018), https://arxiv.org/abs/1712.05889")
def ray(workers: Count | None = None, address: str | None = None, env_vars: tuple[str, ...] = ()) -> Placement:
    """Let agents train in worker processes that Ray starts, on this machine or on those of a cluster.

    Each worker has some of the agents' blocks and one core. Results have the same bits as in one process, for any
    number of workers. A worker that dies is started again and continues from the last merge. Whoever may use a Ray
    cluster may run any code on it: its machines have to be trusted and closed to others.

    Args:
        workers: Number of worker processes; by default one for each core of the cluster.
        address: "auto", or the host and port of the head node of a running cluster; by default a cluster of this
            machine alone is started.
        env_vars: Names of environment variables of this process that workers get, beside those of JAX.

    Raises:
        ConfigError: Ray is not installed.

    >>> ray(workers=2)
    ray(workers=2)
    """
    check_installed()

    def build(*given: Any, **options: Any) -> Executor:
        from fedrl.engines.distributed.executor import Distributed
        from fedrl.engines.distributed.ray_workers import ray_workers

        cluster = ray_workers(address, workers, env_vars)
        try:
            return Distributed(*given, cluster=cluster, **options)
        except BaseException:
            cluster.end_unused()
            raise

    return Placement(build, workers, address, env_vars)
