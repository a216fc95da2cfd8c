"""The event that opens a version, with what rules want to know of agents at that moment."""

from __future__ import annotations

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
        cohort: The agents that may be selected, or -1 for the selection's.
    """
    known: dict[str, Any] = {}
    if scheduler.informed and executor.clock is not None:
        capacity: Capacity = executor.clock.capacity()
        known = capacity._asdict()
    return Events(np.full(len(cohort), OPENED), cohort, np.full(len(cohort), now_s), known)
