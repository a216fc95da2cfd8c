"""Prepare the methods of an experiment for simulation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax

from fedrl.core.environment import HostEnvironment
from fedrl.engines.simulate import simulate
from fedrl.engines.state import Simulation
from fedrl.engines.topologies.choices import isolated

if TYPE_CHECKING:
    from fedrl.config.methods import Method
    from fedrl.config.objects import Experiment


def simulation_of(experiment: Experiment, method: Method, devices: Sequence[jax.Device] | None = None) -> Simulation:
    """Return the simulation of a method, on all devices by default; baselines are isolated agents without a clock."""
    where, federated = experiment.coordination, method.name == "federated"
    block = experiment.config.federation.block
    on_host = isinstance(experiment.environment, HostEnvironment)
    options: dict[str, Any] = {"restarts": experiment.config.restarts} if on_host else {}
    return simulate(
        method.federation,
        method.fleet,
        topology=where.topology if method.communicates else isolated(),
        scheduler=where.scheduler if federated else None,
        clock=where.clock if federated else None,
        local_steps=method.local_steps,
        block=None if block is None else min(block, len(method.local_steps)),
        devices=devices,
        executor=experiment.executor,
        reproducible_noise=experiment.guarantee is not None and experiment.guarantee.reproducible,
        **options,
    )


def in_one_simulation(one: Method, other: Method) -> bool:
    """Return whether two methods run in the same simulation."""
    return one.federation is other.federation and one.communicates == other.communicates


def in_one_program(experiment: Experiment, one: Method, other: Method) -> bool:
    """Return whether two methods run the same compiled program: one that returns sums of updates."""
    where = experiment.coordination
    summed = where.neighbours is None and not where.scheduler.mixed and where.scheduler.upload_budget is None
    return one.federation is other.federation and summed and where.scheduler.schedule.mixing == 1.0
