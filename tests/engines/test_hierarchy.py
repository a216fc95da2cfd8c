"""A tree of servers: the same bits as one server while all merge, a federation of federations otherwise."""

import hashlib
import math

import jax
import numpy as np
import pytest

from fedrl.aggregators import mean, median
from fedrl.clocks import clock
from fedrl.core.errors import ConfigError, UnsoundError
from fedrl.engines.simulate import simulate
from fedrl.engines.topologies.choices import hierarchy
from fedrl.environments import cartpole
from fedrl.federation.federate import federate
from fedrl.federation.nested import as_learner
from fedrl.learners import network, normalize, personal, ppo, sgd
from fedrl.server import fedadam, fedavgm, normalized_momentum
from fedrl.server.schedules import afedpg, synchronous
from fedrl.stages import error_feedback, quantize, top_k
from fedrl.topologies import given_tree, tree
from fedrl.topologies.trees import round_latency
from tests.support.quadratic import Valley, flat, quadratic

DEVICE = jax.devices()[:1]
MANY, SIZE, BLOCK = 1024, 4, 4
RATE = 0.1


def fleet_of(agents: int, size: int = SIZE) -> Valley:
    draws = np.random.default_rng(3)
    return Valley(
        draws.uniform(0.2, 2.0, (agents, size)).astype(np.float32), draws.normal(size=(agents, size)).astype(np.float32)
    )


def fingerprint(value) -> str:
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(value):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def ran(simulation, rounds: int, cohort=lambda i: None):
    run_state = simulation.init(0)
    for i in range(rounds):
        run_state, seen = simulation.round(run_state, cohort(i))
    return run_state, seen


def levels_of(run_state):
    """The servers between the agents and the root, from the edges up."""
    levels, _ = run_state.engine_state.topology
    return levels


