"""Where agents train: in this process, or in processes of a cluster."""

from __future__ import annotations

from collections.abc import Callable

from fedrl.core.component import Call, record
from fedrl.core.environment import HostEnvironment, common_of
from fedrl.engines.executors.blocks import Blocks
from fedrl.engines.executors.executor import Executor
from fedrl.federation.federation import Federation


@record
class Placement:
    """Where agents train.

    Attributes:
        build: Returns the executor, from the arguments of `fedrl.engines.executors.executor.Executor` and options; None
            for the one in this process.
        workers: Number of worker processes; None for one on each core of the cluster.
        address: Address of the cluster; None for one of this machine alone.
        live: Whether its agents work in real time, so that it has a clock of its own.
        env_vars: Names of further environment variables that workers get from this process.
        replayable: Whether all keys of all parties follow from the seed, those of noise and Poisson sampling included.
        call: The constructor call that made it.
    """

    build: Callable[..., Executor] | None
    workers: int | None = None
    address: str | None = None
    env_vars: tuple[str, ...] = ()
    live: bool = False
    replayable: bool = False
    call: Call | None = None


def executor_of(chosen: Placement | Callable[..., Executor] | None, federation: Federation) -> Callable[..., Executor]:
    """Return the chosen executor, or the one in this process that fits the environment."""
    chosen = chosen.build if isinstance(chosen, Placement) else chosen
    if chosen is not None:
        return chosen
    environment = federation.learner.environment
    if common_of(environment) is not None:
        from fedrl.engines.executors.common_world import Players

        return Players
    if isinstance(environment, HostEnvironment):
        from fedrl.engines.executors.host import Host

        return Host
    return Blocks
