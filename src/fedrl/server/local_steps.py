"""How much each agent works between two exchanges: schedules of tau, the number of local steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedrl.core.aggregator import Arrivals
from fedrl.core.checks import check_above_zero, check_positive
from fedrl.core.component import component
from fedrl.core.errors import ConfigError
from fedrl.core.reports import DURATION
from fedrl.core.types import PyTree
from fedrl.server.allocation import allocate_whole
from fedrl.server.decisions import STEPS, LocalSteps, Reports

ADACOMM = "Wang & Joshi (2018), https://arxiv.org/abs/1810.08313"


@component("local_steps", reference="McMahan et al. (2017), https://arxiv.org/abs/1602.05629")
def constant(steps: int) -> LocalSteps:
    """The same number of local steps in every round, for every agent: tau_t = steps."""
    check_positive(steps=steps)
    return LocalSteps(lambda agents, number, state: np.full(agents, steps), steps)


@component("local_steps", reference=ADACOMM)
def linear(first: int, last: int, rounds: int) -> LocalSteps:
    """Grow or shrink the number of local steps evenly: from `first` in round 1 to `last` in round `rounds` and after.

    Shrinking communicates rarely while any progress is good, and often when agents' drift is what is left of the error.

    Args:
        first: tau in the first round.
        last: tau in the end.
        rounds: How many rounds that takes.

    Raises:
        ConfigError: An argument is below one.
    """
    check_positive(first=first, last=last, rounds=rounds)

    def plan(agents: int, number: int, state: PyTree) -> np.ndarray:
        del state
        way = min(number - 1, rounds - 1) / max(rounds - 1, 1)
        return np.full(agents, round(first + way * (last - first)))

    return LocalSteps(plan, max(first, last))


class Progress(NamedTuple):
    """The mean loss of the first round and of the last one, float32; NaN before it is known."""

    first: np.ndarray
    last: np.ndarray


@component("local_steps", reference=ADACOMM)
def adacomm(first: int, reference_return: float | None = None) -> LocalSteps:
    """AdaComm: fewer local steps as the loss falls, tau_t = ceil(sqrt(F_t / F_1) tau_1), from 1 to tau_1.

    What leaves an agent beside its update is its loss, four bytes in the open: "loss", or "return" if
    `reference_return` is given.

    Args:
        first: tau_1, the local steps of the first round, and the most there are.
        reference_return: The best mean return there is. With it, F = best - return: name it in reinforcement learning.

    Raises:
        ConfigError: `first` is below one.
    """
    check_positive(first=first)
    unknown = np.asarray(np.nan, np.float32)

    def plan(agents: int, number: int, state: Progress) -> np.ndarray:
        del number
        ratio = float(state.last / state.first) if state.first > 0.0 else 1.0
        steps = math.ceil(math.sqrt(max(ratio, 0.0)) * first - 1e-6) if math.isfinite(ratio) else first
        return np.full(agents, min(max(steps, 1), first))

    def observe(arrivals: Arrivals, state: Progress, reports: Reports) -> Progress:
        del arrivals
        loss = reports["loss"] if reference_return is None else reference_return - reports["return"]
        known = loss[np.isfinite(loss)]
        if not known.size:
            return state
        now = np.asarray(known.mean(), np.float32)
        return Progress(now if np.isnan(state.first) else state.first, now)

    requested = ("loss" if reference_return is None else "return",)
    return LocalSteps(plan, first, lambda agents: Progress(unknown, unknown), observe, requested)


@component("local_steps", reference="unequal local work: Li et al. (2020), https://arxiv.org/abs/1812.06127")
def proportional_to_speed(speeds: Sequence[float], most: int) -> LocalSteps:
    """Let a round end for all at about the same time: steps in proportion to speed, the fastest agent takes `most`.

    Args:
        speeds: Local steps per second of each agent, or in any one unit, as measured.
        most: Local steps of the fastest.

    Raises:
        ConfigError: A speed is not above zero, or there are not so many agents as speeds.
    """
    steps = proportional_steps(speeds, most)

    def plan(agents: int, number: int, state: PyTree) -> np.ndarray:
        del number, state
        return _one_each(steps, agents, "speeds")

    return LocalSteps(plan, most)


class Pace(NamedTuple):
    """Seconds that a local step of each agent takes, float32 `[agents]`; NaN before it is known."""

    step_s: np.ndarray


@component("local_steps", reference="unequal local work: Li et al. (2020), https://arxiv.org/abs/1812.06127")
def proportional_to_measured_speed(most: int, first: int = 1, memory: float = 0.5) -> LocalSteps:
    """Let a round end for all at about the same time, by how long their last rounds took.

        s_k <- memory s_k + (1 - memory) duration_k / tau_k,      tau_k = round(most min_j s_j / s_k), at least 1

    The fastest agent takes `most` local steps. One of whom nothing is known takes `first`; when it is heard of, its
    first duration counts in full. When devices slow down or recover, rounds end together again after a few of them.

    What leaves an agent beside its update is how long its local steps took, "duration_s", four bytes in the open.
    There are durations on a virtual clock, and where agents run by themselves; a program that simulates them has none.

    Args:
        most: Local steps of the fastest.
        first: Local steps of an agent that has not told how long it takes, at most `most`.
        memory: What an estimate keeps from round to round, in [0, 1).

    Raises:
        ConfigError: An argument is out of range.
    """
    check_positive(most=most, first=first)
    if first > most:
        raise ConfigError(f"first is {first} and most is {most}. Nobody takes more than the most. Set first lower.")
    if not 0.0 <= memory < 1.0:
        raise ConfigError(f"memory is {memory}. It is the share of the past in an estimate. Set it between 0 and 1.")

    def plan(agents: int, number: int, state: Pace) -> np.ndarray:
        del agents, number
        known = np.isfinite(state.step_s)
        if not known.any():
            return np.full(len(known), first)
        ideal = most * state.step_s[known].min() / np.where(known, state.step_s, np.inf)
        return np.where(known, np.clip(np.rint(ideal), 1, most), first).astype(int)

    def observe(arrivals: Arrivals, state: Pace, reports: Reports) -> Pace:
        ids = arrivals.sender
        now = reports[DURATION] / reports[STEPS]
        before = state.step_s[ids]
        after = np.where(np.isfinite(before), memory * before + (1.0 - memory) * now, now)
        step_s = state.step_s.copy()
        step_s[ids] = np.where(np.isfinite(now) & (now > 0.0), after, before)
        return Pace(step_s)

    return LocalSteps(plan, most, lambda agents: Pace(np.full(agents, np.nan, np.float32)), observe, (DURATION,))


def proportional_steps(speeds: Sequence[float] | np.ndarray, most: int) -> np.ndarray:
    """Steps in proportion to speed, rounded, at least one: `[agents]`.

    >>> proportional_steps([4.0, 2.0, 1.0, 0.1], most=8).tolist()
    [8, 4, 2, 1]
    """
    check_positive(most=most)
    for speed in speeds:
        check_above_zero(speeds=float(speed))
    pace = np.asarray(speeds, float)
    return np.maximum(np.rint(most * pace / pace.max()).astype(int), 1)


@component("local_steps", reference="whole steps by their use: Fox (1966), https://doi.org/10.1287/mnsc.13.3.210")
def water_filling(total: int, caps: Sequence[int], weights: Sequence[float], utility: str = "log") -> LocalSteps:
    """Deal out a number of local steps by their use: max sum_k U_k(tau_k), sum_k tau_k <= total, 1 <= tau_k <= cap_k.

    The best there is in whole steps, see `allocate_whole`.

    Args:
        total: Local steps of all agents together in a round.
        caps: What each agent can do at most.
        weights: How much a step of each agent is worth.
        utility: "log", "sqrt" or "linear".

    Raises:
        ConfigError: There are not as many caps as weights, or too few steps for one each.
    """
    steps = allocate_whole(total, caps, weights, utility)

    def plan(agents: int, number: int, state: PyTree) -> np.ndarray:
        del number, state
        return _one_each(steps, agents, "caps")

    return LocalSteps(plan, int(steps.max()))


def _one_each(steps: np.ndarray, agents: int, name: str) -> np.ndarray:
    if len(steps) != agents:
        raise ConfigError(f"{name} has {len(steps)} entries and there are {agents} agents. Give one for each.")
    return steps
