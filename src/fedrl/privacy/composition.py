"""Compute epsilon for a sequence of releases, by the tightest bound that holds for them.

| releases | bound |
|---|---|
| Gaussian, of everybody | closed form: mu^2 = sum 1 / z^2; it holds for an adaptive choice of z, too |
| Laplace, delta = 0 | sum of 1 / b; of agents sampled at rate q, of log(1 + q (exp(1 / b) - 1)) |
| sampled, all announced in advance | PLD: numerical composition of privacy loss distributions |
| of fixed size, all announced in advance | RDP: Renyi differential privacy |
| Skellam, all announced in advance | RDP |

Balle & Wang (2018), https://arxiv.org/abs/1805.06530; Mironov (2017), https://arxiv.org/abs/1702.07476; adaptive
choices: Lecuyer (2021), https://arxiv.org/abs/2103.01379, Smith & Thakurta (2022), https://arxiv.org/abs/2210.17520.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from fedrl.privacy.extra import accounting
from fedrl.privacy.skellam import is_skellam, renyi_of_skellam

Relation = Literal["add-remove", "replace-one"]
Composition = Mapping[Any, int]
"""The `DpEvent`s of releases, each with the number of times that it occurs."""

GRID = 1e-3
"""The interval of PLD's discretisation: epsilon is an upper bound at any interval, within about 0.01 at this one."""


def epsilon_of(releases: Composition, delta: float, relation: Relation = "add-remove", adaptive: bool = False) -> float:
    """Return an upper bound of epsilon at this delta for all the releases together; infinity if there is none.

    Args:
        releases: The releases.
        delta: The probability with which epsilon may be exceeded; 0 for pure differential privacy.
        relation: The neighbouring relation of the events.
        adaptive: Whether the events of later releases were chosen from the results of earlier ones.

    >>> gaussian = accounting().GaussianDpEvent
    >>> round(epsilon_of({gaussian(2.6292): 30}, 1e-3), 2)
    8.0
    """
    releases = {event: count for event, count in releases.items() if count}
    if not releases:
        return 0.0
    quick = quick_epsilon(releases, delta, relation)
    if adaptive or is_tight(releases, delta, relation):
        return quick
    return min(quick, _pld_epsilon(tuple(releases.items()), delta))


def is_tight(releases: Composition, delta: float, relation: Relation = "add-remove") -> bool:
    """Return whether `quick_epsilon` is the tightest bound that there is.

    >>> is_tight({accounting().GaussianDpEvent(2.0): 30}, 1e-3)
    True
    """
    return (relation == "replace-one" and _sampled(releases)) or _closed(releases, delta)


def quick_epsilon(releases: Composition, delta: float, relation: Relation = "add-remove") -> float:
    """Return a bound that costs less than a millisecond and also holds for adaptive choices; see `epsilon_of`."""
    kinds, releases = accounting(), {event: count for event, count in releases.items() if count}
    if not releases:
        return 0.0
    bounds = [sum(count * _pure_epsilon(event) for event, count in releases.items())]
    if delta > 0.0 and all(isinstance(event, kinds.GaussianDpEvent) for event in releases):
        return _gaussian_epsilon(tuple((event.noise_multiplier, count) for event, count in releases.items()), delta)
    if delta > 0.0:
        orders, total = renyi_orders(), sum(count * renyi(event, relation) for event, count in releases.items())
        bounds.append(float(kinds.rdp.rdp_privacy_accountant.compute_epsilon(orders, total, delta)[0]))
    return min(bounds)


def most_releases(
    event: Any, epsilon: float, delta: float, relation: Relation = "add-remove", adaptive: bool = False
) -> int:
    """Return how many releases of an event stay within epsilon.

    >>> most_releases(accounting().GaussianDpEvent(2.63), 8.0, 1e-3)
    30
    """

    def within(count: int) -> bool:
        return epsilon_of({event: count}, delta, relation, adaptive) <= epsilon

    if not within(1):
        return 0
    low, high = 1, 2
    while within(high):
        low, high = high, 2 * high
        if high > 1 << 40:
            return low
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if within(middle) else (low, middle)
    return low


@lru_cache(maxsize=1)
def renyi_orders() -> np.ndarray:
    """Return the orders at which Renyi divergences are bounded."""
    return np.asarray(accounting().rdp.rdp_privacy_accountant.DEFAULT_RDP_ORDERS)


@lru_cache(maxsize=1024)
def renyi(event: Any, relation: Relation) -> np.ndarray:
    """Return the Renyi divergence of one release at each order; read-only."""
    accountant = accounting().rdp.RdpAccountant(renyi_orders(), _dp_relation(relation))
    if is_skellam(event):
        found = renyi_of_skellam(event, renyi_orders())
    elif accountant.supports(event):
        accountant.compose(event)
        found = np.array(accountant._rdp)
    else:
        found = np.full(len(renyi_orders()), math.inf)
    found.setflags(write=False)
    return found


@lru_cache(maxsize=4096)
def _gaussian_epsilon(releases: tuple[tuple[float, int], ...], delta: float) -> float:
    # Gaussian mechanisms compose to a Gaussian mechanism whose 1 / z^2 is the sum.
    precision = sum(count / multiplier**2 for multiplier, count in releases)
    return float(accounting().get_epsilon_gaussian(precision**-0.5, delta))


@lru_cache(maxsize=1024)
def _pld_epsilon(releases: tuple[tuple[Any, int], ...], delta: float) -> float:
    accountant = accounting().pld.PLDAccountant(value_discretization_interval=GRID)
    if not all(accountant.supports(event) for event, _ in releases):
        return math.inf
    for event, count in releases:
        accountant.compose(event, count)
    return float(accountant.get_epsilon(delta))


def _pure_epsilon(event: Any) -> float:
    """Return epsilon of one release at delta = 0; infinite unless it is a Laplace mechanism."""
    kinds = accounting()
    if isinstance(event, kinds.LaplaceDpEvent):
        return float(1.0 / event.noise_multiplier)
    if isinstance(event, kinds.PoissonSampledDpEvent) and isinstance(event.event, kinds.LaplaceDpEvent):
        return math.log1p(event.sampling_probability * math.expm1(1.0 / event.event.noise_multiplier))
    return math.inf


def _sampled(releases: Composition) -> bool:
    kinds = accounting()
    return not all(isinstance(event, kinds.GaussianDpEvent | kinds.LaplaceDpEvent) for event in releases)


def _closed(releases: Composition, delta: float) -> bool:
    """Return whether the quick bound is exact."""
    return delta == 0.0 or all(isinstance(event, accounting().GaussianDpEvent) for event in releases)


def _dp_relation(relation: Relation) -> Any:
    kinds = accounting().NeighboringRelation
    return kinds.REPLACE_ONE if relation == "replace-one" else kinds.ADD_OR_REMOVE_ONE
