"""What goes wrong on a virtual clock: hangs, restarts with lost state, copies, messages that can't be read, delays."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrl.aggregators import mean
from fedrl.clocks import clock, uniform_between
from fedrl.clocks.distributions import delays_of
from fedrl.core.errors import ConfigError, UnsoundError
from fedrl.core.keys import Stream, keys_of, stream_key
from fedrl.engines.executors.executor import UNREADABLE, Executor
from fedrl.engines.executors.records import Agents
from fedrl.engines.simulate import simulate
from fedrl.engines.topologies.choices import SingleServer, gossip, hierarchy, isolated, server
from fedrl.environments import cartpole
from fedrl.environments.adapters import gymnasium
from fedrl.environments.fleet import fleet
from fedrl.federation.federate import federate
from fedrl.learners import a2c, add_correction, chain, mlp, normalize, ppo, sgd
from fedrl.records import checkpoint
from fedrl.server import greedy, uniform
from fedrl.server.scheduler import Scheduler
from fedrl.server.schedules import bounded_staleness, fed_async, fed_buff, synchronous
from fedrl.stages import error_feedback, scaffold, top_k
from fedrl.topologies import average, column_stochastic, gradient_tracking, metropolis, push_sum, ring, tree
from tests.support.quadratic import Valley, flat, quadratic

AGENTS, SIZE, SEED = 7, 6, 5
DEVICES = jax.devices()
draws = np.random.default_rng(3)
FLEET = Valley(
    draws.uniform(0.2, 2.0, (AGENTS, SIZE)).astype(np.float32), draws.normal(size=(AGENTS, SIZE)).astype(np.float32)
)
PLAIN = federate(quadratic(sgd(0.1, momentum=0.5), size=SIZE), mean(), local_steps=2)
SPARSE = federate(quadratic(sgd(0.1, momentum=0.5), size=SIZE), mean(), error_feedback(top_k(0.4)))
STEP_S = [1.0, 1.0, 1.0, 4.0, 0.5, 1.5, 1.0]
POLES = federate(
    ppo(cartpole(max_steps=20), num_envs=2, num_steps=4, network=mlp([4])), mean(), error_feedback(top_k(0.3))
)
CARTS = fleet(cartpole(max_steps=20), AGENTS, {"length": {"range": [0.3, 0.7]}})


def ran(simulation, rounds=8, seed=SEED):
    run_state, seen = simulation.init(seed), []
    for _ in range(rounds):
        run_state, record = simulation.round(run_state)
        seen.append(record)
    return run_state, seen


def equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def bits(tree):
    return b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree))


def total(seen, name):
    return sum(getattr(record.clock_stats, name) for record in seen)


# --- copies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schedule", [synchronous(), synchronous(3, stragglers="keep"), fed_buff(3), fed_async()], ids=repr
)
def test_an_update_that_arrives_twice_is_applied_once(schedule, monkeypatch):
    def ends(duplicate):
        devices = clock(step_s=STEP_S, latency_s=0.4, duplicate=duplicate)
        run_state, seen = ran(simulate(PLAIN, FLEET, scheduler=schedule, clock=devices, merges=1, block=3), 24)
        return run_state.server, seen

    (once, plain), (twice, copied) = ends(0.0), ends(0.7)
    equal(once, twice)
    assert [record.clock_stats.time_s for record in plain] == [record.clock_stats.time_s for record in copied]
    assert [record.bytes_up for record in plain] == [record.bytes_up for record in copied]
    assert (total(plain, "duplicates"), total(copied, "arrived")) == (0, total(plain, "arrived"))
    assert total(copied, "duplicates") > 5
    monkeypatch.setattr(Scheduler, "fresh", lambda scheduler, board, events: np.ones(len(events.kind), bool))
    with pytest.raises((AssertionError, IndexError)):  # or what arrives twice at once has no place
        equal(once, ends(0.7)[0])


# --- hangs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schedule",
    [
        synchronous(),
        synchronous(AGENTS),
        synchronous(stragglers="keep"),
        synchronous(deadline_s=3.0, quorum=AGENTS),
        bounded_staleness(1),
    ],
    ids=repr,
)
def test_a_schedule_that_would_wait_for_ever_for_who_hangs_is_refused(schedule):
    with pytest.raises(ConfigError, match=r"hang is 0.1 and hang_s is inf.*would stop the run"):
        simulate(PLAIN, FLEET, scheduler=schedule, clock=clock(hang=0.1))
    noticed = simulate(PLAIN, FLEET, scheduler=schedule, clock=clock(hang=0.1, hang_s=2.0), merges=1)
    _, seen = ran(noticed, 12)
    assert total(seen, "hung") > 0


@pytest.mark.parametrize("where", [server(), hierarchy(tree([4], [1, 2]))], ids=["server", "tree"])
@pytest.mark.parametrize("schedule", [synchronous(6), synchronous(deadline_s=3.0, quorum=6)], ids=repr)
def test_so_is_one_that_waits_for_all_who_are_asked(schedule, where):
    plan = Scheduler(schedule, selection=uniform(3))
    if isinstance(where, SingleServer):
        plan = replace(plan, selection=uniform(6))
    with pytest.raises(ConfigError, match="waits for all 6 agents that are selected, so the first one that hangs"):
        simulate(PLAIN, FLEET, topology=where, scheduler=plan, clock=clock(hang=0.1))
    simulate(PLAIN, FLEET, topology=where, scheduler=plan, clock=clock(hang=0.1, hang_s=2.0))


@pytest.mark.parametrize("late", ["cancel", "keep"])
def test_a_deadline_completes_every_round_whoever_hangs(late):
    schedule = synchronous(deadline_s=3.0, quorum=1, stragglers=late)
    _, seen = ran(simulate(PLAIN, FLEET, scheduler=schedule, clock=clock(hang=0.2), merges=1), 5)
    assert total(seen, "hung") > 0
    assert all(record.weight > 0.0 for record in seen)
    steps = np.diff([0.0, *(record.clock_stats.time_s for record in seen)])
    assert (steps <= 3.0).all()
    if late == "cancel":
        assert total(seen, "cancelled") == total(seen, "hung")


@pytest.mark.parametrize("schedule", [fed_buff(3), fed_buff(2, concurrency=3), fed_async()], ids=repr)
def test_a_run_in_which_all_have_hung_says_so(schedule):
    simulation = simulate(PLAIN, FLEET, scheduler=schedule, clock=clock(step_s=STEP_S, hang=0.3), merges=1)
    run_state, hung, rounds = simulation.init(SEED), 0, 0
    said = ""
    while not said:
        try:
            run_state, seen = simulation.round(run_state)
            hung, rounds = hung + seen.clock_stats.hung, rounds + 1
        except ConfigError as fault:
            said = str(fault)
    who = "every agent hangs" if schedule.concurrency is None else "3 agents hang and no other one is at work"
    assert f"{who}, and no hang is ever noticed (hang_s = inf). No update will ever arrive." in said
    assert rounds > 0
    assert hung <= (schedule.concurrency or AGENTS)


def test_a_hang_ends_after_seconds_that_have_the_mean_they_should():
    step_s, hang_s = 1.0, 50.0
    devices = clock(step_s=step_s, hang=0.9, hang_s=hang_s)
    federation = federate(quadratic(sgd(0.1), size=SIZE), mean())
    _, seen = ran(simulate(federation, FLEET, scheduler=fed_async(), clock=devices, merges=1), 60)
    turns = total(seen, "arrived") + total(seen, "dropped")
    busy_s = seen[-1].clock_stats.time_s * AGENTS
    assert busy_s / turns == pytest.approx(step_s + 0.9 * hang_s, rel=0.15)


# --- restarts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [synchronous(3, stragglers="keep"), fed_buff(3)], ids=repr)
def test_what_a_restart_makes_is_the_same_in_any_block_on_any_device_resident_or_packed(schedule, tmp_path):
    devices = clock(step_s=STEP_S, restart=0.3, malformed=0.2)
    ends = []
    for options in (
        {"block": 2, "devices": DEVICES[:1]},
        {"block": 2, "devices": DEVICES[:2]},
        {"block": 2, "order": np.arange(AGENTS)[::-1]},
    ):
        simulation = simulate(PLAIN, FLEET, scheduler=schedule, clock=devices, merges=1, **options)
        run_state, seen = ran(simulation)
        assert total(seen, "restarted") > 2
        ends.append((run_state.server, simulation.states_of(run_state)))
    for other in ends[1:]:
        equal(ends[0], other)
    whole = simulate(PLAIN, FLEET, scheduler=schedule, clock=devices, merges=1, block=5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), ends[0][0], ran(whole)[0].server)
    simulation = simulate(PLAIN, FLEET, scheduler=schedule, clock=devices, merges=1, block=2, devices=DEVICES[:1])
    run_state = simulation.init(SEED)
    for i in range(8):
        checkpoint.save(tmp_path / "state", run_state, i)
        run_state = checkpoint.load(tmp_path / "state", simulation.init(SEED))
        run_state, _ = simulation.round(run_state)
    equal(ends[0], (run_state.server, simulation.states_of(run_state)))


@pytest.mark.parametrize("schedule", [synchronous(), fed_buff(2)], ids=["resident", "packed"])
def test_who_restarts_forgets_all_and_begins_as_another_draw_of_the_beginning(schedule, monkeypatch):
    """Learner, environment and stages; from a key that is not that of the first beginning, nor of another restart."""
    simulation = simulate(POLES, CARTS, scheduler=schedule, merges=1, block=2, clock=clock(restart=0.4, step_s=STEP_S))
    found, restarted = [], Executor.restarted

    def noted(executor, keys, agents, ids, policy=None):
        after = restarted(executor, keys, agents, ids, policy)
        states = jax.tree.map(np.asarray, executor.states_of(after))
        local = executor._in_order([block.stage_states for block in executor.blocks(after)])
        found.extend((k, int(after.team.restarts[k]), states, local) for k in ids.tolist())
        return after

    monkeypatch.setattr(Executor, "restarted", noted)
    ran(simulation, 12)
    assert max(times for _, times, *_ in found) > 1
    begin = jax.jit(POLES.init_agent)
    first = jax.jit(POLES.init_server)(stream_key(keys_of(SEED), Stream.SERVER)).params
    for k, times, states, local in found:
        key = stream_key(keys_of(SEED), Stream.AGENTS, k, times)
        settings = jax.tree.map(lambda x, k=k: jnp.asarray(x)[k], CARTS)
        born = begin(key, jnp.int32(k), settings, jnp.int32(1))
        expected = POLES.learner.adopt(born.learner, first), born.stage_states
        for own, new in zip(jax.tree.leaves((states, local)), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(own[k], new, rtol=1e-6, atol=1e-7)
    start_programs = {(k, times): bits(jax.tree.map(lambda x, k=k: x[k], states)) for k, times, states, _ in found}
    fresh = simulation.states_of(simulation.init(SEED))
    start_programs |= {(k, 0): bits(jax.tree.map(lambda x, k=k: np.asarray(x)[k], fresh)) for k in range(AGENTS)}
    assert len(set(start_programs.values())) == len(start_programs)


def test_a_restart_on_the_host_begins_new_episodes():
    walk = gymnasium("CartPole-v1", max_steps=30)
    federation = federate(a2c(walk, num_envs=1, num_steps=4, network=mlp([4])), mean())
    carts = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (4, *jnp.shape(leaf))), walk.params)
    with simulate(federation, carts, clock=clock(restart=0.4), merges=1, workers=0) as simulation:
        executor = simulation.round.__self__.executor
        seeds, reset = [], executor.rollout.reset

        def noted(given, where=None):
            seeds.append((list(given), None if where is None else np.flatnonzero(where).tolist()))
            reset(given, where)

        executor.rollout.reset = noted
        run_state, seen = ran(simulation, 12)
        begun = [(given[k], k) for given, at in seeds for k in at]
        assert {k for _, k in begun[:4]} == set(range(4))  # before anybody has learned, all begin anyway
        # One that restarts begins when it trains again; if it restarts once more before that, only then.
        assert 4 < len(begun) - 4 <= total(seen, "restarted")
        assert len(set(begun)) == len(begun)
        again, _ = ran(simulation, 12)
        equal(run_state.server, again.server)


@pytest.mark.parametrize("rule", [average(), push_sum()], ids=repr)
def test_a_neighbour_that_restarts_goes_on_from_the_first_parameters_of_the_run(rule):
    federation = federate(quadratic(sgd(0.1), size=SIZE), mean())
    download_only = rule.sums == "columns"
    where = gossip(ring(directed=download_only), column_stochastic() if download_only else metropolis(), rule)
    simulation = simulate(federation, FLEET, topology=where, clock=clock(restart=0.15), merges=1)
    run_state, seen = simulation.init(SEED), []
    for _ in range(12):
        before = flat(run_state.server.params)
        run_state, record = simulation.round(run_state)
        if record.clock_stats.restarted == AGENTS - int((record.steps > 0).sum()) == 1:
            seen.append(before)
            k = int(np.flatnonzero(record.steps == 0)[0])
            assert np.abs(before[k]).max() > 0.0
            np.testing.assert_array_equal(flat(run_state.server.params)[k], np.zeros(SIZE))
    assert seen


def test_who_restarts_alone_begins_anew():
    federation = federate(quadratic(sgd(0.1), size=SIZE), mean())
    simulation = simulate(federation, FLEET, topology=isolated(), clock=clock(restart=0.3), merges=1)
    run_state, restarted = simulation.init(SEED), 0
    for _ in range(6):
        run_state, record = simulation.round(run_state)
        held = flat(simulation.params_of(run_state))
        for k in np.flatnonzero(record.steps == 0):
            np.testing.assert_array_equal(held[k], np.zeros(SIZE))
            restarted += 1
        assert (np.abs(held[record.steps > 0]).max(1) > 0.0).all()
    assert restarted > 3


# --- messages that can't be read -------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [server(), hierarchy(tree([2])), gossip(ring(), metropolis())], ids=repr)
def test_who_sends_what_nobody_can_read_is_told_and_merged_without(where):
    """In a sum of a block, too: the round is that of a cohort without it."""
    federation = federate(quadratic(sgd(0.1), size=SIZE), mean())
    simulation = simulate(federation, FLEET, topology=where, clock=clock(malformed=0.3), merges=1, block=3)
    others = simulate(federation, FLEET, topology=where, merges=1, block=3)
    run_state, rejected = simulation.init(SEED), 0
    for _ in range(4):
        copy = jax.tree.map(lambda x: x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else np.array(x), run_state)
        run_state, record = simulation.round(run_state)
        assert {reason for _, reason in record.rejected} <= {UNREADABLE}
        unread = [agent for agent, _ in record.rejected]
        rejected += len(unread)
        assert record.clock_stats.malformed == len(unread)
        expected, _ = without(others, copy, unread)
        equal(run_state.server, expected.server)
        if not isinstance(where, type(gossip(ring(), metropolis()))):
            assert record.messages_up >= AGENTS  # it was sent
    assert rejected > 3


def without(simulation, run_state, unread):
    """A round of the others, on no clock."""
    begun = simulation.init(SEED)
    engine_state = begun.engine_state._replace(
        topology=run_state.engine_state.topology, board=run_state.engine_state.board
    )
    engine_state = engine_state._replace(team=run_state.engine_state.team)
    begun = begun._replace(server=run_state.server, blocks=run_state.blocks, engine_state=engine_state)
    return simulation.round(begun, cohort=[k for k in range(AGENTS) if k not in unread])


def test_what_cannot_be_read_is_counted_up_to_the_first_server_of_a_tree():
    where = hierarchy(tree([2], [1, 2]))
    _, seen = ran(simulate(PLAIN, FLEET, topology=where, clock=clock(malformed=0.3)))
    update = 4 * SIZE + 4 + 4
    assert total(seen, "malformed") > 2
    for record in seen:
        sent = record.clock_stats.arrived + record.clock_stats.malformed
        assert record.levels[0][0] == sent * update
        assert record.bytes_up == sum(up for up, _ in record.levels)


def test_stages_of_who_was_not_understood_remember_what_they_did_before():
    for schedule in (synchronous(), fed_buff(2)):
        simulation = simulate(SPARSE, FLEET, scheduler=schedule, clock=clock(malformed=0.5, step_s=STEP_S), merges=1)
        executor = simulation.round.__self__.executor
        run_state, unread, moved = simulation.init(SEED), 0, 0

        def remembered(run_state, executor=executor):
            blocks = executor.blocks(Agents(run_state.blocks, run_state.engine_state.team))
            return flat_rows(executor._in_order([block.stage_states for block in blocks]))

        for _ in range(10):
            before = remembered(run_state)
            run_state, record = simulation.round(run_state)
            after = remembered(run_state)
            only = sorted({agent for agent, _ in record.rejected} - set(np.flatnonzero(record.turns)))
            np.testing.assert_array_equal(after[only], before[only])
            unread += len(only)
            moved += int((after != before).any(1).sum())
        assert min(unread, moved) > 3


def flat_rows(tree):
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)


@pytest.mark.parametrize("schedule", [synchronous(), fed_buff(3)], ids=repr)
def test_bids_that_cannot_be_read_are_counted_within_the_budget(schedule):
    federation = federate(quadratic(sgd(0.1), size=SIZE), mean(), reports=("loss", "norm"))
    plan = Scheduler(schedule, upload_budget=greedy(160))
    _, seen = ran(simulate(federation, FLEET, scheduler=plan, clock=clock(malformed=0.3), merges=1))
    assert total(seen, "malformed") > 2
    bid, update = 4, 4 * SIZE + 4 + 4 + 4  # weight, version and loss; the norm was bid
    for record in seen:
        bids = record.clock_stats.arrived + record.clock_stats.malformed
        assert record.bytes_up == bids * bid + len(record.selected) * update <= 160
        assert record.messages_up == bids + len(record.selected)


def test_bids_that_cannot_be_read_cost_the_server_that_they_were_sent_to():
    federation = federate(quadratic(sgd(0.1), size=SIZE), mean(), reports=("norm",))
    bid, update = 4, 4 * SIZE + 4 + 4
    plan = Scheduler(upload_budget=greedy(4 * bid + 3 * update))
    where, edge = hierarchy(tree([4], [1, 2])), np.arange(AGENTS) // 4
    _, seen = ran(simulate(federation, FLEET, topology=where, scheduler=plan, clock=clock(malformed=0.3)))
    apart = 0
    for record in seen:
        unread = np.array([rejection.agent for rejection in record.rejected], int)
        for g, count in enumerate((4, 3)):
            mine, garbled = int((edge[record.selected] == g).sum()), int((edge[unread] == g).sum())
            assert mine == min(count - garbled, 3)
            apart += int(mine == 3 and garbled < len(unread))
    assert apart > 1


# --- delays ----------------------------------------------------------------------------------------------------------


def test_delays_need_no_clock_and_count_versions():
    """theta(t + 1) = theta(t) + mean_k of what agent k makes of theta(max(t - d_k, 0))."""
    rate, delays = 0.1, [0, 1, 2, 3, 0, 1, 2]
    federation = federate(quadratic(sgd(rate), size=SIZE), mean())
    plan = Scheduler(delay_rounds=delays)
    plain = simulate(federation, FLEET, scheduler=plan, merges=1)
    timed = simulate(federation, FLEET, scheduler=plan, clock=clock(), merges=1)
    one, other, thetas = plain.init(SEED), timed.init(SEED), [np.zeros(SIZE)]
    for t in range(10):
        one, seen = plain.round(one)
        other, _ = timed.round(other)
        heard = np.stack([thetas[max(t - d, 0)] for d in delays])
        thetas.append(thetas[t] - rate * (FLEET.curvature * (heard - FLEET.minimum)).mean(0))
        np.testing.assert_allclose(flat(one.server.params), thetas[-1], rtol=1e-5, atol=1e-6)
        equal(one.server, other.server)
        assert seen.arrivals.staleness.tolist() == [min(t, delays[k]) for k in seen.arrivals.sender]


def test_in_a_tree_delays_are_those_of_the_server_that_an_agent_hears():
    federation = federate(quadratic(sgd(0.1), size=SIZE), mean())
    flat_plan = Scheduler(delay_rounds=2)
    relayed, one = (
        simulate(federation, FLEET, topology=where, scheduler=flat_plan) for where in (hierarchy(tree([2])), None)
    )
    equal(ran(relayed)[0].server, ran(one)[0].server)
    apart = hierarchy(tree([3], [1, 2]))
    ends = [
        flat(ran(simulate(federation, FLEET, topology=apart, scheduler=Scheduler(delay_rounds=d)))[0].server.params)
        for d in (0, 3)
    ]
    assert np.abs(ends[0] - ends[1]).max() > 1e-3


def test_delays_are_whole_and_of_each_agent():
    assert delays_of(2, 3).tolist() == [2, 2, 2]
    drawn = delays_of(uniform_between(0.0, 4.0), 1000)
    assert (drawn.min(), drawn.max()) == (0, 4)
    for wrong, words in (
        (1.5, "whole numbers"),
        (-1, "delay_rounds is -1"),
        ([1, 2], "2 entries"),
        (math.inf, "whole"),
    ):
        with pytest.raises(ConfigError, match=words):
            delays_of(wrong, 3)


# --- what excludes what ----------------------------------------------------------------------------------------------


def steered():
    return quadratic(chain(add_correction(), sgd(0.1)), size=SIZE)


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: simulate(PLAIN, FLEET, topology=isolated(), clock=clock(malformed=0.1)), "isolated"),
        (lambda: simulate(PLAIN, FLEET, topology=isolated(), clock=clock(duplicate=0.1)), "isolated"),
        (lambda: simulate(PLAIN, FLEET, topology=isolated(), scheduler=Scheduler(delay_rounds=1)), "isolated"),
        (
            lambda: simulate(PLAIN, FLEET, topology=gossip(ring(), metropolis()), scheduler=Scheduler(delay_rounds=1)),
            "no server",
        ),
        (
            lambda: simulate(federate(steered(), mean(), scaffold(0.1)), FLEET, clock=clock(restart=0.1)),
            "private",
        ),
        (
            lambda: simulate(
                federate(steered(), mean()),
                FLEET,
                topology=gossip(ring(), metropolis(), gradient_tracking(0.1)),
                clock=clock(restart=0.1),
            ),
            "private",
        ),
        (
            lambda: simulate(federate(normalize(ppo(cartpole())), mean()), CARTS, scheduler=Scheduler(delay_rounds=1)),
            "moments",
        ),
    ],
)
def test_what_would_not_do_what_it_promises_is_refused(build, reason):
    with pytest.raises(UnsoundError) as rejected:
        build()
    assert rejected.value.reason == reason


@pytest.mark.parametrize("name", ["hang", "restart", "malformed"])
def test_probabilities_are_below_one(name):
    with pytest.raises(ConfigError, match=f"{name} is 1.0"):
        clock(**{name: 1.0})
    with pytest.raises(ConfigError, match=r"duplicate is 1\.5"):
        clock(duplicate=1.5)
    with pytest.raises(ConfigError, match="hang_s is -1"):
        clock(hang_s=-1.0)
