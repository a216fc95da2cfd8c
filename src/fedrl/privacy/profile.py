"""Compute the privacy profile of releases: delta as a function of epsilon, the whole of what a mechanism claims.

    delta(epsilon) = sup over events S of  P(S) - e^epsilon Q(S),     for neighbouring datasets, in both directions

One pair (epsilon, delta) is a point of this curve. The curve is as strong a statement as the trade-off function of
f-differential privacy: Dong, Roth & Su (2022), https://arxiv.org/abs/1905.02383.

| releases | curve |
|---|---|
| Gaussian, of everybody | closed form, Balle & Wang (2018), theorem 8, https://arxiv.org/abs/1805.06530 |
| Laplace, sampled | privacy loss distributions (PLD) |
| of fixed size | from the Renyi divergence, an upper bound |
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import stats

from fedrl.privacy.composition import GRID, Composition, Relation, renyi, renyi_orders
from fedrl.privacy.extra import accounting


def profile(releases: Composition, epsilons: np.ndarray, relation: Relation = "add-remove") -> np.ndarray:
    """Return delta at each epsilon for all releases together; 1 where nothing is known.

    Args:
        releases: The `DpEvent`s of the releases, each with the number of times that it occurs.
        epsilons: `[points]`, each at least 0.
        relation: The neighbouring relation of the events.

    >>> gaussian = accounting().GaussianDpEvent
    >>> profile({gaussian(1.0): 1}, np.array([3.1437])).round(4).tolist()
    [0.001]
    """
    kinds = accounting()
    if all(isinstance(event, kinds.GaussianDpEvent) for event in releases):
        mu = math.sqrt(sum(count / event.noise_multiplier**2 for event, count in releases.items()))
        return gaussian_profile(mu, epsilons)
    accountant = kinds.pld.PLDAccountant(value_discretization_interval=GRID)
    if relation == "add-remove" and all(accountant.supports(event) for event in releases):
        for event, count in releases.items():
            accountant.compose(event, count)
        return np.array([accountant.get_delta(float(epsilon)) for epsilon in epsilons])
    bare = {event: count for event, count in releases.items() if isinstance(event, kinds.LaplaceDpEvent)}
    if len(bare) == len(releases):
        # The event of a replaced agent has half the multiplier already, so its curve is that of one removed.
        return profile(releases, epsilons)
    total: Any = sum(count * renyi(event, relation) for event, count in releases.items())
    compute = kinds.rdp.rdp_privacy_accountant.compute_delta
    return np.array([compute(renyi_orders(), total, float(epsilon))[0] for epsilon in epsilons])


def gaussian_profile(mu: float, epsilons: np.ndarray) -> np.ndarray:
    """Return delta of a Gaussian mechanism whose mean moves by mu standard deviations.

        delta = Phi(mu / 2 - epsilon / mu) - e^epsilon Phi(-mu / 2 - epsilon / mu)

    >>> gaussian_profile(1.0, np.array([0.0])).round(4).tolist()
    [0.3829]
    """
    high, low = mu / 2.0 - epsilons / mu, -mu / 2.0 - epsilons / mu
    return np.asarray(np.clip(stats.norm.cdf(high) - np.exp(epsilons + stats.norm.logcdf(low)), 0.0, 1.0))


def scaled(event: Any, factor: float) -> Any:
    """Return the event of the same release with noise that is so many times larger.

    >>> scaled(accounting().GaussianDpEvent(2.0), 0.5).noise_multiplier
    1.0
    """
    kinds = accounting()
    if isinstance(event, kinds.PoissonSampledDpEvent):
        return kinds.PoissonSampledDpEvent(event.sampling_probability, scaled(event.event, factor))
    if isinstance(event, kinds.SampledWithoutReplacementDpEvent):
        return kinds.SampledWithoutReplacementDpEvent(
            event.source_dataset_size, event.sample_size, scaled(event.event, factor)
        )
    import attrs  # of the same extra

    return attrs.evolve(event, noise_multiplier=event.noise_multiplier * factor)
