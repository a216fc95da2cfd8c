"""The log of a coordinator: everything that its scheduler was told, from which the run can be computed again.

    coordinator   clock --Opened, Dispatched, Happened, Collected--> events.jsonl, a line per round
    checker       events.jsonl --ReplayClock, in place of a clock--> simulate(..., block=1) --> the same bits

Keys follow from versions, agents and jobs, and a scheduler decides from its events alone. So a simulation that is told
the same events computes the same parameters, whatever dropped out, came late, came twice or was refused. The keys of
all parties have to be known for that, as they are in a run that is `replayable`.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Container, Iterable
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from fedrl.clocks.events import ARRIVED, FAILED, NOBODY, Events
from fedrl.core.errors import RunError
from fedrl.engines.executors.executor import Executor
from fedrl.engines.executors.placement import Placement, executor_of
from fedrl.server.decisions import Capacity


class Dispatched(NamedTuple):
    """The scheduler dispatched agents, and was told which of them were there.

    Attributes:
        agent, there: One entry per agent.
        now_s: The second that the clock was asked for last before that, such as that in which the round began; NaN if
            it is not known.
    """

    agent: list[int]
    there: list[bool]
    now_s: float = math.nan


class Happened(NamedTuple):
    """Events that the scheduler was told, one entry each.

    Attributes:
        kind, agent, time_s, dispatch: As of `fedrl.clocks.events.Events`.
        work_s: Seconds between task and update, of arrivals; else NaN.
        now_s: As of `Dispatched`.
    """

    kind: list[int]
    agent: list[int]
    time_s: list[float]
    dispatch: list[int]
    work_s: list[float]
    now_s: float = math.nan

    @property
    def events(self) -> Events:
        """The events as the scheduler takes them."""
        kind, agent, when, job = (np.array(x) for x in (self.kind, self.agent, self.time_s, self.dispatch))
        return Events(kind, agent, when, dispatch=job)

    def without_failures(self, failed: Container[tuple[int, int]]) -> Happened:
        """Return the events with the jobs that failed, by agent and job, marked as such.

        An executor finds out by itself that a job has failed; who replays the log can't, so the log says it.
        """
        jobs = zip(self.kind, self.agent, self.dispatch, strict=True)
        return self._replace(kind=[FAILED if (agent, job) in failed else kind for kind, agent, job in jobs])


class Collected(NamedTuple):
    """Under an upload budget: the agents that had bid, and whose updates came after they were asked for."""

    agent: list[int]
    came: list[bool]


class Summed(NamedTuple):
    """Where sums hide updates: the agents whose updates were to be summed, and which of them are in the sum.

    If it stayed hidden, none is.
    """

    agent: list[int]
    included: list[bool]


class Opened(NamedTuple):
    """Where a rule wants to know it: the capacity of all agents when a version was opened."""

    speed: list[float]
    reliability: list[float]


class Corrected(NamedTuple):
    """Under down stages: agents had other copies than those that they were sent last, as they said when they connected.

    Attributes:
        agent: Numbers of these agents.
        copy: Numbers of their copies; -1 for a copy that the server does not know, and for none.
    """

    agent: list[int]
    copy: list[int]


Entry: TypeAlias = Dispatched | Happened | Collected | Opened | Corrected | Summed
KINDS = {
    **{"dispatched": Dispatched, "happened": Happened, "collected": Collected},
    **{"opened": Opened, "corrected": Corrected, "summed": Summed},
}


def line_of(round_number: int, entries: Iterable[Entry]) -> str:
    """Return the entries of a round as a line of JSON."""
    return json.dumps({"round": round_number, "told": [_table(entry) for entry in entries]}, separators=(",", ":"))


def _table(entry: Entry) -> dict[str, Any]:
    named, columns = {kind: name for name, kind in KINDS.items()}, entry._asdict()
    now_s = columns.pop("now_s", math.nan)
    table = {named[type(entry)]: [_plain(column) for column in columns.values()]}
    return table if math.isnan(now_s) else {**table, "now_s": now_s}


def entries_of(lines: Iterable[str]) -> list[Entry]:
    """Read the entries of lines.

    Raises:
        RunError: A line is none of a log.
    """
    found: list[Entry] = []
    for line in lines:
        try:
            for told in json.loads(line)["told"]:
                # Logs of earlier versions don't have the second.
                second = {"now_s": float(told.pop("now_s"))} if "now_s" in told else {}
                ((name, columns),) = told.items()
                given = ([np.nan if x is None else x for x in column] for column in columns)
                found.append(KINDS[name](*given, **second))
        except (ValueError, KeyError, TypeError, AttributeError) as fault:
            raise RunError(f"{line[:60]!r} is no line of a coordinator's log. It is damaged. Restore it.") from fault
    return found


def _plain(column: list[Any]) -> list[Any]:
    return [None if isinstance(x, float) and math.isnan(x) else x for x in column]  # JSON has no NaN


class ReplayClock:
    """A clock that tells a simulation what a scheduler was told before.

    Args:
        entries: The log.
    """

    timed = True

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._left = deque(entries)
        self._work_s: dict[int, float] = {}
        self._now_s = 0.0

    @property
    def finished(self) -> bool:
        """Whether everything was told."""
        return not self._left

    def start(self, seed: int) -> tuple[()]:
        """Return the state at the start, which is nothing."""
        del seed
        return ()

    def now_s(self, state: tuple[()]) -> float:
        """Return the second that the clock of the run told before its next entry; else that of the last event."""
        del state
        # The scheduler may decide by it: the deadline of a round follows from the second in which the round began.
        told_s = getattr(self._left[0], "now_s", math.nan) if self._left else math.nan
        return self._now_s if math.isnan(told_s) else told_s

    def _next(self, kind: type[Any]) -> Any:
        if not self._left or not isinstance(self._left[0], kind):
            found = type(self._left[0]).__name__ if self._left else "the end"
            raise RunError(f"The log goes on with {found}, and the scheduler does with {kind.__name__}: they differ.")
        return self._left.popleft()

    def dispatch(
        self, state: tuple[()], ids: np.ndarray, since_s: np.ndarray, steps: np.ndarray, down_bytes: np.ndarray
    ) -> tuple[tuple[()], np.ndarray]:
        """Return which of these agents were there.

        Raises:
            RunError: Other agents were dispatched.
        """
        del since_s, steps, down_bytes
        told: Dispatched = self._next(Dispatched)
        if told.agent != ids.tolist():
            raise RunError(f"The scheduler dispatches agents {ids.tolist()}, and did {told.agent}: the log differs.")
        return state, np.array(told.there, bool)

    def peek(
        self, state: tuple[()], until_s: float, wants: int, again: np.ndarray | None, one: bool
    ) -> tuple[tuple[()], Events]:
        """Return the events that happened next."""
        del until_s, wants, again, one
        told: Happened = self._next(Happened)
        self._now_s = max(told.time_s)
        for kind, agent, work_s in zip(told.kind, told.agent, told.work_s, strict=True):
            if kind == ARRIVED:
                self._work_s[agent] = work_s
        return state, told.events

    def capacity(self) -> Capacity:
        """Return what was known of the agents when the version was opened."""
        told: Opened = self._next(Opened)
        return Capacity(np.array(told.speed), np.array(told.reliability))

    def collect(self, ids: np.ndarray, wanted: np.ndarray, within_s: float) -> tuple[np.ndarray, dict[int, str]]:
        """Return whose updates came after their bids, and no reasons.

        Raises:
            RunError: Other agents had bid.
        """
        del wanted, within_s
        told: Collected = self._next(Collected)
        if told.agent != ids.tolist():
            raise RunError(f"Agents {ids.tolist()} have bid, and {told.agent} had: the log differs.")
        return np.array(told.came, bool), {}

    def summed(self, ids: np.ndarray) -> np.ndarray:
        """Return which of these agents were in the secure sum of their updates; none if it stayed hidden.

        Raises:
            RunError: The updates of other agents were to be summed.
        """
        told: Summed = self._next(Summed)
        if sorted(told.agent) != sorted(ids.tolist()):
            raise RunError(f"Updates of agents {ids.tolist()} are summed, and of {told.agent} were: the log differs.")
        included = dict(zip(told.agent, told.included, strict=True))
        return np.array([included[agent] for agent in ids.tolist()], bool)

    def cancel(self, state: tuple[()], ids: np.ndarray) -> tuple[()]:
        """Do nothing: a cancelled job has no event."""
        del ids
        return state

    def correct(self, known: np.ndarray, ids: np.ndarray, table: object) -> None:
        """Correct the numbers of the copies of agents, `known`, as the coordinator did."""
        del ids, table
        if self._left and isinstance(self._left[0], Corrected):
            told: Corrected = self._next(Corrected)
            known[told.agent] = told.copy

    def hanging(self, state: tuple[()], ids: np.ndarray) -> int:
        """Return 0."""
        del state, ids
        return 0

    def advance(self, state: tuple[()], seconds: float) -> tuple[()]:
        """Return the state unchanged: the log has the second of each event."""
        del seconds
        return state

    def soon(self, state: tuple[()]) -> np.ndarray:
        """Return nobody."""
        del state
        return NOBODY

    def costs(self, state: tuple[()], ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the seconds between task and update, and 0 for messages."""
        del state
        return np.array([self._work_s[agent] for agent in ids.tolist()]), np.zeros(len(ids))


def replaying(clock: ReplayClock) -> Placement:
    """Return the executor of this process, with a clock that replays a log. Use it with `block=1`."""

    def build(*given: Any, **options: Any) -> Executor:
        federation = given[0]
        executor = executor_of(None, federation)(*given[:4], jax.local_devices()[:1], *given[5:], **options)
        executor.clock = clock
        return executor

    return Placement(build, live=True, replayable=True)
