"""The way down, compressed: what agents hold, what they are sent, and what that costs."""

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedrl.federation.federation
from fedrl.aggregators import mean, median
from fedrl.clocks import clock
from fedrl.core.aggregator import on_time
from fedrl.core.component import cite
from fedrl.core.errors import UnsoundError
from fedrl.core.stage import Noise, Stage, pipeline
from fedrl.core.types import Update, UpdateContext
from fedrl.engines.down_messages import NOTHING, DownMessages
from fedrl.engines.inbox import Copied, Table
from fedrl.engines.simulate import simulate
from fedrl.engines.topologies.choices import gossip, hierarchy, isolated
from fedrl.environments import cartpole
from fedrl.environments.adapters import gymnasium
from fedrl.federation.federate import federate
from fedrl.federation.nested import as_learner
from fedrl.learners import a2c, add_correction, chain, mlp, normalize, ppo, sgd
from fedrl.records import checkpoint
from fedrl.server import fedadam, greedy, normalized_momentum, uniform
from fedrl.server.scheduler import Scheduler
from fedrl.server.schedules import afedpg, bounded_staleness, fed_async, fed_buff, synchronous
from fedrl.stages import (
    clip,
    error_feedback,
    hard_threshold,
    lag,
    partition_by_size,
    quantize,
    random_k,
    scaffold,
    sign,
    top_k,
    weight_by_signal,
)
from fedrl.topologies import metropolis, ring, tree
from fedrl.wire.codec import codec
from tests.support.quadratic import Valley, flat, quadratic
from tests.support.turns import keys_of_server, turns_of

AGENTS, SIZE, RATE = 5, 12, 0.2
draws = np.random.default_rng(1)
FLEET = Valley(
    draws.uniform(0.3, 1.5, (AGENTS, SIZE)).astype(np.float32),
    (3.0 * draws.normal(size=(AGENTS, SIZE))).astype(np.float32),
)
OPTIMUM = (FLEET.curvature * FLEET.minimum).sum(0) / FLEET.curvature.sum(0)
LEARNER = quadratic(sgd(RATE), size=SIZE)
ALL = top_k(1.0)
VARYING = replace(hard_threshold(0.05), contraction=lambda entries: 0.5)
"""A stage whose bytes depend on the numbers."""
SLOW = clock(step_s=[1.0, 1.25, 1.5, 2.0, 5.0])
ONE_DEVICE = {"devices": jax.devices()[:1]}


def ran(simulation, rounds, seed=0):
    run_state, seen = simulation.init(seed), []
    for _ in range(rounds):
        run_state, record = simulation.round(run_state)
        seen.append(record)
    return run_state, seen


def simulated(stages=(), down=(), fleet=FLEET, learner=LEARNER, aggregator=None, options=None, **parts):
    federation = federate(learner, aggregator or mean(), *stages, down_stages=down, **(options or {}))
    return simulate(federation, fleet, **ONE_DEVICE, **parts)


def equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


# --- what is learned -------------------------------------------------------------------------------------------------


