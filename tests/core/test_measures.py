"""Measures: sums first, a number last; so that grouping is of no consequence."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrl.core.errors import ConfigError, UnsoundError
from fedrl.core.learner import measures_of
from fedrl.core.measures import COUNTS, RETURN, Measure, added, chosen, counting, step_values, value_of
from fedrl.environments import cartpole, gridworld
from fedrl.learners import accept_if_better, normalize, ppo, q_table

PER = st.sampled_from(sorted(COUNTS))
GROUPS = st.lists(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=6), min_size=1, max_size=8)


def deviation(sums):
    return (sums["squares"] / sums["steps"] - (sums["total"] / sums["steps"]) ** 2) ** 0.5


DEVIATION = Measure("step", "m", "lower", ("total", "squares"), deviation)


@given(GROUPS, PER)
def test_a_mean_is_that_of_the_pooled_data_whatever_the_grouping(groups, per):
    measure = Measure(per)
    rows = [{"x": float(np.sum(group)), measure.count: float(len(group))} for group in groups]
    pooled = np.concatenate(groups)
    assert value_of("x", measure, added(rows)) == pytest.approx(pooled.mean(), rel=1e-9, abs=1e-9)
    regrouped = added([added(rows[:1]), added(rows[1:])]) if len(rows) > 1 else added(rows)
    assert value_of("x", measure, regrouped) == pytest.approx(pooled.mean(), rel=1e-9, abs=1e-9)


@given(GROUPS)
def test_what_finish_makes_of_sums_is_the_quantity_over_the_pooled_data(groups):
    rows = [{"total": float(np.sum(g)), "squares": float(np.sum(np.square(g))), "steps": float(len(g))} for g in groups]
    assert value_of("deviation", DEVIATION, added(rows)) == pytest.approx(np.concatenate(groups).std(), abs=1e-4)


def test_a_mean_of_means_would_be_another_number():
    rows = [{"x": 1.0, "episodes": 1.0}, {"x": 0.0, "episodes": 9.0}]
    each = [value_of("x", Measure("episode"), row) for row in rows]
    assert value_of("x", Measure("episode"), added(rows)) == 0.1 != np.mean(each)


def test_nothing_to_divide_by_is_no_number():
    assert math.isnan(value_of("return", RETURN, {"episode_return": 0.0, "episodes": 0.0}))


@pytest.mark.parametrize(
    ("readable", "told"),
    [
        ({"per": "epsiode"}, "Did you mean 'episode'"),
        ({"per": "step", "better": "high"}, "better of a measure is 'high'"),
        ({"per": "step", "parts": ("a", "b")}, "has the parts ['a', 'b'] and no finish"),
        ({"per": "step", "take": "last"}, "Only an episode has a last step"),
    ],
)
def test_a_measure_that_makes_no_sense_is_refused(readable, told):
    with pytest.raises(ConfigError) as error:
        Measure(**readable)
    assert told in str(error.value)


def test_a_value_is_counted_in_one_way():
    with pytest.raises(UnsoundError, match="in different ways"):
        counting({"a": Measure("episode", parts=("x",)), "b": Measure("step", parts=("x",))})


def test_an_unknown_name_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match=r"--show is 'sucess'.*Did you mean 'success'.*loss, return, success"):
        chosen("sucess", measures_of(q_table(gridworld())), "--show")


def test_a_step_without_a_declared_value_is_refused_with_those_it_has():
    with pytest.raises(UnsoundError, match=r"measure of 'speed', and its steps return \['success'\]"):
        step_values(["speed"], {"success": 1.0}, gridworld())


def test_wrappers_pass_on_what_they_wrap_and_add_their_own():
    assert set(measures_of(q_table(gridworld()))) == {"return", "success", "loss"}
    assert set(measures_of(accept_if_better(q_table(gridworld())))) == {
        "return",
        "success",
        "loss",
        "adoptions_refused",
    }
    assert set(measures_of(normalize(ppo(cartpole())))) == {"return", "loss", "explained_variance"}


def test_a_name_stands_for_one_quantity():
    from dataclasses import replace

    twice = replace(gridworld(), measures={"loss": Measure("step")})
    with pytest.raises(UnsoundError, match="'loss', and there is one of this name already"):
        measures_of(q_table(twice))
