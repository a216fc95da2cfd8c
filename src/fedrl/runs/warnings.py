"""The alarm that federation hurts: some agent does better alone, and not by chance.

For each agent, and for the mean of all, the difference of its greedy returns alone and federated is paired by seed. The
alarm goes off where the lower end of its one-sided interval is above zero. Agents that either side left out are not
compared: see `shared_by_all`. The level is shared out among all these
tests (Bonferroni), so that a run in which federation hurts nobody raises an alarm in at most 5 % of cases, as far as
differences are normal. With fewer than three seeds there is no telling.
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
    "personal": "personal(learner, local=[...]) leaves a head or a critic with each agent",
    "interpolate": "interpolate(learner) takes over only a share of the global parameters",
    "accept_if_better": "accept_if_better(learner) lets an agent refuse what earns less at home",
    "fine_tuned": "evaluation.fine_tune = N lets every agent go on alone for N iterations afterwards",
}
NAMED = 8


def warnings_of(
    learner: Learner,
    federated: Sequence[Sequence[float | None]],
    alone: Sequence[Sequence[float | None]],
    fine_tuned: bool = False,
) -> list[RunWarning]:
    """The alarms of a run.

    Args:
        learner: What agents ran: a cure that is taken already is not advised.
        federated: `[seeds, agents]` greedy returns, None for who was left out.
        alone: The same of independent agents, of the same seeds.
        fine_tuned: Whether the run fine-tunes.
    """
    if min(len(federated), len(alone)) < FEWEST_SEEDS or len(federated) != len(alone):
        return []
    ours, theirs = np.asarray(federated, float), np.asarray(alone, float)
    in_both, agents = shared_by_all(theirs - ours)
    ours, theirs = ours[np.ix_(in_both, agents)], theirs[np.ix_(in_both, agents)]
    differences, seeds = theirs - ours, len(ours)
    if seeds < FEWEST_SEEDS or not agents.any():
        return []
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
