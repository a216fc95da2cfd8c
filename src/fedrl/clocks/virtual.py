"""Simulate time: durations follow from (seed, agent, job), so no event has to be drawn before its time.

Each agent has one next event: its update arrives or is dropped, or it comes online again. The times of these events are
one array, and the next ones are handled many at once, up to the first event that one of them might cause. A second
array has the times of duplicate updates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedrl.clocks.availability import OnlinePeriod, availability
from fedrl.clocks.counter_rng import Purpose, normal
from fedrl.clocks.devices import Clock, Speeds
from fedrl.clocks.events import ARRIVED, BACK, DROPPED, HUNG, TIMER, Events
from fedrl.clocks.faults import copies, ending, leaving
from fedrl.clocks.phases import Phases, phases
from fedrl.core.errors import NoMoreUpdatesError

LONGEST_S = 1e15
"""The last second of the clock; what would happen later never does."""


class ClockState(NamedTuple):
    """The state of the clock: NumPy arrays, `[agents]` each, that are updated in place.

    Attributes:
        now_s: The seconds since the start of the run, `[1]`.
        seed: The seed of the run, `[1]`.
        due_s: The second of each agent's next event; infinity if only a dispatch can cause one.
        kind: The kind of that event: BACK ends an absence, all others end a job.
        copy_s: The second at which a duplicate update arrives; infinity if none will.
        copy_turn: The number of the job that the duplicate belongs to.
        turns: The number of jobs that each agent has begun.
        work_s: The seconds of computing of the current job.
        down_s: The seconds of the last message to each agent, if its size differs from job to job; else 0.
        phase: As in `fedrl.clocks.availability.OnlinePeriod`.
        until_s: As in `fedrl.clocks.availability.OnlinePeriod`.
    """

    now_s: np.ndarray
    seed: np.ndarray
    due_s: np.ndarray
    kind: np.ndarray
    copy_s: np.ndarray
    copy_turn: np.ndarray
    turns: np.ndarray
    work_s: np.ndarray
    down_s: np.ndarray
    phase: np.ndarray
    until_s: np.ndarray


class Job(NamedTuple):
    """The next event of dispatched agents, `[n]`: the end of a job, or of an absence if they are offline."""

    due_s: np.ndarray
    kind: np.ndarray
    online: OnlinePeriod
    work_s: np.ndarray


class Virtual:
    """The clock of simulated devices."""

    timed = True

    def __init__(self, devices: Clock, speeds: Speeds, agents: int) -> None:
        self.devices, self.speeds, self.agents = devices, speeds, agents
        self.availability = availability(devices, agents)

    def start(self, seed: int) -> ClockState:
        """Return the state at the start of a run."""
        count = self.agents
        return ClockState(
            now_s=np.zeros(1),
            seed=np.full(1, seed, np.int64),
            due_s=np.full(count, np.inf),
            kind=np.zeros(count, np.int8),
            copy_s=np.full(count, np.inf),
            copy_turn=np.zeros(count, np.int32),
            turns=np.zeros(count, np.int32),
            work_s=np.zeros(count),
            down_s=np.zeros(count),
            phase=self.availability.start.phase.copy(),
            until_s=self.availability.start.until_s.copy(),
        )

    def now_s(self, state: ClockState) -> float:
        """Return the seconds since the start of the run."""
        return float(state.now_s[0])

    def dispatch(
        self, state: ClockState, ids: np.ndarray, since_s: np.ndarray, steps: np.ndarray, down_bytes: np.ndarray
    ) -> tuple[ClockState, np.ndarray]:
        """Begin jobs, and return the state and which agents are online, bool `[n]`.

        Args:
            state: The state of the clock.
            ids: The agents, `[n]`.
            since_s: The second at which each begins, `[n]`.
            steps: The local steps of each, `[n]`.
            down_bytes: The size of the message to each, `[n]`, where sizes differ; else empty.
        """
        down_s = down_bytes * self.speeds.byte_down_s[ids] if len(down_bytes) else np.zeros(len(ids))
        found = self._job(state, ids, since_s, steps, down_s)
        state.due_s[ids], state.kind[ids], state.work_s[ids] = found.due_s, found.kind, found.work_s
        state.phase[ids], state.until_s[ids] = found.online
        there = np.asarray(found.kind != BACK)
        state.down_s[ids[there]] = down_s[there]
        state.turns[ids[there]] += 1
        return state, there

    def peek(
        self, state: ClockState, until_s: float, wants: int, again: np.ndarray | None, one: bool
    ) -> tuple[ClockState, Events]:
        """Advance time, and return the next events; a `TIMER` if none happens until `until_s`.

        Args:
            state: The state of the clock.
            until_s: The second until which to wait.
            wants: The largest number of arrivals to return.
            again: The local steps of each agent, `[agents]`, if an agent may begin its next job after its event; else
                None.
            one: Whether to return a single event.

        Raises:
            NoMoreUpdatesError: No event will ever happen.
        """
        both_s = np.concatenate([state.due_s, state.copy_s]) if self.devices.duplicate else state.due_s
        at = _next(both_s, 1 if one else wants, until_s)
        if not len(at):
            if until_s > LONGEST_S:
                raise NoMoreUpdatesError(_forsaken(state))
            state.now_s[0] = until_s
            return state, Events(np.array([TIMER]), np.array([-1]), np.array([until_s]))
        at = at[: _through((at < self.agents) & (state.kind[at % self.agents] == ARRIVED), wants)]
        ids, own, when_s = at % self.agents, at < self.agents, both_s[at]
        copy_s = self._copies(state, ids, own, when_s)
        if again is not None:
            # The size of the next message is not known yet, so the earliest possible next event is used: zero bytes.
            none_s = np.zeros(len(ids))
            caused_s = np.where(own, self._job(state, ids, when_s, again[ids], none_s).due_s, np.inf)
            most = _undisturbed(when_s, np.minimum(caused_s, copy_s))
        else:
            most = min(_within_round(state, ids, own), _undisturbed(when_s, copy_s))
        ids, own, when_s, copy_s = ids[:most], own[:most], when_s[:most], copy_s[:most]
        turn = np.where(own, state.turns[ids], state.copy_turn[ids])
        events = Events(np.where(own, state.kind[ids], ARRIVED).astype(int), ids, when_s, dispatch=turn)
        # Who came back while a protocol went on is told of afterwards.
        state.now_s[0], mine = max(state.now_s[0], when_s[-1]), ids[own]
        # An agent has one event at a time: its slot is cleared here, and the next dispatch sets it.
        state.copy_s[ids[~own]] = np.inf
        state.copy_turn[mine] = np.where(np.isfinite(copy_s[own]), turn[own], state.copy_turn[mine])
        state.copy_s[mine] = np.minimum(state.copy_s[mine], copy_s[own])
        state.due_s[mine], state.kind[mine] = np.inf, DROPPED
        return state, events

    def phases(self, state: ClockState, ids: np.ndarray, sizes: Sequence[tuple[int, int]], deadline_s: float) -> Phases:
        """Return which agents leave in the phases of a protocol that begins now, and how long each phase takes.

        Args:
            state: The state of the clock.
            ids: The agents, `[n]`.
            sizes: For each phase the bytes of the message to an agent, and of its answer.
            deadline_s: Seconds after which a phase ends.
        """
        speeds, now_s = self.speeds, self.now_s(state)
        answer_s = [
            2.0 * speeds.latency_s[ids] + down * speeds.byte_down_s[ids] + up * speeds.byte_up_s[ids]
            for down, up in sizes
        ]
        drop_out, seed = self.devices.phase_drop_out, int(state.seed[0])
        return phases(answer_s, now_s, state.until_s[ids], deadline_s, drop_out, seed, ids, state.turns[ids])

    def advance(self, state: ClockState, seconds: float) -> ClockState:
        """Let seconds pass."""
        state.now_s[0] += seconds
        return state

    def cancel(self, state: ClockState, ids: np.ndarray) -> ClockState:
        """Cancel the running jobs of these agents."""
        state.due_s[ids], state.kind[ids] = np.inf, DROPPED
        return state

    def correct(self, known: np.ndarray, ids: np.ndarray, table: object) -> None:
        """Do nothing: in a simulation it is known which copy each agent has."""
        del known, ids, table

    def hanging(self, state: ClockState, ids: np.ndarray) -> int:
        """Return the number of these working agents whose jobs hang."""
        return int((state.kind[ids] == HUNG).sum())

    def soon(self, state: ClockState) -> np.ndarray:
        """Return the agents whose updates will arrive, in order of time."""
        ids = np.flatnonzero((state.kind == ARRIVED) & np.isfinite(state.due_s))
        return ids[np.argsort(state.due_s[ids], kind="stable")]

    def costs(self, state: ClockState, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the seconds of computing and of communication of arrived updates, `[n]` each."""
        return state.work_s[ids].copy(), self.speeds.messages_s[ids] + state.down_s[ids]

    def _job(
        self, state: ClockState, ids: np.ndarray, since_s: np.ndarray, steps: np.ndarray, down_s: np.ndarray
    ) -> Job:
        seed, turns, devices = int(state.seed[0]), state.turns[ids], self.devices
        online = self.availability.at(ids, OnlinePeriod(state.phase[ids], state.until_s[ids]), since_s, seed)
        pace = np.exp(devices.jitter * normal(seed, Purpose.JITTER, ids, turns)) if devices.jitter else 1.0
        work_s = steps * self.speeds.step_s[ids] * pace
        end_s = since_s + (self.speeds.messages_s[ids] + down_s) + work_s
        due_s, kind = ending(devices, seed, ids, turns, end_s)
        # An agent that is offline has one event, its return; one that goes offline ends its job then, without an
        # update.
        kind = np.where(online.there, leaving(end_s, due_s, kind, online.until_s), BACK)
        due_s = np.where(online.there, np.minimum(due_s, online.until_s), online.until_s)
        never = due_s > LONGEST_S
        due_s = np.where(never, np.inf, due_s)
        # However it would have ended: an agent whose event was handled has kind DROPPED, and no time either.
        kind = np.where(never & (kind != BACK) & (kind != HUNG), ARRIVED, kind)
        return Job(due_s, kind.astype(np.int8), online, work_s)

    def _copies(self, state: ClockState, ids: np.ndarray, own: np.ndarray, when_s: np.ndarray) -> np.ndarray:
        """Return when duplicates of the updates that arrive now will arrive; infinity for none."""
        if not self.devices.duplicate:
            return np.full(len(ids), np.inf)
        turns, seed = state.turns[ids] - 1, int(state.seed[0])
        found = copies(self.devices, seed, ids, turns, self.speeds.latency_s[ids], when_s)
        return np.where(own & (state.kind[ids] == ARRIVED), found, np.inf)


