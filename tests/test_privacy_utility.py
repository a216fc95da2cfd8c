"""The study of privacy against utility: what it continues, what its fractions mean, and what its attacker reads."""

import json
import re

import pytest

from benchmarks import private_attack, private_tables
from benchmarks.privacy_plots import Chart, Line, picture
from benchmarks.privacy_utility import SEEDS, Results, fraction, measure_poles

PLAIN = {"agents": 10, "epsilon": None, "trust": "central", "noise": "gaussian"}


@pytest.fixture
def results(tmp_path):
    return Results(tmp_path / "found.jsonl")


def test_a_study_continues_where_it_ended(results):
    """Seeds that are there are not run again, and each result is on disk before the next run."""
    setting, ran = {"epsilon": 1.0}, []

    def run(seed):
        written = results.path.read_text().splitlines() if results.path.exists() else []
        assert [json.loads(line)["seed"] for line in written] == ran
        if len(ran) == 4:
            raise KeyboardInterrupt
        ran.append(seed)
        return {"return": float(seed)}

    with pytest.raises(KeyboardInterrupt):
        measure_poles("agent", iter([setting]), lambda setting: run, results)
    again, rest = Results(results.path), []
    measure_poles("agent", iter([setting]), lambda setting: lambda seed: rest.append(seed) or {"return": 1.0}, again)
    assert ran == list(SEEDS[:4])
    assert rest == list(SEEDS[4:])
    assert Results(results.path).values("agent", setting) == [1000.0, 1001.0, 1002.0, 1003.0, *[1.0] * 6]


def test_a_table_of_zeros_has_the_fraction_0_and_the_table_without_noise_1(results):
    zero = private_tables.zero_value(10, "mild")
    for seed in SEEDS:
        results.add("q", PLAIN | {"slips": "mild"}, seed, **{"return": 0.5})
        results.add(
            "q", PLAIN | {"slips": "mild", "epsilon": 1.0}, seed, **{"return": zero + (seed % 2) * (0.5 - zero)}
        )
    assert fraction(results, PLAIN | {"slips": "mild"}) == pytest.approx([1.0] * 10)
    assert fraction(results, PLAIN | {"slips": "mild", "epsilon": 1.0}) == pytest.approx([0.0, 1.0] * 5)
    assert -0.6 < zero < -0.3  # worse than never to reach anything: there is a pit


def test_the_value_of_the_shortest_way_is_that_of_its_steps():
    """Eight steps of cost 0.01 and a goal of 1, discounted, on a floor that does not slip."""
    import jax.numpy as jnp

    from fedrl.environments.tabular.gridworld import gridworld_model
    from fedrl.environments.tabular.planning import optimal_q

    fleet = private_tables.fleet_of(private_tables.learner(), 3, "mild")
    first = type(fleet)(*(jnp.asarray(leaf)[:1] for leaf in fleet))
    best = optimal_q(gridworld_model(private_tables.GRID, first), private_tables.GAMMA)[0]
    gamma = private_tables.GAMMA
    expected = gamma**7 - 0.01 * sum(gamma**t for t in range(8))
    assert private_tables.value_of(best, first, 1) == pytest.approx(expected, abs=1e-4)


def test_a_penalty_hides_no_observation_and_noise_does():
    errors = private_attack.errors()
    for name in ("nothing", "clip", *(f"penalty {strength:g}" for strength in private_attack.PENALTIES)):
        assert errors[name] < 1e-4
    assert errors["clip and noise, epsilon 8"] > 1.0


def test_a_picture_has_the_points_where_their_values_are():
    chart = Chart("title", "unit", 500.0, [Line("one", [(1.0, [0.0] * 3), (8.0, [500.0] * 3)])])
    drawn = picture([chart])
    heights = [float(found) for found in re.findall(r'<circle [^>]*cy="([0-9.]+)"', drawn)]
    assert len(heights) == 2
    assert heights[0] - heights[1] == pytest.approx(180.0)
    assert "title" in drawn


def test_the_seeds_of_the_figures_are_not_those_of_tuning():
    assert set(SEEDS).isdisjoint(range(5))
    assert len(SEEDS) == 10
