"""The warning that federation hurts: some agent does better alone, beyond chance.

For each agent, and for the mean of all, the difference of its greedy returns alone and federated is paired by seed. A
warning is due where the lower end of its one-sided interval is above zero. Agents that either method leaves out are not
compared: see `shared_by_all`. The level is divided among all these tests (Bonferroni), so that a run in which
    federation hurts no agent has a warning in at most 5 % of cases, if differences are normal. With fewer than three
    seeds there is no warning.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedrl.core.learner import Learner
from fedrl.records import NegativeTransfer, RunWarning
from fedrl.records.formatting import short
from fedrl.records.statistics import lower_end, shared_by_all

LEVEL = 0.95
FEWEST_SEEDS = 3
REMEDIES = {
    "personal": "personal(learner, local=[...]) keeps a head or a critic at each agent",
    "interpolate": "interpolate(learner) mixes the global parameters with the agent's own",
    "accept_if_better": "accept_if_better(learner) adopts global parameters only if they do as well as the agent's own",
    "fine_tuned": "evaluation.fine_tune = N trains every agent alone for N iterations after the federation",
}
NAMED = 8


def warnings_of(
    learner: Learner,
    federated: Sequence[Sequence[float | None]],
    alone: Sequence[Sequence[float | None]],
    fine_tuned: bool = False,
) -> list[RunWarning]:
    """Return the warnings of a run, with remedies that it does not use yet.

    Args:
        learner: The learner of the agents.
        federated: Greedy returns, `[seeds, agents]`; None for an agent that was left out.
        alone: The same for independent agents, with the same seeds.
        fine_tuned: Whether the run fine-tunes.
    """
    if min(len(federated), len(alone)) < FEWEST_SEEDS or len(federated) != len(alone):
        return []
    ours, theirs = np.asarray(federated, float), np.asarray(alone, float)
    # A difference is missing if either return is, so this keeps the agents that both methods have in all seeds.
    in_both, agents = shared_by_all(theirs - ours)
    ours, theirs = ours[np.ix_(in_both, agents)], theirs[np.ix_(in_both, agents)]
    differences, seeds = theirs - ours, len(ours)
    if seeds < FEWEST_SEEDS or not agents.any():
        return []
    # One test for each agent and one for their mean.
    level = 1.0 - (1.0 - LEVEL) / (agents.sum() + 1)
    negative_transfer: list[NegativeTransfer] = [
        {"id": int(k), "federated": ours[:, i].mean(), "independent": theirs[:, i].mean(), "at_least": low}
        for i, k in enumerate(np.flatnonzero(agents))
        if (low := lower_end(differences[:, i], level)) > 0.0
    ]
    everybody = lower_end(differences.mean(1), level) > 0.0
    if not negative_transfer and not everybody:
        return []
    taken = {*learner.personalised, *(("fine_tuned",) if fine_tuned else ())}
    remedies = [remedy for name, remedy in REMEDIES.items() if name not in taken]
    return [
        {
            "kind": "federation_hurts",
            "agents": negative_transfer,
            "everybody": everybody,
            "message": _told(negative_transfer, everybody, seeds),
            "remedies": remedies,
        }
    ]


def _told(negative_transfer: Sequence[NegativeTransfer], everybody: bool, seeds: int) -> str:
    named = [
        f"agent {a['id']} returns {short(a['independent'])} alone and {short(a['federated'])} federated"
        for a in negative_transfer[:NAMED]
    ]
    more = [f"{len(negative_transfer) - NAMED} more agents do better alone"] if len(negative_transfer) > NAMED else []
    whole = ["the mean of all agents is higher alone"] if everybody else []
    return f"Federation hurts: {', '.join(whole + named + more)} (paired over {seeds} seeds, beyond chance)."
