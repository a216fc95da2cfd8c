"""Estimates over seeds: against SciPy, against their own promise of coverage, and at the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedrl.core.errors import ConfigError
from fedrl.records.statistics import (
    Interval,
    interquartile_mean,
    interval,
    pooled_interval,
    probability_of_improvement,
)

NUMBERS = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40)


def coverage(low: np.ndarray, high: np.ndarray, truth: float) -> float:
    return float(((low <= truth) & (truth <= high)).mean())


@pytest.mark.parametrize("count", [4, 8, 12, 40])
def test_interquartile_mean_is_scipys_trimmed_mean_where_quarters_are_whole(count: int) -> None:
    values = np.random.default_rng(0).normal(size=(3, count))
    np.testing.assert_allclose(interquartile_mean(values), stats.trim_mean(values, 0.25, axis=1), rtol=1e-12)


def test_interquartile_mean_counts_fractions_of_the_values_at_its_edges() -> None:
    assert interquartile_mean([0.0, 1.0, 5.0]) == pytest.approx((0.25 * 0 + 1 * 1 + 0.25 * 5) / 1.5)
    assert interquartile_mean([0.0, 1.0, 2.0, 10.0, 99.0]) == pytest.approx((0.75 * 1 + 2 + 0.75 * 10) / 2.5)


@given(NUMBERS)
def test_interquartile_mean_of_every_value_four_times_is_that_of_the_values(values: list[float]) -> None:
    repeated = stats.trim_mean(np.repeat(values, 4), 0.25)  # quarters are whole, so SciPy is exact
    assert interquartile_mean(values) == pytest.approx(repeated, rel=1e-9, abs=1e-6)


@given(NUMBERS)
def test_missing_values_are_left_out(values: list[float]) -> None:
    with_gaps = np.insert(values, [0, len(values)], math.nan)
    assert interquartile_mean(with_gaps) == pytest.approx(interquartile_mean(values), rel=1e-12)
    assert math.isnan(interquartile_mean([math.nan, math.nan]))


def test_interval_agrees_with_scipys_percentile_bootstrap() -> None:
    values = np.random.default_rng(3).gamma(2.0, size=15)
    ours = interval(values, resamples=20_000)
    theirs = stats.bootstrap(
        (values,), interquartile_mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(1)
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.03 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.03 * width)


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    samples = np.random.default_rng(5).normal(2.0, 3.0, size=(20, 1_000))
    found = interval(samples, resamples=1_000)
    assert 0.92 <= coverage(found.low, found.high, 2.0) <= 0.975
    narrow = (found.mean - 0.6 * (found.mean - found.low), found.mean + 0.6 * (found.high - found.mean))
    assert coverage(*narrow, 2.0) < 0.85, "the check above must be able to fail"
    assert 0.45 <= coverage(*interval(samples, level=0.5, resamples=1_000)[1:], 2.0) <= 0.55


def test_resampling_agents_that_share_a_model_as_if_independent_is_too_narrow() -> None:
    draw = np.random.default_rng(7)
    whole, apart = [], []
    for _ in range(120):
        table = draw.normal(size=(20, 1)) + 0.1 * draw.normal(size=(20, 8))
        whole.append(pooled_interval(table, resamples=400)[1:])
        apart.append(pooled_interval(table, independent=True, resamples=400)[1:])
    assert coverage(*np.array(whole).T, 0.0) >= 0.87
    assert coverage(*np.array(apart).T, 0.0) <= 0.7


def test_independent_agents_are_covered_by_the_stratified_interval() -> None:
    draw = np.random.default_rng(9)
    ends = [pooled_interval(draw.normal(size=(20, 8)), independent=True, resamples=400)[1:] for _ in range(120)]
    assert 0.87 <= coverage(*np.array(ends).T, 0.0) <= 0.995


def test_interval_is_the_same_every_time_and_changes_with_its_seed() -> None:
    values = np.random.default_rng(0).normal(size=6)
    assert interval(values) == interval(values)
    assert interval(values) != interval(values, seed=1)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], (math.nan,) * 3),
        ([3.0], (3.0, 3.0, 3.0)),
        ([1.0, 4.0], (2.5, 1.0, 4.0)),
        ([math.nan, 4.0, None], (4, 4, 4)),
    ],
)
def test_fewer_than_three_values_give_their_range(values: list[float], expected: tuple[float, ...]) -> None:
    np.testing.assert_equal(tuple(interval(values)), expected)


def test_interval_of_a_curve_is_that_of_each_of_its_points() -> None:
    curve = np.random.default_rng(2).normal(size=(5, 7))
    curve[0, 3] = curve[2, 3] = curve[3, 3] = math.nan
    curve[:, 6] = math.nan
    whole = interval(curve)
    for i in (0, 5):
        np.testing.assert_allclose([end[i] for end in whole], interval(curve[:, i]))
    np.testing.assert_allclose([end[3] for end in whole], interval(curve[[1, 4], 3]))
    assert np.isnan([end[6] for end in whole]).all()


def test_a_long_curve_is_cut_into_parts_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    curve = np.random.default_rng(2).normal(size=(4, 11))
    whole = interval(curve)
    monkeypatch.setattr("fedrl.records.statistics.CHUNK", 1)
    np.testing.assert_array_equal(whole, interval(curve))


def test_what_does_not_exist_is_none_in_files() -> None:
    assert Interval(1.0, math.nan, math.inf).as_range() == {"mean": 1.0, "low": None, "high": None}


def test_probability_of_improvement_is_the_share_of_pairs_won() -> None:
    draw = np.random.default_rng(4)
    ours, theirs = draw.normal(0.5, size=12), draw.normal(size=9)
    found = probability_of_improvement(ours, theirs)
    assert found.mean == pytest.approx(stats.mannwhitneyu(ours, theirs).statistic / (12 * 9))
    assert found.low < found.mean < found.high
    assert probability_of_improvement(theirs, ours).mean == pytest.approx(1 - found.mean)
    assert probability_of_improvement([5, 6, 7], [1, 2, 3]) == (1.0, 1.0, 1.0)
    assert probability_of_improvement([5, 6], [1, 2]) == (1.0, 0.0, 1.0)
    assert math.isnan(probability_of_improvement([], [1]).mean)


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0, math.nan])
def test_a_level_that_is_no_probability_is_refused(level: float) -> None:
    with pytest.raises(ConfigError, match="level is"):
        interval([1.0, 2.0, 3.0], level=level)


@pytest.mark.parametrize("values", [[1.0, 2.0], [[]]])
def test_pooling_needs_a_table(values: list) -> None:
    with pytest.raises(ConfigError, match="seeds, agents"):
        pooled_interval(values)
