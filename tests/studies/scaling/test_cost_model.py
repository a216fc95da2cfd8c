"""The cost model recovers a line, and no coefficient of it is negative."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrl.studies.scaling.cost_model import CostLine, beside, extrapolated, formula, line_through, lines_of
from fedrl.studies.scaling.records import Probe

NUMBERS = st.lists(st.integers(1, 1_000_000), min_size=2, max_size=8, unique=True)
COEFFICIENTS = st.floats(1e-6, 1e9)


def made_probe(agents: int, round_s: float = 1.0, memory: int = 100, up: float = 2.0, down: float = 3.0) -> Probe:
    return {
        "agents": agents,
        "state": "measured",
        "holds": None,
        "round_s": round_s,
        "memory_bytes": memory,
        "bytes_up": up,
        "bytes_down": down,
    }


@given(NUMBERS, COEFFICIENTS, COEFFICIENTS)
def test_a_line_is_recovered(agents: list[int], fixed: float, per_agent: float) -> None:
    values = [fixed + per_agent * k for k in agents]
    line = line_through(agents, values)
    assert line is not None
    assert [line.at(k) for k in agents] == pytest.approx(values, rel=1e-5)


@given(NUMBERS, st.data())
def test_no_coefficient_is_negative_whatever_was_measured(agents: list[int], data: st.DataObject) -> None:
    values = data.draw(st.lists(st.floats(0.0, 1e12), min_size=len(agents), max_size=len(agents)))
    line = line_through(agents, values)
    assert line is not None
    assert line.fixed >= 0
    assert line.per_agent >= 0
    assert all(map(math.isfinite, line))


def test_a_falling_line_is_flat_and_a_line_through_nothing_has_no_fixed_part() -> None:
    falling = line_through([1, 10], [5.0, 4.0])
    assert falling is not None
    # Not the line of least squares with its slope cut off, which would begin at 5.1.
    assert falling == (pytest.approx((1 / 5 + 1 / 4) / (1 / 25 + 1 / 16)), 0.0)
    assert line_through([10, 40, 160], [1400.0, 5600.0, 22400.0]) == (0.0, pytest.approx(140.0))
    assert line_through([10, 20], [0.0, 0.0]) == (0.0, 0.0)
    assert line_through([10, 10], [1.0, 2.0]) is None


def test_short_rounds_count_as_much_as_long_ones() -> None:
    """Absolute residuals would leave the short rounds to the noise of the long one."""
    rng = np.random.default_rng(0)
    agents = [10, 100, 1000, 10_000]
    for _ in range(20):
        values = [(0.1 + 0.01 * k) * rng.uniform(0.95, 1.05) for k in agents]
        line = line_through(agents, values)
        assert line is not None
        assert all(abs(line.at(k) / y - 1) < 0.15 for k, y in zip(agents, values, strict=True))


def test_a_model_needs_two_measured_numbers_and_has_its_errors_beside_them() -> None:
    failed: Probe = {"agents": 1000, "state": "failed", "holds": False, "reason": "It ran out of memory."}
    assert lines_of([made_probe(10), failed]) == {}
    assert extrapolated({}) == []
    lines = lines_of([made_probe(10, 1.0), made_probe(110, 2.0), failed])
    assert lines["round"] == (pytest.approx(0.9), pytest.approx(0.01))
    said = beside(made_probe(210, 1.5), lines)
    assert said["round"] == {"value": pytest.approx(3.0), "error": pytest.approx(1.0)}
    assert [far["agents"] for far in extrapolated(lines)] == [100_000, 1_000_000]
    assert extrapolated(lines)[0]["round"] == pytest.approx(1000.9)


def test_a_formula_has_units() -> None:
    assert formula("memory", {"fixed": 4.1e8, "per_agent": 1.2e6}) == "memory = 410 MB + 1.2 MB K"
    assert CostLine(4.0, 0.0).most_agents(3.0) == 0.0
