"""What the agents of a configuration would send, to whom, and what protects it, without running anything."""

from __future__ import annotations

from typing import Any

from fedrl.config.objects import Experiment
from fedrl.engines.soundness import outgoing
from fedrl.engines.trust_models import statement
from fedrl.federation.soundness import Outgoing
from fedrl.privacy.guarantee import Guarantee
from fedrl.runs.privacy_statements import assumptions, sentences
from fedrl.runs.spending import guarantee_of


def leaving(experiment: Experiment) -> list[Outgoing]:
    """Return what each agent, and each server below another one, sends in a round; empty for isolated agents."""
    where = experiment.coordination
    return outgoing(experiment.federation, experiment.fleet, where.topology, where.scheduler, where.clock)


def reading(experiment: Experiment) -> str:
    """Return what a coordinator, or neighbours, read under the trust model of the federation, as a sentence."""
    return statement(experiment.config.federation.trust_model, experiment.federation, experiment.coordination.topology)


def explained(experiment: Experiment) -> dict[str, Any]:
    """Return the output of `fedrl explain --json`; `size_bytes` is None where it varies.

    "reads" is what the coordinator reads under the trust model, "privacy" what a run with a budget promises, and "said"
    what has to be said about the environment and about privacy before a run.
    """
    guarantee = guarantee_of(experiment)
    privacy = None if guarantee is None else promised(guarantee, experiment.config.rounds, assumptions(experiment))
    return {
        "name": experiment.config.name,
        "agents": experiment.config.federation.agents,
        "trust": experiment.config.federation.trust_model,
        "reads": reading(experiment),
        "opens": experiment.coordination.topology.opens,
        "outgoing": [each._asdict() for each in leaving(experiment)],
        "privacy": privacy,
        "said": [*experiment.environment.notes, *sentences(experiment)],
    }


def promised(guarantee: Guarantee, rounds: int, assumed: list[str]) -> dict[str, Any]:
    """Return what a run of so many rounds promises, as plain values."""
    spent = [guarantee.epsilon(agent, rounds) for agent in range(guarantee.agents)]
    own = guarantee.budget.own
    return {
        "claim": guarantee.claim(max(spent)),
        "epsilon": max(spent),
        "budget": guarantee.budget.epsilon,
        "delta": guarantee.budget.delta,
        "rounds": rounds,
        "unit": guarantee.price.protects(),
        "mechanism": guarantee.mechanism,
        "noise_multiplier": guarantee.noise_multiplier,
        "clip": list(guarantee.clip) if isinstance(guarantee.clip, tuple) else guarantee.clip,
        "trust": guarantee.trust,
        "participants": guarantee.price.participants,
        "agents": {str(k): spent[k] for k in sorted(own)},
        "assumptions": assumed,
        "not_certified": guarantee.not_certified(),
    }
