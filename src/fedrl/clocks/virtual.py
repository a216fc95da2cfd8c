"""Simulated seconds: what takes how long follows from (seed, agent, turn), so no event has to be drawn before its time.

One event lies ahead of every agent: its update arrives or is lost, or it comes back. All of them are one array of
times, and the next ones are dealt with many at once: up to the first that one of them might cause. A second array has
the updates that arrive once more.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from fedrl.clocks.availability import OnlinePeriod, availability
from fedrl.clocks.counter_rng import Purpose, normal
from fedrl.clocks.devices import Clock, Speeds
from fedrl.clocks.events import ARRIVED, BACK, DROPPED, HUNG, TIMER, Events
from fedrl.clocks.faults import copies, ending, leaving
from fedrl.core.errors import ConfigError


class ClockState(NamedTuple):
    """The state of the clock: NumPy arrays, `[agents]` each, that are brought up to date in place.

    Attributes:
        now_s: Seconds since the beginning, `[1]`.
        seed: Of the run, `[1]`.
        due_s: When the next event of each agent is; infinity if only a dispatch can bring one.
        kind: What it is: BACK ends an absence, all else a turn.
        copy_s: When an update arrives once more; infinity if none will.
        copy_turn: Of which turn it is.
        turns: How often each was sent for and was there.
        work_s: Seconds that they take.
        down_s: Seconds that what each was sent last took, if its size differs from turn to turn; else 0.
        phase, until_s: As in `fedrl.clocks.availability.OnlinePeriod`.
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
    """What lies ahead of agents that are sent for: an update, its loss, or an absence if they are away."""

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
        """Begin a run."""
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
        """Seconds since the beginning."""
        return float(state.now_s[0])

    def dispatch(
        self, state: ClockState, ids: np.ndarray, since_s: np.ndarray, steps: np.ndarray, down_bytes: np.ndarray
    ) -> tuple[ClockState, np.ndarray]:
        """They begin, each at its own second; returns who was there to begin.

        `down_bytes` are those of what each is sent, `[n]`, where they differ; empty where they do not.
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
        """The next events, at most so many arrivals; a `TIMER` if there are none until then. Time goes on to the last.

        Args:
            state: Of the clock.
            until_s: How long to wait.
            wants: How many arrivals.
            again: `[agents]`, the local steps for which an event may send its agent off again; None if none does.
            one: One event only.

        Raises:
            ConfigError: Nothing will ever happen.
        """
        both_s = np.concatenate([state.due_s, state.copy_s]) if self.devices.duplicate else state.due_s
        at = _next(both_s, 1 if one else wants, until_s)
        if not len(at):
            if not math.isfinite(until_s):
                raise ConfigError(_forsaken(state))
            state.now_s[0] = until_s
            return state, Events(np.array([TIMER]), np.array([-1]), np.array([until_s]))
        at = at[: _through((at < self.agents) & (state.kind[at % self.agents] == ARRIVED), wants)]
        ids, own, when_s = at % self.agents, at < self.agents, both_s[at]
        copy_s = self._copies(state, ids, own, when_s)
        if again is not None:
            none_s = np.zeros(len(ids))  # what will be sent is not known yet; it takes no less
            caused_s = np.where(own, self._job(state, ids, when_s, again[ids], none_s).due_s, np.inf)
            most = _undisturbed(when_s, np.minimum(caused_s, copy_s))
        else:
            most = min(_within_round(state, ids, own), _undisturbed(when_s, copy_s))
        ids, own, when_s, copy_s = ids[:most], own[:most], when_s[:most], copy_s[:most]
        turn = np.where(own, state.turns[ids], state.copy_turn[ids])
        events = Events(np.where(own, state.kind[ids], ARRIVED).astype(int), ids, when_s, dispatch=turn)
        state.now_s[0], mine = when_s[-1], ids[own]
        state.copy_s[ids[~own]] = np.inf
        state.copy_turn[mine] = np.where(np.isfinite(copy_s[own]), turn[own], state.copy_turn[mine])
        state.copy_s[mine] = np.minimum(state.copy_s[mine], copy_s[own])
        state.due_s[mine], state.kind[mine] = np.inf, DROPPED
        return state, events

    def cancel(self, state: ClockState, ids: np.ndarray) -> ClockState:
        """They do not arrive."""
        state.due_s[ids], state.kind[ids] = np.inf, DROPPED
        return state

    def hanging(self, state: ClockState, ids: np.ndarray) -> int:
        """How many of these agents, who are at work, hang."""
        return int((state.kind[ids] == HUNG).sum())

    def soon(self, state: ClockState) -> np.ndarray:
        """Who will arrive, the first ones first."""
        ids = np.flatnonzero((state.kind == ARRIVED) & np.isfinite(state.due_s))
        return ids[np.argsort(state.due_s[ids], kind="stable")]

    def costs(self, state: ClockState, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Seconds of work and of messages behind updates that arrived."""
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
        kind = np.where(online.there, leaving(end_s, due_s, kind, online.until_s), BACK)
        due_s = np.where(online.there, np.minimum(due_s, online.until_s), online.until_s)
        return Job(due_s, kind.astype(np.int8), online, work_s)

    def _copies(self, state: ClockState, ids: np.ndarray, own: np.ndarray, when_s: np.ndarray) -> np.ndarray:
        """When the updates that arrive now do so once more."""
        if not self.devices.duplicate:
            return np.full(len(ids), np.inf)
        turns, seed = state.turns[ids] - 1, int(state.seed[0])
        found = copies(self.devices, seed, ids, turns, self.speeds.latency_s[ids], when_s)
        return np.where(own & (state.kind[ids] == ARRIVED), found, np.inf)


