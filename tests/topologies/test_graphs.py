"""Graphs: what each one promises, for every number of agents it takes."""

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fedrl.topologies
from fedrl.config.catalogue import build, table_of
from fedrl.core.component import CATALOGUE, call_of
from fedrl.core.errors import ConfigError
from fedrl.topologies import (
    complete,
    erdos_renyi,
    exponential,
    from_file,
    hypercube,
    random_matching,
    ring,
    star,
    time_varying,
    torus,
    watts_strogatz,
)
from fedrl.topologies.graph import Graph, check_graph

SIZES = [2, 3, 8, 12, 16, 64]


@pytest.fixture(scope="module")
def path_of_three(tmp_path_factory):
    path = tmp_path_factory.mktemp("graphs") / "path.edges"
    path.write_text("# a path\n0 1\n1 2\n")
    return str(path)


UNDIRECTED = [
    ring(),
    torus(),
    torus(rows=4),
    star(),
    complete(),
    hypercube(),
    erdos_renyi(0.5),
    watts_strogatz(2, 0.2),
    random_matching(),
    time_varying(ring(), star()),
]
DIRECTED = [ring(directed=True), exponential(), exponential(one_peer=True), erdos_renyi(0.5, directed=True)]


def fits(graph: Graph, agents: int) -> bool:
    """Whether the graph takes so many agents; with fewer edges than agents, chance may not connect them."""
    try:
        check_graph(graph, agents)
    except ConfigError:
        return False
    return True


@pytest.mark.parametrize("graph", UNDIRECTED + DIRECTED, ids=repr)
class TestGraph:
    def test_is_a_graph_for_several_numbers_of_agents(self, graph):
        sizes = [n for n in SIZES if fits(graph, n)]
        assert {16, 64} <= set(sizes)
        for agents in sizes:
            for step in (0, 1, 7):
                heard = graph.adjacency(agents, step)
                assert heard.shape == (agents, agents)
                assert heard.dtype == bool
                assert not heard.diagonal().any()

    def test_is_the_same_in_the_same_step(self, graph):
        for step in (0, 5):
            np.testing.assert_array_equal(graph.adjacency(16, step), graph.adjacency(16, step))

    def test_repeats_after_its_period(self, graph):
        if graph.period is None:
            assert any((graph.adjacency(16, s) != graph.adjacency(16, 0)).any() for s in range(1, 5))
        else:
            np.testing.assert_array_equal(graph.adjacency(16, 1), graph.adjacency(16, 1 + graph.period))

    def test_prints_and_returns_from_a_file_as_its_call(self, graph):
        assert eval(repr(graph), vars(fedrl.topologies)) == graph
        assert build("graph", table_of(graph), "federation.topology") == graph


@pytest.mark.parametrize("graph", UNDIRECTED, ids=repr)
def test_whoever_hears_is_heard(graph):
    for step in (0, 1):
        heard = graph.adjacency(16, step)
        np.testing.assert_array_equal(heard, heard.T)


def test_every_graph_of_the_catalogue_is_tested_here():
    known = {e.name for e in CATALOGUE.values() if e.kind == "graph" and e.build.__module__.startswith("fedrl.")}
    assert {call_of(graph).component.name for graph in UNDIRECTED + DIRECTED} | {"from_file"} == known


@pytest.mark.parametrize(
    ("graph", "reference"),
    [
        (ring(), nx.cycle_graph(12)),
        (torus(rows=3), nx.convert_node_labels_to_integers(nx.grid_2d_graph(3, 4, periodic=True), ordering="sorted")),
        (star(), nx.star_graph(11)),
        (complete(), nx.complete_graph(12)),
    ],
    ids=["ring", "torus", "star", "complete"],
)
def test_graphs_of_a_rule_are_those_of_networkx(graph, reference):
    np.testing.assert_array_equal(graph.adjacency(12, 0), nx.to_numpy_array(reference, nodelist=range(12)) > 0)


def test_the_hypercube_is_that_of_networkx():
    cube = nx.hypercube_graph(4)
    order = sorted(cube, key=lambda corner: int("".join(map(str, corner)), 2))
    np.testing.assert_array_equal(hypercube().adjacency(16, 0), nx.to_numpy_array(cube, nodelist=order) > 0)


