"""Limits in words, and which configurations can be built with any number of agents."""

from pathlib import Path
from typing import Any

import pytest

from fedrl.core.errors import ConfigError
from fedrl.studies.scaling.limits import limit_of
from fedrl.studies.scaling.scalable import scalable

TABLES: dict[str, Any] = {"name": "x", "federation": {"agents": 3}, "environment": "gridworld", "learner": "q_table"}


@pytest.mark.parametrize(
    ("text", "quantity", "most"),
    [
        ("round <= 1 s", "round", 1.0),
        ("round<=250ms", "round", 0.25),
        ("  round ≤ 2 min ", "round", 120.0),
        ("memory <= 8 GB", "memory", 8e9),
        ("memory <= 1.5 GiB", "memory", 1.5 * 2**30),
        ("bytes <= 1e3 kB", "bytes", 1e6),
        ("bytes <= 12 B", "bytes", 12.0),
    ],
)
def test_a_limit_is_a_quantity_and_a_number_with_a_unit(text: str, quantity: str, most: float) -> None:
    assert limit_of(text) == (quantity, pytest.approx(most))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "It needs a quantity, <= and a number with a unit"),
        ("round", "It needs a quantity, <= and a number with a unit"),
        ("round < 1 s", "It needs a quantity, <= and a number with a unit"),
        ("round >= 1 s", "It needs a quantity, <= and a number with a unit"),
        ("memory <= GB", "It needs a quantity, <= and a number with a unit"),
        ("rounds <= 1 s", "'rounds' is not a quantity. Did you mean 'round'?"),
        ("round <= 0 s", "'0' is not a finite number above 0"),
        ("round <= -1 s", "'-1' is not a finite number above 0"),
        ("round <= 1,5 s", "'1,5' is not a finite number above 0"),
        ("round <= 1", "the number has no unit. Allowed: min, ms, s."),
        ("round <= 1 GB", "'GB' is not a unit of round"),
        ("memory <= 8 Gb", "'Gb' is not a unit of memory. Did you mean 'GB'?"),
    ],
)
def test_another_text_is_refused_with_value_cause_and_cure(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        limit_of(text)
    assert str(refused.value).startswith(f"The limit is {text!r}")
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("change", "key", "cure"),
    [
        ({"fleet": {"slip": [0.0, 0.1, 0.3]}}, "fleet.slip has 3 values", "{range = [0.0, 0.3]}"),
        ({"fleet": [{"slip": 0.0}, {"slip": 0.1}]}, "fleet.slip has 2 values", "{range = [0.0, 0.1]}"),
        ({"fleet": {"map": ["a", "b"]}}, "fleet.map has 2 values", "{range = [low, high]}"),
        ({"fleet": {"slip": {"grid": [0.0, 0.2]}}}, "fleet.slip is a grid", "{uniform = [0.0, 0.2]}"),
        ({"federation": {"local_steps": [1, 2]}}, "federation.local_steps has 2 numbers", "one number for all"),
        ({"federation": {"delay_rounds": [0, 1]}}, "federation.delay_rounds has 2 numbers", "one number for all"),
    ],
)
def test_a_value_for_each_agent_is_refused_by_its_key(change: dict[str, Any], key: str, cure: str) -> None:
    with pytest.raises(ConfigError, match="so the number of agents can't change") as refused:
        scalable(TABLES | change)
    assert str(refused.value).startswith(key)
    assert cure in str(refused.value)


def test_a_file_with_a_row_for_each_agent_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / "sites.csv").write_text("slip\n0.1\n0.2\n")
    with pytest.raises(ConfigError, match=r"fleet\.slip has 2 values"):
        scalable(TABLES | {"fleet": str(tmp_path / "sites.csv")})


def test_distributions_are_kept_and_what_is_not_measured_goes() -> None:
    fleet = {"slip": {"uniform": [0.0, 0.2]}, "max_steps": 10}
    found = scalable(TABLES | {"fleet": fleet, "init": "runs/x", "baselines": {"independent": True}, "rounds": 7})
    assert found["fleet"] == fleet
    assert found["rounds"] == 7
    assert "init" not in found
    assert found["baselines"] == {}
