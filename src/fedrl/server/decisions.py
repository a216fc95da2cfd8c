"""What selection, workloads and admission are: a server's decisions, on the host, from what agents told it.

plan, choose --> a round of those chosen --told--> hear --> the next round's plan
                 they train, bid --> admit --> the updates of those admitted
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fedrl.core.aggregator import Arrivals
from fedrl.core.component import Call, record
from fedrl.core.types import PyTree

Reports: TypeAlias = Mapping[str, np.ndarray]
STEPS = "steps"
"""By this name a workload hears how many local steps are behind an update."""


@record
class Selection:
    """Who is asked in a round.

    Attributes:
        choose: `(rng, ids, number, state) -> chosen`, whom of these agents a server asks in a round, by its number,
            from 1. They are all agents, or in a tree those of one server. The generator is derived from the run's key,
            the round and the server, so nothing depends on when a run was interrupted.
        init: `agents -> state`, NumPy arrays of a fixed shape.
        observe: `(arrivals, state, reports) -> state`: whose updates arrived in the round and how stale they were, as
            the engine knows, and what those agents said about themselves, each `[arrivals]`.
        requested: What they are to tell, see `fedrl.core.reports`.
    """

    choose: Callable[[np.random.Generator, np.ndarray, int, PyTree], np.ndarray]
    init: Callable[[int], PyTree] = lambda agents: ()
    observe: Callable[[Arrivals, PyTree, Reports], PyTree] = lambda arrivals, state, reports: state
    requested: tuple[str, ...] = ()
    call: Call | None = None


@record
class LocalSteps:
    """How many local steps each agent takes in a round.

    Attributes:
        plan: `(agents, number, state) -> steps`, int `[agents]`, each from 1 to `most`.
        most: The most that any agent is ever asked for: what programs are compiled for.
        init, asks: As those of a `Selection`.
        observe: Likewise; `reports` also has `STEPS`, how many local steps each took, as the engine knows: where agents
            begin at different times, those that were planned last are not those.
    """

    plan: Callable[[int, int, PyTree], np.ndarray]
    most: int
    init: Callable[[int], PyTree] = lambda agents: ()
    observe: Callable[[Arrivals, PyTree, Reports], PyTree] = lambda arrivals, state, reports: state
    requested: tuple[str, ...] = ()
    call: Call | None = None


@record
class UploadBudget:
    """Whose updates are sent, of those who have trained and told what theirs is worth.

    Attributes:
        select: `(rng, ids, left, state, reports, sizes) -> selected`, bool `[cohort]`, of updates of so many bytes
            each, so that those admitted take at most `left` bytes together. The generator is that of a `Selection`.
        budget_bytes: What a merge may take up, bids and updates of all agents together.
        requested: What agents tell in their bids, see `fedrl.core.reports`.
        init: `agents -> state`, NumPy arrays of a fixed shape.
        observe: `(ids, selected, state, reports) -> state`, once a round.
    """

    select: Callable[[np.random.Generator, np.ndarray, int, PyTree, Reports, np.ndarray], np.ndarray]
    budget_bytes: int
    requested: tuple[str, ...]
    init: Callable[[int], PyTree] = lambda agents: ()
    observe: Callable[[np.ndarray, np.ndarray, PyTree, Reports], PyTree] = lambda ids, selected, state, reports: state
    call: Call | None = None


class LastReports(NamedTuple):
    """The last number each agent told, float32 `[agents]`; NaN for one that never did."""

    value: np.ndarray


def no_reports(agents: int) -> LastReports:
    """Before anybody said anything."""
    return LastReports(np.full(agents, np.nan, np.float32))


def updated(state: LastReports, ids: np.ndarray, value: Any) -> LastReports:
    """What was known, with what was told now; a number that is not finite is no news."""
    after = state.value.copy()
    after[ids] = np.where(np.isfinite(value), value, after[ids])
    return LastReports(after)


def requested_reports(*rules: Selection | LocalSteps | UploadBudget | None) -> tuple[str, ...]:
    """What all of them ask of agents, each name once."""
    return tuple(dict.fromkeys(name for rule in rules if rule is not None for name in rule.requested))