@given(agents=st.integers(2, 40))
def test_the_exponential_graph_hears_log_of_the_agents_and_is_heard_as_often(agents):
    heard = exponential().adjacency(agents, 0)
    assert set(heard.sum(0)) == set(heard.sum(1)) == {(agents - 1).bit_length()}


@given(agents=st.integers(1, 33), step=st.integers(0, 10**6), seed=st.integers(0, 99))
def test_a_matching_leaves_at_most_one_out_and_pairs_nobody_twice(agents, step, seed):
    heard = random_matching(seed).adjacency(agents, step)
    assert heard.sum(1).max() <= 1
    assert (heard.sum(1) == 0).sum() == agents % 2


def test_graphs_in_turn_are_connected_together_though_each_alone_is_not(tmp_path):
    even, odd = tmp_path / "even", tmp_path / "odd"
    even.write_text("0 1\n2 3\n")
    odd.write_text("1 2\n3 0\n")
    check_graph(time_varying(from_file(str(even)), from_file(str(odd))), 4)
    with pytest.raises(ConfigError, match="2 parts"):
        check_graph(from_file(str(even)), 4)


def test_a_file_is_read_as_it_is_written(path_of_three):
    assert from_file(path_of_three).adjacency(3, 0).astype(int).tolist() == [[0, 1, 0], [1, 0, 1], [0, 1, 0]]
    download_only = from_file(path_of_three, directed=True).adjacency(3, 0)
    assert download_only.astype(int).tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0]]  # 1 hears 0, 2 hears 1
    with pytest.raises(ConfigError, match="3 parts"):
        check_graph(from_file(path_of_three, directed=True), 3)
    with pytest.raises(ConfigError, match="2 parts"):
        check_graph(from_file(path_of_three), 4)  # agent 3 is in no line


@pytest.mark.parametrize(
    ("make", "agents", "message"),
    [
        (torus, 7, "7 agents.*use ring"),
        (lambda: torus(rows=5), 12, "do not fill 5 rows"),
        (hypercube, 12, "12 agents.*Use 8 or 16"),
        (lambda: erdos_renyi(0.01), 20, "parts with 20 agents.*another seed"),
        (lambda: erdos_renyi(0.0), 20, r"probability is 0.0.*\(0, 1\]"),
        (lambda: watts_strogatz(3), 20, "neighbours is 3"),
        (lambda: watts_strogatz(4, 1.5), 20, "rewiring is 1.5"),
        (lambda: watts_strogatz(4), 4, "at least 5 agents"),
        (time_varying, 4, "no graphs"),
        (lambda: time_varying(ring(), random_matching()), 4, r"random_matching\(\), which changes over time"),
        (lambda: from_file("nowhere.edges"), 4, "nowhere.edges.*can't be read"),
        (lambda: Graph(lambda agents, step: np.zeros((3, 3), bool)), 4, r"bool \(3, 3\)"),
        (lambda: Graph(lambda agents, step: np.ones((4, 4), bool)), 4, "no agent receives from itself"),
    ],
)
def test_what_is_no_graph_is_refused_with_a_way_out(make, agents, message):
    with pytest.raises(ConfigError, match=message):
        check_graph(make(), agents)


def test_a_small_world_that_chance_does_not_connect_is_refused(monkeypatch):
    def unlucky(*given):
        raise nx.NetworkXError("Maximum number of tries exceeded")

    monkeypatch.setattr(nx, "connected_watts_strogatz_graph", unlucky)
    with pytest.raises(ConfigError, match=r"no connected graph of 40 agents.*more neighbours"):
        check_graph(watts_strogatz(), 40)


@pytest.mark.parametrize(("text", "message"), [("0 a\n", "edge list"), ("0 0\n", "itself"), ("0 9\n", "agent 9")])
def test_a_file_that_does_not_fit_is_refused(tmp_path, text, message):
    path = tmp_path / "wrong"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        check_graph(from_file(str(path)), 4)


def test_on_a_directed_ring_agents_hear_the_one_before_them():
    hears = ring(directed=True).adjacency(4, 0)
    np.testing.assert_array_equal(np.argwhere(hears), [[0, 3], [1, 0], [2, 1], [3, 2]])
