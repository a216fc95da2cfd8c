"""What leaves the agents of an experiment, to whom, and what protects it: of a configuration, before anything runs."""

from __future__ import annotations

from typing import Any

from fedrl.config.objects import Experiment
from fedrl.engines.soundness import outgoing
from fedrl.federation.soundness import Outgoing


def leaving(experiment: Experiment) -> list[Outgoing]:
    """What leaves each agent in a round, and each server below another one; nothing if nobody communicates."""
    where = experiment.coordination
    return outgoing(experiment.federation, experiment.fleet, where.topology, where.scheduler, where.clock)


def explained(experiment: Experiment) -> dict[str, Any]:
    """The same as `fedrl explain --json` prints it; `size_bytes` is None where it varies."""
    return {
        "name": experiment.config.name,
        "agents": experiment.config.federation.agents,
        "opens": experiment.coordination.topology.opens,
        "outgoing": [each._asdict() for each in leaving(experiment)],
    }
