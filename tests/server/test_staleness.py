"""How updates lose weight with age, against the formulas of FedAsync worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrl.core.errors import ConfigError
from fedrl.server.staleness import hinge, ignore_staleness, polynomial

RULES = [ignore_staleness(), polynomial(0.5), polynomial(2.0), hinge(10.0, 4.0), hinge(0.5, 0.0)]
AGES = np.arange(8)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (ignore_staleness(), [1, 1, 1, 1, 1, 1, 1, 1]),
        (polynomial(1.0), [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 6, 1 / 7, 1 / 8]),
        (polynomial(2.0), [1, 1 / 4, 1 / 9, 1 / 16, 1 / 25, 1 / 36, 1 / 49, 1 / 64]),
        (hinge(10.0, 4.0), [1, 1, 1, 1, 1, 1 / 11, 1 / 21, 1 / 31]),
        (hinge(0.5, 0.0), [1, 1 / 1.5, 1 / 2, 1 / 2.5, 1 / 3, 1 / 3.5, 1 / 4, 1 / 4.5]),
    ],
    ids=repr,
)
def test_weights_are_those_worked_out_by_hand(rule, expected):
    np.testing.assert_allclose(rule.weight(AGES), expected, rtol=1e-6)


@pytest.mark.parametrize("rule", RULES, ids=repr)
@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_an_older_update_never_counts_more_and_always_something(rule, age, later):
    fresh, young, old = rule.weight(np.array([0, age, age + later]))
    assert fresh == 1.0
    assert 0.0 < old <= young <= fresh


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_one_age_and_many_are_the_same(rule):
    many = rule.weight(AGES)
    assert many.dtype == np.float32
    np.testing.assert_array_equal(many, [rule.weight(np.array(age)) for age in AGES])
    assert rule.weight(np.array(-3)) == 1.0


@pytest.mark.parametrize("wrong", [lambda: polynomial(0.0), lambda: hinge(slope=-1.0), lambda: hinge(patience=-1.0)])
def test_what_makes_no_weight_is_refused(wrong):
    with pytest.raises(ConfigError, match=r"It needs to be"):
        wrong()
