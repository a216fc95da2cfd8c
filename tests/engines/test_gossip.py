"""Agents without a server: they agree as the spectrum predicts, and learn together what they would with one."""

import hashlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrl.aggregators import mean, median
from fedrl.clocks import clock
from fedrl.core.errors import ConfigError, UnsoundError
from fedrl.core.learner import Learner, nothing_gathered, same_stream
from fedrl.engines.simulate import simulate
from fedrl.engines.topologies.choices import gossip, isolated
from fedrl.environments import cartpole
from fedrl.environments.adapters import gymnasium
from fedrl.federation.federate import federate
from fedrl.learners import adam, add_correction, chain, mlp, network, normalize, ppo, sgd
from fedrl.records import checkpoint
from fedrl.runs.evaluate import greedy_returns
from fedrl.server import fedadam, polynomial
from fedrl.server.schedules import synchronous
from fedrl.stages import clip
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
from fedrl.topologies.spectrum import contraction, measured_contraction
from tests.support.quadratic import Valley, flat, quadratic, simulated_rounds, valley

AGENTS, SIZE, RATE = 8, 3, 0.1
DEVICES = jax.devices()
SMALL = {"block": AGENTS, "devices": DEVICES[:1]}  # one block on one device: little to compile, nothing to wait for
draws = np.random.default_rng(3)
FLEET = Valley(
    draws.uniform(0.2, 2.0, (AGENTS, SIZE)).astype(np.float32), draws.normal(size=(AGENTS, SIZE)).astype(np.float32)
)
OPTIMUM = (FLEET.curvature * FLEET.minimum).sum(0) / FLEET.curvature.sum(0)
PLAIN = federate(quadratic(sgd(RATE)), mean())
CORRECTED = federate(quadratic(chain(add_correction(), sgd(RATE))), mean(), local_steps=3)


def neighbours(federation, fleet, *given, consensus_steps: int = 1, gamma: float | None = None, **options):
    """Agents who meet by a graph, its weights and a rule."""
    topology = gossip(*given, consensus_steps=consensus_steps, gamma=gamma)
    return simulate(federation, fleet, topology=topology, **options)


def met(simulation, run_state):
    """What agents hold after they have met; before, each holds what it has trained."""
    return simulation.params_of(simulation.adopt(run_state))


def fingerprint(tree) -> str:
    """SHA-256 over every bit of every array."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


class Scattered(NamedTuple):
    params: jax.Array
    fresh: jax.Array


def scattering(size: int) -> Learner:
    """A learner that goes somewhere at random once and learns nothing after: what is left is pure consensus."""

    def learn(key, state, experience, context):
        del experience, context
        params = jnp.where(state.fresh, jax.random.normal(key, (size,)), state.params)
        return Scattered(params, jnp.bool_(False)), {"loss": jnp.float32(0.0)}

    return Learner(
        init=lambda key, env_params: Scattered(jnp.zeros(size), jnp.bool_(True)),
        collect=nothing_gathered,
        learn=learn,
        act=lambda key, params, observation, greedy: jnp.zeros(observation.shape[-1:], jnp.int32),
        params=lambda state: state.params,
        adopt=lambda state, params: state._replace(params=params),
        environment=valley(),
        samples=1,
        split_key=same_stream,
    )


MANY = 64
SCATTER = federate(scattering(16), mean())
LANDS = Valley(np.ones((MANY, SIZE), np.float32), np.zeros((MANY, SIZE), np.float32))


def agreeing(rounds: int, *args, **options):
    """The agents' parameters after they were scattered, then after every round of consensus."""
    simulation = neighbours(SCATTER, LANDS, *args, block=16, devices=DEVICES[:1], **options)
    run_state, path, disagreement = simulation.init(0), [], []
    for _ in range(rounds):
        run_state, seen = simulation.round(run_state)
        path = path or [simulation.params_of(run_state)]
        path.append(met(simulation, run_state))
        disagreement.append(float(np.sqrt(np.square(seen.metrics["consensus_distance"]).mean())))
    return path, disagreement


