"""Test that rounds, agents and arrays do not share noise, from what is released without the canary's data.

A key that is used twice leaves each release as noisy as claimed, so no score of a single round shows it; but the noise
of two releases is equal then, or partly so, and their difference has less of it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats


class SharedNoise(NamedTuple):
    """The two columns of noise with the largest rank correlation.

    Attributes:
        first: (round, agent, array) of one, counted from 0.
        second: The same of the other.
        correlation: Spearman's rank correlation over runs.
        p_value: The probability of one as large among all pairs, if all noise is independent.
    """

    first: tuple[int, int, int]
    second: tuple[int, int, int]
    correlation: float
    p_value: float

    def describe(self) -> str:
        """Return what the two share, as a phrase."""
        names = ("round", "agent", "array")
        kinds = [name for name, one, other in zip(names, self.first, self.second, strict=True) if one != other]
        one, other = (
            ", ".join(f"{name} {at + 1}" for name, at in zip(names, where, strict=True))
            for where in (self.first, self.second)
        )
        return f"two {' and '.join(f'{kind}s' for kind in kinds)} ({one}; {other})"


def shared_noise(silent: Float[np.ndarray, "runs rounds agents arrays"]) -> SharedNoise | None:
    """Return the pair of columns with the largest correlation; None if there are no two columns with noise.

    Ranks are compared, whose correlation has the same distribution whatever that of the noise is.
    """
    runs = len(silent)
    columns = silent.reshape(runs, -1)
    where = [tuple(map(int, at)) for at in np.ndindex(silent.shape[1:])]
    varying = np.flatnonzero(np.ptp(columns, axis=0) > 0.0)
    if len(varying) < 2:
        return None
    ranks = stats.rankdata(columns[:, varying], axis=0)
    correlation = np.corrcoef(ranks, rowvar=False)
    np.fill_diagonal(correlation, 0.0)
    at = int(np.abs(correlation).argmax())
    one, other = sorted(divmod(at, len(varying)))
    largest = float(correlation[one, other])
    pairs = len(varying) * (len(varying) - 1) / 2
    # Fisher's transformation; 1.06 is its variance for ranks (Fieller, Hartley & Pearson, 1957).
    z = abs(np.arctanh(np.clip(largest, -0.9999999, 0.9999999))) * np.sqrt((runs - 3) / 1.06)
    p_value = min(1.0, float(pairs * 2.0 * stats.norm.sf(z)))
    first, second = where[int(varying[one])], where[int(varying[other])]
    return SharedNoise(_triple(first), _triple(second), largest, p_value)


def _triple(where: tuple[int, ...]) -> tuple[int, int, int]:
    return where[0], where[1], where[2]
