"""Allocate a resource with diminishing utility among agents.

    max sum_k U_k(R_k)   subject to   sum_k R_k <= total,  0 <= R_k <= cap_k

At the optimum every agent strictly between 0 and its cap has the same marginal utility, the price nu. So each R_k is a
function of the price, and the price is found by bisection (water-filling). Whole units are allocated greedily, each to
the agent with the largest gain.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

import numpy as np

from fedrl.core.checks import check_above_zero, check_one_of
from fedrl.core.errors import ConfigError

UTILITIES = ("log", "sqrt", "linear")
HALVINGS = 200


def allocate(
    total: float,
    caps: Sequence[float] | np.ndarray,
    weights: Sequence[float] | np.ndarray,
    utility: str = "log",
) -> np.ndarray:
    """Return the optimal allocation of `total`, float64 `[agents]`.

    Args:
        total: The amount to allocate.
        caps: The largest amount of each agent, `[agents]`, above zero.
        weights: a_k, the weight of each agent's utility, `[agents]`, above zero.
        utility: U_k(R) = a_k log(1 + R), a_k sqrt(R), or a_k R for "linear", which fills the largest weights first.

    Raises:
        ConfigError: An argument is out of range.

    >>> allocate(3.0, [10.0, 10.0], [2.0, 1.0]).round(6).tolist()
    [2.333333, 0.666667]

    Reference: Boyd & Vandenberghe (2004), example 5.2, https://web.stanford.edu/~boyd/cvxbook/
    """
    most, worth = _checked(total, caps, weights, utility)
    if most.sum() <= total:
        return most
    if utility == "linear":
        return _dearest_first(total, most, worth)

    def bought(price: float) -> np.ndarray:
        wanted = worth / price - 1.0 if utility == "log" else (worth / (2.0 * price)) ** 2
        return np.clip(wanted, 0.0, most)

    # Bisect the logarithm of the price: prices span many orders of magnitude. `high` never buys more than the total.
    low, high = 1e-12 * worth.min(), 1.0
    while bought(low).sum() < total:
        low /= 2.0
    while bought(high).sum() > total:
        high *= 2.0
    for _ in range(HALVINGS):
        middle = np.sqrt(low * high)
        low, high = (middle, high) if bought(middle).sum() > total else (low, middle)
    return bought(high)


def allocate_whole(
    total: int,
    caps: Sequence[int] | np.ndarray,
    weights: Sequence[float] | np.ndarray,
    utility: str = "log",
) -> np.ndarray:
    """Return the optimal allocation of `total` whole units, at least one to each agent, int `[agents]`.

    Each unit goes to the agent with the largest gain. This is optimal, as the gain of an agent decreases with each unit
    it has (Fox, 1966).

    Args:
        total: The number of units, at least one per agent.
        caps: The largest number of units of each agent, `[agents]`, at least 1.
        weights: a_k, the weight of each agent's utility, `[agents]`, above zero.
        utility: As for `allocate`.

    Raises:
        ConfigError: An argument is out of range.

    >>> allocate_whole(5, [3, 3, 1], [1.61, 6.23, 0.32]).tolist()
    [1, 3, 1]

    Reference: Fox (1966), https://doi.org/10.1287/mnsc.13.3.210
    """
    most, worth = _checked(total, caps, weights, utility)
    if total < len(most) or most.min() < 1.0:
        raise ConfigError(
            f"total is {total} and caps is {list(caps)}. Every agent takes at least one step. Set it higher."
        )

    def gain(k: int, held: int) -> float:
        # The differences log(2 + h) - log(1 + h) and sqrt(h + 1) - sqrt(h), written without cancellation.
        more = {"log": math.log1p(1.0 / (1 + held)), "sqrt": 1.0 / (math.sqrt(held + 1) + math.sqrt(held))}
        return float(worth[k]) * more.get(utility, 1.0)

    dealt = [1] * len(most)
    offers = [(-gain(k, 1), k) for k in range(len(most)) if most[k] >= 2.0]
    heapq.heapify(offers)
    for _ in range(int(total) - len(most)):
        if not offers:
            break
        k = offers[0][1]
        dealt[k] += 1
        if dealt[k] + 1 <= most[k]:
            heapq.heapreplace(offers, (-gain(k, dealt[k]), k))
        else:
            heapq.heappop(offers)
    return np.array(dealt)


def _checked(
    total: float, caps: Sequence[float] | np.ndarray, weights: Sequence[float] | np.ndarray, utility: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return caps and weights as float64 arrays, after checking their ranges."""
    check_one_of(utility, UTILITIES, "utility")
    check_above_zero(total=total)
    most, worth = np.asarray(caps, float), np.asarray(weights, float)
    if most.shape != worth.shape or most.ndim != 1 or not most.size:
        raise ConfigError(f"caps has shape {most.shape} and weights {worth.shape}. Give one of each to every agent.")
    for cap, weight in zip(most, worth, strict=True):
        check_above_zero(caps=cap, weights=weight)
    return most, worth


def _dearest_first(total: float, most: np.ndarray, worth: np.ndarray) -> np.ndarray:
    order = np.argsort(-worth, kind="stable")
    before = np.cumsum(most[order]) - most[order]
    dealt = np.empty_like(most)
    dealt[order] = np.clip(total - before, 0.0, most[order])
    return dealt