def _forsaken(state: ClockState) -> str:
    """Return the error message for a run in which no event will ever happen."""
    never = ~np.isfinite(state.due_s)
    away, slow = (np.flatnonzero(never & (state.kind == kind)) for kind in (BACK, ARRIVED))
    hang, agents = np.flatnonzero(state.kind == HUNG), len(state.kind)
    reasons, cures = [], []
    if len(away):
        reasons.append(f"{_who(away, agents)} left for good")
        cures.append("let agents return (offline_s, availability_trace)")
    if len(slow):
        one = "each of their updates" if len(slow) > 1 else "its update"
        reasons.append(f"{_who(slow, agents, 'is')} endlessly slow ({one} would arrive after {LONGEST_S:g} s)")
        cures.append("lower the times of slow agents (step_s, latency_s)")
    if len(hang):
        others = "" if len(hang) == agents or len(away) or len(slow) else " and no other one is at work"
        who = "every agent hangs" if len(hang) == agents else f"{len(hang)} agents hang{others}"
        reasons.append(f"{who}, and no hang is ever noticed (hang_s = inf)")
        cures.append("set the seconds after which a hang is noticed")
    if len(slow) or len(hang):
        cures.append("let the server cancel stragglers at a deadline")
    if len(away) + len(slow) + len(hang) < agents and not len(hang):
        reasons.append(f"no {'other ' if reasons else ''}selected agent is at work or will return")
        cures.append("select others")
    cure = ", ".join([*cures, "or plan fewer rounds"])
    return (
        f"At {state.now_s[0]:g} s on the virtual clock {_joined(reasons)}. No update will ever arrive. "
        f"{cure[0].upper()}{cure[1:]}."
    )


