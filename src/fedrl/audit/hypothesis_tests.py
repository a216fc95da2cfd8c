"""Test a claimed privacy profile with runs of a mechanism, half of which choose the test and half decide.

    scores of runs with the canary, and without --half--> direction, threshold, epsilon' of the largest violation
                                                --half--> confidence bounds of both rates there --> refuted, or not

A mechanism that claims the profile delta(epsilon) keeps, for every threshold t and every epsilon',

    P(score >= t | with) <= e^epsilon' P(score >= t | without) + delta(epsilon'),     and the same the other way round,

so one violation is enough to refute the claim, and no score can refute a true claim more often than alpha.

Jagielski, Ullman & Oprea (2020), https://arxiv.org/abs/2006.07709; whole curves: Nasr et al. (2023),
https://arxiv.org/abs/2302.07956; confidence bounds: Clopper & Pearson (1934), https://doi.org/10.1093/biomet/26.4.404.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

EPSILONS = np.arange(0.0, 12.01, 0.25)
"""The points of a claimed curve that are tested."""
THRESHOLDS = 200
MARGIN = 0.5
"""Standard errors by which rates may be worse than expected where power is stated."""


class Violation(NamedTuple):
    """The test that half of the runs chose, and what the other half says about it.

    Attributes:
        direction: "added": a score of at least the cutoff is likelier with the canary; or "removed": a score of at most
            the cutoff is likelier without it.
        cutoff: Of the score.
        epsilon: epsilon', the point of the claimed curve.
        claimed: delta(epsilon').
        measured: Lower confidence bound of delta(epsilon').
    """

    direction: str
    cutoff: float
    epsilon: float
    claimed: float
    measured: float

    @property
    def refuted(self) -> bool:
        """Return whether the measured bound exceeds the claim."""
        return self.measured > self.claimed


class Halves(NamedTuple):
    """Scores for choosing a test and for deciding it, with the canary and without, `[runs / 2]` each."""

    choose_with: np.ndarray
    choose_without: np.ndarray
    decide_with: np.ndarray
    decide_without: np.ndarray


def halves(present: Float[np.ndarray, " runs"], absent: Float[np.ndarray, " runs"]) -> Halves:
    """Split scores into those that choose and those that decide. Runs are independent, so their order is no matter."""
    middle_in, middle_out = len(present) // 2, len(absent) // 2
    return Halves(present[:middle_in], absent[:middle_out], present[middle_in:], absent[middle_out:])


def lower_bound(count: np.ndarray | int, runs: int, alpha: float) -> np.ndarray:
    """Return the Clopper-Pearson lower bound of a probability, with confidence 1 - alpha.

    >>> round(float(lower_bound(10, 10, 0.05)), 4)
    0.7411
    """
    count = np.asarray(count)
    return np.where(count > 0, stats.beta.ppf(alpha, np.maximum(count, 1), runs - count + 1), 0.0)


def upper_bound(count: np.ndarray | int, runs: int, alpha: float) -> np.ndarray:
    """Return the Clopper-Pearson upper bound of a probability, with confidence 1 - alpha.

    >>> round(float(upper_bound(0, 10, 0.05)), 4)
    0.2589
    """
    count = np.asarray(count)
    return np.where(count < runs, stats.beta.ppf(1.0 - alpha, count + 1, np.maximum(runs - count, 1)), 1.0)


def largest_violation(scores: Halves, epsilons: np.ndarray, claimed: np.ndarray, alpha: float) -> Violation:
    """Return the test of a claimed curve that half of the scores choose; it refutes a true one with at most alpha.

    Args:
        scores: The scores of runs.
        epsilons: `[points]`, epsilon'.
        claimed: `[points]`, delta(epsilon').
        alpha: The level.
    """
    best, found = -np.inf, ("added", 0.0, 0)
    for direction in ("added", "removed"):
        likelier, rarer = _ordered(direction, scores.choose_with, scores.choose_without)
        thresholds = np.unique(np.quantile(np.concatenate([likelier, rarer]), np.linspace(0.0, 1.0, THRESHOLDS + 2)))
        high, low = _rates(likelier, thresholds), _rates(rarer, thresholds)
        factor = np.exp(epsilons)[:, None]
        # In units of the standard error, in which a rate of zero counts as one run in all.
        least = 1.0 / len(likelier)
        error = np.sqrt(
            np.maximum(high * (1.0 - high), least) / len(likelier)
            + factor**2 * np.maximum(low, least) * (1.0 - low) / len(rarer)
        )
        excess = (high - factor * low - claimed[:, None]) / error
        at, which = np.unravel_index(int(excess.argmax()), excess.shape)
        if excess[at, which] > best:
            best, found = float(excess[at, which]), (direction, float(thresholds[which]), int(at))
    direction, threshold, point = found
    likelier, rarer = _ordered(direction, scores.decide_with, scores.decide_without)
    high = lower_bound(int((likelier >= threshold).sum()), len(likelier), alpha / 2.0)
    low = upper_bound(int((rarer >= threshold).sum()), len(rarer), alpha / 2.0)
    measured = float(high - np.exp(epsilons[point]) * low)
    signed = threshold if direction == "added" else -threshold
    return Violation(direction, signed, float(epsilons[point]), float(claimed[point]), measured)


def measured_epsilon(scores: Halves, delta: float, alpha: float) -> float:
    """Return a lower bound of epsilon at this delta, with confidence 1 - alpha; 0 if nothing is shown.

        epsilon >= log((P(score >= t | with) - delta) / P(score >= t | without))

    The threshold is chosen by other runs than those that bound the rates.
    """
    best, found = -np.inf, ("added", 0.0)
    for direction in ("added", "removed"):
        likelier, rarer = _ordered(direction, scores.choose_with, scores.choose_without)
        thresholds = np.unique(np.quantile(np.concatenate([likelier, rarer]), np.linspace(0.0, 1.0, THRESHOLDS + 2)))
        shown = _log_ratio(likelier, rarer, thresholds, delta, alpha)
        if shown.max() > best:
            best, found = float(shown.max()), (direction, float(thresholds[shown.argmax()]))
    direction, threshold = found
    likelier, rarer = _ordered(direction, scores.decide_with, scores.decide_without)
    return max(0.0, float(_log_ratio(likelier, rarer, np.array([threshold]), delta, alpha)[0]))


def largest_epsilon(runs: int, delta: float, alpha: float) -> float:
    """Return the largest lower bound of epsilon that so many deciding runs a side can show."""
    high, low = lower_bound(runs, runs, alpha / 2.0), upper_bound(0, runs, alpha / 2.0)
    return max(0.0, float(np.log(max(float(high) - delta, 1e-300) / float(low))))


def detects(runs: int, epsilons: np.ndarray, claimed: np.ndarray, actual: np.ndarray | None, alpha: float) -> bool:
    """Return whether so many deciding runs a side would refute a claim more often than not.

    Args:
        runs: Their number.
        epsilons: `[points]`.
        claimed: `[points]`, delta(epsilon') as claimed.
        actual: `[points]`, that of the mechanism; None for one that adds no noise at all.
        alpha: The level of the test.
    """
    if actual is None:
        high, low = np.ones_like(epsilons), np.zeros_like(epsilons)
    else:
        # d delta / d epsilon = -e^epsilon P(S | without), and delta = P(S | with) - e^epsilon P(S | without).
        slope = np.gradient(actual, epsilons)
        low = np.clip(-slope * np.exp(-epsilons), 0.0, 1.0)
        high = np.clip(actual - slope, 0.0, 1.0)
        # On the mean alone it would be half of the time at best, as the other half of the runs has to find the point.
        high = np.clip(high - MARGIN * np.sqrt(high * (1.0 - high) / runs), 0.0, 1.0)
        low = np.clip(low + MARGIN * np.sqrt(low * (1.0 - low) / runs), 0.0, 1.0)
    least = lower_bound(np.floor(high * runs), runs, alpha / 2.0)
    most = upper_bound(np.ceil(low * runs), runs, alpha / 2.0)
    return bool((least - np.exp(epsilons) * most > claimed).any())


def _ordered(direction: str, present: np.ndarray, absent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of the side on which the event is likelier, and of the other; large scores are the event."""
    return (present, absent) if direction == "added" else (-absent, -present)


def _rates(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Return the share of scores at or above each threshold."""
    return 1.0 - np.searchsorted(np.sort(scores), thresholds, side="left") / len(scores)


def _log_ratio(
    likelier: np.ndarray, rarer: np.ndarray, thresholds: np.ndarray, delta: float, alpha: float
) -> np.ndarray:
    high = lower_bound(np.rint(_rates(likelier, thresholds) * len(likelier)), len(likelier), alpha / 2.0)
    low = upper_bound(np.rint(_rates(rarer, thresholds) * len(rarer)), len(rarer), alpha / 2.0)
    return np.log(np.maximum(high - delta, 1e-300) / low)
