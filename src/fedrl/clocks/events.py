"""Define the messages between scheduler, clock, executor and topology: jobs, events and actions, as NumPy arrays.

events -> scheduler.step -> actions -> clock.dispatch, executor.assign
^                            +----> topology.merge -> next version
+---- clock.peek -> executor.train
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

OPENED, ARRIVED, DROPPED, FAILED, AWAY, BACK, TIMER, HUNG, RESTARTED, MALFORMED = range(10)
"""The kinds of events.

    OPENED      a version may be trained from
    ARRIVED     a job ended with an update
    DROPPED     a job ended without an update
    FAILED      a job ended with numbers that are not finite
    HUNG        a job that hung was noticed and ended
    RESTARTED   a job ended with a restart of the agent's process
    MALFORMED   a job ended with an unreadable message
    AWAY        a dispatched agent is offline
    BACK        an agent is online again
    TIMER       the time until which the scheduler waited has come
"""
WITHOUT_UPDATE = (DROPPED, HUNG, RESTARTED)
"""The kinds of events that end a job without any message."""

NOBODY = np.zeros(0, int)


class Jobs(NamedTuple):
    """The jobs of dispatched agents, `[n]` each.

    Attributes:
        agent: The numbers of the agents.
        row: The row of the topology's table of parameters that each receives.
        steps: The local steps of each job.
        cohort: The number of agents that receive the same parameters at the same time.
        share: The agent's weight divided by the weights of all agents, for the current local steps.
    """

    agent: np.ndarray
    row: np.ndarray
    steps: np.ndarray
    cohort: np.ndarray
    share: np.ndarray


class Events(NamedTuple):
    """Events in the order of time, `[n]` each.

    Attributes:
        kind: The kind of each event.
        agent: The number of the agent; -1 for none.
        time_s: The second of the event.
        report: The reports of arrived updates, keyed by name; NaN for other events. Of a version that is opened, the
            capacity of all agents, if it is known: `fedrl.server.decisions.Capacity`.
        size_bytes: The sizes of arrived updates in bytes.
        dispatch: The number of the agent's job that ends, counted from 1; empty if no update can arrive twice.
    """

    kind: np.ndarray
    agent: np.ndarray
    time_s: np.ndarray
    report: Mapping[str, np.ndarray] = {}
    size_bytes: np.ndarray = NOBODY
    dispatch: np.ndarray = NOBODY

    def of(self, which: np.ndarray) -> Events:
        """Return the events selected by a mask, bool `[n]`."""
        sizes, turn = (x[which] if len(x) else x for x in (self.size_bytes, self.dispatch))
        report = {name: column[which] for name, column in self.report.items()}
        return Events(self.kind[which], self.agent[which], self.time_s[which], report, sizes, turn)


class Actions(NamedTuple):
    """The decisions of a scheduler.

    Attributes:
        dispatch: The agents to dispatch.
        since_s: The second at which each begins.
        cancel: The agents whose running jobs are cancelled, as if they had not been dispatched.
        merge: None if no merge is due; else the factor of each update that has arrived since the last merge, in order
            of arrival. 0 rejects an update. Empty if the version ends without a merge.
        wants: The number of arrivals after which the next merge is due.
        wake_s: The second until which to wait for them.
    """

    dispatch: np.ndarray = NOBODY
    since_s: np.ndarray = NOBODY
    cancel: np.ndarray = NOBODY
    merge: np.ndarray | None = None
    wants: int = 1
    wake_s: float = np.inf
