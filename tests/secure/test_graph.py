import itertools
import math

import numpy as np
import pytest
from scipy import stats

from fedrl.core.errors import ConfigError
from fedrl.secure.graph import circulant, default_degree, default_threshold, random_order, risk, smallest_degree


@pytest.mark.parametrize(("agents", "degree"), [(2, 1), (6, 5), (10, 9), (22, 4), (100, 20), (1000, 40)])
def test_each_agent_is_a_neighbour_of_its_neighbours_and_the_graph_is_connected(agents, degree):
    graph = circulant(random_order(range(agents), b"seed"), degree)
    assert all(len(set(others)) == degree and agent not in others for agent, others in graph.items())
    assert all(agent in graph[other] for agent, others in graph.items() for other in others)
    reached, edge = {0}, {0}
    while edge:
        edge = {other for agent in edge for other in graph[agent]} - reached
        reached |= edge
    assert reached == set(range(agents))


def test_an_order_follows_from_its_seed_alone_and_every_order_is_as_likely():
    assert random_order([3, 1, 2], b"a") == random_order([1, 2, 3], b"a")
    counts = dict.fromkeys(itertools.permutations(range(4)), 0)
    for number in range(4800):
        counts[random_order(range(4), b"seed %d" % number)] += 1
    assert stats.chisquare([*counts.values()]).pvalue > 1e-3


def test_the_usual_degree_and_threshold():
    assert [default_degree(agents) for agents in (2, 10, 21, 22, 100, 101, 1000, 10_000)] == [
        1,
        9,
        20,
        20,
        20,
        22,
        40,
        60,
    ]
    for agents in range(2, 300):
        degree = default_degree(agents)
        assert degree % 2 == 0 or degree == agents - 1
        assert degree + 1 < 2 * default_threshold(degree) <= 2 * (degree + 1)


@pytest.mark.parametrize("verified", [False, True])
def test_the_risk_is_at_least_what_is_drawn(verified):
    """A small graph, in which everything goes wrong often enough to be counted."""
    agents, degree, threshold, bad, gone = 30, 6, 4, 6, 5
    bound = risk(agents, degree, threshold, corrupted=bad / agents, dropped=gone / agents, verified=verified)
    rng, draws, counts = np.random.default_rng(1), 2000, np.zeros(3)
    graph = circulant(range(agents), degree)
    for _ in range(draws):
        drawn = rng.permutation(agents)
        corrupted, left = set(drawn[:bad].tolist()), set(drawn[bad : bad + gone].tolist())
        here = set(range(agents)) - left
        honest = set(range(agents)) - corrupted
        held = {agent: len(corrupted & set(graph[agent])) for agent in honest}
        counts[0] += any((2 * threshold - degree - 1 if verified else threshold) <= number for number in held.values())
        counts[1] += separated(graph, honest & here)
        counts[2] += any(len(here & set(graph[agent])) < threshold for agent in range(agents))
    found = counts / draws
    allowed = 3 * np.sqrt(found * (1 - found) / draws)
    assert (found - allowed <= np.array(bound)).all()
    assert (np.array(bound) <= np.minimum(1, 30 * found + 0.05)).all()  # and the bound is no trivial one


def separated(graph: dict[int, tuple[int, ...]], agents: set[int]) -> bool:
    reached = edge = {min(agents)}
    while edge:
        edge = {other for agent in edge for other in graph[agent] if other in agents} - reached
        reached = reached | edge
    return reached != agents


def test_the_chance_of_corrupted_neighbours_is_hypergeometric():
    found = risk(1000, 40, 12, corrupted=0.1, dropped=0.1, verified=False)
    assert math.isclose(found.revealed, 1000 * stats.hypergeom.sf(11, 999, 100, 40), rel_tol=1e-9)
    assert math.isclose(found.aborted, min(1, 1000 * stats.hypergeom.sf(28, 999, 100, 40)), rel_tol=1e-9)


@pytest.mark.parametrize(("agents", "corrupted", "verified"), [(10, 0.2, True), (100, 0.1, False), (1000, 0.05, False)])
def test_the_smallest_degree_keeps_both_promises_and_a_smaller_one_does_not(agents, corrupted, verified):
    asked = {"corrupted": corrupted, "dropped": 0.05, "verified": verified}
    degree, threshold = smallest_degree(agents, **asked)
    found = risk(agents, degree, threshold, **asked)
    assert max(found.revealed, found.separated) <= 2**-40
    assert found.aborted <= 1e-3
    for fewer in range(2, degree, 2):
        for other in range(2, fewer + 2):
            less = risk(agents, fewer, other, **asked)
            assert max(less.revealed, less.separated) > 2**-40 or less.aborted > 1e-3


def test_what_no_graph_can_promise_is_said():
    with pytest.raises(ConfigError, match="no graph of at most 9 neighbours"):
        smallest_degree(10, corrupted=0.5, dropped=0.3)