SETTINGS = {
    "one server": {},
    "several local steps and error feedback on the way up": {
        "stages": (error_feedback(top_k(0.3)),),
        "options": {"local_steps": 3},
    },
    "gradients": {"options": {"payload": "gradient", "server_optimizer": optax.sgd(RATE)}},
    "Adam at the server": {"options": {"server_optimizer": fedadam(0.1)}},
    "control variates": {
        "learner": quadratic(chain(add_correction(), sgd(0.1)), size=SIZE),
        "stages": (scaffold(0.1),),
        "options": {"local_steps": 2},
    },
    "a median": {"aggregator": median()},
    "selection": {"scheduler": Scheduler(selection=uniform(2))},
    "a budget": {"scheduler": Scheduler(upload_budget=greedy(170)), "options": {"reports": ["norm"]}},
    "FedBuff": {"scheduler": fed_buff(2), "clock": SLOW},
    "FedAsync": {"scheduler": fed_async(0.5), "clock": SLOW},
    "bounded staleness": {"scheduler": bounded_staleness(1), "clock": SLOW},
    "AFedPG": {
        "scheduler": afedpg(0.5),
        "clock": SLOW,
        "options": {"payload": "gradient", "server_optimizer": normalized_momentum(0.1, 0.5)},
    },
    "late agents kept": {"scheduler": synchronous(3, stragglers="keep"), "clock": SLOW},
    "delays": {"scheduler": Scheduler(delay_rounds=(0, 1, 2, 2, 0))},
    "a tree of relays": {"topology": hierarchy(tree([2, 2]))},
    "a tree with periods": {"topology": hierarchy(tree([2, 2], [1, 2, 4]))},
    "a tree with periods and time": {"topology": hierarchy(tree([2], [1, 2])), "scheduler": fed_buff(2), "clock": SLOW},
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_compressor_that_loses_nothing_changes_nothing(setting):
    (plain, _), (copied, seen) = (ran(simulated(down=down, **SETTINGS[setting]), 8) for down in ((), (ALL,)))
    np.testing.assert_allclose(flat(copied.server.params), flat(plain.server.params), rtol=1e-5, atol=1e-6)
    assert np.abs(flat(copied.server.params)).max() > 0.1
    assert seen[0].metrics["whole_copies"].sum() > 0


def forgetful(learner, stages):
    """A way down that sends what the last commit changed, and forgets what earlier messages lost."""
    real = fedrl.federation.downlink.downlink(learner, stages)

    def init(params):
        copy = real.init(params)
        return copy._replace(stage_states=(copy.stage_states, params))

    def send(key, version, copy, params):
        local, before = copy.stage_states
        sent = real.send(key, version, copy._replace(stage_states=local, held=before), params)
        held = jax.tree.map(lambda c, new, old: c + (new - old), copy.held, sent.held, before)
        return sent._replace(held=held, stage_states=(sent.stage_states, params))

    return real._replace(init=init, send=send)


@pytest.mark.parametrize("payload", ["delta", "gradient"])
@pytest.mark.parametrize(
    "stage", [top_k(0.1), sign(), random_k(0.2, unbiased=False), quantize(2, unbiased=False)], ids=repr
)
def test_what_a_difference_lost_comes_with_the_next_one(stage, payload, monkeypatch):
    """Server and agents reach the optimum; a server that forgets x - c does not."""

    def found(samples):
        federation = federate(
            quadratic(sgd(RATE), size=SIZE, samples=samples),  # of its own: equal federations share programs
            mean(),
            down_stages=(stage,),
            payload=payload,
            server_optimizer=optax.sgd(RATE) if payload == "gradient" else None,
        )
        run_state, _ = ran(simulate(federation, FLEET, **ONE_DEVICE), 400)
        return flat(run_state.server.params), flat(run_state.server.down.held)

    x, c = found(1)
    np.testing.assert_allclose(x, OPTIMUM, atol=1e-3)
    np.testing.assert_allclose(c, OPTIMUM, atol=1e-3)
    monkeypatch.setattr("fedrl.federation.federate.downlink", forgetful)
    assert np.abs(found(2)[0] - OPTIMUM).max() > 0.05


def test_moments_arrive_as_they_are():
    learner = normalize(ppo(cartpole(max_steps=20), num_envs=2, num_steps=8, network=mlp([4])))
    federation = federate(learner, mean(), down_stages=(sign(),))
    fleet = jax.tree.map(lambda x: jnp.broadcast_to(x, (3, *jnp.shape(x))), learner.environment.params)
    run_state, seen = ran(simulate(federation, fleet, **ONE_DEVICE), 3)
    held, params = run_state.server.down.held, run_state.server.params
    equal(held["moments"], params["moments"])
    assert float(params["moments"]["observation"].samples) == 3 * 3 * 2 * 8
    assert not np.array_equal(jax.tree.leaves(held["learner"])[0], jax.tree.leaves(params["learner"])[0])
    exact = sum(x.nbytes for x in jax.tree.leaves(params["moments"]))
    coded = sum(-(-x.size // 8) + 4 for x in jax.tree.leaves(params["learner"]))
    assert seen[-1].bytes_down == 3 * (1 + exact + coded + 4)


def test_nested_agents_start_from_what_the_outer_server_holds():
    def end(down):
        inner = federate(LEARNER, mean(), down_stages=down)
        outer = federate(as_learner(inner, agents=2), mean(), local_steps=2)
        fleet = jax.tree.map(lambda x: x[:4].reshape(2, 2, SIZE), FLEET)
        return flat(ran(simulate(outer, fleet, **ONE_DEVICE), 5)[0].server.params)

    np.testing.assert_allclose(end((ALL,)), end(()), rtol=1e-5, atol=1e-6)


# --- what is sent ----------------------------------------------------------------------------------------------------


def message(federation, run_state, after):
    """The difference that a server sends between two of its states, encoded by hand: its bytes, and what is read."""
    server, pipe = run_state.server, pipeline(federation.down_stages)
    apart = jax.tree.map(lambda x, c: jnp.asarray(np.asarray(x) - np.asarray(c)), after.server.params, server.down.held)
    shared, _ = pipe.init(apart)
    context = UpdateContext(jnp.int32(0), server.version, jnp.int32(1), jnp.int32(0))
    key = keys_of_server(run_state).down
    update = Update(apart, jnp.float32(1.0), server.version)
    sent, _ = jax.jit(pipe.encode)(key, context, shared, server.down.stage_states, update)
    wire = codec(sent.value)
    data = wire.encode(sent.value)
    return data, jax.jit(pipe.decode)(shared, sent._replace(value=wire.decode(data))).value


@pytest.mark.parametrize(
    "stages",
    [(top_k(0.3), quantize(8)), (VARYING,), (random_k(0.3, unbiased=False),), (partition_by_size(1, ALL, sign()),)],
    ids=repr,
)
def test_bytes_are_those_of_the_messages_by_hand_where_two_of_five_are_asked(stages):
    federation = federate(LEARNER, mean(), down_stages=stages)
    simulation = simulate(federation, FLEET, scheduler=Scheduler(selection=uniform(2)), **ONE_DEVICE)
    run_state, holds, difference, kinds = simulation.init(0), {}, b"", set()
    whole = len(codec(run_state.server.params).encode(jax.tree.map(np.asarray, run_state.server.params)))
    assert whole == 4 * SIZE
    for number in range(12):
        after, seen = simulation.round(run_state)
        asked = np.flatnonzero(seen.steps)
        late = [holds.get(k) != number - 1 for k in asked]
        assert len(asked) == 2
        assert seen.bytes_down == sum(1 + 4 + (whole if is_late else len(difference)) for is_late in late)
        assert seen.messages_down == 2
        assert np.flatnonzero(seen.metrics["whole_copies"]).tolist() == asked[late].tolist()
        holds |= dict.fromkeys(asked.tolist(), number)
        kinds |= set(late)
        difference, q = message(federation, run_state, after)
        held = jax.tree.map(lambda c, q: np.asarray(c) + np.asarray(q), run_state.server.down.held, q)
        equal(held, jax.tree.map(np.asarray, after.server.down.held))  # an agent adds up to the same bits
        run_state = after
    assert kinds == {False, True}


def test_agents_train_from_what_they_hold_and_their_change_goes_into_what_the_server_holds():
    run_state, _ = ran(simulated(down=(top_k(0.1),)), 3)
    x, c = flat(run_state.server.params), flat(run_state.server.down.held)
    assert np.abs(x - c).max() > 0.1
    after, _ = simulated(down=(top_k(0.1),)).round(run_state)
    change = -RATE * FLEET.curvature * (c - FLEET.minimum)
    np.testing.assert_allclose(flat(after.server.params), x + change.mean(0), rtol=1e-5)


def test_on_the_host_the_same_is_sent():
    walk = gymnasium("tests.support.walks:Walk-v0")
    learner = a2c(walk, num_envs=1, num_steps=4, network=mlp([2]))
    fleet = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (AGENTS, *jnp.shape(leaf))), walk.params)
    federation = federate(learner, mean(), down_stages=(sign(),))
    with simulate(federation, fleet, scheduler=Scheduler(selection=uniform(2)), workers=0, **ONE_DEVICE) as simulation:
        run_state, holds = simulation.init(0), {}
        leaves = jax.tree.leaves(run_state.server.params)
        whole, coded = sum(4 * x.size for x in leaves), sum(-(-x.size // 8) + 4 for x in leaves)
        for number in range(6):
            run_state, seen = simulation.round(run_state)
            asked = np.flatnonzero(seen.steps).tolist()
            sizes = [coded if holds.get(k) == number - 1 else whole for k in asked]
            assert seen.bytes_down == sum(sizes) + 2 * 5
            holds |= dict.fromkeys(asked, number)
        assert flat_of(run_state.server.down.held).size == whole // 4
        assert not np.array_equal(flat_of(run_state.server.down.held), flat_of(run_state.server.params))


def flat_of(params):
    return np.concatenate([np.asarray(x).ravel() for x in jax.tree.leaves(params)])


def table(number, size_bytes, row):
    sent = LEARNER.params(LEARNER.init(None, LEARNER.environment.params))
    sent = fedrl.federation.federation.Broadcast(sent, (), np.int32(0))
    return sent, Table(sent, np.asarray(row), Copied(np.asarray(number), np.asarray(size_bytes)))


def test_who_holds_what_is_sent_what_it_lacks():
    sent, rows = table([7, 6], [10, 20], [0, 0, 0, 0, 1, 1])
    known = np.array([7, 6, 5, NOTHING, 5, 7], np.int32)
    for ahead, of_whole in ((False, 48), (True, 58)):  # who looks ahead needs the last difference, too
        hearing = DownMessages(sent, 6, [], ahead, True)
        heard, mine = hearing.new_traffic(), known.copy()
        hearing.send(heard, mine, np.arange(6), rows)
        late = 48 + (20 if ahead else 0)
        assert (heard.size_bytes[0] - 5).tolist() == [0, 10, of_whole, of_whole, 20, late]
        assert heard.whole.tolist() == [0, 0, 1, 1, 0, 1]
        assert mine.tolist() == [7, 7, 7, 7, 6, 6]
    assert DownMessages(sent, 2, [], False, True).start().tolist() == [NOTHING] * 2


def test_the_first_copy_is_no_difference_to_none():
    sent, rows = table([0], [3], [0])
    hearing = DownMessages(sent, 1, [], False, True)
    heard = hearing.new_traffic()
    hearing.send(heard, hearing.start(), np.arange(1), rows)
    assert heard.whole.tolist() == [1]


def test_a_relay_is_sent_each_message_once():
    sent, rows = table([7], [10], [0] * 6)
    hearing = DownMessages(sent, 6, [np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 0, 0, 0, 1])], False, True)
    heard, known = hearing.new_traffic(), np.array([6, 6, 3, 6, 6, NOTHING], np.int32)
    hearing.send(heard, known, np.arange(5), rows)
    small, whole = 10 + 5, 48 + 5
    assert [sizes.tolist() for sizes in heard.size_bytes] == [
        [small, small, whole, small, small, 0],
        [small + whole, small, 0],
        [small + whole, 0],
    ]
    assert [each.tolist() for each in heard.messages] == [[1, 1, 1, 1, 1, 0], [2, 1, 0], [2, 0]]


def test_the_levels_of_a_tree_are_counted_one_by_one():
    simulation = simulated(down=(sign(),), topology=hierarchy(tree([2, 2], [1, 1, 2])))
    run_state, seen = ran(simulation, 3)
    small, whole = (1 + 4) + (2 + 4) + 5, 4 * SIZE + 5
    assert [[down for _, down in record.levels] for record in seen] == [
        [5 * whole, 3 * whole, 0],
        [5 * small, 3 * small, 2 * 4 * (SIZE + 1)],
        [5 * small, 3 * small, 0],
    ]
    assert [record.messages_down for record in seen] == [8, 10, 8]
    assert [record.bytes_down for record in seen] == [sum(down for _, down in record.levels) for record in seen]
    edges = run_state.engine_state.topology[0][0]
    assert len({flat(edge.server.down.held).tobytes() for edge in edges}) == 2


def test_edges_pass_on_at_once_what_they_adopt():
    """When the root has merged, agents of all edges train from the same; without a loss, from what the root holds."""
    run_state, _ = ran(simulated(down=(ALL,), topology=hierarchy(tree([2], [1, 2]))), 2)
    for edge in run_state.engine_state.topology[0][0]:
        np.testing.assert_allclose(flat(edge.server.down.held), flat(run_state.server.params), rtol=1e-6, atol=1e-7)
        assert int(edge.server.down.number) == 2


def test_a_version_of_which_nothing_is_made_is_heard_in_a_byte():
    devices = clock(step_s=1.0, drop_out=0.5)
    simulation = simulated(down=(sign(),), scheduler=synchronous(quorum=3), clock=devices)
    run_state, seen = ran(simulation, 12, seed=3)
    number = int(run_state.server.down.number)
    assert 0 < number < 12
    assert number == sum(record.weight > 0.0 for record in seen)
    again = [record.bytes_down for before, record in itertools.pairwise(seen) if before.weight == 0.0]
    assert 5 * 5 in again


def test_an_agent_that_restarts_holds_no_copy():
    devices = clock(step_s=1.0, restart=0.3)
    _, seen = ran(simulated(down=(sign(),), clock=devices), 8)
    restarted = [record.clock_stats.restarted for record in seen]
    assert sum(restarted) > 2
    later = [int(record.metrics["whole_copies"].sum()) for record in seen[1:]]
    assert later == restarted[:-1]
    small, whole = (1 + 4) + (2 + 4) + 5, 4 * SIZE + 5
    # a version that nobody restarted in is a difference to all
    assert [record.bytes_down for record in seen[1:]] == [n * whole + (AGENTS - n) * small for n in later]


def test_delayed_agents_hear_each_difference_late():
    _, seen = ran(simulated(down=(sign(),), scheduler=Scheduler(delay_rounds=2)), 5)
    small, whole = (1 + 4) + (2 + 4) + 5, 4 * SIZE + 5
    assert [record.bytes_down for record in seen] == [AGENTS * each for each in (whole, 5, 5, small, small)]


def test_seconds_are_those_of_what_is_sent():
    small, whole = (1 + 4) + (2 + 4) + 5, 4 * SIZE + 5
    devices = clock(step_s=1.0, down_bytes_per_s=10.0)
    _, seen = ran(simulated(down=(sign(),), clock=devices), 3)
    np.testing.assert_allclose(
        [record.clock_stats.time_s for record in seen], np.cumsum([1 + whole / 10, *[1 + small / 10] * 2])
    )
    np.testing.assert_allclose(
        [record.sums["messages_s"] for record in seen], AGENTS * np.array([whole, small, small]) / 10
    )


@pytest.mark.parametrize("schedule", [fed_buff(2), fed_async(0.5), bounded_staleness(1)], ids=repr)
def test_events_may_be_dealt_with_one_at_a_time(schedule, monkeypatch):
    def ends():
        devices = clock(step_s=[1.0, 0.7, 0.4, 0.9, 2.0], down_bytes_per_s=100.0, jitter=0.1)
        run_state, seen = ran(simulated(down=(top_k(0.1),), scheduler=schedule, clock=devices, block=1), 6)
        return run_state.server, [(record.clock_stats, record.bytes_down) for record in seen]

    together = ends()
    monkeypatch.setattr("fedrl.clocks.virtual._undisturbed", lambda when_s, caused_s: 1)
    alone = ends()
    equal(together[0], alone[0])
    assert together[1] == alone[1]


# --- state -----------------------------------------------------------------------------------------------------------


def one_at_a_time() -> Stage:
    """Send one half of every array, then the other: a stage that remembers whose turn it is."""

    def encode(key, context, shared, local, update):
        del key, context, shared
        kept = jax.tree.map(
            lambda x: jnp.where((jnp.arange(x.size).reshape(x.shape) + local) % 2 == 0, x, 0.0), update.value
        )
        return update._replace(value=kept), local + 1

    return Stage(encode, lambda value: ((), jnp.int32(0)), contraction=lambda entries: 0.5)


@pytest.mark.parametrize("parts", [{}, {"scheduler": fed_buff(2), "clock": SLOW}], ids=["rounds", "FedBuff"])
def test_a_run_goes_on_from_a_checkpoint_in_new_objects_to_the_last_bit(parts, tmp_path):
    stages, ends = (one_at_a_time(), random_k(0.4, unbiased=False)), []
    if not parts:
        parts = {"scheduler": Scheduler(selection=uniform(2))}
    one, two = (simulated(down=stages, **parts) for _ in range(2))
    run_state, _ = ran(one, 3)
    checkpoint.save(tmp_path / "state", run_state, 3)
    again = checkpoint.load(tmp_path / "state", two.init(5))
    assert int(again.server.down.stage_states[0]) == int(again.server.down.number) > 0
    for _ in range(3):
        (run_state, seen), (again, as_seen) = one.round(run_state), two.round(again)
        ends.append(
            (seen.bytes_down, as_seen.bytes_down, seen.metrics["whole_copies"], as_seen.metrics["whole_copies"])
        )
    equal(run_state.server, again.server)
    equal(run_state.engine_state.copies, again.engine_state.copies)
    for size, as_size, whole, as_whole in ends:
        assert size == as_size
        equal(whole, as_whole)
    fresh = two.init(5)
    assert not np.array_equal(flat(fresh.server.down.held), flat(again.server.down.held))


def test_a_commit_of_the_federation_by_itself_is_that_of_the_engine():
    federation = federate(LEARNER, mean(), down_stages=(sign(),))
    run_state, _ = ran(simulate(federation, FLEET, **ONE_DEVICE), 2)
    before, sent = run_state.server, federation.broadcast(run_state.server)
    equal(sent.params, before.down.held)
    agents = jax.tree.map(lambda *x: jnp.concatenate(x)[:AGENTS], *run_state.blocks)
    updates, _, _ = jax.jit(jax.vmap(federation.agent, (0, None, 0, None)))(
        turns_of(run_state, AGENTS), sent, agents, jnp.int32(AGENTS)
    )
    expected = federation.server(keys_of_server(run_state), on_time(np.arange(AGENTS)), before, updates)
    after, _ = simulate(federation, FLEET, **ONE_DEVICE).round(run_state)
    np.testing.assert_allclose(flat(after.server.down.held), flat(expected.down.held), rtol=1e-5)
    assert int(expected.down.number) == 3


def test_without_down_stages_there_is_no_copy():
    run_state, seen = ran(simulated(), 1)
    assert run_state.server.down == ()
    assert run_state.engine_state.copies.size == 0
    assert "whole_copies" not in seen[0].metrics


# --- what is refused -------------------------------------------------------------------------------------------------


def untouched(key, context, shared, local, update):
    return update, local


REFUSED = {
    "error feedback": (
        error_feedback(top_k(0.1)),
        r"top_k\(0\.1\) removes.*second time.*down_stages=\(top_k\(0\.1\),\)",
    ),
    "noise": (Stage(untouched, noise=Noise("a DpEvent", 1.0, "agent"), contraction=lambda n: 0.5), "adds noise"),
    "weighing": (weight_by_signal(), "changes the weight"),
    "withholding": (lag(), "withholds updates"),
    "guiding": (scaffold(0.1), "corrects local training"),
    "a sum over agents": (Stage(untouched, sums="c"), "keeps a sum"),
    "work on the merged update": (
        Stage(untouched, finish=lambda key, shared, update: (update, shared), contraction=lambda n: 0.5),
        "a broadcast is not merged",
    ),
    "no compressor": (clip(1.0), r"no contraction.*top_k"),
    "no contraction": (random_k(0.1), "no contraction"),
    "too few bits": (quantize(1), "with 1000 entries in an array its error may exceed.*more bits"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_compressor_is_refused(kind):
    stage, words = REFUSED[kind]
    with pytest.raises(UnsoundError, match=f"is a down stage.*{words}"):
        federate(quadratic(sgd(0.1), size=1001), mean(), down_stages=(stage,))


@pytest.mark.parametrize(
    ("topology", "reason"), [(gossip(ring(), metropolis()), "no server"), (isolated(), "isolated")]
)
def test_without_a_server_nothing_comes_down(topology, reason):
    with pytest.raises(UnsoundError, match=r"sign\(\) is a down stage") as found:
        simulated(down=(sign(),), topology=topology)
    assert found.value.reason == reason


def test_down_stages_are_cited_and_tell_federations_apart():
    one, other = federate(LEARNER, mean(), down_stages=(sign(),)), federate(LEARNER, mean())
    assert one != other
    assert any("Bernstein" in source for source in cite(one))
    assert repr(one).endswith("down_stages=(sign(),))")
    assert one.down_stages == (sign(),)
