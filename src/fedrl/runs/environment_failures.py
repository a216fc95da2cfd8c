"""What a run does when environments fail: it tells of each failure, and ends if it has to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from fedrl.core.errors import FailedEnvironmentError
from fedrl.engines.environment_failures import EnvironmentFailure
from fedrl.engines.state import RoundResult
from fedrl.records import EnvironmentFailureRecord, Event, RejectedEvent

MOST_TOLD = 5
"""Failures of one seed of one method that are shown during the run; the records have all."""
IN_A_ROW = 2
"""Rounds in a row without any agent whose environments worked, after which a run ends."""


def records_of(failures: Sequence[EnvironmentFailure]) -> list[EnvironmentFailureRecord]:
    """Return failures as a record has them."""
    return [
        {
            "agent": each.agent,
            "copy": each.copy,
            "environment": each.environment,
            "step": each.step,
            "reason": each.reason,
            "traceback": each.traceback,
            "repeated": each.repeated,
        }
        for each in failures
    ]


def fault_of(failure: EnvironmentFailure, where: str = "") -> FailedEnvironmentError:
    """Return the error that ends a run, or an evaluation, at a failure."""
    trace = f"\n{failure.traceback}\n" if failure.traceback else ""
    return FailedEnvironmentError(f"{where}The environment of agent {failure.agent} failed: {failure.reason}.{trace}")


@dataclass
class FailureHistory:
    """The failures of environments in one seed of one method.

    Attributes:
        method: Name of the method.
        seed: Seed of the run.
        stops: Whether the first agent that is left out ends the run.
        emit: Function of an event.
        fail: Function of the error that ends the run.
    """

    method: str
    seed: int
    stops: bool
    emit: Callable[[Event], None]
    fail: Callable[[Exception], None]
    _told: set[int] = field(default_factory=set)
    _idle: int = 0

    def add(self, number: int, seen: RoundResult) -> None:
        """Tell of the failures of a round; let the run end if it has to."""
        left_out = [each for each in seen.failures if not each.repeated]
        worked = set() if seen.steps is None else set(np.flatnonzero(seen.steps).tolist())
        nobody = bool(left_out) and worked <= {each.agent for each in left_out}
        self._idle = self._idle + 1 if nobody else 0
        self.tell(number, seen.failures)
        where = f"{self.method}, seed {self.seed}, round {number}: "
        if left_out and self.stops:
            self.fail(fault_of(left_out[0], where))
        elif self._idle == IN_A_ROW:
            fault = fault_of(left_out[0], where)
            self.fail(
                FailedEnvironmentError(f"In {IN_A_ROW} rounds in a row the environments of all agents failed. {fault}")
            )

    def tell(self, number: int, failures: Sequence[EnvironmentFailure], evaluating: bool = False) -> None:
        """Emit an event for the first failure of each agent."""
        for each in failures:
            if each.agent in self._told or len(self._told) >= MOST_TOLD:
                continue
            self._told.add(each.agent)
            event: RejectedEvent = {
                "event": "rejected",
                "method": self.method,
                "seed": self.seed,
                "round": number,
                "agents": [each.agent],
                "reason": each.reason,
                "handled": ("an episode" if evaluating else "its round") + " repeated" if each.repeated else "left out",
                "traceback": each.traceback,
            }
            self.emit(event)
