"""Agents that drop out, come late or twice, or lie: the run goes on, and its log computes it again to the last bit."""

import asyncio
import json
import threading

import jax
import numpy as np
import pytest

from fedrl.aggregators import mean, median
from fedrl.clocks.events import DROPPED, MALFORMED, TIMER
from fedrl.core.errors import ConfigError, StoppedWaitingError
from fedrl.engines.network.bridge import Bridge
from fedrl.engines.network.log import Happened, ReplayClock, entries_of, line_of, replaying
from fedrl.engines.network.membership import Door
from fedrl.engines.simulate import simulate
from fedrl.federation.federate import federate
from fedrl.federation.wire_digest import as_json, wire_digest
from fedrl.server import greedy
from fedrl.server.scheduler import Scheduler
from fedrl.server.schedules import bounded_staleness, fed_async, fed_buff, synchronous
from fedrl.stages import error_feedback, scaffold, top_k
from fedrl.transport.local import LocalTransport
from fedrl.wire.protocol import Hello, Sent, Stop, sent
from tests.engines.test_halves import FLEET, STEERED, VALLEY
from tests.network.test_bits import SEED, Sited, params

FEDERATIONS = {
    "mean": lambda: federate(VALLEY, mean(), local_steps=2),
    "SCAFFOLD": lambda: federate(STEERED, mean(), scaffold(0.1)),
    "median": lambda: federate(VALLEY, median(), error_feedback(top_k(0.3))),
}
SCHEDULES = {
    "all": synchronous,
    "deadline": lambda: synchronous(deadline_s=0.5),
    "FedBuff": lambda: fed_buff(2),
    "FedAsync": fed_async,
    "bounded": lambda: bounded_staleness(2),
}


def plan_of(name):
    made = SCHEDULES[name]()
    return made if isinstance(made, Scheduler) else Scheduler(made)


def told(sited):
    return [entry for entry in sited.simulation_clock.log if isinstance(entry, Happened)]


class Clocked(Sited):
    """The same, with its clock at hand."""

    def __init__(self, *given, **more):
        self.simulation_clock = None
        super().__init__(*given, **more)

    def before(self, bridge):
        bridge.on_clock = lambda clock: setattr(self, "simulation_clock", clock)


