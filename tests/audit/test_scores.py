"""Scores are the log-likelihood ratios that their formulas say, and noise that is shared is found."""

import numpy as np
import pytest
from scipy import stats

from fedrl.audit.independence import shared_noise
from fedrl.audit.scores import Likelihood, likelihood, scores

RUNS, ROUNDS, ARRAYS = 50, 3, 2
MOVED = np.array([[0.5, 1.5]] * ROUNDS)
SCALE = np.array([[1.0, 0.7], [1.0, 0.7], [1.0, 0.7]])
FOUND = np.random.default_rng(0).normal(size=(RUNS, ROUNDS, ARRAYS))
PLAIN = np.ones(ROUNDS)


@pytest.mark.parametrize("laplace", [False, True])
@pytest.mark.parametrize("sampling", [1.0, 0.3])
@pytest.mark.parametrize("means", [(1.0, 0.0), (0.5, -0.5)])
def test_scores_are_log_likelihood_ratios(laplace: bool, sampling: float, means: tuple[float, float]) -> None:
    kind = stats.laplace if laplace else stats.norm

    def density(mean: float) -> np.ndarray:
        taking_part = kind.pdf(FOUND, mean * MOVED, SCALE).prod(2)
        return sampling * taking_part + (1.0 - sampling) * kind.pdf(FOUND, 0.0, SCALE).prod(2)

    expected = (np.log(density(means[0])) - np.log(density(means[1]))).sum(1)
    assert scores(FOUND, Likelihood(MOVED, SCALE, laplace, sampling, means), PLAIN) == pytest.approx(expected)


def test_signs_turn_what_is_looked_for() -> None:
    known, signs = Likelihood(MOVED, SCALE, False, 1.0, (1.0, 0.0)), np.array([1.0, -1.0, 1.0])
    turned = FOUND * signs[:, None]
    assert scores(FOUND, known, signs) == pytest.approx(scores(turned, known, PLAIN))


def test_scales_are_measured_and_what_moves_grows_with_them() -> None:
    draws = np.random.default_rng(1).normal(size=(4000, ROUNDS, ARRAYS)) * np.array([1.0, 1.0, 3.0])[:, None]
    known = likelihood(draws, np.array([0.5, 1.5]), False, 1.0, (1.0, 0.0))
    assert known.scale[:, 0] == pytest.approx([1.0, 1.0, 3.0], rel=0.05)
    assert known.moved[:2] == pytest.approx(MOVED[:2])
    assert known.moved[2] == pytest.approx(3.0 * MOVED[2], rel=0.05)


def test_a_mechanism_without_noise_has_finite_scores() -> None:
    known = likelihood(np.zeros((10, ROUNDS, ARRAYS)), np.array([0.5, 1.5]), False, 1.0, (1.0, 0.0))
    present = scores(np.broadcast_to(MOVED, (4, ROUNDS, ARRAYS)).copy(), known, PLAIN)
    absent = scores(np.zeros((4, ROUNDS, ARRAYS)), known, PLAIN)
    assert np.isfinite([present, absent]).all()
    assert (present > 0.0).all()
    assert (absent < 0.0).all()


@pytest.mark.parametrize("draw", ["normal", "laplace", "standard_cauchy"])
def test_independent_noise_raises_no_alarm(draw: str) -> None:
    values = [
        shared_noise(getattr(np.random.default_rng(seed), draw)(size=(500, 4, 1, 4))).p_value for seed in range(100)
    ]
    assert sum(value < 0.05 for value in values) <= 12
    assert sum(value < 0.01 for value in values) <= 5


@pytest.mark.parametrize(("axis", "kind"), [(1, "rounds"), (2, "agents"), (3, "arrays")])
def test_noise_of_which_a_quarter_is_shared_is_found_and_named(axis: int, kind: str) -> None:
    noise = np.random.default_rng(0).normal(size=(1000, 3, 2, 3))
    one, other = [slice(None)] * 4, [slice(None)] * 4
    one[axis], other[axis] = 0, 1
    noise[tuple(other)] = noise[tuple(other)] + 0.5 * noise[tuple(one)]
    found = shared_noise(noise)
    assert found.p_value < 1e-6
    assert found.describe().startswith(f"two {kind} (")


def test_a_single_column_can_share_with_none() -> None:
    assert shared_noise(np.random.default_rng(0).normal(size=(100, 1, 1, 1))) is None
    assert shared_noise(np.zeros((100, 2, 1, 2))) is None
