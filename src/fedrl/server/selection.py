"""Select the cohort of a round among the agents of a server."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fedrl.core.aggregator import Arrivals
from fedrl.core.checks import check_one_of
from fedrl.core.component import component
from fedrl.core.errors import ConfigError
from fedrl.core.ranges import Count, Finite, Fraction, FractionAboveZero, Positive
from fedrl.core.reports import DURATION
from fedrl.core.types import PyTree
from fedrl.server.decisions import (
    LastReports,
    Reports,
    Selection,
    StepTimes,
    no_pace,
    no_reports,
    paced,
    paced_by,
    updated,
)
from fedrl.server.secret_draws import SecretDraws

MEMORY = 0.5
"""Share of the past in a measured capacity."""


@component("selection", reference="McMahan et al. (2017), https://arxiv.org/abs/1602.05629")
def uniform(cohort: Count) -> Selection:
    """Select agents at random, every cohort of this size with the same probability.

    Args:
        cohort: The number of agents in a round.

    Raises:
        ConfigError: The cohort is below one or larger than the number of agents.

    >>> ids = np.arange(10)
    >>> len(uniform(3).choose(np.random.default_rng(0), ids, 1, ()))
    3
    """

    def choose(rng: np.random.Generator, ids: np.ndarray, number: int, state: PyTree) -> np.ndarray:
        del number, state
        return rng.choice(ids, _at_most(cohort, ids), replace=False)

    return Selection(choose, fixed_size=cohort)


@component(
    "selection",
    reference="Abadi et al. (2016), https://arxiv.org/abs/1607.00133; of whole agents: McMahan et al. (2018), "
    "https://arxiv.org/abs/1710.06963",
)
def poisson(rate: FractionAboveZero) -> Selection:
    """Select each agent with the same probability, independently of all others and of other rounds.

    The number of agents in a round varies, about rate * agents on average, and may be zero. Differential privacy of
    agents is amplified by it: an agent is in few rounds, and nobody but the server knows in which. So cohorts are drawn
    from the operating system, and differ in each run with the same seed, unless the simulation has
    `reproducible_noise`.

    Args:
        rate: The probability, above 0 and at most 1.

    Raises:
        ConfigError: The rate is out of range.

    >>> poisson(0.1).sampling
    0.1
    """

    def choose(rng: np.random.Generator | SecretDraws, ids: np.ndarray, number: int, state: PyTree) -> np.ndarray:
        del number, state
        return ids[rng.random(len(ids)) < rate]

    return Selection(choose, sampling=rate)


@component("selection", reference="McMahan et al. (2017), https://arxiv.org/abs/1602.05629")
def round_robin(cohort: Count) -> Selection:
    """Select one group of agents after the other, so that K / cohort rounds select each of K agents once.

    Args:
        cohort: The number of agents in a round.

    Raises:
        ConfigError: The cohort is below one or larger than the number of agents.

    >>> [round_robin(2).choose(np.random.default_rng(0), np.arange(3), t, ()).tolist() for t in (1, 2, 3)]
    [[0, 1], [2, 0], [1, 2]]
    """

    def choose(rng: np.random.Generator, ids: np.ndarray, number: int, state: PyTree) -> np.ndarray:
        del rng, state
        return ids[((number - 1) * _at_most(cohort, ids) + np.arange(cohort)) % len(ids)]

    return Selection(choose)


@component("selection", reference="Lai et al. (2021), https://arxiv.org/abs/2010.06081")
def oort(cohort: Count, utility: str = "norm", epsilon: Fraction = 0.1) -> Selection:
    """Select the agents with the highest reported utility, and a random share of others.

    As in Oort, a share of the cohort explores and the rest have the highest utility. Unlike in Oort, the utility is a
    reported scalar, the norm of the last update or the loss, and the speed of an agent does not count. Agents that have
    not reported yet come first.

    Each agent reports this scalar beside its update: four bytes, unprotected.

    Args:
        cohort: The number of agents in a round.
        utility: "norm" or "loss".
        epsilon: The share of the cohort drawn from all other agents, in [0, 1], on average over rounds: a fractional
            number of agents is rounded up or down at random. 0.1 of 5 is one agent in half of the rounds.

    Raises:
        ConfigError: An argument is out of range, or the cohort is larger than the number of agents.

    >>> oort(5, epsilon=0.2).requested
    ('norm',)
    """
    check_one_of(utility, ("norm", "loss"), "utility")
    if not 0.0 <= epsilon <= 1.0:
        raise ConfigError(f"epsilon is {epsilon}. It is a share of the cohort. Set it between 0 and 1.")

    def choose(rng: np.random.Generator, ids: np.ndarray, number: int, state: LastReports) -> np.ndarray:
        del number
        ranked = ids[_highest_first(rng, state.value[ids])]
        # floor(x + u) with u uniform on [0, 1) is x on average, so small cohorts explore as often as `epsilon` says.
        exploited = max(_at_most(cohort, ids) - math.floor(epsilon * cohort + rng.random()), 0)
        others = rng.permutation(ranked[exploited:])
        return np.concatenate([ranked[:exploited], others[: cohort - exploited]])

    def observe(arrivals: Arrivals, state: LastReports, reports: Reports) -> LastReports:
        return updated(state, arrivals.sender, reports[utility])

    return Selection(choose, no_reports, observe, (utility,))


@component("selection", reference="Cho, Wang & Joshi (2020), https://arxiv.org/abs/2010.01243")
def power_of_choice(cohort: Count, candidates: Count, reference_return: Finite | None = None) -> Selection:
    """Draw candidates at random, and select those with the highest loss.

    This is the paper's variant with the last loss that each agent reported, so candidates send nothing to be compared;
    agents that have not reported yet come first. More candidates prefer agents with a high loss more strongly; as many
    candidates as the cohort is uniform selection.

    Each agent reports its loss beside its update, four bytes, unprotected: "loss", or "return" if `reference_return` is
    given.

    Args:
        cohort: The number of agents in a round, m in the paper.
        candidates: The number of agents drawn at random, d in the paper, at least the cohort.
        reference_return: The best possible mean return. With it, the loss of an agent is reference_return - return.

    Raises:
        ConfigError: There are fewer candidates than the cohort, or fewer agents than candidates.

    >>> power_of_choice(2, 4, reference_return=500.0).requested
    ('return',)
    """
    if candidates < cohort:
        raise ConfigError(
            f"candidates is {candidates} and cohort is {cohort}. The cohort is chosen from the candidates. Set "
            "candidates to the cohort or more."
        )

    def choose(rng: np.random.Generator, ids: np.ndarray, number: int, state: LastReports) -> np.ndarray:
        del number
        drawn = rng.choice(ids, _at_most(candidates, ids, "candidates"), replace=False)
        return drawn[_highest_first(rng, state.value[drawn])[:cohort]]

    def observe(arrivals: Arrivals, state: LastReports, reports: Reports) -> LastReports:
        return updated(
            state,
            arrivals.sender,
            reports["loss"] if reference_return is None else reference_return - reports["return"],
        )

    return Selection(choose, no_reports, observe, ("loss" if reference_return is None else "return",))


@component(
    "selection", reference="resource-aware selection: Nishio & Yonetani (2019), https://arxiv.org/abs/1804.08333"
)
def by_capacity(cohort: Count, capacity: Sequence[Positive] | None = None) -> Selection:
    """Draw agents with probabilities in proportion to their capacity, without replacement.

    Agents with more capacity are selected more often, and no agent is excluded, unlike with a hard limit.

    Args:
        cohort: The number of agents in a round.
        capacity: The capacity of each agent, `[agents]`, in any common unit such as steps or bytes per second. By
            default it is measured, as the local steps per second behind the updates that arrive: each agent reports
            "duration_s", as for `proportional_to_measured_speed`. An agent without a measurement counts as the mean of
            the others. Over a network the capacity is multiplied by the share of an agent's jobs that arrive, and an
            agent may say its speed before it is measured.

    Raises:
        ConfigError: A capacity is not above zero, or there is not one for each agent.
    """
    if capacity is None:
        return _by_measured_capacity(cohort)
    weight = np.asarray(capacity, float)

    def init(agents: int) -> PyTree:
        if len(weight) != agents:
            raise ConfigError(f"capacity has {len(weight)} entries and there are {agents} agents. Give one for each.")
        return ()

    def choose(rng: np.random.Generator, ids: np.ndarray, number: int, state: PyTree) -> np.ndarray:
        del number, state
        return rng.choice(ids, _at_most(cohort, ids), replace=False, p=weight[ids] / weight[ids].sum())

    return Selection(choose, init)


def _by_measured_capacity(cohort: int) -> Selection:
    def choose(rng: np.random.Generator, ids: np.ndarray, number: int, state: StepTimes) -> np.ndarray:
        del number
        step_s = state.known_s[ids].astype(float)
        known = np.isfinite(step_s)
        speed = 1.0 / np.where(known, step_s, 1.0)
        speed = np.where(known, speed, speed[known].mean() if known.any() else 1.0) * state.reliability[ids]
        return rng.choice(ids, _at_most(cohort, ids), replace=False, p=speed / speed.sum())

    def observe(arrivals: Arrivals, state: StepTimes, reports: Reports) -> StepTimes:
        return paced(arrivals, state, reports, MEMORY)

    return Selection(choose, no_pace, observe, (DURATION,), paced_by)


def _at_most(count: int, ids: np.ndarray, name: str = "cohort") -> int:
    if count > len(ids):
        raise ConfigError(
            f"{name} is {count} and a server selects from {len(ids)} agents. No agent is selected twice. Set it lower."
        )
    return count


def _highest_first(rng: np.random.Generator, value: np.ndarray) -> np.ndarray:
    """Return the order of descending values, the unknown (NaN) first, ties in random order."""
    return np.lexsort((rng.random(len(value)), -np.where(np.isnan(value), np.inf, value)))
