"""What the agents of a configuration would send, to whom, and what protects it, without running anything."""

from __future__ import annotations

from typing import Any

from fedrl.config.objects import Experiment
from fedrl.engines.soundness import outgoing
from fedrl.federation.soundness import Outgoing


def leaving(experiment: Experiment) -> list[Outgoing]:
    """Return what each agent, and each server below another one, sends in a round; empty for isolated agents."""
    where = experiment.coordination
    return outgoing(experiment.federation, experiment.fleet, where.topology, where.scheduler, where.clock)


def explained(experiment: Experiment) -> dict[str, Any]:
    """Return the output of `fedrl explain --json`; `size_bytes` is None where it varies."""
    return {
        "name": experiment.config.name,
        "agents": experiment.config.federation.agents,
        "opens": experiment.coordination.topology.opens,
        "outgoing": [each._asdict() for each in leaving(experiment)],
    }