def some_of(agents: int):
    """Everyone at first, then a different third each round."""
    return lambda i: np.random.default_rng(i).choice(agents, agents // 3, replace=False) if i else None


@pytest.fixture(scope="module")
def many():
    """1,024 agents with momentum, compressed updates and an adaptive server, and what one server makes of them."""
    stages = (error_feedback(top_k(0.5), quantize(4)),)
    federation = federate(
        quadratic(sgd(RATE, momentum=0.5), size=SIZE, samples=3),
        mean(),
        *stages,
        server_optimizer=fedadam(0.1),
        local_steps=2,
    )
    fleet, work = fleet_of(MANY), [1 + k % 2 for k in range(MANY)]
    one = simulate(federation, fleet, local_steps=work, block=BLOCK, devices=DEVICE)
    run_state, seen = ran(one, 4, some_of(MANY))
    return federation, fleet, work, fingerprint((run_state.server, one.params_of(run_state))), seen


@pytest.mark.parametrize(("shape", "devices"), [(tree([8, 16]), 1), (tree([7, 3, 5, 3]), 2)], ids=repr)
def test_a_tree_in_which_all_merge_every_round_gives_the_bits_of_one_server(many, shape, devices):
    federation, fleet, work, expected, flat_seen = many
    nested = simulate(federation, fleet, topology=shape, local_steps=work, block=BLOCK, devices=jax.devices()[:devices])
    run_state, seen = ran(nested, 4, some_of(MANY))
    assert fingerprint((run_state.server, nested.params_of(run_state))) == expected
    assert (seen.weight, seen.rejected) == (flat_seen.weight, flat_seen.rejected)
    np.testing.assert_array_equal(seen.metrics["loss"], flat_seen.metrics["loss"])
    assert seen.levels[0] == (flat_seen.bytes_up, flat_seen.bytes_down)


def test_a_rule_that_sees_each_update_sees_them_through_relays():
    federation, fleet = federate(quadratic(sgd(RATE), size=SIZE), median()), fleet_of(12)
    one = simulate(federation, fleet, block=2, devices=DEVICE)
    nested = simulate(federation, fleet, topology=tree([3, 2]), block=2, devices=DEVICE)
    (a, seen_a), (b, seen_b) = ran(one, 3), ran(nested, 3)
    assert fingerprint(a.server) == fingerprint(b.server)
    assert [up for up, _ in seen_b.levels] == [seen_a.bytes_up] * 3  # every update, over every link


@pytest.fixture(scope="module")
def rarely():
    """Twelve agents, three under an edge, two edges under a region: these merge every 2nd, the root every 4th round."""
    inner = federate(quadratic(sgd(RATE), size=SIZE, samples=2), mean(), local_steps=2)
    fleet = fleet_of(12)
    return inner, fleet, simulate(inner, fleet, topology=tree([3, 2], periods=[1, 2, 4]), devices=DEVICE)


def test_with_periods_it_is_a_federation_of_federations(rarely):
    inner, fleet, simulation = rarely
    regions = federate(as_learner(inner, 3), mean(), local_steps=2)
    root = federate(as_learner(regions, 2), mean(), local_steps=2)
    grouped = jax.tree.map(lambda x: x.reshape(2, 2, 3, -1), fleet)
    expected, _ = ran(simulate(root, grouped, devices=DEVICE), 3)
    found, _ = ran(simulation, 12)
    np.testing.assert_allclose(flat(found.server.params), flat(expected.server.params), rtol=1e-5, atol=1e-6)
    assert np.abs(flat(found.server.params)).max() > 0.1


def test_the_optimiser_of_upper_servers_is_that_of_the_root_in_a_federation_of_federations(rarely):
    inner, fleet, _ = rarely
    upper = fedavgm(0.5, 0.9)
    found, _ = ran(simulate(inner, fleet, topology=hierarchy(tree([3], periods=[1, 2]), upper), devices=DEVICE), 8)
    root = federate(as_learner(inner, 3), mean(), local_steps=2, server_optimizer=upper)
    grouped = jax.tree.map(lambda x: x.reshape(4, 3, -1), fleet)
    expected, _ = ran(simulate(root, grouped, devices=DEVICE), 4)
    np.testing.assert_allclose(flat(found.server.params), flat(expected.server.params), rtol=1e-5, atol=1e-6)


def test_between_two_merges_edges_differ_and_the_root_stands_still(rarely):
    _, _, simulation = rarely
    run_state = simulation.init(0)
    roots, edges = [], []
    for _ in range(4):
        run_state, _ = simulation.round(run_state)
        roots.append(flat(run_state.server.params))
        edges.append(np.stack([flat(holder.server.params) for holder in levels_of(run_state)[0]]))
    np.testing.assert_array_equal(roots[:3], 0.0)
    assert np.abs(roots[3]).max() > 0.01
    assert np.ptp(edges[0], axis=0).min() > 1e-3  # each edge by itself
    np.testing.assert_array_equal(edges[1][0], edges[1][1])  # those of one region have met
    assert np.abs(edges[1][0] - edges[1][2]).max() > 1e-3
    np.testing.assert_array_equal(edges[3], np.broadcast_to(roots[3], edges[3].shape))
    assert [int(h.server.version) for level in levels_of(run_state) for h in level] == [4] * 6
    held = flat(simulation.params_of(simulation.adopt(run_state)))
    np.testing.assert_array_equal(held, np.broadcast_to(roots[3], held.shape))


def test_a_region_answers_for_all_that_was_learned_since_the_root_heard_of_it():
    federation = federate(quadratic(sgd(RATE), size=SIZE, samples=3), mean())
    simulation = simulate(federation, fleet_of(8), topology=tree([2, 2], periods=[1, 2, 8]), devices=DEVICE)
    run_state, _ = ran(simulation, 4, lambda i: [0, 4, 5, 6, 7] if i > 1 else None)
    assert [float(holder.weight) for holder in levels_of(run_state)[1]] == [3.0 * (4 + 4 + 1 + 1), 3.0 * 16]
    assert [float(holder.weight) for holder in levels_of(run_state)[0]] == [0.0] * 4  # edges have just been heard


def test_a_nested_federation_counts_the_samples_of_all_its_agents(rarely):
    inner, _, _ = rarely
    assert as_learner(inner, 3).samples == 3 * 2 * 2  # agents, local steps, samples of each
    assert as_learner(federate(as_learner(inner, 3), mean(), local_steps=4), 5).samples == 5 * 4 * 12


def test_agents_act_with_what_their_own_edge_holds(rarely):
    _, _, simulation = rarely
    run_state, _ = simulation.round(simulation.init(0))
    edges = np.stack([flat(holder.server.params) for holder in levels_of(run_state)[0]])
    held = flat(simulation.params_of(simulation.adopt(run_state)))
    np.testing.assert_array_equal(held, np.repeat(edges, 3, axis=0))


def test_an_edge_that_merged_nothing_looks_ahead_as_before():
    federation = federate(quadratic(sgd(RATE), size=SIZE), mean(), server_optimizer=normalized_momentum(0.1, 0.5))
    where, devices = hierarchy(tree([2], [1, 100])), clock(step_s=[1.0, 1.4, 1.7, 2.3])
    simulation = simulate(federation, fleet_of(4), topology=where, scheduler=afedpg(0.5), clock=devices, merges=1)
    run_state, stood = simulation.init(0), 0
    for _ in range(8):
        (holders,), before = run_state.engine_state.topology
        held = [flat(holder.server.params) for holder in holders]
        earlier = [flat(params) for params in before]
        run_state, seen = simulation.round(run_state)
        _, before = run_state.engine_state.topology
        for i, after in enumerate(before):
            moved = seen.arrivals.sender[0] // 2 == i
            np.testing.assert_array_equal(flat(after), held[i] if moved else earlier[i])
            stood += int(not moved and not np.array_equal(held[i], earlier[i]))
    assert stood > 2


def test_weights_of_unequal_edges_are_those_of_their_agents():
    fleet = Valley(np.ones((3, 2), np.float32), np.array([[4.0, 0.0], [0.0, 4.0], [8.0, 8.0]], np.float32))
    federation = federate(quadratic(sgd(1.0), size=2), mean())  # one step goes all the way to an agent's minimum
    simulation = simulate(federation, fleet, topology=given_tree([[0, 0, 1]], periods=[1, 2]), devices=DEVICE)
    run_state, seen = ran(simulation, 2)
    assert (seen.messages_up, seen.messages_down) == (3 + 2, 3 + 2)  # of agents and of edges
    np.testing.assert_allclose(flat(run_state.server.params), [4.0, 4.0], rtol=1e-6)  # (4 + 0 + 8) / 3, (0 + 4 + 8) / 3
    only, _ = ran(simulation, 2, cohort=lambda i: [2] if i else [0])
    np.testing.assert_allclose(flat(only.server.params), [6.0, 4.0], rtol=1e-6)  # one sample of (4, 0), one of (8, 8)


def test_without_a_quorum_all_servers_stand_still(rarely):
    inner, fleet, _ = rarely
    simulation = simulate(
        inner,
        fleet,
        topology=tree([3, 2], periods=[1, 2, 4]),
        scheduler=synchronous(quorum=12),
        clock=clock(drop_out=0.8),
        devices=DEVICE,
    )
    run_state, seen = ran(simulation, 4)
    assert (seen.weight, seen.clock_stats.dropped + seen.clock_stats.arrived) == (0.0, 12)
    assert (seen.messages_up, seen.messages_down) == (seen.clock_stats.arrived, 12)
    agents = (seen.clock_stats.arrived * 4 * (SIZE + 2), 12 * 4 * (SIZE + 1))
    assert seen.levels == (agents, (0, 0), (0, 0))  # although all levels would have merged
    for holder in (run_state, *(holder for level in levels_of(run_state) for holder in level)):
        np.testing.assert_array_equal(flat(holder.server.params), 0.0)
        assert int(holder.server.version) == 4


def test_bytes_are_those_of_each_level(rarely):
    _, _, simulation = rarely
    run_state = simulation.init(0)
    found = []
    for _ in range(4):
        run_state, seen = simulation.round(run_state)
        found.append(seen.levels)
    agents = (12 * 4 * (SIZE + 2), 12 * 4 * (SIZE + 1))  # parameters, weight, version; parameters, version
    edges = (4 * 4 * (SIZE + 2), 4 * 4 * (SIZE + 1))
    regions = (2 * 4 * (SIZE + 2), 2 * 4 * (SIZE + 1))
    none = (0, 0)
    assert found == [(agents, none, none), (agents, edges, none), (agents, none, none), (agents, edges, regions)]


def test_relayed_sums_do_not_grow_with_the_agents():
    federation = federate(quadratic(sgd(RATE), size=SIZE), mean())
    found = []
    for agents in (16, 32):
        simulation = simulate(federation, fleet_of(agents), topology=tree([agents // 4]), block=4, devices=DEVICE)
        found.append(ran(simulation, 1)[1].levels)
    assert found[0][1] == found[1][1]
    assert found[0][1][0] == 4 * (22 * (SIZE + 1) + 4)  # four edges: an exact sum of values and weight, a version
    assert found[1][0][0] == 2 * found[0][0][0]


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_latency_grows_with_the_logarithm_of_the_agents(depth):
    width, latency, speed, size = 4, 0.02, 1000.0, 24.0
    agents = width**depth
    links = tree([width] * (depth - 1), latency_s=[latency], bytes_per_s=[speed])
    parents = links.parents(agents)
    assert len(parents) == depth == round(math.log(agents, width))
    everyone = [np.ones(len(over), bool) for over in parents]
    found = round_latency(parents, depth, everyone, [np.full(len(over), size) for over in parents], links)
    assert found == pytest.approx(depth * (2 * latency + width * size / speed))
    alone = tree([], latency_s=[latency], bytes_per_s=[speed])
    flat_latency = round_latency(alone.parents(agents), 1, everyone[:1], [np.full(agents, size)], alone)
    assert flat_latency == pytest.approx(2 * latency + agents * size / speed)


def test_a_round_waits_for_the_slowest_path_of_those_who_take_part():
    links = given_tree([[0, 0, 0, 1]], latency_s=[1.0, 10.0], bytes_per_s=[1.0, 1.0])
    parents, sizes = links.parents(4), [np.array([1.0, 2.0, 3.0, 1.0]), np.array([5.0, 7.0])]
    wait = [
        round_latency(parents, due, [np.array(here), np.array(edges)], sizes, links)
        for due, here, edges in [
            (1, [True] * 4, [True, True]),
            (2, [True] * 4, [True, True]),
            (2, [False, False, False, True], [False, True]),
        ]
    ]
    assert wait == [2 + 6, (2 + 6) + 20 + 12, (2 + 1) + 20 + 7]


def test_what_a_round_reports_is_the_latency_of_its_messages():
    federation = federate(quadratic(sgd(RATE), size=SIZE), mean())
    shape = tree([2], periods=[1, 2], latency_s=[0.5, 2.0], bytes_per_s=[100.0, 1000.0])
    simulation = simulate(federation, fleet_of(4), topology=shape, devices=DEVICE)
    run_state, first = simulation.round(simulation.init(0))
    _, second = simulation.round(run_state)
    one = 4 * (SIZE + 2) + 4 * (SIZE + 1)
    assert first.latency_s == pytest.approx(1.0 + 2 * one / 100.0)
    assert second.latency_s == pytest.approx(first.latency_s + 4.0 + 2 * one / 1000.0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: tree([0]), "an entry of branching is 0"),
        (lambda: tree([2], periods=[1]), "There are 2 levels"),
        (lambda: tree([2, 2], periods=[1, 4, 6]), "multiple of the one before"),
        (lambda: tree([2], periods=[2, 4]), "Begin with 1"),
        (lambda: tree([2], latency_s=[1.0, 2.0, 3.0]), "one for each level"),
        (lambda: tree([2], bytes_per_s=[0.0]), "an entry of bytes_per_s is 0.0. It needs to be a number above 0"),
        (lambda: given_tree([[0, 2, 2]]), "such that every number from 0 on occurs"),
        (lambda: given_tree([[0, 0, 1]]).parents(4), "for each of the 4 nodes"),
    ],
)
def test_trees_that_are_none_are_refused(build, message):
    with pytest.raises(ConfigError, match=message):
        build()


def test_counted_statistics_need_all_levels_to_merge():
    linear = network(lambda key, space, outputs, gain: np.zeros((outputs, 4), np.float32), lambda w, x: w @ x)
    counting = normalize(ppo(cartpole(), network=linear, num_envs=2, num_steps=4))
    fleet = jax.tree.map(lambda x: np.full(4, x, np.float32), cartpole().params)
    with pytest.raises(UnsoundError, match="moments"):
        simulate(federate(counting, mean()), fleet, topology=tree([2], periods=[1, 2]))
    with pytest.raises(UnsoundError, match="average them"):
        as_learner(federate(counting, mean()), 2)
    simulate(federate(personal(counting, local=["moments"]), mean()), fleet, topology=tree([2], periods=[1, 2]))
