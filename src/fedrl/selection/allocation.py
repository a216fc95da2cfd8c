"""How to deal out a resource that is worth less the more one has of it.

max sum_k U_k(R_k)   so that   sum_k R_k <= total,  0 <= R_k <= cap_k

At the optimum every agent that has neither nothing nor all it can take has the same marginal utility, the price nu. So
each R_k is what it would buy at that price, and the price is found by bisection: water-filling.
"""

from __future__ import annotations

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
    """The best way to deal out `total`: float64 `[agents]`.

    Args:
        total: How much there is.
        caps: The most that each agent can take, `[agents]`, above zero.
        weights: a_k, how much it is worth to each, above zero.
        utility: U_k(R) = a_k log(1 + R), a_k sqrt(R), or a_k R for "linear", where the dearest come first.

    Raises:
        ConfigError: An argument is out of range.

    >>> allocate(3.0, [10.0, 10.0], [2.0, 1.0]).round(6).tolist()
    [2.333333, 0.666667]

    Reference: Boyd & Vandenberghe (2004), example 5.2, https://web.stanford.edu/~boyd/cvxbook/
    """
    check_one_of(utility, UTILITIES, "utility")
    check_above_zero(total=total)
    most, worth = np.asarray(caps, float), np.asarray(weights, float)
    if most.shape != worth.shape or most.ndim != 1 or not most.size:
        raise ConfigError(f"caps has shape {most.shape} and weights {worth.shape}. Give one of each to every agent.")
    for cap, weight in zip(most, worth, strict=True):
        check_above_zero(caps=cap, weights=weight)
    if most.sum() <= total:
        return most
    if utility == "linear":
        return _dearest_first(total, most, worth)

    def bought(price: float) -> np.ndarray:
        wanted = worth / price - 1.0 if utility == "log" else (worth / (2.0 * price)) ** 2
        return np.clip(wanted, 0.0, most)

    low, high = 1e-12 * worth.min(), 1.0
    while bought(low).sum() < total:
        low /= 2.0
    while bought(high).sum() > total:
        high *= 2.0
    for _ in range(HALVINGS):
        middle = np.sqrt(low * high)
        low, high = (middle, high) if bought(middle).sum() > total else (low, middle)
    return bought(high)


def _dearest_first(total: float, most: np.ndarray, worth: np.ndarray) -> np.ndarray:
    order = np.argsort(-worth, kind="stable")
    before = np.cumsum(most[order]) - most[order]
    dealt = np.empty_like(most)
    dealt[order] = np.clip(total - before, 0.0, most[order])
    return dealt
