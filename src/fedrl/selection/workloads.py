"""How much each agent works between two exchanges: schedules of tau, the number of local steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedrl.core.checks import check_above_zero, check_positive
from fedrl.core.component import component
from fedrl.core.errors import ConfigError
from fedrl.core.types import PyTree
from fedrl.selection.allocation import allocate
from fedrl.selection.selection import Told, Workload

ADACOMM = "Wang & Joshi (2018), https://arxiv.org/abs/1810.08313"


@component("workload", reference="McMahan et al. (2017), https://arxiv.org/abs/1602.05629")
def steady(steps: int) -> Workload:
    """The same number of local steps in every round, for every agent: tau_t = steps."""
    check_positive(steps=steps)
    return Workload(lambda agents, number, state: np.full(agents, steps), steps)


@component("workload", reference=ADACOMM)
def ramp(first: int, last: int, rounds: int) -> Workload:
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

    return Workload(plan, max(first, last))


class Progress(NamedTuple):
    """The mean loss of the first round and of the last one, float32; NaN before it is known."""

    first: np.ndarray
    last: np.ndarray


@component("workload", reference=ADACOMM)
def from_loss(first: int, best: float | None = None) -> Workload:
    """AdaComm: fewer local steps as the loss falls, tau_t = ceil(sqrt(F_t / F_1) tau_1), from 1 to tau_1.

    What leaves an agent beside its update is its loss, four bytes in the open: "loss", or "return" if `best` is given.

    Args:
        first: tau_1, the local steps of the first round, and the most there are.
        best: The best mean return there is. With it, F = best - return: name it in reinforcement learning.

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

    def hear(state: Progress, ids: np.ndarray, told: Told) -> Progress:
        del ids
        loss = told["loss"] if best is None else best - told["return"]
        known = loss[np.isfinite(loss)]
        if not known.size:
            return state
        now = np.asarray(known.mean(), np.float32)
        return Progress(now if np.isnan(state.first) else state.first, now)

    asks = ("loss" if best is None else "return",)
    return Workload(plan, first, lambda agents: Progress(unknown, unknown), hear, asks)


@component("workload", reference="unequal local work: Li et al. (2020), https://arxiv.org/abs/1812.06127")
def balanced(speeds: Sequence[float], most: int) -> Workload:
    """Let a round end for all at about the same time: steps in proportion to speed, the fastest agent takes `most`.

    Args:
        speeds: Local steps per second of each agent, or in any one unit, as measured.
        most: Local steps of the fastest.

    Raises:
        ConfigError: A speed is not above zero, or there are not so many agents as speeds.
    """
    steps = balanced_steps(speeds, most)

    def plan(agents: int, number: int, state: PyTree) -> np.ndarray:
        del number, state
        return _one_each(steps, agents, "speeds")

    return Workload(plan, most)


def balanced_steps(speeds: Sequence[float] | np.ndarray, most: int) -> np.ndarray:
    """Steps in proportion to speed, rounded, at least one: `[agents]`.

    >>> balanced_steps([4.0, 2.0, 1.0, 0.1], most=8).tolist()
    [8, 4, 2, 1]
    """
    check_positive(most=most)
    for speed in speeds:
        check_above_zero(speeds=float(speed))
    pace = np.asarray(speeds, float)
    return np.maximum(np.rint(most * pace / pace.max()).astype(int), 1)


@component("workload", reference="water-filling: Boyd & Vandenberghe (2004), https://web.stanford.edu/~boyd/cvxbook/")
def allocated(total: int, caps: Sequence[int], weights: Sequence[float], utility: str = "log") -> Workload:
    """Deal out a number of local steps by their use: max sum_k U_k(tau_k), sum_k tau_k <= total, tau_k <= cap_k.

    The solution of `allocate`, rounded to whole steps by largest remainder; everybody takes at least one.

    Args:
        total: Local steps of all agents together in a round.
        caps: What each agent can do at most.
        weights: How much a step of each agent is worth.
        utility: "log", "sqrt" or "linear".

    Raises:
        ConfigError: There are not as many caps as weights, or too few steps for one each.
    """
    if total < len(caps) or min(caps, default=0) < 1:
        raise ConfigError(
            f"total is {total} and caps is {list(caps)}. Everybody takes one step at least. Set it higher."
        )
    real = np.maximum(allocate(total, caps, weights, utility), 1.0)
    steps = np.floor(real + 1e-9).astype(int)
    spare = min(total, sum(caps)) - int(steps.sum())
    for k in np.argsort(-(real - steps), kind="stable")[: max(spare, 0)]:
        steps[k] = min(steps[k] + 1, caps[k])
    while steps.sum() > total:  # what the least of one step took from the others
        steps[int(np.argmax(steps))] -= 1

    def plan(agents: int, number: int, state: PyTree) -> np.ndarray:
        del number, state
        return _one_each(steps, agents, "caps")

    return Workload(plan, int(steps.max()))


def _one_each(steps: np.ndarray, agents: int, name: str) -> np.ndarray:
    if len(steps) != agents:
        raise ConfigError(f"{name} has {len(steps)} entries and there are {agents} agents. Give one for each.")
    return steps
