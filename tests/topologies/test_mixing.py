"""Mixing weights and rules: sums, bounds and rates, over random graphs and against closed forms."""

import jax
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.linalg import eigvalsh
from scipy.sparse import csr_array

import fedrl.topologies
from fedrl.config.catalogue import build, table_of
from fedrl.core.component import CATALOGUE, call_of, cite
from fedrl.core.errors import ConfigError, UnsoundError
from fedrl.topologies import (
    average,
    column_stochastic,
    complete,
    exponential,
    gradient_tracking,
    hypercube,
    laplacian,
    metropolis,
    push_sum,
    random_matching,
    ring,
    star,
    torus,
    uniform_neighbours,
)
from fedrl.topologies.consensus import consensus_step
from fedrl.topologies.consensus import peer_step as heard_by_one
from fedrl.topologies.graph import Graph
from fedrl.topologies.mixing import check_sums, largest_step
from fedrl.topologies.spectrum import contraction, distances, long_run_contraction, measured_contraction, spectral_gap
from tests.support.argument_order import misplaced

MIXINGS = [metropolis(), laplacian(), laplacian(0.01), uniform_neighbours(), column_stochastic()]
RULES = [average(), push_sum(), gradient_tracking(0.1, gradient_steps=2)]


@st.composite
def graphs(draw, both_ways: bool):
    """Any graph at all, connected or not."""
    agents = draw(st.integers(1, 12))
    heard = np.random.default_rng(draw(st.integers(0, 2**31))).random((agents, agents)) < draw(st.floats(0.0, 1.0))
    np.fill_diagonal(heard, False)
    return heard | heard.T if both_ways else heard


def disagreement(x: np.ndarray) -> float:
    return float(np.linalg.norm(x - x.mean(0)))


@given(heard=graphs(both_ways=True), seed=st.integers(0, 99))
@pytest.mark.parametrize("mixing", [metropolis(), laplacian()], ids=repr)
def test_symmetric_weights_keep_the_mean_and_contract_by_their_second_eigenvalue(mixing, heard, seed):
    weights = mixing.weights(heard)
    np.testing.assert_array_equal(weights, weights.T)
    np.testing.assert_allclose(weights.sum(1), 1.0, atol=1e-12)
    off_diagonal = ~np.eye(len(heard), dtype=bool)
    np.testing.assert_array_equal(weights[off_diagonal] != 0, heard[off_diagonal])
    x = np.random.default_rng(seed).normal(size=(len(heard), 3))
    np.testing.assert_allclose((weights @ x).mean(0), x.mean(0), atol=1e-12)
    assert disagreement(weights @ x) <= contraction(weights) * disagreement(x) + 1e-9


@given(heard=graphs(both_ways=False))
def test_rows_of_uniform_weights_and_columns_of_split_ones_sum_to_one(heard):
    rows, columns = uniform_neighbours().weights(heard), column_stochastic().weights(heard)
    np.testing.assert_allclose(rows.sum(1), 1.0, atol=1e-12)
    np.testing.assert_allclose(columns.sum(0), 1.0, atol=1e-12)
    for weights in (rows, columns):
        assert (weights.diagonal() > 0).all()
        np.testing.assert_array_equal((weights > 0) & ~np.eye(len(heard), dtype=bool), heard)


@given(heard=graphs(both_ways=True))
def test_a_step_converges_below_the_bound_and_is_refused_from_there_on(heard):
    assume(heard.any())
    bound = largest_step(heard)
    inside = laplacian(0.999 * bound).weights(heard)
    assert np.abs(eigvalsh(inside)).max() <= 1.0 + 1e-9
    with pytest.raises(ConfigError, match=f"step_size is .* 2 / lambda_max = {bound:.6g}"):
        laplacian(1.001 * bound).weights(heard)
    beyond = np.eye(len(heard)) - 1.01 * bound * (np.diag(heard.sum(1)) - heard)
    assert np.abs(eigvalsh(beyond)).max() > 1.0  # the bound is the bound: beyond it, agents part


@pytest.mark.parametrize(
    ("graph", "agents", "largest"),
    [(complete(), 8, 8.0), (star(), 8, 8.0), (ring(), 8, 4.0), (hypercube(), 8, 6.0)],
    ids=repr,
)
def test_the_bound_is_the_closed_form_of_the_laplacian(graph, agents, largest):
    assert largest_step(graph.adjacency(agents, 0)) == pytest.approx(2.0 / largest)


