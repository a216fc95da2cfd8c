"""Settings that are no numbers have numbers: equal values equal ones, others others."""

from pathlib import Path

import numpy as np
import pytest

from fedrl.environments.choices import is_choice, numbered, valued


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["a"], [Path("a")]),
        (["a"], ("a",)),
        ([("a",)], [["a"]]),
        ([1], [True]),
        ([1], ["1"]),
        ([1], [1.0]),
        ({1: "x"}, {"1": "x"}),
        ("a", Path("a")),
    ],
)
def test_values_that_differ_in_a_type_have_different_numbers(one: object, other: object) -> None:
    for value in (one, other, one):
        found = valued(numbered("data", value))
        assert found == value
        assert type(found) is type(value)
    assert numbered("data", one) != numbered("data", other)


def test_equal_values_have_equal_numbers() -> None:
    assert numbered("tariff", {"a": 1, "b": [2]}) == numbered("tariff", {"b": [2], "a": 1})
    assert is_choice(np.True_)
    assert numbered("flag", np.True_) == numbered("flag", True)


def test_an_environment_may_change_its_value() -> None:
    files = ["a", "b"]
    number = numbered("files", files)
    files.append("c")
    valued(number).pop()
    assert valued(number) == ["a", "b"]
