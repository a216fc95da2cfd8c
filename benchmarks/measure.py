"""How a figure is measured: after a warm-up, several times, in pairs where two things are compared."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import NoReturn

LEFT_OUT = 77
"""How a benchmark ends that cannot run here, as Automake's tests do."""


@dataclass(frozen=True)
class Figure:
    """One measured number, and what it was meant to reach.

    `at_least` says in which direction the goal lies.
    """

    what: str
    value: float
    goal: float
    unit: str = ""
    at_least: bool = True

    @property
    def reached(self) -> bool:
        return self.value >= self.goal if self.at_least else self.value <= self.goal


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def typical(work: Callable[[], object], times: int = 7) -> float:
    """Median wall time of several calls, after one that does not count."""
    work()
    return median(seconds(work) for _ in range(times))


def ratio(slow: Callable[[], object], fast: Callable[[], object], pairs: int = 7) -> float:
    """How many times longer `slow` takes: the median over alternating pairs, so that a drifting machine cancels."""
    slow(), fast()
    return median(seconds(slow) / seconds(fast) for _ in range(pairs))


def peak_gigabytes() -> float:
    """The largest memory this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def leave_out(reason: str) -> NoReturn:
    """Say in a sentence what is missing and how to get it, and end without counting as failed."""
    print(reason, flush=True)
    raise SystemExit(LEFT_OUT)


def emit(*figures: Figure) -> None:
    """Print figures, a JSON object a line, for the collecting process; NumPy's numbers count as numbers."""
    for figure in figures:
        print(json.dumps(asdict(figure), default=float), flush=True)
