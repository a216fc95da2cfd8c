"""The audit of a whole run: its probability against simulated guesses, and runs with and without noise."""

import numpy as np
import pytest
from scipy import stats

from fedrl.aggregators import mean
from fedrl.audit.one_run import audit_whole, bound_of_guesses, probability_of
from fedrl.core.errors import ConfigError
from fedrl.federation.federate import federate
from fedrl.privacy import central_gaussian, local_gaussian, progress_gaussian
from tests.audit import faults

AGENTS = 60
LEARNER = faults.small_learner()
FLEET = faults.settings(LEARNER, AGENTS)


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 2.0])
def test_the_probability_is_that_of_randomised_response(epsilon: float) -> None:
    """The mechanism that makes guessing easiest: each coin is told truly with probability e^eps / (1 + e^eps)."""
    chance = np.exp(epsilon) / (1 + np.exp(epsilon))
    right = np.random.default_rng(0).binomial(50, chance, 20_000)
    for correct in (30, 40, 45):
        share = (right >= correct).mean()
        assert probability_of(50, 50, correct, epsilon, 0.0) == pytest.approx(share, abs=0.012)
        assert probability_of(50, 50, correct, epsilon, 1e-3) > probability_of(50, 50, correct, epsilon, 0.0)


def test_a_bound_of_guesses_is_wrong_as_rarely_as_its_level_says() -> None:
    epsilon, rng = 1.5, np.random.default_rng(0)
    right = rng.binomial(80, np.exp(epsilon) / (1 + np.exp(epsilon)), 2000)
    bounds = {count: bound_of_guesses(80, 80, int(count), 0.0, 0.05) for count in np.unique(right)}
    assert np.mean([bounds[count] > epsilon for count in right]) <= 0.06
    assert bound_of_guesses(80, 80, 80, 0.0, 0.05) > 3.0
    assert bound_of_guesses(80, 80, 40, 0.0, 0.05) == 0.0
    assert bound_of_guesses(80, 80, 80, 1e-3, 0.05) < bound_of_guesses(80, 80, 80, 0.0, 0.05)


def test_delta_counts_as_in_the_papers_algorithm() -> None:
    """Appendix D of Steinke et al., written out."""
    m, r, v, epsilon, delta = 100, 60, 50, 1.0, 1e-4
    q = 1 / (1 + np.exp(-epsilon))
    alpha, total = 0.0, 0.0
    for i in range(1, v + 1):
        total += stats.binom.pmf(v - i, r, q)
        alpha = max(alpha, total / i)
    expected = min(1.0, stats.binom.sf(v - 1, r, q) + alpha * delta * 2 * m)
    assert probability_of(m, r, v, epsilon, delta) == pytest.approx(expected)


def test_a_run_without_noise_is_refuted_and_a_right_one_is_not() -> None:
    stage = central_gaussian(1.0, 3.0, AGENTS / 2)
    silent = faults.unchecked(faults.noise_times(stage, AGENTS / 2, 0.0), learner=LEARNER)
    found = audit_whole(silent, FLEET, 1, 1e-5)
    assert found.verdict == "refuted"
    assert found.measured > found.claimed
    right = audit_whole(federate(LEARNER, mean(weighting="uniform"), stage), FLEET, 1, 1e-5)
    assert right.verdict == "not refuted"
    assert right.measured < right.claimed < right.measurable


def test_few_agents_have_no_power() -> None:
    stage = central_gaussian(1.0, 1.0, 4)
    found = audit_whole(federate(LEARNER, mean(weighting="uniform"), stage), faults.settings(LEARNER, 4), 1, 1e-5)
    assert (found.verdict, found.agents) == ("no power", 4)


def test_claims_about_anything_but_whole_agents_at_a_server_are_refused() -> None:
    with pytest.raises(ConfigError, match="Leave out --whole"):
        audit_whole(federate(LEARNER, mean(weighting="uniform"), local_gaussian(1.0, 1.0)), FLEET, 1, 1e-5)


def test_a_price_that_depends_on_what_was_released_is_refused() -> None:
    stage = progress_gaussian(1.0, 2.0, AGENTS, 1.0)
    with pytest.raises(ConfigError, match="that of a run's ledger"):
        audit_whole(federate(LEARNER, mean(weighting="uniform"), stage), FLEET, 1, 1e-5)
