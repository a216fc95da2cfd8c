"""Who is asked: rules that choose the cohort of a round among the agents of a server."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fedrl.core.aggregator import Arrivals
from fedrl.core.checks import check_above_zero, check_one_of, check_positive
from fedrl.core.component import component
from fedrl.core.errors import ConfigError
from fedrl.core.types import PyTree
from fedrl.server.decisions import LastReports, Reports, Selection, no_reports, updated


@component("selection", reference="McMahan et al. (2017), https://arxiv.org/abs/1602.05629")
def uniform(cohort: int) -> Selection:
    """Ask so many agents at random, every cohort equally likely.

    Args:
        cohort: How many agents take part in a round.

    Raises:
        ConfigError: There are not so many.
    """
    check_positive(cohort=cohort)

    def choose(rng: np.random.Generator, ids: np.ndarray, number: int, state: PyTree) -> np.ndarray:
        del number, state
        return rng.choice(ids, _at_most(cohort, ids), replace=False)

    return Selection(choose)


@component("selection", reference="McMahan et al. (2017), https://arxiv.org/abs/1602.05629")
def round_robin(cohort: int) -> Selection:
    """Ask one group after the other: within K / cohort rounds everybody has been asked once.

    Args:
        cohort: How many agents take part in a round.

    Raises:
        ConfigError: There are not so many.
    """
    check_positive(cohort=cohort)

    def choose(rng: np.random.Generator, ids: np.ndarray, number: int, state: PyTree) -> np.ndarray:
        del rng, state
        return ids[((number - 1) * _at_most(cohort, ids) + np.arange(cohort)) % len(ids)]

    return Selection(choose)


@component("selection", reference="Lai et al. (2021), https://arxiv.org/abs/2010.06081")
def oort(cohort: int, utility: str = "norm", epsilon: float = 0.1) -> Selection:
    """Ask the agents whose last contribution was the most useful, and a few others at random.

    As in Oort, a share of the cohort explores and the rest are those of the highest utility. Unlike in Oort, utility is
    what the agents tell: the norm of their last update, or their loss; the speed of an agent is left out. Agents never
    heard of come first.

    What leaves an agent beside its update is that number, four bytes in the open.

    Args:
        cohort: How many agents take part in a round.
        utility: "norm" or "loss".
        epsilon: The share of the cohort that is drawn from all the others, in [0, 1], on average over rounds: where
            it is not a whole number of agents, a lot rounds it up or down. 0.1 of 5 is one agent in half of the rounds.

    Raises:
        ConfigError: An argument is out of range, or there are not so many agents.
    """
    check_positive(cohort=cohort)
    check_one_of(utility, ("norm", "loss"), "utility")
    if not 0.0 <= epsilon <= 1.0:
        raise ConfigError(f"exploration is {epsilon}. It is a share of the cohort. Set it between 0 and 1.")

    def choose(rng: np.random.Generator, ids: np.ndarray, number: int, state: LastReports) -> np.ndarray:
        del number
        ranked = ids[_highest_first(rng, state.value[ids])]
        exploited = max(_at_most(cohort, ids) - math.floor(epsilon * cohort + rng.random()), 0)
        others = rng.permutation(ranked[exploited:])
        return np.concatenate([ranked[:exploited], others[: cohort - exploited]])

    def observe(arrivals: Arrivals, state: LastReports, reports: Reports) -> LastReports:
        return updated(state, arrivals.sender, reports[utility])

    return Selection(choose, no_reports, observe, (utility,))


@component("selection", reference="Cho, Wang & Joshi (2020), https://arxiv.org/abs/2010.01243")
def power_of_choice(cohort: int, candidates: int, reference_return: float | None = None) -> Selection:
    """Draw some candidates, and ask those of them whose loss is the highest.

    The variant of the paper that goes by the last loss each agent told, so that candidates need not be asked for it:
    an agent never heard of has the highest. More candidates lean harder to agents that fare badly; as many candidates
    as the cohort is random selection.

    What leaves an agent beside its update is its loss, four bytes in the open: "loss", or "return" if
    `reference_return` is given.

    Args:
        cohort: How many agents take part in a round, m in the paper.
        candidates: How many are drawn at random, d in the paper, at least the cohort.
        reference_return: The best mean return there is. With it, the loss of an agent is best - return.

    Raises:
        ConfigError: There are fewer candidates than are asked, or fewer agents than candidates.
    """
    check_positive(cohort=cohort)
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
def by_capacity(cohort: int, capacity: Sequence[float]) -> Selection:
    """Draw agents in proportion to their capacity, one after the other, nobody twice.

    Agents that can do more are asked more often; none is left out for good, as a hard limit would.

    Args:
        cohort: How many agents take part in a round.
        capacity: Of each agent, in any one unit: steps per second, bytes per second.

    Raises:
        ConfigError: A capacity is not above zero, or there are not so many agents as capacities.
    """
    check_positive(cohort=cohort)
    for one in capacity:
        check_above_zero(capacity=one)
    weight = np.asarray(capacity, float)

    def init(agents: int) -> PyTree:
        if len(weight) != agents:
            raise ConfigError(f"capacity has {len(weight)} entries and there are {agents} agents. Give one for each.")
        return ()

    def choose(rng: np.random.Generator, ids: np.ndarray, number: int, state: PyTree) -> np.ndarray:
        del number, state
        return rng.choice(ids, _at_most(cohort, ids), replace=False, p=weight[ids] / weight[ids].sum())

    return Selection(choose, init)


def _at_most(count: int, ids: np.ndarray, name: str = "cohort") -> int:
    if count > len(ids):
        raise ConfigError(
            f"{name} is {count} and a server asks among {len(ids)} agents. Nobody is asked twice. Set it lower."
        )
    return count


def _highest_first(rng: np.random.Generator, value: np.ndarray) -> np.ndarray:
    """Places by value, the unknown first, ties at random."""
    return np.lexsort((rng.random(len(value)), -np.where(np.isnan(value), np.inf, value)))
