"""What the parts of a simulation tell each other: jobs, events and actions, in arrays of NumPy.

events -> scheduler.step -> actions -> clock.dispatch, executor.assign
^                            +----> topology.merge -> next version
+---- clock.peek -> executor.train
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

OPENED, ARRIVED, DROPPED, FAILED, AWAY, BACK, TIMER, HUNG, RESTARTED, MALFORMED = range(10)
"""Kinds of events. OPENED: a version may be worked on. ARRIVED, LOST, FAILED, HUNG, RESTARTED and MALFORMED end a job:
with an update, without one, with numbers that are not finite, without one after a hang, without one from an agent that
begins anew, with one that can't be read. AWAY: an agent that was sent for was not there; BACK: it is again. TIMER: a
time that the scheduler waited for has come."""
WITHOUT_UPDATE = (DROPPED, HUNG, RESTARTED)
"""What ends a job of which nothing arrives."""

NOBODY = np.zeros(0, int)


class Jobs(NamedTuple):
    """Agents that are sent for, `[n]` each.

    Attributes:
        agent: Their numbers.
        row: The row of the topology's table that each hears.
        steps: Local steps that each is asked for.
        cohort: How many hear the same with it.
        share: Its weight among all agents, as they are asked now.
    """

    agent: np.ndarray
    row: np.ndarray
    steps: np.ndarray
    cohort: np.ndarray
    share: np.ndarray


class Events(NamedTuple):
    """What happened, in the order of time: kinds, agents (-1 for none) and seconds, `[n]` each.

    `report` is what the agents of arrived updates say in them, by name, `[n]`; NaN for the others. `size_bytes` of an
    update that arrived, `[n]`. `dispatch` is which of its agent's turns ends, from 1 on, `[n]`; if it is empty, nothing
    arrives twice.
    """

    kind: np.ndarray
    agent: np.ndarray
    time_s: np.ndarray
    report: Mapping[str, np.ndarray] = {}
    size_bytes: np.ndarray = NOBODY
    dispatch: np.ndarray = NOBODY

    def of(self, which: np.ndarray) -> Events:
        """Some of the events, by a mask."""
        sizes, turn = (x[which] if len(x) else x for x in (self.size_bytes, self.dispatch))
        report = {name: column[which] for name, column in self.report.items()}
        return Events(self.kind[which], self.agent[which], self.time_s[which], report, sizes, turn)


class Actions(NamedTuple):
    """What a scheduler wants done.

    Attributes:
        dispatch: Agents that are sent for.
        since_s: The second at which each begins.
        cancel: Agents at work that are called back, as if they had not been sent for.
        merge: If not None, what each update that arrived since the last merge is scaled by, in the order of arrival,
            before a version is made of them; 0 rejects one. Empty if nothing is merged.
        wants: How many arrivals are of use at most until the next merge is due.
        wake_s: Until when to wait for them.
    """

    dispatch: np.ndarray = NOBODY
    since_s: np.ndarray = NOBODY
    cancel: np.ndarray = NOBODY
    merge: np.ndarray | None = None
    wants: int = 1
    wake_s: float = np.inf
