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
from fedrl.core.errors import ConfigError
from fedrl.core.reports import DURATION
from fedrl.core.types import PyTree

Reports: TypeAlias = Mapping[str, np.ndarray]
STEPS = "steps"
"""The name under which rules observe the number of local steps of each update."""


class Capacity(NamedTuple):
    """What a server knows of its agents when it opens a version, where time is real; float `[agents]` each.

    Attributes:
        speed: Local steps per second, as measured, else as the agents say, else the mean of the others; NaN if nothing
            is known of any.
        reliability: Share of jobs whose update arrived, each agent counted with one more that did.
    """

    speed: np.ndarray
    reliability: np.ndarray


Informed: TypeAlias = Callable[[Capacity, PyTree], PyTree]


@record
class Selection:
    """A rule that selects the cohort of a round.

    Attributes:
        choose: `(rng, ids, number, state) -> chosen`: select from the agents `ids` for round `number`, counted from 1.
            `ids` are all agents, or in a tree those of one server. The generator is derived from the run's key, the
            round and the server, so an interrupted run continues with the same cohorts. With `sampling` it is a
            `fedrl.server.secret_draws.SecretDraws` instead, derived from the noise root.
        init: `agents -> state`, NumPy arrays of a fixed shape.
        observe: `(arrivals, state, reports) -> state`: the senders and staleness of the updates of the round, as the
            engine knows them, and the reports of these agents, each `[arrivals]`, with `STEPS`, the local steps of
            each update as the engine knows them.
        requested: The names of the reports that it needs: see `fedrl.core.reports`.
        informed: `(capacity, state) -> state`: before it chooses, where time is real.
        noted: `(chosen, number, state) -> state`: after the agents of a round are chosen, by it or by a caller.
        separation: The least number of rounds from one selection of an agent to its next one.
        sampling: The probability with which each agent is in a cohort, independently of all other agents and rounds
            (Poisson sampling). None: the rule selects otherwise.
        fixed_size: The size of the cohorts of each server, if every cohort of that size has the same probability,
            independently of other rounds. None: the rule selects otherwise.
        call: The constructor call that made the rule.
    """

    choose: Callable[[Any, np.ndarray, int, PyTree], np.ndarray]
    init: Callable[[int], PyTree] = lambda agents: ()
    observe: Callable[[Arrivals, PyTree, Reports], PyTree] = lambda arrivals, state, reports: state
    requested: tuple[str, ...] = ()
    informed: Informed | None = None
    noted: Callable[[np.ndarray, int, PyTree], PyTree] | None = None
    separation: int = 1
    sampling: float | None = None
    fixed_size: int | None = None
    call: Call | None = None


@record
class LocalSteps:
    """A rule that plans the number of local steps of each agent in a round.

    Attributes:
        plan: `(agents, number, state) -> steps`, int `[agents]`, each from 1 to `most`.
        most: The largest number that it ever plans, for which programs are compiled.
        init: As of a `Selection`.
        observe: As of a `Selection`. Where agents begin at different times, their local steps differ from those planned
            last.
        requested: As of a `Selection`.
        informed: As of a `Selection`, before it plans.
        call: The constructor call that made the rule.
    """

    plan: Callable[[int, int, PyTree], np.ndarray]
    most: int
    init: Callable[[int], PyTree] = lambda agents: ()
    observe: Callable[[Arrivals, PyTree, Reports], PyTree] = lambda arrivals, state, reports: state
    requested: tuple[str, ...] = ()
    informed: Informed | None = None
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


class StepTimes(NamedTuple):
    """Seconds per local step of each agent, float32 `[agents]`; NaN before they are known.

    Attributes:
        step_s: As measured.
        said_s: As known without a measurement of the rule, where time is real.
        reliability: Share of jobs that arrive; 1 where time is simulated.
    """

    step_s: np.ndarray
    said_s: np.ndarray
    reliability: np.ndarray

    @property
    def known_s(self) -> np.ndarray:
        """As measured, else as said."""
        return np.where(np.isfinite(self.step_s), self.step_s, self.said_s)


def no_pace(agents: int) -> StepTimes:
    """Return the state before anything is known."""
    unknown = np.full(agents, np.nan, np.float32)
    return StepTimes(unknown, unknown.copy(), np.ones(agents, np.float32))


def paced(arrivals: Arrivals, state: StepTimes, reports: Reports, memory: float) -> StepTimes:
    """Return the state with new durations, of which an estimate keeps `memory` of the past."""
    # Divided by the steps of the arrived update, not the planned ones: under asynchronous schedules they differ.
    ids = arrivals.sender
    now = reports[DURATION] / reports[STEPS]
    before = state.step_s[ids]
    after = np.where(np.isfinite(before), memory * before + (1.0 - memory) * now, now)
    step_s = state.step_s.copy()
    step_s[ids] = np.where(np.isfinite(now) & (now > 0.0), after, before)
    return state._replace(step_s=step_s)


def paced_by(capacity: Capacity, state: StepTimes) -> StepTimes:
    """Return the state with what is known of agents."""
    sound = np.isfinite(capacity.speed) & (capacity.speed > 0.0)
    said_s = np.where(sound, 1.0 / np.where(sound, capacity.speed, 1.0), np.nan).astype(np.float32)
    return state._replace(said_s=said_s, reliability=capacity.reliability.astype(np.float32))


def within(steps: np.ndarray, local_steps: LocalSteps) -> np.ndarray:
    """Return planned steps that programs can take.

    Raises:
        ConfigError: The rule plans more, or none.
    """
    if steps.min() < 1 or steps.max() > local_steps.most:
        raise ConfigError(
            f"{local_steps!r} plans {steps.tolist()} local steps. Programs take 1 to {local_steps.most}. Raise `most`."
        )
    return steps


def informed(rule: Selection | LocalSteps | None, report: Reports, state: PyTree) -> PyTree:
    """Return the state of a rule after it was told what `report` has of the agents' capacity, if anything."""
    if rule is None or rule.informed is None or not report:
        return state
    return rule.informed(Capacity(*(report[name] for name in Capacity._fields)), state)


def requested_reports(*rules: Selection | LocalSteps | UploadBudget | None) -> tuple[str, ...]:
    """Return the names of all requested reports, each once."""
    return tuple(dict.fromkeys(name for rule in rules if rule is not None for name in rule.requested))
