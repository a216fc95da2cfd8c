"""Compression without a server: copies agree, agents agree on the mean, and what would part them is refused."""

import jax
import numpy as np
import pytest

from fedrl.aggregators import mean
from fedrl.clocks import clock
from fedrl.core.errors import ConfigError, UnsoundError, WireError
from fedrl.core.keys import agent_secret, keys_of
from fedrl.engines.simulate import simulate
from fedrl.engines.topologies.choco import compressor, message_key
from fedrl.engines.topologies.choco_peer import Peer, PeerCopy, mix, receive, send
from fedrl.engines.topologies.choices import gossip
from fedrl.engines.topologies.step_size import handed_over, message_shapes, step_size
from fedrl.federation.federate import federate
from fedrl.learners import add_correction, chain, sgd
from fedrl.records import checkpoint
from fedrl.stages import (
    clip,
    error_feedback,
    flatten,
    hard_threshold,
    lag,
    partition_by_size,
    quantize,
    random_k,
    scaffold,
    sign,
    top_k,
    uniform_quantize,
)
from fedrl.topologies import (
    average,
    column_stochastic,
    complete,
    exponential,
    gradient_tracking,
    laplacian,
    metropolis,
    push_sum,
    random_matching,
    ring,
    star,
    torus,
    uniform_neighbours,
)
from fedrl.wire.codec import codec
from tests.engines.test_gossip import (
    CORRECTED,
    FLEET,
    OPTIMUM,
    RATE,
    SIZE,
    SMALL,
    fingerprint,
    met,
    neighbours,
    scattering,
)
from tests.support.quadratic import Valley, flat, quadratic, simulated_rounds

AGENTS, MANY, WIDE = 8, 16, 64
GRAPHS = {"ring": ring(), "torus": torus(), "complete": complete(), "star": star()}
STAGES = {"top_k": top_k(0.1), "sign": sign(), "quantize": quantize(4, unbiased=False)}
LANDS = Valley(np.ones((MANY, SIZE), np.float32), np.zeros((MANY, SIZE), np.float32))
SCATTERING = scattering(WIDE)


def compressed(*stages):
    return federate(quadratic(sgd(RATE)), mean(), *stages)


def disagreement(stage, graph, gamma, rounds: int, steps: int = 50) -> tuple[np.ndarray, np.ndarray, float]:
    """Root mean square distances after every so many steps of pure consensus, and how far the mean has moved."""
    federation = federate(SCATTERING, mean(), stage)
    simulation = neighbours(federation, LANDS, graph, metropolis(), gamma=gamma, consensus_steps=steps, block=MANY)
    run_state, found, means = simulation.init(0), [], []
    for _ in range(rounds):
        run_state, seen = simulation.round(run_state)
        found.append((seen.metrics["drift"], seen.metrics["consensus_distance"]))
        means.append(met(simulation, run_state).mean(0))
    before, after = (np.sqrt(np.square(x).mean(1)) for x in zip(*found, strict=True))
    return before, after, np.abs(means[-1] - means[0]).max()


