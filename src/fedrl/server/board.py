"""Define the state of a scheduler: a board of arrays with one entry per agent, or one for all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedrl.clocks.events import NOBODY
from fedrl.core.types import PyTree
from fedrl.server.decisions import Reports


class Bids(NamedTuple):
    """The sizes of bids for an upload budget, in bytes.

    Attributes:
        names: The reports that are sent as bids, and not again with an update.
        bid_bytes: The size of a bid.
        repeated_bytes: The bytes that an update saves by not repeating the bid.
        least_bytes: The size of the smallest update after a bid.
        answer_bytes: The size of the answer to a bid.
    """

    names: tuple[str, ...]
    bid_bytes: int
    repeated_bytes: int
    least_bytes: int
    answer_bytes: int


class Board(NamedTuple):
    """The state of a scheduler as arrays: `[agents]` or `[1]` unless said otherwise.

    Attributes:
        status: IDLE, BUSY, ABSENT or WAITING.
        turns: The number of jobs that each agent has begun.
        done: The number of jobs that each agent has ended; for an agent that returns, raised to that of the slowest.
        ended: The number of the last job that each agent has ended: a later arrival of that job is a duplicate.
        started_from: The version that each agent trains from.
        delay: The number of versions by which the parameters sent to each agent are delayed.
        allowed: Whether each agent may be dispatched.
        steps: The planned local steps of each agent.
        steps_begun: The local steps of each agent's latest job.
        failing: Whether each agent's training has failed since an update last arrived.
        version: The current version.
        deadline_s: The time at which the server stops waiting.
        begun: Whether a job has begun since the version was opened.
        arrived: The agents whose updates have arrived since then, in order of arrival, `[n]`.
        age: The staleness of these updates in versions, int32 `[n]`.
        taken: The local steps of these updates, `[n]`.
        unread: The number of unreadable messages of each agent since then.
        reports: The reports with these updates, keyed by name, `[n]` each.
        sizes: The sizes of these updates in bytes, `[n]`.
        selection: The state of the selection.
        local_steps: The state of the local-steps rule.
        upload_budget: The state of the upload budget.
        key: The numbers from which the generators of rounds are seeded; the last one is the seed of the run.
    """

    status: np.ndarray
    turns: np.ndarray
    done: np.ndarray
    ended: np.ndarray
    started_from: np.ndarray
    delay: np.ndarray
    allowed: np.ndarray
    steps: np.ndarray
    steps_begun: np.ndarray
    failing: np.ndarray
    version: np.ndarray
    deadline_s: np.ndarray
    begun: np.ndarray
    arrived: np.ndarray
    age: np.ndarray
    taken: np.ndarray
    unread: np.ndarray
    reports: Reports
    sizes: np.ndarray
    selection: PyTree
    local_steps: PyTree
    upload_budget: PyTree
    key: np.ndarray


def first_board(steps: np.ndarray, delay: np.ndarray, states: Sequence[PyTree], key: Sequence[int]) -> Board:
    """Return the board before the first event.

    Args:
        steps: `[agents]`, the local steps of each agent.
        delay: `[agents]`, the delay of each agent, in versions.
        states: The states of the selection, the local-steps rule and the upload budget.
        key: The numbers from which the generators of rounds are seeded.
    """
    agents = len(steps)
    return Board(
        status=np.zeros(agents, np.int8),
        turns=np.zeros(agents, np.int32),
        done=np.zeros(agents, np.int32),
        ended=np.zeros(agents, np.int32),
        started_from=np.full(agents, -1, np.int32),
        delay=delay,
        allowed=np.ones(agents, bool),
        steps=np.asarray(steps, np.int32).copy(),
        steps_begun=np.zeros(agents, np.int32),
        failing=np.zeros(agents, bool),
        version=np.zeros(1, np.int32),
        deadline_s=np.full(1, np.inf),
        begun=np.zeros(1, bool),
        arrived=NOBODY,
        age=NOBODY,
        taken=NOBODY,
        unread=np.zeros(agents, np.int32),
        reports={},
        sizes=NOBODY,
        selection=states[0],
        local_steps=states[1],
        upload_budget=states[2],
        key=np.asarray(key, np.int64),
    )
