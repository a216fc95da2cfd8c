"""Simulated seconds: what takes how long follows from (seed, agent, turn), so no event has to be drawn before its time.

One event lies ahead of every agent: its update arrives or is lost, or it comes back. All of them are one array of
times, and the next ones are dealt with many at once: up to the first that one of them might cause.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from fedrl.core.errors import ConfigError
from fedrl.engines.clocks.chance import Draw, normal, uniform
from fedrl.engines.clocks.devices import Clock, Speeds
from fedrl.engines.clocks.presence import Stay, presence
from fedrl.engines.records import ARRIVED, BACK, LOST, TIMER, Events


class Ahead(NamedTuple):
    """The state of the clock: NumPy arrays, `[agents]` each, that are brought up to date in place.

    Attributes:
        now_s: Seconds since the beginning, `[1]`.
        seed: Of the run, `[1]`.
        due_s: When the next event of each agent is; infinity if only a dispatch can bring one.
        kind: What it is: ARRIVED or LOST ends a turn, BACK an absence.
        turns: How often each was sent for and was there.
        work_s: Seconds that they take.
        phase, until_s: As in `fedrl.engines.clocks.presence.Stay`.
    """

    now_s: np.ndarray
    seed: np.ndarray
    due_s: np.ndarray
    kind: np.ndarray
    turns: np.ndarray
    work_s: np.ndarray
    phase: np.ndarray
    until_s: np.ndarray


class Trip(NamedTuple):
    """What lies ahead of agents that are sent for: an update, its loss, or an absence if they are away."""

    due_s: np.ndarray
    kind: np.ndarray
    stay: Stay
    work_s: np.ndarray


class Virtual:
    """The clock of simulated devices."""

    timed = True

    def __init__(self, devices: Clock, speeds: Speeds, agents: int) -> None:
        self.devices, self.speeds, self.agents = devices, speeds, agents
        self.presence = presence(devices, agents)

    def start(self, seed: int) -> Ahead:
        """Begin a run."""
        count = self.agents
        return Ahead(
            now_s=np.zeros(1),
            seed=np.full(1, seed, np.int64),
            due_s=np.full(count, np.inf),
            kind=np.zeros(count, np.int8),
            turns=np.zeros(count, np.int32),
            work_s=np.zeros(count),
            phase=self.presence.start.phase.copy(),
            until_s=self.presence.start.until_s.copy(),
        )

    def now_s(self, state: Ahead) -> float:
        """Seconds since the beginning."""
        return float(state.now_s[0])

    def dispatch(
        self, state: Ahead, ids: np.ndarray, since_s: np.ndarray, steps: np.ndarray
    ) -> tuple[Ahead, np.ndarray]:
        """They begin, each at its own second; returns who was there to begin."""
        found = self._trip(state, ids, since_s, steps)
        state.due_s[ids], state.kind[ids], state.work_s[ids] = found.due_s, found.kind, found.work_s
        state.phase[ids], state.until_s[ids] = found.stay
        there = np.asarray(found.kind != BACK)
        state.turns[ids[there]] += 1
        return state, there

    def peek(
        self, state: Ahead, until_s: float, wants: int, again: np.ndarray | None, one: bool
    ) -> tuple[Ahead, Events]:
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
        ids = _next(state.due_s, 1 if one else wants, until_s)
        if not len(ids):
            if not math.isfinite(until_s):
                raise ConfigError(
                    f"At {state.now_s[0]:g} s on the virtual clock every agent has left for good. There is nobody to "
                    "wait for. Let agents return (offline_s, trace), or plan fewer rounds."
                )
            state.now_s[0] = until_s
            return state, Events(np.array([TIMER]), np.array([-1]), np.array([until_s]))
        ids = ids[: _through(state.kind[ids] == ARRIVED, wants)]
        if again is not None:
            ids = ids[: _undisturbed(state.due_s[ids], self._trip(state, ids, state.due_s[ids], again[ids]).due_s)]
        else:
            ids = ids[: _within_round(state, ids)]
        events = Events(state.kind[ids].astype(int), ids, state.due_s[ids].copy())
        state.now_s[0], state.due_s[ids] = state.due_s[ids[-1]], np.inf
        return state, events

    def cancel(self, state: Ahead, ids: np.ndarray) -> Ahead:
        """They do not arrive."""
        state.due_s[ids] = np.inf
        return state

    def soon(self, state: Ahead) -> np.ndarray:
        """Who will arrive, the first ones first."""
        ids = np.flatnonzero((state.kind == ARRIVED) & np.isfinite(state.due_s))
        return ids[np.argsort(state.due_s[ids], kind="stable")]

    def costs(self, state: Ahead, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Seconds of work and of messages behind updates that arrived."""
        return state.work_s[ids].copy(), self.speeds.messages_s[ids]

    def _trip(self, state: Ahead, ids: np.ndarray, since_s: np.ndarray, steps: np.ndarray) -> Trip:
        seed, turns, devices = int(state.seed[0]), state.turns[ids], self.devices
        stay = self.presence.at(ids, Stay(state.phase[ids], state.until_s[ids]), since_s, seed)
        pace = np.exp(devices.jitter * normal(seed, Draw.JITTER, ids, turns)) if devices.jitter else 1.0
        work_s = steps * self.speeds.step_s[ids] * pace
        end_s = since_s + self.speeds.messages_s[ids] + work_s
        dropped = uniform(seed, Draw.DROP_OUT, ids, turns) < devices.drop_out
        leaves = stay.until_s < end_s
        due_s = np.where(stay.there & ~leaves, end_s, stay.until_s)
        kind = np.where(stay.there, np.where(leaves | dropped, LOST, ARRIVED), BACK)
        return Trip(due_s, kind.astype(np.int8), stay, work_s)


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


def _within_round(state: Ahead, ids: np.ndarray) -> int:
    """How many events it takes until nobody is at work any more, or the first comes back if nobody is."""
    busy = np.isfinite(state.due_s) & (state.kind != BACK)
    last = np.flatnonzero(busy[ids])
    if busy.any():
        return int(last[-1]) + 1 if len(last) == busy.sum() else len(ids)
    return 1


def _undisturbed(when_s: np.ndarray, caused_s: np.ndarray) -> int:
    """How many events come before any that one of them causes; at least one."""
    sooner = when_s[1:] < np.minimum.accumulate(caused_s)[:-1]
    return 1 + (len(sooner) if sooner.all() else int(np.argmin(sooner)))
