"""What a run says about its privacy: before it begins, and in its summary."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedrl.config.experiment import InitConfig
from fedrl.config.guarantees import unbudgeted
from fedrl.config.objects import Experiment
from fedrl.records import PrivacyResult
from fedrl.runs.spending import METHOD, Spending, guarantee_of


def sentences(experiment: Experiment) -> list[str]:
    """Return what has to be said about the privacy of a run before it begins."""
    guarantee, config = guarantee_of(experiment), experiment.config
    missing = unbudgeted((*experiment.federation.stages, experiment.learner), config.federation.privacy)
    if guarantee is None:
        return [missing] if missing else []
    found, delta, agents = [], guarantee.budget.delta, config.federation.agents
    if delta >= 1.0 / agents:
        found.append(
            f"federation.privacy.delta is {delta:g}, and there are {agents} agents: a mechanism that gives away all "
            f"data of one agent at random has delta = {1.0 / agents:.2g}. Set it far below that."
        )
    if guarantee.not_certified():
        found.append(f"Not certified: {guarantee.not_certified()}.")
    found += started_from(config.init)
    others = [method.name for method in experiment.methods if method.name != METHOD]
    if others:
        found.append(f"The baselines have no privacy: {', '.join(others).replace('_', ' ')}.")
    return found


def started_from(init: object) -> list[str]:
    """Return what the start of a run means for its guarantee, a sentence each; none without an earlier run."""
    if not isinstance(init, InitConfig):
        return []
    whose = "" if init.agent is None else f"the parameters of agent {init.agent} in "
    return [
        f"The run starts from {whose}{init.run}: what agents have paid for that run is not part of this budget. If "
        "they are the same agents, both add up, and what an earlier run without a budget has learned of them is not "
        "protected."
    ]


def assumptions(experiment: Experiment) -> list[str]:
    """Return what the guarantee of a run assumes and does not cover, a sentence each; none without a budget."""
    guarantee, learner = guarantee_of(experiment), experiment.learner
    if guarantee is None:
        return []
    found = guarantee.assumptions()
    # Noise in local steps is in all parameters of an agent, other noise in what leaves it.
    if learner.personalised and learner.noise is None:
        found.append(
            "Parameters that stay with the agents have no noise, and params.safetensors has those of every agent: it "
            "is not covered."
        )
    return found


def privacy_of(spending: Spending, experiment: Experiment) -> PrivacyResult:
    """Return what a run promises and has spent, for its summary."""
    guarantee, accounts = spending.guarantee, spending.accounts
    spent = {seed: account.ledger.spent(certified=True) for seed, account in sorted(accounts.items())}
    each = np.max([np.zeros(guarantee.agents), *spent.values()], axis=0)
    together: list[dict[Any, int]] = [{} for _ in range(guarantee.agents)]
    for account in accounts.values():
        for mine, releases in zip(together, account.ledger.releases(), strict=True):
            for event, count in releases.items():
                mine[event] = mine.get(event, 0) + count
    last = list(accounts.values())[-1:]
    found: PrivacyResult = {
        "claim": guarantee.claim(float(each.max(initial=0.0))),
        "unit": guarantee.price.protects(),
        "mechanism": guarantee.mechanism,
        "noise_multiplier": guarantee.noise_multiplier,
        "clip": list(guarantee.clip) if isinstance(guarantee.clip, tuple) else guarantee.clip,
        "trust": guarantee.trust,
        "budget": guarantee.budget.epsilon,
        "delta": guarantee.budget.delta,
        "epsilon": float(each.max(initial=0.0)),
        "seeds": {str(seed): float(mine.max(initial=0.0)) for seed, mine in spent.items()},
        "together": guarantee.of_all(together),
        "charges": {str(seed): account.charges for seed, account in sorted(accounts.items())},
        "repeated": sum(account.repeated for account in accounts.values()),
        "without_budget": sum(int((~account.ledger.may()).sum()) for account in last),
        "assumptions": [*assumptions(experiment), *started_from(experiment.config.init)],
        "certified": not guarantee.not_certified(),
    }
    if len({*each.tolist()}) > 1 or guarantee.budget.own:
        found["agents"] = [{"id": k, "epsilon": float(x), "budget": guarantee.budget.of(k)} for k, x in enumerate(each)]
    if guarantee.not_certified():
        found["not_certified"] = guarantee.not_certified()
    return found
