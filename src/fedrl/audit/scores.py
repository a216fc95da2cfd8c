"""Turn releases into one score for each run: the log-likelihood ratio of the two neighbouring datasets.

    Gaussian   y = <release, direction> / moved,  N(m, sigma^2)      log N(y; m) / N(y; 0) = (2 y m - m^2) / (2 sigma^2)
    Laplace    x_a, an entry of each array                           sum_a (|x_a| - |x_a - m w_a|) / b_a
    sampled    log(1 - q + q exp(log-likelihood ratio of one who takes part))

By the lemma of Neyman and Pearson no other score tells the datasets apart better, if scales are right. They are
measured and not those that are claimed: a wrong scale makes a test weaker, never wrong. For Laplace noise a sum along
one direction would be weaker, as the likelihood of several entries does not depend on their sum alone.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

SMALLEST = 1e-6
"""The least scale of noise, in units of what the canary moves; for a mechanism without any."""

Projections = Float[np.ndarray, "runs rounds arrays"]


class Likelihood(NamedTuple):
    """What is known of releases when a score is computed.

    Attributes:
        moved: `[rounds, arrays]`, by how much the canary moves each array.
        scale: `[rounds, arrays]`, the scale of the noise there: standard deviation, or mean magnitude.
        laplace: Whether the noise has a Laplace distribution.
        sampling: q, the probability with which the canary is in a round.
        means: The mean of a release in units of `moved`, with the canary and without.
    """

    moved: np.ndarray
    scale: np.ndarray
    laplace: bool
    sampling: float
    means: tuple[float, float]


def likelihood(
    silent: Projections, moved: Float[np.ndarray, " arrays"], laplace: bool, sampling: float, means: tuple[float, float]
) -> Likelihood:
    """Return what releases without any of the canary's data, `silent`, say about the noise."""
    scale = np.abs(silent).mean(0) if laplace else silent.std(0)
    # Noise that follows a clip that the server adapts grows with what the canary may move.
    growth = np.divide(scale, scale[:1], out=np.ones_like(scale), where=scale[:1] > 0.0)
    steady = np.where(np.abs(growth - 1.0) < 0.25, 1.0, growth)
    return Likelihood(moved * steady, np.maximum(scale, SMALLEST * moved), laplace, sampling, means)


def scores(found: Projections, known: Likelihood, signs: Float[np.ndarray, " rounds"]) -> Float[np.ndarray, " runs"]:
    """Return the log-likelihood ratio of each run.

    Args:
        found: Projections of the releases.
        known: What is known of them.
        signs: The sign of the canary's data in each round.
    """
    one, other = (_against_nothing(found * signs[:, None], known, mean) for mean in known.means)
    total = (one - other).sum(1)
    return np.nan_to_num(total, nan=0.0, posinf=np.finfo(float).max, neginf=np.finfo(float).min)


def _against_nothing(found: np.ndarray, known: Likelihood, mean: float) -> np.ndarray:
    """Return the log-likelihood ratio of each round, `[runs, rounds]`, against a release without the canary."""
    if mean == 0.0:
        return np.zeros(found.shape[:2])
    shift = mean * known.moved
    if known.laplace:
        ratio = ((np.abs(found) - np.abs(found - shift)) / known.scale).sum(2)
    else:
        ratio = ((2.0 * found * shift - shift**2) / (2.0 * known.scale**2)).sum(2)
    q = known.sampling
    if q >= 1.0:
        return ratio
    return np.logaddexp(np.log1p(-q), np.log(q) + ratio)