@pytest.mark.parametrize(
    ("graph", "mixing", "rounds"),
    [
        (ring(), metropolis(), 500),
        (torus(), metropolis(), 60),
        (complete(), laplacian(0.5 / MANY), 16),
        (star(), laplacian(), 250),
    ],
    ids=repr,
)
def test_disagreement_shrinks_at_the_rate_the_spectrum_predicts(graph, mixing, rounds):
    predicted = contraction(mixing.weights(graph.adjacency(MANY, 0)))
    path, disagreement = agreeing(rounds // 5, graph, mixing, consensus_steps=5)
    measured = measured_contraction(disagreement) ** (1 / 5)
    assert measured == pytest.approx(predicted, rel=0.02)
    assert 1 - measured == pytest.approx(1 - predicted, rel=0.02)  # the gap too, where the factor is near one
    np.testing.assert_allclose(path[-1].mean(0), path[0].mean(0), atol=2e-6)


def test_on_the_complete_graph_one_step_agrees_and_its_contraction_is_zero():
    path, disagreement = agreeing(1, complete(), metropolis())
    assert contraction(metropolis().weights(complete().adjacency(MANY, 0))) < 1e-12
    assert disagreement[0] < 1e-6
    np.testing.assert_allclose(path[1], np.broadcast_to(path[0].mean(0), path[1].shape), atol=1e-6)


def test_uneven_weights_agree_on_a_biased_mean_and_push_sum_on_the_right_one():
    rows, _ = agreeing(60, star(), uniform_neighbours())
    pushed, disagreement = agreeing(60, star(), column_stochastic(), push_sum())
    middle = rows[0].mean(0)
    assert np.abs(rows[-1] - middle).max() > 0.1
    assert np.ptp(rows[-1], axis=0).max() < 1e-4
    assert disagreement[-1] < 1e-4
    np.testing.assert_allclose(pushed[-1], np.broadcast_to(middle, pushed[-1].shape), atol=1e-4)


def test_several_steps_of_consensus_in_a_round_are_as_many_rounds_of_one():
    one, _ = agreeing(6, exponential(one_peer=True), uniform_neighbours())
    six, disagreement = agreeing(1, exponential(one_peer=True), uniform_neighbours(), consensus_steps=6)
    assert disagreement[0] < 1e-6  # each step took the next of the six graphs
    np.testing.assert_allclose(one[6], six[1], atol=1e-6)


def test_a_round_goes_on_with_the_graphs_where_the_last_one_stopped():
    _, disagreement = agreeing(2, exponential(one_peer=True), uniform_neighbours(), consensus_steps=3)
    assert disagreement[0] > 1e-2
    assert disagreement[1] < 1e-6  # two times three steps have gone through all six graphs


def test_average_settles_where_the_linear_algebra_says_and_not_at_the_optimum():
    simulation = neighbours(PLAIN, FLEET, ring(), metropolis(), **SMALL)
    held = flat(met(simulation, simulated_rounds(simulation, 400)))
    weights = metropolis().weights(ring().adjacency(AGENTS, 0))
    for i in range(SIZE):  # x = W (x - eta a (x - m))
        a, m = (np.asarray(leaf[:, i], np.float64) for leaf in FLEET)
        fixed = np.linalg.solve(np.eye(AGENTS) - weights @ np.diag(1 - RATE * a), weights @ (RATE * a * m))
        np.testing.assert_allclose(held[:, i], fixed, atol=2e-5)
    assert np.abs(held - OPTIMUM).max() > 0.1
    assert np.abs(held.mean(0) - OPTIMUM).max() > 0.005


@pytest.mark.parametrize("graph", [ring(), hypercube(), random_matching()], ids=repr)
def test_gradient_tracking_takes_every_agent_to_the_optimum_of_the_mean(graph):
    simulation = neighbours(
        CORRECTED, FLEET, graph, metropolis(), gradient_tracking(RATE), local_steps=[1, 2, 3, 3] * 2, **SMALL
    )
    held = flat(met(simulation, simulated_rounds(simulation, 250)))
    np.testing.assert_allclose(held, np.broadcast_to(OPTIMUM, held.shape), atol=1e-5)


def test_with_one_local_step_the_correction_is_the_tracker_of_the_papers():
    federation = federate(quadratic(chain(add_correction(), sgd(RATE))), mean())
    simulation = neighbours(federation, FLEET, ring(), metropolis(), gradient_tracking(RATE), **SMALL)
    held = flat(met(simulation, simulated_rounds(simulation, 12)))
    weights = metropolis().weights(ring().adjacency(AGENTS, 0))
    x = np.zeros((AGENTS, SIZE))
    slope = FLEET.curvature * (x - FLEET.minimum)
    tracker = slope
    for _ in range(12):  # x <- W (x - eta y),  y <- W y + g(x) - g(x before)
        x = weights @ (x - RATE * tracker)
        before, slope = slope, FLEET.curvature * (x - FLEET.minimum)
        tracker = weights @ tracker + slope - before
    np.testing.assert_allclose(held, x, atol=1e-5)


def test_push_sum_learns_over_a_directed_graph_as_well_as_average_over_an_undirected_one():
    pushed = neighbours(PLAIN, FLEET, exponential(), column_stochastic(), push_sum(), **SMALL)
    plain = neighbours(PLAIN, FLEET, complete(), metropolis(), **SMALL)
    ours, best = (flat(met(s, simulated_rounds(s, 200))) for s in (pushed, plain))
    assert np.abs(ours.mean(0) - OPTIMUM).max() < 0.05
    assert np.abs(best.mean(0) - OPTIMUM).max() < 0.05


def test_the_complete_graph_gives_federated_averaging():
    federation = federate(quadratic(sgd(RATE)), mean("uniform"), local_steps=2)
    with_server = simulate(federation, FLEET, local_steps=[1, 2] * 4, **SMALL)
    without = neighbours(federation, FLEET, complete(), metropolis(), local_steps=[1, 2] * 4, **SMALL)
    server = flat(simulated_rounds(with_server, 7).server.params)
    held = flat(met(without, simulated_rounds(without, 7)))
    np.testing.assert_allclose(held, np.broadcast_to(server, held.shape), atol=1e-6)


def tiny_ppo():
    """PPO with a linear policy: small enough to compile, random enough to tell orders apart."""
    linear = network(lambda key, space, outputs, gain: 0.1 * jax.random.normal(key, (outputs, 4)), jnp.matmul)
    return ppo(
        cartpole(), network=linear, optimizer=adam(0.01), num_envs=2, num_steps=4, num_epochs=2, num_minibatches=2
    )


POLES = jax.tree.map(lambda x: np.full(AGENTS, x, np.float32), cartpole().params)._replace(
    length=np.linspace(0.3, 1.0, AGENTS, dtype=np.float32)
)
POLICIES = federate(tiny_ppo(), mean(), local_steps=2)


def test_an_agent_whose_neighbours_are_all_away_trains_as_it_does_in_isolation():
    alone = simulate(POLICIES, POLES, topology=isolated(), devices=DEVICES[:1])
    left = neighbours(POLICIES, POLES, ring(), metropolis(), devices=DEVICES[:1])
    populations = alone.init(0), left.init(0)
    for _ in range(3):
        a, by_itself = alone.round(populations[0])
        b, without = left.round(populations[1], cohort=[3])
        populations = a, b
    held = [jax.tree.map(lambda x: x[3], s.params_of(p)) for s, p in zip((alone, left), populations, strict=True)]
    assert fingerprint(held[0]) == fingerprint(held[1])
    assert by_itself.metrics["loss"][3] == without.metrics["loss"][3] != 0.0
    assert (without.bytes_up, without.metrics["messages"].sum()) == (0, 0)
    assert (by_itself.bytes_up, by_itself.bytes_down) == (0, 0)
    assert fingerprint(alone.params_of(alone.init(1))) != fingerprint(alone.params_of(alone.init(0)))


def cohort_of(round: int) -> list[int] | None:
    return None if round < 2 else [1, 2, 5, 7]


@pytest.mark.parametrize(
    ("federation", "fleet", "graph", "mixing", "rule"),
    [
        (POLICIES, POLES, ring(), metropolis(), average()),
        (PLAIN, FLEET, complete(), metropolis(), average()),
        (PLAIN, FLEET, exponential(), column_stochastic(), push_sum()),
        (CORRECTED, FLEET, random_matching(), metropolis(), gradient_tracking(RATE)),
    ],
    ids=["ppo", "dense", "push_sum", "gradient_tracking"],
)
def test_the_same_bits_on_two_devices_in_any_order_and_after_a_checkpoint(
    federation, fleet, graph, mixing, rule, tmp_path
):
    assert len(DEVICES) >= 2
    padded = [7, -1, 3, 0, -1, 1, 6, 5, -1, 4, 2]
    one = neighbours(federation, fleet, graph, mixing, rule, block=4, devices=DEVICES[:1])
    two = neighbours(federation, fleet, graph, mixing, rule, block=4, devices=DEVICES[:2], order=padded)
    a, b = one.init(0), two.init(0)
    for i in range(4):
        (a, seen), (b, again) = one.round(a, cohort_of(i)), two.round(b, cohort_of(i))
        assert fingerprint(a.server) == fingerprint(b.server)
        assert fingerprint(seen._replace(sums={})) == fingerprint(again._replace(sums={}))  # but for wall time
        if i == 2:
            checkpoint.save(tmp_path / "state", a, i)
            a = checkpoint.load(tmp_path / "state", one.init(5))


def test_nothing_is_compiled_after_the_first_rounds():
    names: list[str] = []

    def listen(event: str, duration: float, **details) -> None:
        if event.endswith("backend_compile_duration"):
            names.append(str(details))

    simulation = neighbours(CORRECTED, FLEET, random_matching(), metropolis(), gradient_tracking(RATE), **SMALL)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        run_state, _ = simulation.round(simulation.init(0))
        assert names
        names.clear()
        for cohort in (None, [0, 3], [7], None):
            run_state, _ = simulation.round(run_state, cohort)
        assert names == []
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_who_sits_out_keeps_what_it_has_and_its_edges_are_absent():
    simulation = neighbours(PLAIN, FLEET, ring(), metropolis(), **SMALL)
    run_state, _ = simulation.round(simulation.init(0))
    before = flat(met(simulation, run_state))
    run_state, seen = simulation.round(run_state, cohort=[0, 1, 4])
    after = flat(met(simulation, run_state))
    np.testing.assert_array_equal(after[[2, 3, 5, 6, 7]], before[[2, 3, 5, 6, 7]])
    trained = before - RATE * FLEET.curvature * (before - FLEET.minimum)
    np.testing.assert_allclose(after[[0, 1]], np.broadcast_to(trained[:2].mean(0), (2, SIZE)), atol=1e-6)
    np.testing.assert_allclose(after[4], trained[4], atol=1e-6)  # nobody it hears is there
    assert seen.metrics["messages"].tolist() == [1, 1, 0, 0, 0, 0, 0, 0]  # nobody whom agent 4 would tell is there
    assert seen.weight == 3.0


def test_training_that_ends_in_numbers_that_are_not_finite_is_undone_and_counted():
    minimum = FLEET.minimum.copy()
    minimum[[2, 7], 1] = np.nan, np.inf
    simulation = neighbours(PLAIN, FLEET._replace(minimum=minimum), ring(), metropolis(), **SMALL)
    run_state, seen = simulation.round(simulation.init(0))
    held = flat(met(simulation, run_state))
    assert ([agent for agent, _ in seen.rejected], seen.weight) == ([2, 7], 6.0)
    trained = RATE * FLEET.curvature * FLEET.minimum
    trained[[2, 7]] = 0.0
    edges = ring().adjacency(AGENTS, 0).copy()
    edges[[2, 7]] = edges[:, [2, 7]] = False  # as of agents that sit the round out
    np.testing.assert_allclose(held, metropolis().weights(edges) @ trained, atol=1e-6)


@pytest.mark.parametrize(
    ("federation", "graph", "mixing", "rule", "sizes", "messages"),
    [
        (PLAIN, ring(), metropolis(), average(), [4 * SIZE + 4, 8 * SIZE + 4], 2 * AGENTS),
        (PLAIN, ring(directed=True), column_stochastic(), push_sum(), [8 * SIZE + 12] * 2, AGENTS),
        (CORRECTED, star(), metropolis(), gradient_tracking(RATE), [12 * SIZE + 4, 16 * SIZE + 4], 2 * (AGENTS - 1)),
    ],
    ids=["average", "push_sum", "gradient_tracking"],
)
def test_every_edge_carries_one_message_a_step_and_its_bytes_are_counted(
    federation, graph, mixing, rule, sizes, messages
):
    """What follows the first step of consensus are sums, float64."""
    simulation = neighbours(federation, FLEET, graph, mixing, rule, consensus_steps=3, **SMALL)
    _, seen = simulation.round(simulation.init(0))
    assert seen.metrics["messages"].sum() == 3 * messages
    assert (seen.bytes_up, seen.bytes_down) == (messages * (sizes[0] + 2 * sizes[1]), 0)
    assert (seen.uploads.size_bytes.sum(), seen.uploads.messages.sum()) == (seen.bytes_up, seen.messages_up)
    assert (seen.messages_up, seen.messages_down) == (3 * messages, 0)


def test_neighbours_on_a_ring_learn_cartpole_together():
    fleet = jax.tree.map(lambda x: np.full(6, x, np.float32), cartpole().params)
    learner = ppo(cartpole(), network=mlp((32,)), optimizer=adam(0.005, max_norm=0.5))
    simulation = neighbours(federate(learner, mean()), fleet, ring(), metropolis(), block=6, devices=DEVICES[:1])
    for seed in range(3):
        held = met(simulation, simulated_rounds(simulation, 50, seed))
        returns = greedy_returns(learner, fleet, held, episodes=10, seed=0, stacked=True).mean(1)
        assert returns.min() >= 475.0  # of 500; measured after 40 to 100 rounds: 500 of every agent with every seed
        first = greedy_returns(learner, fleet, simulation.params_of(simulation.init(seed)), 10, 0, stacked=True)
        assert first.mean() < 0.5 * returns.min()  # before, greedy policies hold out for 9 to 190 steps


@pytest.mark.parametrize(
    ("federation", "rule", "message"),
    [
        (federate(quadratic(sgd(0.1)), mean(), clip(1.0)), average(), r"clip\(1.0\).*run the federation with a server"),
        (federate(quadratic(sgd(0.1)), mean(), server_optimizer=fedadam()), average(), r"fedadam\(\).*with a server"),
        (federate(quadratic(sgd(0.1)), median()), average(), r"median\(\) works on updates that a server aggregates"),
        (federate(quadratic(sgd(0.1)), mean(), payload="gradient"), average(), "payload is 'gradient'.*'delta'"),
        (
            federate(normalize(tiny_ppo()), mean()),
            average(),
            "are relative to moments.*without a server they share none",
        ),
        (PLAIN, gradient_tracking(0.1), r"does not read corrections.*chain\(add_correction\(\), sgd"),
    ],
)
def test_what_needs_a_server_is_refused(federation, rule, message):
    with pytest.raises(UnsoundError, match=message):
        neighbours(federation, FLEET, ring(), metropolis(), rule)


@pytest.mark.parametrize(
    ("topology", "reason"), [(gossip(ring(), metropolis()), "no server"), (isolated(), "isolated")]
)
def test_nobody_scales_late_updates_without_a_server(topology, reason):
    schedule = synchronous(deadline_s=2.0, stragglers="keep", staleness=polynomial())
    with pytest.raises(UnsoundError, match=r"polynomial\(\) (needs a server|concerns updates).*Leave it out") as found:
        simulate(PLAIN, FLEET, topology=topology, scheduler=schedule, clock=clock())
    assert found.value.reason == reason


def test_neighbours_on_the_complete_graph_average_what_they_learn_on_the_host():
    learner = ppo(gymnasium("CartPole-v1"), num_envs=2, num_steps=8)
    federation = federate(learner, mean("uniform"), local_steps=2)
    fleet = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), learner.environment.params)
    ended = []
    for topology in (None, gossip(complete(), metropolis())):
        options = {"local_steps": [1, 2, 2], "devices": DEVICES[:1], "workers": 0}
        with simulate(federation, fleet, topology=topology, **options) as simulation:
            run_state, first = simulation.round(simulation.init(0))
            run_state, seen = simulation.round(run_state, cohort=[0, 2])
            held = simulation.params_of(simulation.adopt(run_state))
        ended.append((jax.tree.map(lambda x: x[[0, 2]], held), first.metrics["loss"], seen.metrics["loss"]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *ended)
    assert (seen.messages_up, seen.bytes_down) == (2, 0)
    assert ended[1][2][1] == 0.0 != ended[1][2][0]


@pytest.mark.parametrize(
    ("graph", "mixing", "rule", "error", "message"),
    [
        (ring(), laplacian(0.5), average(), ConfigError, "step_size is 0.5.*2 / lambda_max = 0.5"),
        (ring(directed=True), metropolis(), average(), UnsoundError, "directed graph"),
        (star(), column_stochastic(), average(), UnsoundError, "rows of the weights of column_stochastic"),
        (star(), uniform_neighbours(), push_sum(), UnsoundError, "columns of the weights of uniform_neighbours"),
        (torus(rows=3), metropolis(), average(), ConfigError, "8 agents, which do not fill 3 rows"),
    ],
)
def test_what_does_not_fit_the_graph_is_refused_before_the_first_round(graph, mixing, rule, error, message):
    with pytest.raises(error, match=message):
        neighbours(PLAIN, FLEET, graph, mixing, rule)


def test_a_round_without_a_message_is_refused():
    with pytest.raises(ConfigError, match="consensus_steps is 0"):
        gossip(ring(), metropolis(), consensus_steps=0)