@pytest.mark.parametrize(
    ("graph", "factor"),
    [
        (ring(), 1 / 3 + 2 / 3 * np.cos(2 * np.pi / 64)),
        (torus(), 3 / 5 + 2 / 5 * np.cos(2 * np.pi / 8)),
        (complete(), 0.0),
        (hypercube(), 1 - 2 / 7),
    ],
    ids=repr,
)
def test_the_contraction_of_metropolis_weights_is_the_closed_form(graph, factor):
    weights = metropolis().weights(graph.adjacency(64, 0))
    assert contraction(weights) == pytest.approx(factor, abs=1e-12)
    assert spectral_gap(weights) == pytest.approx(1 - factor, abs=1e-12)


def test_metropolis_goes_by_the_busier_end_of_an_edge():
    expected = np.diag([0.2, 0.8, 0.8, 0.8, 0.8])
    expected[0, 1:] = expected[1:, 0] = 0.2  # the hub has four neighbours, the others one
    np.testing.assert_allclose(metropolis().weights(star().adjacency(5, 0)), expected)


def test_the_long_run_factor_is_that_of_one_step_whatever_the_period():
    again = Graph(lambda agents, step: ring().adjacency(agents, step), period=3)
    one = contraction(metropolis().weights(ring().adjacency(8, 0)))
    assert long_run_contraction(again, metropolis(), 8) == pytest.approx(one)


def test_one_peer_at_a_time_hears_further_with_every_step():
    for step, hop in enumerate([1, 2, 4, 1]):
        heard = exponential(one_peer=True).adjacency(8, step)
        assert np.argmax(heard, 1).tolist() == [(k - hop) % 8 for k in range(8)]
        assert (heard.sum(1) == 1).all()


def test_one_peer_at_a_time_reaches_the_exact_mean_in_log_steps():
    x = np.random.default_rng(0).normal(size=(16, 3))
    mixed = x
    for step in range(4):
        assert disagreement(mixed) > 0.1
        mixed = uniform_neighbours().weights(exponential(one_peer=True).adjacency(16, step)) @ mixed
    np.testing.assert_allclose(mixed, np.broadcast_to(x.mean(0), x.shape), atol=1e-14)


def test_random_matching_halves_the_squared_distance_on_average():
    x = np.random.default_rng(0).normal(size=(32, 200))
    x -= x.mean(0)
    ratios = []
    for step in range(200):
        after = metropolis().weights(random_matching().adjacency(32, step)) @ x
        ratios.append(disagreement(after) ** 2 / disagreement(x) ** 2)
    assert np.mean(ratios) == pytest.approx(0.5 - 0.5 / 31, rel=0.02)


def test_distances_are_to_the_mean_over_all_leaves():
    params = {"a": np.array([[0.0], [2.0]]), "b": np.array([[[0.0, 0.0]], [[4.0, 4.0]]])}
    np.testing.assert_allclose(distances(params), [3.0, 3.0])


def test_a_measured_rate_looks_at_the_second_half_only():
    assert measured_contraction([9.0, 8.0, 8.0, 4.0, 2.0]) == 0.5
    for series in ([1.0, 0.5], [1.0, 0.0, 0.0]):
        with pytest.raises(ConfigError, match="disagreement has"):
            measured_contraction(series)


@pytest.mark.parametrize("mixing", [metropolis(), laplacian(0.1)], ids=repr)
def test_symmetric_weights_refuse_a_directed_graph(mixing):
    with pytest.raises(UnsoundError, match=r"directed graph.*push_sum"):
        mixing.weights(ring(directed=True).adjacency(5, 0))


@pytest.mark.parametrize(
    ("mixing", "sums"),
    [(uniform_neighbours(), "both"), (column_stochastic(), "rows"), (uniform_neighbours(), "columns")],
    ids=repr,
)
def test_weights_that_do_not_sum_to_one_where_a_rule_relies_on_it_are_refused(mixing, sums):
    uneven = star().adjacency(5, 0)
    with pytest.raises(UnsoundError, match="do not sum to one"):
        check_sums(mixing.weights(uneven), sums, mixing, average())
    check_sums(mixing.weights(ring().adjacency(5, 0)), sums, mixing, average())


