"""Plan the local steps: tau, the number of learner iterations of each agent between two communications."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedrl.core.aggregator import Arrivals
from fedrl.core.checks import check_above_zero, check_positive
from fedrl.core.component import component
from fedrl.core.errors import ConfigError
from fedrl.core.ranges import Count, Finite, FractionBelowOne, Positive
from fedrl.core.reports import DURATION
from fedrl.core.types import PyTree
from fedrl.server.allocation import allocate_whole
from fedrl.server.decisions import LocalSteps, Reports, StepTimes, no_pace, paced, paced_by

ADACOMM = "Wang & Joshi (2018), https://arxiv.org/abs/1810.08313"


@component("local_steps", reference="McMahan et al. (2017), https://arxiv.org/abs/1602.05629")
def constant(steps: Count) -> LocalSteps:
    """Plan the same number of local steps in every round, for every agent: tau_t = steps.

    Args:
        steps: Local steps of each agent.

    >>> constant(4).plan(2, 1, ()).tolist()
    [4, 4]
    """
    return LocalSteps(lambda agents, number, state: np.full(agents, steps), steps)


@component("local_steps", reference=ADACOMM)
def linear(first: Count, last: Count, rounds: Count) -> LocalSteps:
    """Change the number of local steps linearly from `first` in round 1 to `last` in round `rounds` and after.

    Decreasing it communicates rarely at first, and often at the end, where client drift dominates the error.

    Args:
        first: tau in the first round.
        last: tau in round `rounds` and after.
        rounds: The number of rounds of the change.

    Raises:
        ConfigError: An argument is below one.

    >>> [int(linear(8, 2, 4).plan(1, t, ())[0]) for t in (1, 2, 3, 4, 5)]
    [8, 6, 4, 2, 2]
    """

    def plan(agents: int, number: int, state: PyTree) -> np.ndarray:
        del state
        # With one round there is no way to go, and no division by zero: every round has `first` steps.
        way = min(number - 1, rounds - 1) / max(rounds - 1, 1)
        return np.full(agents, round(first + way * (last - first)))

    return LocalSteps(plan, max(first, last))


class Progress(NamedTuple):
    """The mean loss of the first round and of the latest one, scalar float32; NaN before it is known."""

    first: np.ndarray
    last: np.ndarray


@component("local_steps", reference=ADACOMM)
def adacomm(first: Count, reference_return: Finite | None = None) -> LocalSteps:
    """AdaComm: reduce local steps as the loss falls, tau_t = ceil(sqrt(F_t / F_1) tau_1), between 1 and tau_1.

    Each agent reports its loss beside its update, four bytes, unprotected: "loss", or "return" if `reference_return` is
    given.

    Args:
        first: tau_1, the local steps of the first round and the largest number.
        reference_return: The best possible mean return. With it, F = reference_return - return, the usual choice in
            reinforcement learning, where a falling loss does not mean a better policy.

    Raises:
        ConfigError: `first` is below one.
    """
    unknown = np.asarray(np.nan, np.float32)

    def plan(agents: int, number: int, state: Progress) -> np.ndarray:
        del number
        ratio = float(state.last / state.first) if state.first > 0.0 else 1.0
        # The small constant keeps the rounding error of a float32 quotient from adding a step.
        steps = math.ceil(math.sqrt(max(ratio, 0.0)) * first - 1e-6) if math.isfinite(ratio) else first
        return np.full(agents, min(max(steps, 1), first))

    def observe(arrivals: Arrivals, state: Progress, reports: Reports) -> Progress:
        del arrivals
        loss = reports["loss"] if reference_return is None else reference_return - reports["return"]
        # A return is NaN for an agent without a finished episode; a round of such agents changes nothing.
        known = loss[np.isfinite(loss)]
        if not known.size:
            return state
        now = np.asarray(known.mean(), np.float32)
        return Progress(now if np.isnan(state.first) else state.first, now)

    requested = ("loss" if reference_return is None else "return",)
    return LocalSteps(plan, first, lambda agents: Progress(unknown, unknown), observe, requested)


@component("local_steps", reference="unequal local work: Li et al. (2020), https://arxiv.org/abs/1812.06127")
def proportional_to_speed(speeds: Sequence[Positive], most: Count) -> LocalSteps:
    """Plan steps in proportion to speed, so that all agents end a round at about the same time.

    Args:
        speeds: The measured speed of each agent, `[agents]`: local steps per second, or any common unit.
        most: The local steps of the fastest agent.

    Raises:
        ConfigError: A speed is not above zero, or there is not one for each agent.

    >>> proportional_to_speed([4.0, 1.0], most=8).plan(2, 1, ()).tolist()
    [8, 2]
    """
    steps = proportional_steps(speeds, most)

    def plan(agents: int, number: int, state: PyTree) -> np.ndarray:
        del number, state
        return _one_each(steps, agents, "speeds")

    return LocalSteps(plan, most)


@component("local_steps", reference="unequal local work: Li et al. (2020), https://arxiv.org/abs/1812.06127")
def proportional_to_measured_speed(most: Count, first: Count = 1, memory: FractionBelowOne = 0.5) -> LocalSteps:
    """Plan steps in proportion to measured speed, so that all agents end a round at about the same time.

        s_k <- memory s_k + (1 - memory) duration_k / tau_k,      tau_k = round(most min_j s_j / s_k), at least 1

    The fastest agent takes `most` local steps. An agent without a measurement takes `first`, or over a network as many
    as follow from the speed that it says it has; its first duration counts in full. When devices slow down or recover,
    rounds end together again after a few rounds.

    Each agent reports the time that its local steps took, "duration_s", beside its update: four bytes, unprotected.
    Durations exist on a virtual clock and where agents run on their own, but not in a simulation without a clock.

    Args:
        most: The local steps of the fastest agent.
        first: The local steps of an agent without a measurement, at most `most`.
        memory: The share that an estimate keeps from round to round, in [0, 1).

    Raises:
        ConfigError: An argument is out of range.
    """
    if first > most:
        raise ConfigError(f"first is {first} and most is {most}. No agent may take more than most. Set first lower.")
    if not 0.0 <= memory < 1.0:
        raise ConfigError(f"memory is {memory}. It is the share of the past in an estimate. Set it between 0 and 1.")

    def plan(agents: int, number: int, state: StepTimes) -> np.ndarray:
        del agents, number
        step_s = state.known_s
        known = np.isfinite(step_s)
        if not known.any():
            return np.full(len(known), first)
        ideal = most * step_s[known].min() / np.where(known, step_s, np.inf)
        return np.where(known, np.clip(np.rint(ideal), 1, most), first).astype(int)

    def observe(arrivals: Arrivals, state: StepTimes, reports: Reports) -> StepTimes:
        return paced(arrivals, state, reports, memory)

    return LocalSteps(plan, most, no_pace, observe, (DURATION,), paced_by)


def proportional_steps(speeds: Sequence[float] | np.ndarray, most: int) -> np.ndarray:
    """Return steps in proportion to speed, rounded to at least one, int `[agents]`.

    >>> proportional_steps([4.0, 2.0, 1.0, 0.1], most=8).tolist()
    [8, 4, 2, 1]
    """
    check_positive(most=most)
    for speed in speeds:
        check_above_zero(speeds=float(speed))
    pace = np.asarray(speeds, float)
    return np.maximum(np.rint(most * pace / pace.max()).astype(int), 1)


@component("local_steps", reference="whole steps by their use: Fox (1966), https://doi.org/10.1287/mnsc.13.3.210")
def water_filling(total: Count, caps: Sequence[Count], weights: Sequence[Positive], utility: str = "log") -> LocalSteps:
    """Distribute local steps by utility: max sum_k U_k(tau_k) with sum_k tau_k <= total and 1 <= tau_k <= cap_k.

    The result is optimal among whole numbers of steps: see `allocate_whole`.

    Args:
        total: The local steps of all agents together in a round.
        caps: The largest number of steps of each agent, `[agents]`.
        weights: a_k, the weight of each agent's utility, `[agents]`.
        utility: "log", "sqrt" or "linear".

    Raises:
        ConfigError: There are not as many caps as weights, or fewer steps than agents.

    >>> water_filling(5, [3, 3, 1], [1.61, 6.23, 0.32]).plan(3, 1, ()).tolist()
    [1, 3, 1]
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
