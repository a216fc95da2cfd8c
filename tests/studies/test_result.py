import numpy as np
import pytest

from fedrl.studies.result import reached_by


def rows(returns: list[float | None], agents: list[float] | None = None) -> list[dict]:
    return [
        {
            "round": i,
            "return": value,
            "greedy": None if agents is None else [agents[i - 1] - 1.0, agents[i - 1] + 1.0],
            "environment_steps": 100 * i,
            "bytes_up": 10,
            "seconds": 9.0 if i == 1 else 0.5,  # the first one compiles
        }
        for i, value in enumerate(returns, 1)
    ]


def test_the_first_round_that_returns_enough_counts_with_all_that_came_before() -> None:
    found = reached_by([rows([1.0, None, 5.0, 4.0])], 4.5, greedy=False)
    assert (found["reached"], found["seeds"], found["measure"]) == (1, 1, "training")
    assert found["rounds"]["median"] == 3
    assert found["environment_steps"]["median"] == 300
    assert found["bytes_up"]["median"] == 30
    assert found["seconds"]["median"] == 1.5  # three typical rounds, no compilation


def test_virtual_time_is_told_where_there_is_a_clock() -> None:
    timed = [{**record, "time_s": 7.0 * record["round"]} for record in rows([1.0, None, 5.0, 4.0])]
    assert reached_by([timed], 4.5, greedy=False)["time_s"] == {"median": 21.0, "low": 21.0, "high": 21.0}
    assert reached_by([timed], 9.0, greedy=False)["time_s"]["median"] is None
    assert "time_s" not in reached_by([rows([5.0])], 4.5, greedy=False)


def test_greedy_returns_are_the_mean_over_agents() -> None:
    found = reached_by([rows([0.0, 0.0, 0.0], [3.0, 4.9, 5.0])], 5.0, greedy=True)
    assert found["rounds"]["median"] == 3


@pytest.mark.parametrize(
    ("firsts", "median", "low", "high"),
    [([2, 3, 4], 3, 2, 4), ([2, 3, None], 3, 2, None), ([2, None, None], None, 2, None), ([2, None], None, 2, None)],
)
def test_a_seed_that_never_got_there_counts_as_never(firsts, median, low, high) -> None:
    seeds = [rows([1.0 if first is not None and i >= first else 0.0 for i in range(1, 6)]) for first in firsts]
    found = reached_by(seeds, 1.0, greedy=False)
    assert found["rounds"] == {"median": median, "low": low, "high": high}
    assert found["reached"] == sum(first is not None for first in firsts)


def test_no_seed_at_all_is_never() -> None:
    found = reached_by([], 1.0, greedy=False)
    assert found["rounds"] == {"median": None, "low": None, "high": None}
    assert np.isclose(found["seeds"], 0)