def assert_replayed(federation, sited, plan, rounds):
    """The log of a run, written and read, makes a simulation compute the same parameters."""
    lines = [line_of(1, sited.simulation_clock.log)]
    clock = ReplayClock(entries_of(lines))
    again = simulate(federation, FLEET, executor=replaying(clock), scheduler=plan, block=1, merges=1)
    state = again.init(SEED)
    for _ in range(rounds):
        state, _ = again.round(state)
    assert clock.finished
    for one, other in zip(params(state), params(sited.state), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("made", FEDERATIONS)
def test_a_log_computes_the_run_again_to_the_last_bit(made, schedule):
    federation, plan = FEDERATIONS[made](), plan_of(schedule)
    with Clocked(federation, FLEET, scheduler=plan) as sited:
        sited.rounds(12)
        assert_replayed(federation, sited, plan, 12)


async def _loses_its_connection(agent, link, task):
    if task.version % 3 == agent.number % 3 and agent.trained.count((task.job, task.version)) == 1:
        agent.trained.append((task.job, task.version))
        await link.close()
        return True
    return False


async def _sends_rubbish(agent, link, task):
    if task.version % 2:
        for frame in sent(Sent(task.job, task.version, b"rubbish")):
            await link.send(frame)
        return True
    return False


async def _sends_twice(agent, link, task):
    update = agent.kept[1].update
    for _ in range(2):
        for frame in sent(Sent(task.job, task.version, update)):
            await link.send(frame)
    return True


async def _never_answers(agent, link, task):
    return task.version >= 2


def test_an_agent_that_loses_its_connection_is_back_with_the_same_bytes():
    federation, plan = FEDERATIONS["SCAFFOLD"](), plan_of("all")
    behaviour = {k: {"act": _loses_its_connection} for k in range(3)}
    with Clocked(federation, FLEET, behaviour=behaviour) as sited:
        seen = sited.rounds(8)
        assert all(found.weight == seen[0].weight for found in seen)
        assert_replayed(federation, sited, plan, 8)
    alone = simulate(federation, FLEET, block=1)
    state = alone.init(SEED)
    for _ in range(8):
        state, _ = alone.round(state)
    for one, other in zip(params(state), params(sited.state), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("made", FEDERATIONS)
def test_rubbish_is_refused_with_its_reason_and_costs_its_sender_alone(made):
    federation, plan = FEDERATIONS[made](), plan_of("all")
    with Clocked(federation, FLEET, behaviour={1: {"act": _sends_rubbish}}) as sited:
        seen = sited.rounds(6)
        assert [[agent for agent, _ in found.rejected] for found in seen] == [[], [1]] * 3
        assert "can't be read" in seen[1].rejected[0].reason
        assert_replayed(federation, sited, plan, 6)
    assert any(MALFORMED in entry.kind for entry in told(sited))


def test_what_comes_twice_is_merged_once():
    federation, plan = FEDERATIONS["mean"](), plan_of("all")
    with Clocked(federation, FLEET, behaviour={k: {"act": _sends_twice} for k in range(5)}) as sited:
        seen = sited.rounds(6)
        assert all(found.weight == seen[0].weight for found in seen)
        assert_replayed(federation, sited, plan, 6)
        roster = sited.simulation_clock.roster
        assert (roster.known + roster.late).sum() >= 5 * 5  # the last ones may still be under way


@pytest.mark.parametrize("made", FEDERATIONS)
def test_a_deadline_ends_a_round_without_those_who_do_not_answer(made):
    federation, plan = FEDERATIONS[made](), plan_of("deadline")
    with Clocked(federation, FLEET, scheduler=plan, behaviour={2: {"act": _never_answers}}) as sited:
        seen = sited.rounds(5)
        assert seen[-1].clock_stats.cancelled == 1
        assert_replayed(federation, sited, plan, 5)
    assert any(TIMER in entry.kind for entry in told(sited))


def test_an_agent_that_stays_away_loses_its_job_after_a_while():
    federation, plan = FEDERATIONS["mean"](), plan_of("all")

    async def goes(agent, link, task):
        if task.version == 2:
            agent.address = "nowhere"
            await link.close()
            return True
        return False

    with Clocked(federation, FLEET, patience_s=0.5, behaviour={3: {"act": goes}}) as sited:
        seen = sited.rounds(5)
        assert seen[2].clock_stats.dropped == 1
        assert seen[3].weight < seen[1].weight
        assert_replayed(federation, sited, plan, 5)
    assert any(DROPPED in entry.kind for entry in told(sited))


@pytest.mark.parametrize("made", ["SCAFFOLD", "median"])
def test_an_agent_that_lost_a_task_still_hears_that_its_update_before_was_merged(made):
    federation, plan = FEDERATIONS[made](), plan_of("all")

    async def lose(agent, link, task):
        if task.version != 3:
            return False
        await link.close()
        await asyncio.sleep(1.0)
        return True

    with Clocked(federation, FLEET, patience_s=0.3, behaviour={1: {"lose": lose}}) as sited:
        seen = sited.rounds(4)
        assert seen[3].clock_stats.dropped == 1
        assert sited.agents[1].trained == [(1, 0), (2, 1), (3, 2)]
        while len(sited.agents[1].trained) < 5:
            seen += sited.rounds(1)
        assert_replayed(federation, sited, plan, len(seen))


def test_a_wait_for_agents_ends_when_it_is_asked_to():
    federation = FEDERATIONS["mean"]()
    with Clocked(federation, FLEET, behaviour={0: {"act": _never_answers}}) as sited:
        sited.rounds(1)
        threading.Timer(0.5, sited.bridge.stopping.set).start()
        with pytest.raises(StoppedWaitingError, match="asked to stop"):
            sited.rounds(100_000)


def test_an_upload_budget_is_refused_before_anyone_can_connect():
    federation = federate(VALLEY, mean(), reports=["norm"])
    plan = Scheduler(synchronous(), upload_budget=greedy(2000))
    with pytest.raises(ConfigError, match="no message for bids"):
        Clocked(federation, FLEET, scheduler=plan)


def test_a_number_beyond_the_seats_is_sent_away():
    federation = FEDERATIONS["mean"]()
    door = Door(federation, jax.tree.map(lambda x: x[0], FLEET), 2, Bridge(LocalTransport(), "door"), lambda name: 2)
    answer = door.answer("site-2", Hello("", 0, 0, b"{}"))
    assert isinstance(answer, Stop)
    assert (answer.code, answer.retry) == ("no_seat", False)


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"no json", "bad_message"), (b"[" * 100_000, "bad_message"), (b"{}", "bad_message"), (b"\xff", "bad_message")],
)
def test_what_an_unknown_agent_says_is_refused_in_a_sentence(content, code):
    federation = FEDERATIONS["mean"]()
    door = Door(federation, jax.tree.map(lambda x: x[0], FLEET), 2, Bridge(LocalTransport(), "door"), lambda name: 0)
    answer = door.answer("site-0", Hello("", 0, 0, content))
    assert isinstance(answer, Stop)
    assert answer.code == code
    assert answer.why


def test_another_federation_is_sent_away_with_the_part_that_differs():
    mine, theirs = (federate(VALLEY, rule) for rule in (mean(), median()))
    setting = jax.tree.map(lambda x: x[0], FLEET)
    door = Door(mine, setting, 2, Bridge(LocalTransport(), "door"), lambda name: 0)
    answer = door.answer("site-0", Hello("", 0, 0, json.dumps(as_json(wire_digest(theirs, setting))).encode()))
    assert isinstance(answer, Stop)
    assert answer.code == "other_federation"
    assert "median" in answer.why