@pytest.mark.parametrize("kind", ["mixing", "gossip"])
def test_every_component_of_the_catalogue_is_tested_here(kind):
    known = {e.name for e in CATALOGUE.values() if e.kind == kind and e.build.__module__.startswith("fedrl.")}
    assert {call_of(value).component.name for value in (MIXINGS if kind == "mixing" else RULES)} == known


@pytest.mark.parametrize("value", MIXINGS + RULES, ids=repr)
def test_components_print_cite_and_return_from_a_file_as_their_call(value):
    call = call_of(value)
    assert eval(repr(value), vars(fedrl.topologies)) == value
    assert build(call.component.kind, table_of(value), "federation") == value
    assert value == uniform_neighbours() or cite(value)


def random_params(agents: int, seed: int):
    draws = np.random.default_rng(seed)
    return {
        "w": draws.normal(size=(agents, 2, 3)).astype(np.float32),
        "b": draws.normal(size=(agents,)).astype(np.float32),
    }


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_rules_take_their_arguments_in_the_one_order(rule):
    assert misplaced(rule) == []


@given(heard=graphs(both_ways=True), seed=st.integers(0, 99))
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_rules_keep_the_mean_of_what_was_trained(rule, heard, seed):
    agents = len(heard)
    mixing = column_stochastic() if rule.sums == "columns" else metropolis()
    weights = mixing.weights(heard)
    params, memory, weight = random_params(agents, seed), None, np.ones(agents)
    for round in range(3):
        trained = random_params(agents, seed + round + 1)
        start, before = params, weight
        memory = rule.init(start) if memory is None else memory
        params, memory = consensus_step(rule, [csr_array(weights)], np.full(agents, 2), start, memory, trained)
        weight = memory if rule == push_sum() else weight  # kept is the sum of weight * params
        for name in trained:
            old, new = (w.reshape(-1, *(1,) * (trained[name].ndim - 1)) for w in (before, weight))
            total = (old * start[name] + trained[name].astype(np.float64) - start[name]).sum(0)
            np.testing.assert_allclose((new * params[name]).sum(0), total, atol=1e-5)
    if rule.correction is not None:
        for leaf in rule.correction(memory).values():
            np.testing.assert_allclose(leaf.sum(0), 0.0, atol=1e-3)
            assert leaf.dtype == np.float32


def test_the_tracker_divides_by_all_the_gradient_steps_of_a_local_one():
    weights, start, trained = metropolis().weights(ring().adjacency(5, 0)), random_params(5, 0), random_params(5, 1)

    def memory(rule):
        return consensus_step(rule, [csr_array(weights)], np.full(5, 2), start, rule.init(start), trained)[1]

    twice, double = memory(gradient_tracking(0.1, gradient_steps=2)), memory(gradient_tracking(0.2))
    for name in start:
        np.testing.assert_allclose(twice[name], double[name], rtol=1e-6)
        assert np.abs(double[name]).max() > 0.1


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("graph", [ring(), complete(), torus()], ids=repr)
def test_a_peer_by_itself_computes_the_same_bits(rule, graph):
    """From the messages of those it hears, by ascending sender; a product of dense matrices does not."""
    agents = 9
    mixing = column_stochastic() if rule.sums == "columns" else metropolis()
    weights = mixing.weights(graph.adjacency(agents, 0))
    start, trained, steps = random_params(agents, 0), random_params(agents, 1), np.arange(1, agents + 1)
    memory = rule.init(start)
    together = consensus_step(rule, [csr_array(weights)], steps, start, memory, trained)

    def own(tree, k):
        return jax.tree.map(lambda x: x[k : k + 1], tree)

    for k in range(agents):
        sent = [rule.send(steps[j : j + 1], own(start, j), own(memory, j), own(trained, j)) for j in range(agents)]
        messages = [(weights[k, j], sent[j]) for j in np.flatnonzero(weights[k])]
        alone = heard_by_one(rule, sent[k], own(memory, k), messages)
        jax.tree.map(np.testing.assert_array_equal, alone, own(together, k))
    if graph == complete():
        dense = jax.tree.map(lambda x: np.tensordot(weights, np.asarray(x, np.float64), 1), trained)
        sparse = consensus_step(average(), [csr_array(weights)], steps, start, (), trained)[0]
        assert any((dense[name] != sparse[name]).any() for name in dense)
