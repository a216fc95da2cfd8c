"""Numbers are in their declared range, or refused in one sentence."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from fedrl.core.errors import ConfigError
from fedrl.core.ranges import Count, Duration, Finite, Fraction, FractionBelowOne, Positive, check_ranges, ranges_of


def made(
    count: Count = 1,
    share: Fraction = 0.5,
    chance: FractionBelowOne = 0.5,
    size: Positive | None = None,
    wait_s: Duration = 0.0,
    start: Finite = 0.0,
    hidden: Sequence[Count] = (4, 4),
    word: str = "",
) -> None: ...


RANGES = ranges_of(made)


def test_every_number_has_its_range_however_deep_it_is():
    assert {name: str(each) for name, each in RANGES.items()} == {
        "count": "a whole number, 1 or more",
        "share": "a number from 0 to 1",
        "chance": "a number from 0 and below 1",
        "size": "a number above 0, finite",
        "wait_s": "a number, 0 or more",
        "start": "a finite number",
        "hidden": "a whole number, 1 or more",
    }


@pytest.mark.parametrize(
    "given",
    [
        {"count": np.int64(3), "share": np.float32(1.0), "size": None, "wait_s": math.inf, "hidden": np.array([2, 3])},
        {"count": 2.0, "share": 0, "hidden": []},
        {"size": 1e-30, "start": -1e300, "hidden": range(1, 4)},
    ],
)
def test_numbers_in_their_range_pass(given):
    check_ranges(RANGES, given)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"count": 0}, "count is 0. It needs to be a whole number, 1 or more. Choose one in this range."),
        ({"count": 1.5}, "count is 1.5. It needs to be a whole number, 1 or more. Round it."),
        ({"count": True}, "count is True. It needs to be a whole number, 1 or more. Give a number."),
        ({"share": "0.5"}, "share is '0.5', a string. It needs to be a number from 0 to 1. Write it without quotes."),
        ({"share": math.nan}, "share is nan. It needs to be a number from 0 to 1. Choose one in this range."),
        ({"chance": 1.0}, "chance is 1.0. It needs to be a number from 0 and below 1. Choose one in this range."),
        ({"size": math.inf}, "size is inf. It needs to be a number above 0, finite. Choose one in this range."),
        ({"start": -math.inf}, "start is -inf. It needs to be a finite number. Choose one in this range."),
        (
            {"hidden": [64, 0]},
            "an entry of hidden is 0. It needs to be a whole number, 1 or more. Choose one in this range.",
        ),
        (
            {"hidden": ["a"]},
            "an entry of hidden is 'a', a string. It needs to be a whole number, 1 or more. Write it without quotes.",
        ),
    ],
)
def test_all_other_numbers_are_refused_in_one_sentence(given, sentence):
    with pytest.raises(ConfigError) as refused:
        check_ranges(RANGES, given)
    assert str(refused.value) == sentence
