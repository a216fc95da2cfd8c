"""What a scheduler remembers: a board of arrays, one entry per agent or one for all."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fedrl.core.types import PyTree
from fedrl.server.decisions import Reports


class Bids(NamedTuple):
    """What bids for a budget of bytes cost.

    Attributes:
        names: What of the reports is bid, and not sent again with an update.
        bid_bytes: Size of a bid.
        repeated_bytes: What an update saves by not repeating it.
        least_bytes: Size of the smallest update after a bid.
        answer_bytes: Size of the answer to a bid.
    """

    names: tuple[str, ...]
    bid_bytes: int
    repeated_bytes: int
    least_bytes: int
    answer_bytes: int


class Board(NamedTuple):
    """All that a scheduler remembers, as arrays: `[agents]` or `[1]` unless said otherwise.

    Attributes:
        status: IDLE, BUSY, ABSENT or WAITING.
        turns: How often each was sent for, and was there.
        done: Turns each has ended; one that was away is not behind the others.
        ended: The last of its turns that each has ended: what arrives of one up to that has been counted.
        started_from: The version that each works on.
        delay: How many versions ago what an agent is sent was made.
        allowed: Who may be sent for.
        steps: Local steps that each is asked for.
        steps_begun: Local steps of the turn that each began last.
        failing: Whose training came to nothing, since an update last arrived.
        version: Of what may be worked on.
        deadline_s: When the server stops waiting.
        begun: Whether anybody has begun since the version was opened.
        arrived: Agents whose updates arrived since then, in their order, `[n]`.
        age: How many versions ago what each started from was opened, int32 `[n]`.
        taken: Local steps behind their updates, `[n]`.
        unread: How many messages of each could not be read since then.
        reports: What they reported, by name, `[n]` each.
        sizes: Bytes of their updates, `[n]`.
        selection, workload, admission: What these remember.
        key: Numbers from which the generators of rounds are made, and the seed of the run at last.
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
