"""The engine on a virtual clock against one that deals with one event at a time: the same bits, at the same seconds."""

import functools

import jax
import numpy as np
import pytest

from fedrl.aggregators import mean, median
from fedrl.clocks import clock, lognormal, stragglers, uniform_between
from fedrl.core.keys import turn_keys
from fedrl.engines.simulate import simulate
from fedrl.federation.federate import federate
from fedrl.learners import sgd
from fedrl.server import normalized_momentum, polynomial
from fedrl.server.scheduler import Scheduler
from fedrl.server.schedules import afedpg, bounded_staleness, fed_async, fed_buff, synchronous
from fedrl.stages import error_feedback, quantize, top_k
from tests.support.one_at_a_time import OneAtATime
from tests.support.quadratic import Valley, quadratic

AGENTS, SIZE, SEED, ROUNDS = 23, 20, 3, 25
draws = np.random.default_rng(0)
FLEET = Valley(
    draws.uniform(0.2, 2.0, (AGENTS, SIZE)).astype(np.float32), draws.normal(size=(AGENTS, SIZE)).astype(np.float32)
)
LEARNER = quadratic(sgd(0.1), size=SIZE)
FEDERATIONS = {
    "a mean of unequal work": federate(LEARNER, mean(), local_steps=3),
    "sparse updates with error feedback": federate(
        quadratic(sgd(0.1, momentum=0.5), size=SIZE), mean(), error_feedback(top_k(0.1))
    ),
    "a median of noisy codes": federate(LEARNER, median(), quantize(8)),
}
SLOW = {"step_s": stragglers(1.0, 0.3, 5), "drop_out": 0.2, "jitter": 0.1}
WRONG = {"hang": 0.1, "hang_s": 3.0, "restart": 0.1, "duplicate": 0.4, "malformed": 0.15}
FAULTY = SLOW | WRONG | {"latency_s": 0.4, "online_s": 40.0, "offline_s": 4.0}
UNLIKE = {"step_s": lognormal(1.0, 1.5)}
DEVICES = {
    "all alike": {},
    "slow ones, and turns that come to nothing": SLOW,
    "coming and going": SLOW | UNLIKE | {"online_s": 20.0, "offline_s": 6.0, "joins_s": stragglers(0.5, 0.2, 10)},
    "with everything that goes wrong": FAULTY,
}
SCHEDULES = [
    fed_buff(4),
    fed_buff(4, concurrency=6),
    synchronous(9),
    synchronous(9, stragglers="keep", staleness=polynomial(0.5)),
    synchronous(deadline_s=3.0, quorum=4),
    synchronous(deadline_s=0.5, quorum=4, stragglers="keep"),
]
MORE = [fed_async(0.5), bounded_staleness(1), afedpg(0.5)]
DELAYS = [k % 4 for k in range(AGENTS)]
ALONG = federate(LEARNER, mean(), local_steps=3, server_optimizer=normalized_momentum(0.1, 0.5))
LINKS = {"latency_s": 0.1, "up_bytes_per_s": uniform_between(50.0, 500.0), "down_bytes_per_s": 200.0}


def of_unequal_work(schedule):
    """A mean of unequal work, with the momentum along which agents look ahead."""
    return ALONG if schedule.momentum < 1.0 else FEDERATIONS["a mean of unequal work"]


def compared(federation, schedule, devices, rounds=ROUNDS, delays=None):
    """Both, round by round; what there was to see on the way: abandoned rounds, and the oldest update."""
    steps = [1 + k % federation.local_steps for k in range(AGENTS)]
    engine = simulate(
        federation,
        FLEET,
        scheduler=Scheduler(schedule, delay_rounds=delays or 0),
        clock=clock(**devices),
        local_steps=steps,
        merges=1,
        devices=jax.devices()[:1],
    )
    twin = OneAtATime(federation, FLEET, schedule, clock(**devices), steps, SEED, delays)
    run_state, abandoned, lost, stale = engine.init(SEED), 0, 0, 0
    wrong: dict[str, int] = {}
    for number in range(1, rounds + 1):
        run_state, seen = engine.round(run_state)
        twin.merge()
        assert seen.clock_stats.time_s == twin.now_s, f"the time after round {number}"
        reports = (
            seen.clock_stats.malformed,
            seen.clock_stats.restarted,
            seen.clock_stats.hung,
            seen.clock_stats.duplicates,
        )
        assert reports == tuple(twin.seen.values()), f"what went wrong in round {number}"
        for name, count in zip(twin.seen, reports, strict=True):
            twin.seen[name], wrong[name] = 0, wrong.get(name, 0) + count
        for found, expected in zip(*map(jax.tree.leaves, (run_state.server, twin.server)), strict=True):
            np.testing.assert_array_equal(found, expected, err_msg=f"the server after round {number}", strict=True)
        agents = [LEARNER.params(agent.state.learner) for agent in twin.agents]
        expected = jax.tree.map(lambda *leaves: np.stack(leaves), *agents)
        for name, found in engine.params_of(run_state).items():
            np.testing.assert_array_equal(found, expected[name], err_msg=f"agents after round {number}", strict=True)
        abandoned += seen.weight == 0.0
        lost, stale = lost + seen.clock_stats.dropped, max(stale, seen.clock_stats.staleness_max)
    assert np.abs(run_state.server.params["tail"]).max() > 0.01
    return abandoned, lost, stale, wrong


