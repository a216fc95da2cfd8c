"""The statistics of a verdict: confidence bounds, false alarms, power, with scores that are exactly as claimed."""

import numpy as np
import pytest
from scipy import stats

from fedrl.audit.hypothesis_tests import (
    EPSILONS,
    detects,
    halves,
    largest_epsilon,
    largest_violation,
    lower_bound,
    measured_epsilon,
    upper_bound,
)
from fedrl.privacy.composition import epsilon_of
from fedrl.privacy.extra import accounting
from fedrl.privacy.profile import gaussian_profile, profile, scaled
from tests.audit.faults import exact_gaussian_scores

RUNS, ALPHA = 2000, 0.05
KINDS = accounting()


@pytest.mark.parametrize(("count", "runs"), [(0, 10), (3, 10), (10, 10), (1, 4000), (3999, 4000)])
def test_bounds_are_those_of_scipy(count: int, runs: int) -> None:
    # Two-sided at 2 alpha, so that each side has alpha.
    interval = stats.binomtest(count, runs).proportion_ci(1.0 - 2.0 * 0.01, "exact")
    assert float(lower_bound(count, runs, 0.01)) == pytest.approx(interval.low, abs=1e-12)
    assert float(upper_bound(count, runs, 0.01)) == pytest.approx(interval.high, abs=1e-12)


def alarms(claimed_mu: float, mu: float, times: int, alpha: float = ALPHA, runs: int = RUNS) -> int:
    curve = gaussian_profile(claimed_mu, EPSILONS)
    found = [
        largest_violation(halves(*exact_gaussian_scores(mu, runs, seed)), EPSILONS, curve, alpha)
        for seed in range(times)
    ]
    return sum(each.refuted for each in found)


@pytest.mark.parametrize("mu", [0.3, 1.0, 2.08])
def test_a_true_claim_is_refuted_at_most_as_often_as_the_level_says(mu: float) -> None:
    # 5 % of 200 are 10; the binomial distribution has 20 or more with probability 0.0027.
    assert alarms(mu, mu, 200) < 20


@pytest.mark.parametrize("mu", [1.0, 2.08])
def test_a_claim_that_is_slightly_false_is_refuted(mu: float) -> None:
    assert alarms(mu, mu / 0.8, 20, 0.005, 8000) == 20


def test_without_halves_true_claims_would_be_refuted_too_often() -> None:
    """The halves are there for a reason: the largest of many violations needs no fault."""
    scores = [exact_gaussian_scores(0.3, 200, seed) for seed in range(200)]
    curve, level = gaussian_profile(0.3, EPSILONS), 0.5
    alone = [halves(np.tile(present, 2), np.tile(absent, 2)) for present, absent in scores]
    kept = [largest_violation(halves(*each), EPSILONS, curve, level).refuted for each in scores]
    broken = [largest_violation(each, EPSILONS, curve, level).refuted for each in alone]
    assert sum(kept) <= 0.5 * 200
    assert sum(broken) > sum(kept) + 30


def test_both_directions_are_tested() -> None:
    # Without the canary the score is often very low, and with it never: only an event of its absence shows that.
    draws = np.random.default_rng(0)
    present = draws.normal(size=RUNS)
    absent = np.where(draws.random(RUNS) < 0.3, -50.0, draws.normal(size=RUNS))
    found = largest_violation(halves(present, absent), EPSILONS, gaussian_profile(0.5, EPSILONS), ALPHA)
    assert found.refuted
    assert found.direction == "removed"
    assert found.cutoff < -2.0
    mirrored = largest_violation(halves(-absent, -present), EPSILONS, gaussian_profile(0.5, EPSILONS), ALPHA)
    assert mirrored.refuted
    assert mirrored.direction == "added"


def test_a_measured_epsilon_exceeds_the_true_one_as_rarely_as_its_confidence_says() -> None:
    mu, delta = 1.0, 1e-3
    true = epsilon_of({KINDS.GaussianDpEvent(1.0 / mu): 1}, delta)
    found = [measured_epsilon(halves(*exact_gaussian_scores(mu, RUNS, seed)), delta, ALPHA) for seed in range(100)]
    assert sum(each > true for each in found) <= 12
    assert np.median(found) > 0.3 * true


def test_perfect_scores_show_the_largest_epsilon_that_can_be_shown() -> None:
    found = measured_epsilon(halves(np.ones(RUNS), np.zeros(RUNS)), 1e-3, ALPHA)
    assert found == pytest.approx(largest_epsilon(RUNS // 2, 1e-3, ALPHA))
    assert measured_epsilon(halves(np.zeros(RUNS), np.zeros(RUNS)), 1e-3, ALPHA) == 0.0


def test_the_power_that_is_stated_is_the_power_there_is() -> None:
    claimed = gaussian_profile(1.0, EPSILONS)
    stated = {
        factor: detects(RUNS // 2, EPSILONS, claimed, gaussian_profile(1.0 / factor, EPSILONS), 0.005)
        for factor in (0.9, 0.8, 0.65)
    }
    assert stated == {0.9: False, 0.8: False, 0.65: True}
    assert alarms(1.0, 1.0 / 0.65, 20, 0.005) > 10
    assert alarms(1.0, 1.0 / 0.9, 20, 0.005) <= 10


def test_few_runs_have_no_power_at_all() -> None:
    claimed = gaussian_profile(1.0, EPSILONS)
    assert not detects(5, EPSILONS, claimed, None, 0.01)
    assert detects(1000, EPSILONS, claimed, None, 0.01)
    assert not detects(1000, EPSILONS, claimed, claimed, 0.01)


def test_profiles_agree_with_epsilon() -> None:
    gaussian, laplace = KINDS.GaussianDpEvent(2.0), KINDS.LaplaceDpEvent(2.0)
    for event, count in ((gaussian, 5), (KINDS.PoissonSampledDpEvent(0.2, gaussian), 5), (laplace, 3)):
        epsilon = epsilon_of({event: count}, 1e-3)
        assert profile({event: count}, np.array([epsilon]))[0] == pytest.approx(1e-3, rel=0.02)
    fixed = KINDS.SampledWithoutReplacementDpEvent(10, 2, gaussian)
    epsilon = epsilon_of({fixed: 5}, 1e-3, "replace-one")
    assert profile({fixed: 5}, np.array([epsilon]), "replace-one")[0] == pytest.approx(1e-3, rel=0.02)
    assert profile({laplace: 3}, np.array([1.5]))[0] == pytest.approx(0.0, abs=1e-12)
    assert scaled(KINDS.PoissonSampledDpEvent(0.2, gaussian), 0.5) == KINDS.PoissonSampledDpEvent(
        0.2, KINDS.GaussianDpEvent(1.0)
    )
