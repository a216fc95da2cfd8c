"""What happens next, and to whom: one event ahead of every agent.

    idle --sent for--> at work --update arrives, or is lost--> idle        a turn
    idle --sent for, not there--> away --returns--> idle

The times of a turn are known when it begins, for they depend on (agent, turn) alone. So all events ahead are one array
of times, and the next ones are found and dealt with many at once: up to the first event that one of them might cause.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fedrl.core.errors import ConfigError
from fedrl.engines.virtual.chance import Draw, normal, uniform
from fedrl.engines.virtual.clock import Clock, Speeds
from fedrl.engines.virtual.presence import Stay, presence

IDLE, ARRIVES, LOST, AWAY = 0, 1, 2, 3


class Timetable(NamedTuple):
    """The state of the clock; arrays that are brought up to date in place.

    Attributes:
        now_s: Seconds since the beginning, `[1]`.
        seed: Of the run, `[1]`.
        due_s: When the next event of each agent is; infinity if only a merge can bring one.
        ahead: What it is: ARRIVES and LOST end a turn, AWAY an absence; an IDLE agent waits to be sent for.
        turns: How often each agent was sent for.
        done: Turns each agent has ended; one that was away is not behind the others.
        phase: As in `Stay`.
        until_s: As in `Stay`.
        steps: Local steps of the turns that begin from now on.
        work_s: Seconds that those of the last turn take.
    """

    now_s: np.ndarray
    seed: np.ndarray
    due_s: np.ndarray
    ahead: np.ndarray
    turns: np.ndarray
    done: np.ndarray
    phase: np.ndarray
    until_s: np.ndarray
    steps: np.ndarray
    work_s: np.ndarray


class Happening(NamedTuple):
    """Events in the order of time, before any that they cause.

    Attributes:
        arrived: Agents whose updates arrive.
        lost: Turns that came to nothing.
        begun: Agents that were sent for.
    """

    arrived: np.ndarray
    lost: int
    begun: np.ndarray


class Course(NamedTuple):
    """How time goes on.

    Attributes:
        start: `seed -> Timetable`.
        begin: `(timetable, allowed) -> agents` that are sent for now: of the idle ones, as many as may work.
        step: `(timetable, allowed, most, until_s) -> Happening`: the next events, with at most so many arrivals, none
            later than `until_s`; time goes on to the last of them. Agents that are done are sent for again if the
            schedule says so.
        recall: `timetable -> None`; whoever is at work is idle, as if the turn had not begun.
    """

    start: Callable[[int], Timetable]
    begin: Callable[[Timetable, np.ndarray], np.ndarray]
    step: Callable[[Timetable, np.ndarray, int, float], Happening]
    recall: Callable[[Timetable], None]


class Trip(NamedTuple):
    """What lies ahead of agents that are sent for: an update, its loss, or an absence if they are away.

    Attributes:
        due_s, ahead, work_s: As in `Timetable`.
        stay: Whether and until when they are there.
    """

    due_s: np.ndarray
    ahead: np.ndarray
    stay: Stay
    work_s: np.ndarray


def course(devices: Clock, speeds: Speeds, steps: np.ndarray) -> Course:
    """How time goes on for the agents of a clock, with so many local steps each at first."""
    schedule, agents = devices.schedule, len(speeds.step_s)
    there = presence(devices, agents)
    places = agents if schedule.concurrency is None else min(schedule.concurrency, agents)
    in_turn = places < agents or schedule.bound is not None
    nobody = np.zeros(0, int)

    def start(seed: int) -> Timetable:
        return Timetable(
            now_s=np.zeros(1),
            seed=np.full(1, seed, np.int64),
            due_s=np.full(agents, np.inf),
            ahead=np.full(agents, IDLE, np.int8),
            turns=np.zeros(agents, np.int32),
            done=np.zeros(agents, np.int32),
            phase=there.start.phase.copy(),
            until_s=there.start.until_s.copy(),
            steps=np.asarray(steps, np.int32).copy(),
            work_s=np.zeros(agents),
        )

    def trip(table: Timetable, ids: np.ndarray, since_s: np.ndarray) -> Trip:
        seed, turns = int(table.seed[0]), table.turns[ids]
        stay = there.at(ids, Stay(table.phase[ids], table.until_s[ids]), since_s, seed)
        pace = np.exp(devices.jitter * normal(seed, Draw.JITTER, ids, turns)) if devices.jitter else 1.0
        work_s = table.steps[ids] * speeds.step_s[ids] * pace
        end_s = since_s + speeds.messages_s[ids] + work_s
        dropped = uniform(seed, Draw.DROP_OUT, ids, turns) < devices.drop_out
        leaves = stay.until_s < end_s
        due_s = np.where(stay.there & ~leaves, end_s, stay.until_s)
        ahead = np.where(stay.there, np.where(leaves | dropped, LOST, ARRIVES), AWAY)
        return Trip(due_s, ahead.astype(np.int8), stay, work_s)

    def note(table: Timetable, ids: np.ndarray, found: Trip) -> np.ndarray:
        """Write down what lies ahead; those of the agents who were there have begun."""
        table.due_s[ids], table.ahead[ids], table.work_s[ids] = found.due_s, found.ahead, found.work_s
        table.phase[ids], table.until_s[ids] = found.stay
        begun = ids[found.ahead != AWAY]
        table.turns[begun] += 1
        return begun

    def begin(table: Timetable, allowed: np.ndarray) -> np.ndarray:
        begun = nobody
        while True:
            idle = np.flatnonzero((table.ahead == IDLE) & allowed & _near(table, schedule.bound))
            chosen = _fewest_turns(table, idle, places - int(at_work(table).sum()))
            if not len(chosen):
                return np.sort(begun)
            since_s = np.repeat(table.now_s, len(chosen))
            begun = np.concatenate([begun, note(table, chosen, trip(table, chosen, since_s))])

    def step(table: Timetable, allowed: np.ndarray, most: int, until_s: float) -> Happening:
        ids = _next(table.due_s, 1 if in_turn and schedule.restart else most, until_s)
        if not len(ids):
            table.now_s[0] = _waited(table, until_s)
            return Happening(nobody, 0, nobody)
        ids = ids[: _through(table.ahead[ids] == ARRIVES, most)]
        if not schedule.restart:
            ids = ids[: _within_round(table, ids)]
        on, found = nobody, None
        if schedule.restart and not in_turn:
            again = allowed[ids] & ~_fills(table.ahead[ids] == ARRIVES, most)
            found = trip(table, ids, table.due_s[ids])
            ids = ids[: _undisturbed(table.due_s[ids], np.where(again, found.due_s, np.inf))]
            on = np.flatnonzero(again[: len(ids)])
        table.now_s[0], happened = table.due_s[ids[-1]], table.ahead[ids].copy()
        table.done[ids[happened != AWAY]] += 1
        _catch_up(table, ids[happened == AWAY])
        table.ahead[ids], table.due_s[ids] = IDLE, np.inf
        begun = nobody
        if found is not None:
            stay = Stay(found.stay.phase[on], found.stay.until_s[on])
            begun = note(table, ids[on], Trip(found.due_s[on], found.ahead[on], stay, found.work_s[on]))
        elif schedule.restart and (happened == ARRIVES).sum() < most:
            begun = begin(table, allowed)
        return Happening(ids[happened == ARRIVES], int((happened == LOST).sum()), begun)

    def recall(table: Timetable) -> None:
        busy = at_work(table)
        table.ahead[busy], table.due_s[busy] = IDLE, np.inf

    return Course(start, begin, step, recall)


def at_work(table: Timetable) -> np.ndarray:
    """Who was sent for and is not done."""
    return (table.ahead == ARRIVES) | (table.ahead == LOST)


def _near(table: Timetable, bound: int | None) -> np.ndarray:
    """Who may go on: nobody who is more than `bound` turns ahead of the slowest."""
    if bound is None:
        return np.ones(len(table.done), bool)
    present = table.done[table.ahead != AWAY]
    return table.done - present.min(initial=np.iinfo(np.int32).max - bound) <= bound


def _catch_up(table: Timetable, back: np.ndarray) -> None:
    """Who returns is not waited for: it goes on where the slowest of the others is."""
    present = table.done[table.ahead != AWAY]
    if len(back) and len(present):
        table.done[back] = np.maximum(table.done[back], present.min())


def _fewest_turns(table: Timetable, idle: np.ndarray, free: int) -> np.ndarray:
    """So many of the idle agents: those who had the fewest turns, drawn among equals."""
    if len(idle) <= free:
        return idle
    turns = table.turns[idle]
    place = turns + uniform(int(table.seed[0]), Draw.TURN, idle, turns)
    return idle[np.argsort(place)[:free]]


def _next(due_s: np.ndarray, count: int, until_s: float) -> np.ndarray:
    """At least so many agents whose events come next, in the order of time and, at the same time, of their ids."""
    last = min(until_s, np.partition(due_s, count - 1)[count - 1] if count < len(due_s) else math.inf)
    ids = np.flatnonzero((due_s <= last) & np.isfinite(due_s))
    ids = ids[np.argsort(due_s[ids], kind="stable")]
    return ids[:1] if count == 1 else ids


def _through(arrives: np.ndarray, most: int) -> int:
    """How many events it takes until so many updates have arrived."""
    arrived = np.cumsum(arrives)
    return int(np.searchsorted(arrived, most)) + 1 if arrived[-1] >= most else len(arrives)


def _within_round(table: Timetable, ids: np.ndarray) -> int:
    """How many events it takes until nobody is at work any more, or the first comes back if nobody is."""
    busy = at_work(table)
    last = np.flatnonzero(busy[ids])
    if busy.any():
        return int(last[-1]) + 1 if len(last) == busy.sum() else len(ids)
    return 1


def _fills(arrives: np.ndarray, most: int) -> np.ndarray:
    """Which of the updates completes so many: its agent is sent what the merge makes of it."""
    return arrives & (np.cumsum(arrives) == most)


def _undisturbed(when_s: np.ndarray, caused_s: np.ndarray) -> int:
    """How many events come before any that one of them causes; at least one."""
    sooner = when_s[1:] < np.minimum.accumulate(caused_s)[:-1]
    return 1 + (len(sooner) if sooner.all() else int(np.argmin(sooner)))


def _waited(table: Timetable, until_s: float) -> float:
    """Nothing happens until then.

    Raises:
        ConfigError: Nothing ever will.
    """
    if not math.isfinite(until_s):
        raise ConfigError(
            f"At {table.now_s[0]:g} s on the virtual clock every agent has left for good. There is nobody to wait for. "
            "Let agents return (offline_s, trace), or plan fewer rounds."
        )
    return until_s
