"""Define a server's decisions: selection, local steps and upload budget, made on the host from agents' reports.

plan, choose --> the selected agents train --updates and reports--> observe --> the next round's plan
                                         --bids--> select --> the updates that are sent
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
"""The name under which `LocalSteps.observe` receives the number of local steps of each update."""


@record
class Selection:
    """A rule that selects the cohort of a round.

    Attributes:
        choose: `(rng, ids, number, state) -> chosen`: select from the agents `ids` for round `number`, counted from 1.
            `ids` are all agents, or in a tree those of one server. The generator is derived from the run's key, the
            round and the server, so an interrupted run continues with the same cohorts.
        init: `agents -> state`, NumPy arrays of a fixed shape.
        observe: `(arrivals, state, reports) -> state`: the senders and staleness of the updates of the round, as the
            engine knows them, and the reports of these agents, each `[arrivals]`.
        requested: The names of the reports that it needs: see `fedrl.core.reports`.
        call: The constructor call that made the rule.
    """

    choose: Callable[[np.random.Generator, np.ndarray, int, PyTree], np.ndarray]
    init: Callable[[int], PyTree] = lambda agents: ()
    observe: Callable[[Arrivals, PyTree, Reports], PyTree] = lambda arrivals, state, reports: state
    requested: tuple[str, ...] = ()
    call: Call | None = None


@record
class LocalSteps:
    """A rule that plans the number of local steps of each agent in a round.

    Attributes:
        plan: `(agents, number, state) -> steps`, int `[agents]`, each from 1 to `most`.
        most: The largest number that it ever plans, for which programs are compiled.
        init: As of a `Selection`.
        observe: As of a `Selection`; `reports` also has `STEPS`, the local steps of each update as the engine knows
            them. Where agents begin at different times, they differ from those planned last.
        requested: As of a `Selection`.
        call: The constructor call that made the rule.
    """

    plan: Callable[[int, int, PyTree], np.ndarray]
    most: int
    init: Callable[[int], PyTree] = lambda agents: ()
    observe: Callable[[Arrivals, PyTree, Reports], PyTree] = lambda arrivals, state, reports: state
    requested: tuple[str, ...] = ()
    call: Call | None = None


@record
class UploadBudget:
    """A rule that selects which updates are sent, from the bids of agents that have trained.

    Attributes:
        select: `(rng, ids, left, state, reports, sizes) -> selected`, bool `[cohort]`: select updates of `sizes` bytes
            each, so that the selected ones take at most `left` bytes together. The generator is derived as for a
            `Selection`.
        budget_bytes: The bytes that bids and updates of all agents together may take until a merge.
        requested: The names of the reports that agents send as bids: see `fedrl.core.reports`.
        init: `agents -> state`, NumPy arrays of a fixed shape.
        observe: `(ids, selected, state, reports) -> state`, once per round.
        call: The constructor call that made the rule.
    """

    select: Callable[[np.random.Generator, np.ndarray, int, PyTree, Reports, np.ndarray], np.ndarray]
    budget_bytes: int
    requested: tuple[str, ...]
    init: Callable[[int], PyTree] = lambda agents: ()
    observe: Callable[[np.ndarray, np.ndarray, PyTree, Reports], PyTree] = lambda ids, selected, state, reports: state
    call: Call | None = None


class LastReports(NamedTuple):
    """The last reported scalar of each agent, float32 `[agents]`; NaN before there is one."""

    value: np.ndarray


def no_reports(agents: int) -> LastReports:
    """Return the state before any agent has reported."""
    return LastReports(np.full(agents, np.nan, np.float32))


def updated(state: LastReports, ids: np.ndarray, value: Any) -> LastReports:
    """Return the state with the new reports of the agents `ids`; a report that is not finite changes nothing."""
    after = state.value.copy()
    after[ids] = np.where(np.isfinite(value), value, after[ids])
    return LastReports(after)


def requested_reports(*rules: Selection | LocalSteps | UploadBudget | None) -> tuple[str, ...]:
    """Return the names of all requested reports, each once."""
    return tuple(dict.fromkeys(name for rule in rules if rule is not None for name in rule.requested))
