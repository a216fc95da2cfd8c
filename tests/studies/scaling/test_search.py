"""The search finds the largest number of agents that keeps a limit, with few probes, also where the model is wrong."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrl.studies.scaling.limits import Limit
from fedrl.studies.scaling.records import Probe
from fedrl.studies.scaling.search import bracket_of, search
from tests.studies.scaling.test_cost_model import made_probe

LIMIT = Limit("round", 1.0)
MOST = 1_000_000


def prober(cost: Callable[[int], float | None], tried: list[int] | None = None) -> Callable[[int], Probe | None]:
    """A prober whose rounds take `cost(agents)` seconds; None if the process fails."""

    def probe(agents: int) -> Probe:
        if tried is not None:
            tried.append(agents)
        seconds = cost(agents)
        if seconds is None:
            return {"agents": agents, "state": "failed", "holds": False, "reason": "It ran out of memory."}
        return made_probe(agents, seconds) | {"holds": seconds <= LIMIT.most}

    return probe


def found_with(
    cost: Callable[[int], float | None], start: int, most_probes: int = 40
) -> tuple[list[Probe], int | None]:
    probes = list(search(prober(cost), LIMIT, [start], most_probes, MOST))
    return probes, bracket_of(probes).kept


@given(st.integers(1, 900_000), st.integers(1, 2000))
def test_a_step_is_found_within_ten_per_cent_and_never_overstated(most: int, start: int) -> None:
    """The model knows nothing of a step: rounds take equally long up to it."""
    probes, kept = found_with(lambda k: 0.5 if k <= most else 5.0, start)
    assert kept is not None
    assert kept <= most
    assert most < kept + max(1, 0.1 * kept)
    assert len({probe["agents"] for probe in probes}) == len(probes)
    assert len(probes) < 25


def test_where_the_model_is_wrong_again_and_again_the_rest_is_bisected() -> None:
    """Aimed by the model alone, the search would creep: 60 probes had not ended it."""
    probes, kept = found_with(lambda k: 0.8 + 0.199 * (k / 1774) ** 2 if k <= 1774 else 1.1 * (k / 1774) ** 2, 1000)
    assert kept is not None
    assert kept <= 1774 < 1.1 * kept
    assert len(probes) <= 8


@given(st.integers(1, 900_000), st.integers(1, 2000))
def test_a_number_above_which_processes_fail_is_found_too(most: int, start: int) -> None:
    _, kept = found_with(lambda k: 1e-9 * k if k <= most else None, start)
    assert kept is not None
    assert kept <= most < kept + max(1, 0.1 * kept)


@given(st.floats(1e-5, 0.5), st.floats(2e-6, 1e-3))
def test_where_costs_are_a_line_few_probes_are_enough(fixed: float, per_agent: float) -> None:
    probes, kept = found_with(lambda k: fixed + per_agent * k, 10)
    exact = int((1.0 - fixed) / per_agent)
    assert kept is not None
    assert kept <= exact + 1
    assert exact < kept + max(1, 0.1 * kept)
    growing = sum(k["agents"] <= kept for k in probes)
    assert len(probes) <= growing + 3


def test_growth_is_by_four_and_by_two_where_four_would_be_too_many() -> None:
    tried: list[int] = []
    list(search(prober(lambda k: 0.001 * k, tried), LIMIT, [10], 40, MOST))
    assert tried[:5] == [10, 40, 160, 640, 1280]
    assert len(tried) <= 7


def test_nothing_holds_down_to_a_single_agent() -> None:
    probes, kept = found_with(lambda k: 2.0 + k, 100)
    assert kept is None
    assert bracket_of(probes).broken == 1
    assert len(probes) <= 5
    probes, kept = found_with(lambda k: None, 100)
    assert (kept, bracket_of(probes).broken) == (None, 1)


def test_a_start_that_is_too_large_shrinks_first() -> None:
    _, kept = found_with(lambda k: 0.01 * k, 1000)
    assert kept is not None
    assert 91 <= kept <= 100


def test_given_numbers_come_first_but_none_above_one_that_broke_the_limit() -> None:
    tried: list[int] = []
    list(search(prober(lambda k: 0.01 * k, tried), LIMIT, [10, 200, 5000], 40, MOST))
    assert tried[:2] == [10, 200]
    assert 5000 not in tried
    tried.clear()
    assert [p["agents"] for p in search(lambda k: made_probe(k, 0.01 * k), None, [10, 200, 5000], 40, MOST)] == [
        10,
        200,
        5000,
    ]


def test_it_ends_at_the_largest_number_and_after_the_most_probes() -> None:
    probes = list(search(prober(lambda k: 0.1), LIMIT, [10], 40, 100))
    assert [probe["agents"] for probe in probes] == [10, 40, 100]
    assert bracket_of(probes) == (100, None)
    assert len(list(search(prober(lambda k: 0.1), LIMIT, [10], 2, MOST))) == 2


def test_an_interruption_ends_it() -> None:
    answers = iter([made_probe(10, 0.1) | {"holds": True}, None])
    assert len(list(search(lambda agents: next(answers), LIMIT, [10], 40, MOST))) == 1


def test_a_lucky_number_above_one_that_breaks_the_limit_does_not_count() -> None:
    probes = [made_probe(k, s) | {"holds": s <= 1.0} for k, s in ((10, 0.5), (20, 1.2), (40, 0.9))]
    assert bracket_of(probes) == (10, 20)


@pytest.mark.parametrize("allowed", [2, 4])
def test_numbers_that_cannot_be_built_are_passed_over_where_the_middle_can(allowed: int) -> None:
    """As with a hypercube, whose number of agents is a power of two."""

    def probe(agents: int) -> Probe | None:
        if agents & (agents - 1):
            return {"agents": agents, "state": "refused", "holds": None, "reason": "no power of two"}
        return made_probe(agents, 0.001 * agents) | {"holds": agents <= 600}

    probes = list(search(probe, LIMIT, [allowed], 40, MOST))
    assert bracket_of(probes) == (512, 1024)
    assert len(probes) < 15