def _who(ids: np.ndarray, agents: int, verb: str = "has") -> str:
    """Return agents as the subject of a sentence, with its verb: "agents 0 and 2 have"."""
    if len(ids) == agents:
        return f"every agent {verb}"
    if len(ids) == 1:
        return f"agent {ids[0]} {verb}"
    many = {"has": "have", "is": "are"}[verb]
    return f"{len(ids)} agents {many}" if len(ids) > 3 else f"agents {_joined([str(k) for k in ids])} {many}"


def _joined(words: list[str]) -> str:
    """Return words with commas and "and".

    >>> _joined(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _next(due_s: np.ndarray, count: int, until_s: float) -> np.ndarray:
    """Return at least `count` agents whose events come next, in order of time; at equal times, of their numbers."""
    # A partition finds the time of the `count`-th event in O(agents); only the events before it are sorted.
    last = min(until_s, np.partition(due_s, count - 1)[count - 1] if count < len(due_s) else math.inf)
    ids = np.flatnonzero((due_s <= last) & np.isfinite(due_s))
    ids = ids[np.argsort(due_s[ids], kind="stable")]
    return ids[:1] if count == 1 else ids


def _through(arrives: np.ndarray, most: int) -> int:
    """Return the number of events until `most` updates have arrived."""
    arrived = np.cumsum(arrives)
    return int(np.searchsorted(arrived, most)) + 1 if arrived[-1] >= most else len(arrives)


def _within_round(state: ClockState, ids: np.ndarray, own: np.ndarray) -> int:
    """Return the number of events until no agent is at work; if none is, 1: until the first agent returns."""
    busy = np.isfinite(state.due_s) & (state.kind != BACK)
    last = np.flatnonzero(busy[ids] & own)
    if busy.any():
        return int(last[-1]) + 1 if len(last) == busy.sum() else len(ids)
    return 1


def _undisturbed(when_s: np.ndarray, caused_s: np.ndarray) -> int:
    """Return the number of events before the first that one of them causes; at least 1."""
    sooner = when_s[1:] < np.minimum.accumulate(caused_s)[:-1]
    return 1 + (len(sooner) if sooner.all() else int(np.argmin(sooner)))