@pytest.mark.parametrize("federation", FEDERATIONS)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_every_merge_is_that_of_one_event_at_a_time(schedule, federation):
    for name, devices in DEVICES.items():
        _, lost, _, wrong = compared(FEDERATIONS[federation], schedule, devices)
        assert (lost > 0) == ("drop_out" in devices), name
        assert all((count > 0) == ("hang" in devices) for count in wrong.values()), (name, wrong)


@pytest.mark.parametrize("schedule", MORE, ids=repr)
def test_so_is_every_merge_of_one_update(schedule):
    for devices in DEVICES.values():
        compared(of_unequal_work(schedule), schedule, devices | LINKS, 4 * ROUNDS)


@pytest.mark.parametrize("schedule", [synchronous(), SCHEDULES[3], fed_buff(4), fed_async(0.5), afedpg(0.5)], ids=repr)
def test_agents_that_hear_old_versions_are_those_of_one_event_at_a_time(schedule):
    for devices in ({}, FAULTY):
        _, _, stale, _ = compared(of_unequal_work(schedule), schedule, devices, delays=DELAYS)
        assert stale >= max(DELAYS)


@pytest.mark.parametrize("schedule", [synchronous(9), fed_buff(4)], ids=repr)
def test_a_scheduler_that_counts_an_update_twice_is_caught(schedule, monkeypatch):
    monkeypatch.setattr(Scheduler, "fresh", lambda scheduler, board, events: np.ones(len(events.kind), bool))
    repeating = {"duplicate": 0.3, "latency_s": 0.4, "step_s": lognormal(1.0, 1.5)}
    with pytest.raises(AssertionError, match=r"went wrong|server after|time after"):
        compared(FEDERATIONS["a mean of unequal work"], schedule, repeating)
    monkeypatch.undo()
    compared(FEDERATIONS["a mean of unequal work"], schedule, repeating)


def test_the_cases_have_rounds_without_a_quorum_and_updates_that_are_late():
    """What is compared is there to be compared."""
    federation = FEDERATIONS["sparse updates with error feedback"]
    failing = {"step_s": stragglers(1.0, 0.3, 5), "drop_out": 0.8}
    for late in ("cancel", "keep"):
        abandoned, _, stale, _ = compared(federation, synchronous(quorum=5, deadline_s=2.0, stragglers=late), failing)
        assert 2 < abandoned < ROUNDS - 2
        assert (stale > 0) == (late == "keep")


def test_an_agent_that_hears_a_version_again_shares_no_key_with_anybody(monkeypatch):
    """Neither its own nor those that its training and its stages derive, in any round; the engine uses the same."""
    used, repeated, train = [], [], OneAtATime.train

    def noted(twin, agent):
        keys = turn_keys(twin.keys_of_turn(agent))
        below = [(keys.training, (0,)), (keys.training, (0, 0)), (keys.encode, (0,)), (keys.encode, (0, 0))]
        for key, path in [*((key, ()) for key in keys), *below]:
            used.append(jax.random.key_data(functools.reduce(jax.random.fold_in, path, key)).tolist())
        repeated.append(agent.again)
        return train(twin, agent)

    monkeypatch.setattr(OneAtATime, "train", noted)
    devices = {"step_s": [1.0] * 4 + [3.0] * (AGENTS - 4)}
    compared(FEDERATIONS["a median of noisy codes"], fed_buff(12), devices)
    assert max(repeated) > 0
    assert len({tuple(key) for key in used}) == len(used)