@pytest.mark.parametrize("graph", ["ring", "torus", "complete"])
@pytest.mark.parametrize("stage", list(STAGES))
def test_agents_agree_at_a_linear_rate_by_the_default_step(stage, graph):
    before, after, moved = disagreement(STAGES[stage], GRAPHS[graph], None, 16)
    logs = np.log(np.maximum(after, 1e-6 * before[0]))  # below, numbers are rounded
    falls = np.diff(logs[logs > np.log(2e-6 * before[0])])
    assert after[-1] < 0.05 * before[0]
    if len(falls) > 6:  # as much in the second half as in the first
        halves = falls[: len(falls) // 2].mean(), falls[len(falls) // 2 :].mean()
        assert halves[1] < 0.5 * halves[0] < 0.0
    assert moved < 1e-5


def test_top_k_agrees_on_a_ring_at_three_tenths_and_parts_at_one_half():
    """Above the bound, which is between; what refuses it is left out by hand."""
    agreeing, _, _ = disagreement(top_k(0.1), ring(), 0.3, 20)
    assert agreeing[-1] < 0.5 * agreeing[0]
    with pytest.raises(UnsoundError, match=r"gamma is 0.5, and the bound is 0\.\d+ where top_k\(0.1\) preserves") as no:
        disagreement(top_k(0.1), ring(), 0.5, 1)
    assert no.value.reason == "graph"
    assert parting(0.3) < 0.5
    assert parting(0.5) > 1e3


def parting(gamma: float) -> float:
    """How disagreement of top_k(0.1) grows on a ring, in NumPy, for a step that is refused."""
    x = np.random.default_rng(0).normal(size=(MANY, WIDE))
    weights = metropolis().weights(ring().adjacency(MANY, 0))
    first, copies, kept = np.linalg.norm(x - x.mean(0)), np.zeros_like(x), int(np.ceil(0.1 * WIDE))
    for _ in range(1000):
        apart = x - copies
        least = np.sort(np.abs(apart), axis=1)[:, -kept][:, None]
        copies = copies + np.where(np.abs(apart) >= least, apart, 0.0)
        x = x + gamma * (weights @ copies - copies)
    return float(np.linalg.norm(x - x.mean(0)) / first)


@pytest.mark.parametrize("graph", list(GRAPHS))
@pytest.mark.parametrize(
    "stage", [top_k(0.1), sign(), quantize(3, unbiased=False), random_k(0.1, unbiased=False)], ids=repr
)
def test_the_default_step_is_the_formula_and_below_the_bound(stage, graph):
    federation = federate(SCATTERING, mean(), stage)
    rule, weights = average(), metropolis().weights(GRAPHS[graph].adjacency(MANY, 0))
    delta = handed_over(federation, message_shapes(federation, rule))
    shares = np.linalg.eigvalsh(np.eye(MANY) - weights)
    gamma = step_size(federation, GRAPHS[graph], metropolis(), rule, None, MANY)
    assert gamma == pytest.approx(min(1.0, delta / ((2.0 - delta) * shares[-1])))
    bound = min(1.0, 2.0 * delta / (shares[1] + shares[-1]))
    assert 0.0 < gamma < bound
    assert step_size(federation, GRAPHS[graph], metropolis(), rule, bound, MANY) == bound
    with pytest.raises(UnsoundError, match="the bound is"):
        step_size(federation, GRAPHS[graph], metropolis(), rule, 1.01 * bound, MANY)


@pytest.mark.parametrize(
    ("stage", "delta"),
    [(top_k(0.1), 0.27), (sign(), 0.64), (random_k(0.25, unbiased=False), 0.25), (quantize(8), 1.0), (flatten(), 1.0)],
    ids=repr,
)
def test_what_stages_hand_over_is_measured(stage, delta):
    federation = federate(scattering(1000), mean(), stage)
    assert handed_over(federation, message_shapes(federation, average())) == pytest.approx(delta, abs=0.02)


def test_what_loses_nothing_gives_what_neighbours_come_to_without_it():
    given = (FLEET, ring(), metropolis())
    plain = neighbours(compressed(), *given, **SMALL)
    whole = neighbours(compressed(flatten()), *given, gamma=1.0, **SMALL)
    ends = [flat(met(s, simulated_rounds(s, 5))) for s in (plain, whole)]
    np.testing.assert_allclose(*ends, atol=1e-6)


def test_training_by_compressed_differences_settles_near_where_it_does_without():
    plain = neighbours(compressed(), FLEET, complete(), metropolis(), **SMALL)
    small = neighbours(
        compressed(partition_by_size(1, quantize(8), top_k(0.5))), FLEET, complete(), metropolis(), **SMALL
    )
    ends = [flat(met(s, simulated_rounds(s, 150))) for s in (plain, small)]
    assert np.abs(ends[1].mean(0) - ends[0].mean(0)).max() < 0.05
    assert np.abs(ends[1] - FLEET.minimum).max() > 1.0  # and not where each would go by itself


def test_gradient_tracking_by_compressed_differences_takes_every_agent_to_the_optimum():
    federation = federate(quadratic(chain(add_correction(), sgd(RATE))), mean(), top_k(0.5))
    simulation = neighbours(federation, FLEET, ring(), metropolis(), gradient_tracking(RATE), **SMALL)
    held = flat(met(simulation, simulated_rounds(simulation, 600)))
    np.testing.assert_allclose(held, np.broadcast_to(OPTIMUM, held.shape), atol=1e-4)


ROUNDS = [None, None, [0, 1, 3, 4, 5, 6, 7], [0, 3, 4, 6, 7], [2], None, [1, 2, 3, 7], None]
"""Who is there in each round."""


def own(tree, k):
    return jax.tree.map(lambda x: x[k], tree)


@pytest.mark.parametrize(
    "stages",
    [(top_k(0.4),), (sign(),), (quantize(4),), (flatten(), random_k(0.5, unbiased=False), quantize(8))],
    ids=repr,
)
@pytest.mark.parametrize("rule", [average(), gradient_tracking(RATE)], ids=repr)
def test_peers_by_themselves_come_to_the_same_bits_in_the_same_bytes_also_after_an_absence(stages, rule):
    federation = federate(CORRECTED.learner, mean(), *stages)
    graph, mixing, twice = ring(), metropolis(), 2
    simulation = neighbours(federation, FLEET, graph, mixing, rule, consensus_steps=twice, **SMALL)
    gamma, like = step_size(federation, graph, mixing, rule, None, AGENTS), message_shapes(federation, rule)
    programs, run_state = compressor(federation, like), simulation.init(0)
    first = own(run_state.engine_state.topology.held, 0)
    links = [np.flatnonzero(graph.adjacency(AGENTS, 0)[k]).tolist() for k in range(AGENTS)]
    peers = [
        Peer(k, PeerCopy(first), {j: PeerCopy(first) for j in links[k]}, programs.stage_states) for k in range(AGENTS)
    ]
    resent = 0
    for i, cohort in enumerate(ROUNDS):
        there = list(range(AGENTS)) if cohort is None else cohort
        before, here = run_state, np.isin(np.arange(AGENTS), there)
        run_state, seen = simulation.round(before, cohort)
        start, memory = before.server.params, before.server.aggregator
        met_by = here.reshape(-1, 1)  # before they adopt, agents hold what they have trained
        trained = jax.tree.map(
            lambda new, old, by=met_by: np.where(by.reshape(-1, *(1,) * (old.ndim - 1)), new, old),
            simulation.params_of(run_state),
            start,
        )
        whole = rule.send(np.ones(AGENTS, int), start, memory, trained)
        message = jax.tree.map(lambda x: np.asarray(x, np.float32), whole)
        totals = [jax.tree.map(lambda x: np.asarray(x, np.float64), own(message, k)) for k in range(AGENTS)]
        weights, sent = mixing.weights(graph.adjacency(AGENTS, 0) & here[:, None] & here[None, :]), 0
        for step in range(twice):
            messages = {}
            for k in there:
                present = {j: None for j in links[k] if j in there}
                given = (i, step, int(here[k]), peers[k], totals[k], present)
                messages[k], peers[k] = send(programs, agent_secret(run_state.keys, k), *given)
            for k in there:
                for j, bodies in messages.items():
                    if k in bodies:
                        sent += len(bodies[k])
                        resent += int(np.frombuffer(bodies[k][:4], "<i4")[0]) < 0
                        peers[k] = receive(programs, peers[k], j, bodies[k])
                by = {j: float(weights[k, j]) for j in {k, *np.flatnonzero(weights[k]).tolist()}}
                totals[k] = mix(peers[k], totals[k], by, gamma)
        total = jax.tree.map(lambda *rows: np.stack(rows), *totals)
        params, kept = rule.receive(message, memory, total)
        params = jax.tree.map(lambda x: x.astype(np.float32), params)
        jax.tree.map(np.testing.assert_array_equal, params, run_state.server.params)
        jax.tree.map(np.testing.assert_array_equal, kept, run_state.server.aggregator)
        copies = run_state.engine_state.topology
        for k in range(AGENTS):
            jax.tree.map(np.testing.assert_array_equal, peers[k].own.held, own(copies.held, k))
        assert sent == seen.bytes_up == seen.uploads.size_bytes.sum()
    assert resent > 0


def test_a_lost_message_is_noticed_by_its_number():
    federation = compressed(top_k(0.4))
    programs = compressor(federation, message_shapes(federation, average()))
    nothing = {"head": np.zeros(1, np.float32), "tail": np.zeros((1, 2), np.float32)}
    told, hearer = (Peer(k, PeerCopy(nothing), {1 - k: PeerCopy(nothing)}, programs.stage_states) for k in range(2))
    x = jax.tree.map(lambda leaf: leaf + 1.0, nothing)
    _, told = send(programs, bytes(32), 0, 0, 1, told, x, {1: None})
    second, told = send(programs, bytes(32), 1, 0, 1, told, x, {1: None})
    with pytest.raises(WireError, match=r"makes copy 2 of agent 0, and this peer has copy 0.*Request the whole copy"):
        receive(programs, hearer, 0, second[1])
    told = told._replace(others={1: told.others[1]._replace(number_received=0)})  # as the other has said
    third, told = send(programs, bytes(32), 2, 0, 1, told, x, {1: None})
    hearer = receive(programs, hearer, 0, third[1])
    assert len(third[1]) == 4 + codec(nothing).size_bytes
    jax.tree.map(np.testing.assert_array_equal, hearer.others[0].held, told.own.held)


def test_who_was_away_is_sent_copies_whole_and_both_are_counted():
    simulation = neighbours(compressed(top_k(0.5)), FLEET, ring(), metropolis(), **SMALL)
    run_state, first = simulation.round(simulation.init(0))
    small, whole = first.bytes_up // first.messages_up, 4 * SIZE + 4
    assert first.bytes_up == 2 * AGENTS * small
    assert small < whole
    assert first.metrics["whole_copies"].sum() == 0
    run_state, _ = simulation.round(run_state, cohort=[0, 1, 2, 4, 5, 6, 7])
    copies = run_state.engine_state.topology
    assert copies.number.tolist() == [2, 2, 2, 1, 2, 2, 2, 2]
    run_state, seen = simulation.round(run_state)  # 2 and 4 lack nothing of 3, and it lacks one of each
    assert seen.metrics["whole_copies"].tolist() == [0, 0, 1, 0, 1, 0, 0, 0]
    assert seen.bytes_up == (2 * AGENTS - 2) * small + 2 * whole
    assert simulation.round(run_state)[1].metrics["whole_copies"].sum() == 0


def test_who_restarts_holds_no_copy_and_others_hold_an_old_one_of_it():
    federation = federate(quadratic(sgd(RATE)), mean(), top_k(0.5))
    where = gossip(ring(), metropolis())
    simulation = simulate(federation, FLEET, topology=where, clock=clock(restart=0.2), merges=1, **SMALL)
    (hearing, heard), run_state, resent = ring().adjacency(AGENTS, 0).nonzero(), simulation.init(0), 0
    first, held = jax.tree.map(np.copy, run_state.engine_state.topology.held), np.zeros((AGENTS, AGENTS), int)
    number = np.zeros(AGENTS, int)  # held[i, j]: which copy of j agent i holds
    for _ in range(8):
        restarts = run_state.engine_state.team.restarts.copy()
        run_state, seen = simulation.round(run_state)
        fallen, there = run_state.engine_state.team.restarts > restarts, seen.steps > 0
        np.testing.assert_array_equal(fallen, ~there)
        number[fallen] += 1
        held[fallen] = -1
        meeting = there[hearing] & there[heard]
        behind = meeting & (held[hearing, heard] != number[heard])
        np.testing.assert_array_equal(seen.metrics["whole_copies"], np.bincount(heard[behind], minlength=AGENTS))
        number[np.unique(heard[meeting])] += 1
        held[hearing[meeting], heard[meeting]] = number[heard[meeting]]
        copies = run_state.engine_state.topology
        np.testing.assert_array_equal(copies.number, number)
        jax.tree.map(lambda x, y, k=fallen: np.testing.assert_array_equal(x[k], y[k]), copies.held, first)
        resent += int(behind.sum())
    assert resent > run_state.engine_state.team.restarts.sum() > 3


def test_an_agent_without_neighbours_learns_by_itself():
    alone, ends = jax.tree.map(lambda x: x[:1], FLEET), []
    for stages in ((), (top_k(0.5),)):
        simulation = simulate(compressed(*stages), alone, topology=gossip(ring(), metropolis()))
        run_state, seen = simulation.round(simulation.init(0))
        assert (seen.bytes_up, seen.messages_up) == (0, 0)
        ends.append(flat(run_state.server.params))
    np.testing.assert_array_equal(*ends)


def test_the_keys_of_agents_versions_and_steps_differ():
    federation = compressed(random_k(0.5, unbiased=False))
    programs = compressor(federation, message_shapes(federation, average()))
    nothing = {"head": np.zeros(1, np.float32), "tail": np.zeros((1, 2), np.float32)}
    keys, draws = keys_of(0), set()
    for agent, version, step in np.ndindex(4, 4, 4):
        data = message_key(agent_secret(keys, agent), version, step)
        numbers = (np.int32(n) for n in (agent, version, 1))
        draws.add(int(programs.encode(data, *numbers, programs.stage_states, nothing)[0].seed))
    assert len(draws) == 64


@pytest.mark.parametrize("rule", [average(), gradient_tracking(RATE)], ids=repr)
def test_a_run_goes_on_from_a_checkpoint_in_new_objects_to_the_last_bit(rule, tmp_path):
    federation = federate(CORRECTED.learner, mean(), quantize(4))
    one, two = (neighbours(federation, FLEET, ring(), metropolis(), rule, consensus_steps=2, **SMALL) for _ in range(2))
    run_state = one.init(0)
    for i in range(3):
        run_state, _ = one.round(run_state, None if i != 2 else [0, 1, 4, 5])
    checkpoint.save(tmp_path / "state", run_state, 3)
    again = checkpoint.load(tmp_path / "state", two.init(5))
    for _ in range(2):
        (run_state, seen), (again, as_seen) = one.round(run_state), two.round(again)
    assert fingerprint((run_state.server, run_state.engine_state.topology)) == fingerprint(
        (again.server, again.engine_state.topology)
    )
    assert fingerprint(seen._replace(sums={})) == fingerprint(as_seen._replace(sums={}))
    assert fingerprint(one.init(0).engine_state.topology) != fingerprint(run_state.engine_state.topology)


CHOCO = "CHOCO on a directed or changing graph"
UNEVEN = "which are not symmetric"


@pytest.mark.parametrize(
    ("stage", "graph", "mixing", "rule", "reason", "message"),
    [
        (
            error_feedback(top_k(0.1)),
            ring(),
            metropolis(),
            average(),
            "graph",
            "error feedback would add it twice",
        ),
        (clip(1.0), ring(), metropolis(), average(), "graph", r"clip\(1.0\) is no contraction"),
        (random_k(0.1), ring(), metropolis(), average(), "graph", "no contraction"),
        (hard_threshold(0.1), ring(), metropolis(), average(), "graph", "no contraction"),
        (uniform_quantize(8), ring(), metropolis(), average(), "graph", "no contraction"),
        (
            lag(error_feedback(sign())),
            ring(),
            metropolis(),
            average(),
            "no server",
            "works on updates that a server aggregates",
        ),
        (quantize(1), ring(), metropolis(), average(), "graph", "may lose all of a difference or more.*2 entries"),
        (sign(), ring(directed=True), column_stochastic(), push_sum(), "graph", CHOCO),
        (sign(), exponential(), uniform_neighbours(), average(), "graph", CHOCO),
        (sign(), random_matching(), metropolis(), average(), "graph", CHOCO),
        (sign(), star(), uniform_neighbours(), average(), "graph", UNEVEN),
        (sign(), ring(), metropolis(), push_sum(), "graph", UNEVEN),
    ],
    ids=str,
)
def test_what_would_part_copies_or_agents_is_refused(stage, graph, mixing, rule, reason, message):
    with pytest.raises(UnsoundError, match=message) as no:
        neighbours(compressed(stage), FLEET, graph, mixing, rule)
    assert no.value.reason == reason


def test_control_variates_need_a_server():
    federation = federate(CORRECTED.learner, mean(), scaffold(RATE))
    with pytest.raises(UnsoundError, match="run the federation with a server") as no:
        neighbours(federation, FLEET, ring(), metropolis())
    assert no.value.reason == "no server"


@pytest.mark.parametrize(
    ("stages", "gamma", "message"),
    [((), 0.5, "without stages agents send their parameters"), ((sign(),), 0.0, "gamma is 0.0.*Set it above 0")],
)
def test_a_step_that_is_none_is_refused(stages, gamma, message):
    with pytest.raises(ConfigError, match=message):
        neighbours(compressed(*stages), FLEET, ring(), metropolis(), gamma=gamma)


def test_weights_by_the_laplacian_will_do():
    assert gossip(torus(), laplacian()).gamma is None
    simulation = neighbours(compressed(sign()), FLEET, torus(), laplacian(), **SMALL)
    held = flat(met(simulation, simulated_rounds(simulation, 100)))
    assert np.ptp(held, axis=0).max() < np.ptp(FLEET.minimum, axis=0).max() / 2
