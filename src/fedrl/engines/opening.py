"""The event that opens a version, with what rules want to know of agents at that moment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fedrl.clocks.events import OPENED, Events
from fedrl.engines.executors.executor import Executor
from fedrl.server.decisions import Capacity
from fedrl.server.scheduler import Scheduler


def opening(scheduler: Scheduler, executor: Executor, now_s: float, cohort: np.ndarray) -> Events:
    """Return the event that opens a version.

    Args:
        scheduler: The scheduler.
        executor: The executor, whose clock knows the capacity of agents where time is real.
        now_s: The second.
        cohort: The agents that may be selected, or -1 for the selection's; then what `left_out` returns.
    """
    known: dict[str, Any] = {}
    if scheduler.informed and executor.clock is not None:
        capacity: Capacity = executor.clock.capacity()
        known = capacity._asdict()
    return Events(np.full(len(cohort), OPENED), cohort, np.full(len(cohort), now_s), known)


def left_out(agents: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return the entries of an opening event for agents that take no part, whoever is selected.

    >>> left_out([0, 3]).tolist()
    [-2, -5]
    """
    return -2 - np.asarray(agents, int)
