"""Epsilon against published numbers, closed forms and the direct definition."""

import math

import numpy as np
import pytest
from scipy import stats

from fedrl.privacy.composition import epsilon_of, most_releases, quick_epsilon, renyi, renyi_orders
from fedrl.privacy.extra import accounting
from fedrl.privacy.pricing import Price, calibrated

KINDS = accounting()
GAUSSIAN, LAPLACE = KINDS.GaussianDpEvent, KINDS.LaplaceDpEvent


def sampled(rate: float, multiplier: float):
    return KINDS.PoissonSampledDpEvent(rate, GAUSSIAN(multiplier))


def classic_epsilon(event: object, count: int, delta: float) -> float:
    """Mironov (2017), proposition 3, which the papers of these years used."""
    orders = renyi_orders()
    return float(np.min(count * renyi(event, "add-remove") + math.log(1 / delta) / (orders - 1)))


@pytest.mark.parametrize(
    ("batch", "multiplier", "epochs", "published"),
    # TensorFlow Privacy, tutorials/README.md: MNIST, 60,000 images, delta 1e-5.
    [(256, 1.1, 60, 3.01), (256, 1.3, 15, 1.19), (256, 0.7, 45, 7.10)],
)
def test_epsilons_of_the_mnist_tutorial(batch: int, multiplier: float, epochs: int, published: float) -> None:
    found = classic_epsilon(sampled(batch / 60_000, multiplier), epochs * 60_000 // batch, 1e-5)
    assert round(found, 2) == published


def test_the_epsilon_of_the_moments_accountant_and_todays() -> None:
    # Abadi et al. (2016), section 5.1: q = 0.01, sigma = 4, T = 10,000, delta = 1e-5 gives 1.26.
    event = sampled(0.01, 4.0)
    assert round(classic_epsilon(event, 10_000, 1e-5), 2) == 1.26
    assert round(quick_epsilon({event: 10_000}, 1e-5), 2) == 1.04
    assert 0.94 < epsilon_of({event: 10_000}, 1e-5) < 0.97


def gaussian_delta(epsilon: float, mu: float) -> float:
    """Balle & Wang (2018), theorem 8, from the definition alone."""
    return stats.norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * stats.norm.cdf(-mu / 2 - epsilon / mu)


@pytest.mark.parametrize(("rounds", "multiplier"), [(10, 1.518), (30, 2.6292), (100, 4.8003)])
def test_full_participation_has_a_closed_form(rounds: int, multiplier: float) -> None:
    epsilon = epsilon_of({GAUSSIAN(multiplier): rounds}, 1e-3)
    assert gaussian_delta(epsilon, rounds**0.5 / multiplier) == pytest.approx(1e-3, rel=1e-6)
    assert epsilon == pytest.approx(8.0, abs=5e-4)
    mixed = {GAUSSIAN(multiplier): rounds - 1, GAUSSIAN(multiplier * 2**0.5): 2}
    assert epsilon_of(mixed, 1e-3) == pytest.approx(epsilon)


def test_laplace_adds_up_and_sampling_amplifies_it() -> None:
    assert epsilon_of({LAPLACE(4.0): 8, LAPLACE(2.0): 4}, 0.0) == pytest.approx(4.0)
    thinned = KINDS.PoissonSampledDpEvent(0.1, LAPLACE(2.0))
    assert epsilon_of({thinned: 30}, 0.0) == pytest.approx(30 * math.log(1 + 0.1 * (math.exp(0.5) - 1)))
    assert epsilon_of({thinned: 30}, 1e-5) < epsilon_of({thinned: 30}, 0.0)


def test_a_sampled_cohort_is_never_dearer_than_everybody_and_a_fixed_one_much_dearer() -> None:
    # Facts: z = 1, N = 1,000, m = 100, T = 100: 14.1 against 7.9, by RDP.
    fixed = KINDS.SampledWithoutReplacementDpEvent(1000, 100, GAUSSIAN(1.0))
    assert round(epsilon_of({fixed: 100}, 1e-5, "replace-one"), 1) == 14.1
    assert round(quick_epsilon({sampled(0.1, 1.0): 100}, 1e-5), 1) == 7.9
    assert epsilon_of({sampled(0.1, 1.0): 100}, 1e-5) < quick_epsilon({sampled(0.1, 1.0): 100}, 1e-5)


def test_what_nothing_covers_is_infinite() -> None:
    assert epsilon_of({GAUSSIAN(1.0): 1}, 0.0) == math.inf
    assert epsilon_of({}, 0.0) == 0.0
    assert most_releases(GAUSSIAN(0.1), 1.0, 1e-5) == 0


@pytest.mark.parametrize("rate", [0.01, 0.3, 1.0])
@pytest.mark.parametrize("epsilon", [0.5, 8.0])
def test_a_calibrated_multiplier_uses_the_budget_and_does_not_exceed_it(rate: float, epsilon: float) -> None:
    def price(multiplier: float) -> Price:
        return Price((GAUSSIAN(multiplier) if rate == 1.0 else sampled(rate, multiplier),), "add-remove", "agent")

    multiplier = calibrated(epsilon, 1e-5, 50, price)
    event = price(multiplier).events[0]
    assert 0.995 * epsilon <= epsilon_of({event: 50}, 1e-5) <= epsilon
    assert most_releases(event, epsilon, 1e-5) == 50