def _forsaken(state: ClockState) -> str:
    """Why nothing will ever happen."""
    hang, begun = int((state.kind == HUNG).sum()), f"At {state.now_s[0]:g} s on the virtual clock"
    away = (state.kind == BACK) & ~np.isfinite(state.due_s)
    if not hang and not away.all():
        return (
            f"{begun} nobody is at work, and nobody who may be sent for is there or ever returns. There is nothing to "
            "wait for. Let agents return (offline_s, trace), or ask others."
        )
    if not hang:
        return (
            f"{begun} every agent has left for good. There is nobody to wait for. Let agents return (offline_s, "
            "trace), or plan fewer rounds."
        )
    others = "every agent hangs" if hang == len(state.kind) else f"{hang} agents hang and nobody else is at work"
    return (
        f"{begun} {others}, and no hang is ever noticed (hang_s = inf). Nothing will ever happen. Say after how many "
        "seconds a hang is noticed, let the server call back who is late at a deadline, or plan fewer rounds."
    )


def _next(due_s: np.ndarray, count: int, until_s: float) -> np.ndarray:
    """At least so many agents whose events come next, in the order of time and, at the same time, of their numbers."""
    last = min(until_s, np.partition(due_s, count - 1)[count - 1] if count < len(due_s) else math.inf)
    ids = np.flatnonzero((due_s <= last) & np.isfinite(due_s))
    ids = ids[np.argsort(due_s[ids], kind="stable")]
    return ids[:1] if count == 1 else ids


def _through(arrives: np.ndarray, most: int) -> int:
    """How many events it takes until so many updates have arrived."""
    arrived = np.cumsum(arrives)
    return int(np.searchsorted(arrived, most)) + 1 if arrived[-1] >= most else len(arrives)


def _within_round(state: ClockState, ids: np.ndarray, own: np.ndarray) -> int:
    """How many events it takes until nobody is at work any more, or the first comes back if nobody is."""
    busy = np.isfinite(state.due_s) & (state.kind != BACK)
    last = np.flatnonzero(busy[ids] & own)
    if busy.any():
        return int(last[-1]) + 1 if len(last) == busy.sum() else len(ids)
    return 1


def _undisturbed(when_s: np.ndarray, caused_s: np.ndarray) -> int:
    """How many events come before any that one of them causes; at least one."""
    sooner = when_s[1:] < np.minimum.accumulate(caused_s)[:-1]
    return 1 + (len(sooner) if sooner.all() else int(np.argmin(sooner)))
