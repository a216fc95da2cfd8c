"""Skellam noise: its distribution, its draws, and the price of a release with it, against the exact distributions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp

from fedrl.core.chacha import KEY_WORDS, chacha_key
from fedrl.privacy.composition import epsilon_of, quick_epsilon, renyi_orders
from fedrl.privacy.event_tables import event_of_table, table_of_event
from fedrl.privacy.extra import accounting
from fedrl.privacy.pricing import Price, calibrated
from fedrl.privacy.profile import profile, scaled
from fedrl.privacy.skellam import WORDS, distribution, reach, renyi_of_skellam, skellam, skellam_event, thresholds

KEY = chacha_key(np.arange(KEY_WORDS, dtype=np.uint32))
DRAWS = 200_000


def log_probabilities(variance: float, furthest: int) -> np.ndarray:
    """Of -furthest, ..., furthest, far beyond what float64 holds as probabilities."""
    half = distribution(variance)
    assert len(half) > furthest
    one = np.array([float(each.ln()) for each in half[: furthest + 1]])
    return np.concatenate([one[:0:-1], one])


@pytest.mark.parametrize("variance", [0.5, 2.0, 9.0, 400.0])
def test_the_distribution_is_that_of_a_difference_of_poisson_numbers(variance: float) -> None:
    found = np.array([float(each) for each in distribution(variance)])
    np.testing.assert_allclose(
        found[:40], stats.skellam.pmf(np.arange(len(found)), variance / 2, variance / 2)[:40], rtol=1e-9, atol=1e-25
    )
    assert found[0] + 2.0 * found[1:].sum() == pytest.approx(1.0, abs=1e-14)


@pytest.mark.parametrize("variance", [0.5, 9.0, 4e6])
def test_thresholds_are_within_one_unit_of_the_distribution_function_and_symmetric(variance: float) -> None:
    words, lowest = thresholds(variance)
    numbers = [sum(int(word) << 32 * (WORDS - 1 - i) for i, word in enumerate(row)) for row in words]
    assert numbers == sorted(numbers)
    assert len(numbers) == -2 * lowest
    assert all(a + b == 2 ** (32 * WORDS) for a, b in zip(numbers, reversed(numbers), strict=True))
    mass = (numbers[-lowest] - numbers[-lowest - 1]) / 2 ** (32 * WORDS)
    assert mass == pytest.approx(float(distribution(variance)[0]), rel=1e-14)


def draw(variance: float, size: int = DRAWS, key=KEY) -> np.ndarray:
    return np.asarray(jax.jit(lambda key: skellam(key, (size,), variance))(key), np.float64)


def deviates(found: np.ndarray, variance: float) -> bool:
    """Whether the frequencies of draws are too far from the distribution, at a level of 1e-6."""
    values, counts = np.unique(found, return_counts=True)
    probable = stats.skellam.pmf(values, variance / 2, variance / 2) * len(found)
    enough = probable >= 10.0
    rest = max(len(found) - probable[enough].sum(), 1e-9)
    seen = np.append(counts[enough], len(found) - counts[enough].sum())
    meant = np.append(probable[enough], rest)
    return bool(((seen - meant) ** 2 / meant).sum() > stats.chi2.isf(1e-6, len(meant) - 1))


@pytest.mark.parametrize("variance", [0.3, 2.0, 60.0])
def test_draws_have_the_distribution_and_draws_of_five_percent_more_have_not(variance: float) -> None:
    assert not deviates(draw(variance), variance)
    assert deviates(draw(1.05 * variance), variance)


def test_draws_of_a_large_variance_have_its_scale_and_whole_numbers() -> None:
    found = draw(4e6)
    assert (found == np.rint(found)).all()
    assert np.abs(found).max() <= reach(4e6) < 12 * 2000
    spread = found + np.random.default_rng(0).uniform(-0.5, 0.5, DRAWS)
    assert stats.kstest(spread, stats.norm(0, 2000).cdf).pvalue > 1e-5
    assert stats.kstest(1.05 * spread, stats.norm(0, 2000).cdf).pvalue < 1e-5


def test_the_least_and_the_largest_bits_give_the_ends_of_the_table(monkeypatch) -> None:
    for bits, end in ((0, -1), (0xFFFFFFFF, 1)):
        monkeypatch.setattr(jax.random, "bits", lambda key, shape, kind, bits=bits: jnp.full(shape, bits, kind))
        assert float(skellam(KEY, (1,), 9.0)[0]) == end * reach(9.0)


def test_sums_of_draws_are_draws_of_the_sum() -> None:
    together = draw(0.5, 8 * DRAWS).reshape(8, DRAWS).sum(0)
    assert not deviates(together, 4.0)
    assert deviates(together, 4.2)


# The price.


def exact_renyi(variance: float, shift: int, order: float) -> float:
    one = log_probabilities(variance, int(16 * variance**0.5) + 40)
    low, high = one[shift:], one[: len(one) - shift]  # P(k + shift) and P(k), where both are known
    return float(logsumexp(order * low + (1.0 - order) * high) / (order - 1.0))


@pytest.mark.parametrize("variance", [0.5, 3.0, 40.0, 400.0])
@pytest.mark.parametrize("shift", [1, 3, 8])
def test_the_bound_is_above_the_exact_divergence_at_whole_orders_and_between(variance: float, shift: int) -> None:
    orders = np.array([1.2, 2.0, 2.5, 3.0, 4.7, 8.0, 16.0])
    event = skellam_event(variance**0.5 / shift, float(shift))
    bound = renyi_of_skellam(event, orders)
    exact = np.array([exact_renyi(variance, shift, order) for order in orders])
    assert (exact <= bound * (1.0 + 1e-9)).all()
    if variance == 400.0 and shift == 1:
        # At a fine grid it is the divergence of Gaussian noise, at whole orders.
        assert bound[3] == pytest.approx(exact[3], rel=1e-2)
        assert bound[3] == pytest.approx(3.0 / (2.0 * variance), rel=1e-2)


def convolved_delta(variance: float, shifts: tuple[int, ...], epsilon: float) -> float:
    """The exact delta of a vector of few entries, each with its own noise: sum over all outcomes."""
    ratios, weights = np.zeros(1), np.ones(1)
    for shift in shifts:
        one = log_probabilities(variance, int(14 * variance**0.5) + 30)
        low, high = one[shift:], one[: len(one) - shift]
        ratios = (ratios[:, None] + (low - high)[None]).reshape(-1)
        weights = (weights[:, None] * np.exp(low)[None]).reshape(-1)
    gain = 1.0 - np.exp(np.minimum(epsilon - ratios, 0.0))
    return float((weights * gain)[ratios > epsilon].sum())


@pytest.mark.parametrize("shifts", [(4,), (3, 3)])
@pytest.mark.parametrize("variance", [30.0, 400.0])
def test_delta_at_the_price_is_above_the_exact_one_and_half_the_noise_is_not_covered(
    shifts: tuple[int, ...], variance: float
) -> None:
    size = float(np.linalg.norm(shifts))
    event = skellam_event(variance**0.5 / size, size)
    for delta in (1e-2, 1e-5):
        epsilon = quick_epsilon({event: 1}, delta)
        assert convolved_delta(variance, shifts, epsilon) <= delta
        assert convolved_delta(variance / 4.0, shifts, epsilon) > delta


@pytest.mark.parametrize(("epsilon", "delta", "rounds"), [(8.0, 1e-3, 10), (1.0, 1e-5, 30)])
def test_at_a_fine_grid_the_price_is_that_of_gaussian_noise(epsilon: float, delta: float, rounds: int) -> None:
    def needed(event_of) -> float:
        return calibrated(epsilon, delta, rounds, lambda z: Price((event_of(z),), "add-remove", "agent"))

    gaussian, fine, coarse = (
        needed(of)
        for of in (accounting().GaussianDpEvent, lambda z: skellam_event(z, 8192.0), lambda z: skellam_event(z, 2.0))
    )
    # Composed as Renyi divergences, which for Gaussian noise has a tighter form.
    orders, total = renyi_orders(), rounds * renyi_orders() / (2.0 * fine**2)
    limit = float(accounting().rdp.rdp_privacy_accountant.compute_epsilon(orders, total, delta)[0])
    assert epsilon == pytest.approx(limit, rel=2e-2)
    assert 1.0 < fine / gaussian < 1.1
    assert coarse > fine


def test_an_event_is_written_and_read_and_has_a_profile() -> None:
    event = skellam_event(2.0, 1000.0)
    assert event_of_table(table_of_event(event)) == event
    assert hash(event_of_table(table_of_event(event))) == hash(event)
    assert scaled(event, 0.5) == skellam_event(1.0, 1000.0)
    assert epsilon_of({event: 30}, 1e-3) == quick_epsilon({event: 30}, 1e-3)
    curve, gaussian = (profile({each: 10}, np.array([0.5, 4.0])) for each in (event, accounting().GaussianDpEvent(2.0)))
    assert (curve > gaussian).all()
    assert epsilon_of({event: 1}, 0.0) == float("inf")
