"""Agents that drop out, come late or twice, or lie: the run goes on, and its log computes it again to the last bit."""

import asyncio
import json
import threading
import time

import jax
import numpy as np
import pytest

from fedrl.aggregators import mean, median
from fedrl.clocks.events import DROPPED, MALFORMED, TIMER
from fedrl.core.errors import ConfigError, StoppedWaitingError
from fedrl.engines.halves import Verdict
from fedrl.engines.halves.agent import TrainedUpdate
from fedrl.engines.simulate import simulate
from fedrl.federation.federate import federate
from fedrl.federation.wire_digest import as_json, wire_digest
from fedrl.network.bridge import Bridge
from fedrl.network.log import Dispatched, Happened, ReplayClock, entries_of, line_of, replaying
from fedrl.network.membership import MembershipCheck
from fedrl.server import greedy, oort
from fedrl.server.scheduler import Scheduler
from fedrl.server.schedules import bounded_staleness, fed_async, fed_buff, synchronous
from fedrl.stages import error_feedback, lag, quantize, scaffold, top_k
from fedrl.transport.local import LocalTransport
from fedrl.wire.protocol import Bid, Hello, Sent, Stop, sent
from tests.engines.test_halves import FLEET, STEERED, VALLEY
from tests.network.test_bits import SEED, Sited, params

FEDERATIONS = {
    "mean": lambda: federate(VALLEY, mean(), local_steps=2),
    "SCAFFOLD": lambda: federate(STEERED, mean(), scaffold(0.1)),
    "median": lambda: federate(VALLEY, median(), error_feedback(top_k(0.3))),
    "down": lambda: federate(VALLEY, mean(), down_stages=(quantize(8),)),
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


def assert_replayed(federation, sited, plan, rounds):
    """The log of a run, written and read, makes a simulation compute the same parameters, and count the same bytes."""
    lines = [line_of(1, sited.simulation_clock.log)]
    clock = ReplayClock(entries_of(lines))
    again = simulate(federation, FLEET, executor=replaying(clock), scheduler=plan, block=1, merges=1)
    state, bytes_down = again.init(SEED), []
    for _ in range(rounds):
        state, found = again.round(state)
        bytes_down.append(found.bytes_down)
    assert clock.finished
    assert bytes_down == [found.bytes_down for found in sited.seen]
    for one, other in zip(params(state), params(sited.state), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("made", FEDERATIONS)
def test_a_log_computes_the_run_again_to_the_last_bit(made, schedule):
    federation, plan = FEDERATIONS[made](), plan_of(schedule)
    with Sited(federation, FLEET, scheduler=plan) as sited:
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
    with Sited(federation, FLEET, behaviour=behaviour) as sited:
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
    with Sited(federation, FLEET, behaviour={1: {"act": _sends_rubbish}}) as sited:
        seen = sited.rounds(6)
        assert [[agent for agent, _ in found.rejected] for found in seen] == [[], [1]] * 3
        assert "can't be read" in seen[1].rejected[0].reason
        assert_replayed(federation, sited, plan, 6)
    assert any(MALFORMED in entry.kind for entry in told(sited))


async def _fails(agent, link, task):
    if task.version % 2:
        # As at a site: a failed job leaves nothing behind.
        agent.run = agent.half.settle(agent.kept[1].run, Verdict.DROPPED)
        agent.kept = (agent.kept[0], TrainedUpdate(b"", agent.run, {}, "no floor"))
    return False


@pytest.mark.parametrize("made", FEDERATIONS)
def test_a_job_that_failed_at_its_site_fails_in_a_replay(made):
    federation, plan = FEDERATIONS[made](), plan_of("all")
    with Sited(federation, FLEET, behaviour={1: {"act": _fails}}) as sited:
        seen = sited.rounds(6)
        assert [[agent for agent, _ in found.rejected] for found in seen] == [[], [1]] * 3
        assert_replayed(federation, sited, plan, 6)


def test_a_log_has_the_second_in_which_a_round_began():
    """A deadline follows from it, and it is later than the last event by whatever the end of a round takes."""
    federation, plan = FEDERATIONS["mean"](), plan_of("deadline")
    with Sited(federation, FLEET, scheduler=plan) as sited:
        sited.rounds(1)
        time.sleep(1.0)
        sited.rounds(1)
        entries = entries_of([line_of(1, sited.simulation_clock.log)])
    last = next(entry for entry in entries if isinstance(entry, Happened))
    begun = [entry for entry in entries if isinstance(entry, Dispatched)][-1]
    assert begun.now_s >= max(last.time_s) + 1.0
    clock = ReplayClock([begun])
    assert clock.now_s(()) == begun.now_s
    clock = ReplayClock(entries_of(['{"round":1,"told":[{"dispatched":[[0],[true]]}]}']))
    assert clock.now_s(()) == 0.0  # a log of an earlier version


def test_what_comes_twice_is_merged_once():
    federation, plan = FEDERATIONS["mean"](), plan_of("all")
    with Sited(federation, FLEET, behaviour={k: {"act": _sends_twice} for k in range(5)}) as sited:
        seen = sited.rounds(6)
        assert all(found.weight == seen[0].weight for found in seen)
        assert_replayed(federation, sited, plan, 6)
        roster = sited.simulation_clock.roster
        assert (roster.known + roster.late).sum() >= 5 * 5  # the last ones may still be under way


@pytest.mark.parametrize("made", FEDERATIONS)
def test_a_deadline_ends_a_round_without_those_who_do_not_answer(made):
    federation, plan = FEDERATIONS[made](), plan_of("deadline")
    with Sited(federation, FLEET, scheduler=plan, behaviour={2: {"act": _never_answers}}) as sited:
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

    with Sited(federation, FLEET, patience_s=0.5, behaviour={3: {"act": goes}}) as sited:
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

    with Sited(federation, FLEET, patience_s=0.3, behaviour={1: {"lose": lose}}) as sited:
        seen = sited.rounds(4)
        assert seen[3].clock_stats.dropped == 1
        assert sited.agents[1].trained == [(1, 0), (2, 1), (3, 2)]
        while len(sited.agents[1].trained) < 5:
            seen += sited.rounds(1)
        assert_replayed(federation, sited, plan, len(seen))


def test_a_wait_for_agents_ends_when_it_is_asked_to():
    federation = FEDERATIONS["mean"]()
    with Sited(federation, FLEET, behaviour={0: {"act": _never_answers}}) as sited:
        sited.rounds(1)
        threading.Timer(0.5, sited.bridge.stopping.set).start()
        with pytest.raises(StoppedWaitingError, match="asked to stop"):
            sited.rounds(100_000)


# --- under an upload budget -------------------------------------------------------------------------------------------

BUDGETED = {
    "mean": lambda: federate(VALLEY, mean(), local_steps=2, reports=["norm"]),
    "SCAFFOLD": lambda: federate(STEERED, mean(), scaffold(0.1), reports=["norm"]),
    "median": lambda: federate(VALLEY, median(), error_feedback(top_k(0.3)), reports=["norm"]),
}
BUDGETS = {"mean": 100, "SCAFFOLD": 260, "median": 70}
WITH_BIDS = {"all": synchronous, "deadline": SCHEDULES["deadline"], "FedBuff": lambda: fed_buff(4)}


def budgeted(made, schedule="all"):
    return Scheduler(WITH_BIDS[schedule](), upload_budget=greedy(BUDGETS[made]))


@pytest.mark.parametrize("schedule", WITH_BIDS)
@pytest.mark.parametrize("made", BUDGETED)
def test_a_log_computes_a_run_with_bids_again_to_the_last_bit(made, schedule):
    federation, plan = BUDGETED[made](), budgeted(made, schedule)
    with Sited(federation, FLEET, scheduler=plan) as sited:
        seen = sited.rounds(12)
        assert_replayed(federation, sited, plan, 12)
    assert any(len(found.selected) < found.clock_stats.arrived for found in seen)


async def _loses_its_connection_after_its_bid(agent, link, task):
    if task.version % 3 == agent.number % 3 and agent.trained.count((task.job, task.version)) == 1:
        agent.trained.append((task.job, task.version))
        await agent.say(link, Bid(task.job, task.version, agent.kept[1].bid))
        await link.close()
        return True
    return False


async def _loses_its_connection_before_its_update(agent, link, answer):
    if agent.asked.count(agent.kept[0]) == 1 and answer.job % 2:
        agent.asked.append(agent.kept[0])
        await link.close()
        return True
    return False


@pytest.mark.parametrize("made", BUDGETED)
def test_agents_that_lose_their_connection_after_a_bid_bid_again_and_count_once(made):
    federation, plan = BUDGETED[made](), budgeted(made)
    behaviour = {k: {"act": _loses_its_connection_after_its_bid} for k in range(5)}
    with Sited(federation, FLEET, scheduler=plan, behaviour=behaviour) as sited:
        seen = sited.rounds(10)
        assert_replayed(federation, sited, plan, 10)  # who was not back for a round is in the log
    assert not any(found.rejected for found in seen)
    assert all(len(found.arrivals.sender) == len(set(found.arrivals.sender.tolist())) for found in seen)


@pytest.mark.parametrize("made", BUDGETED)
def test_updates_that_were_lost_with_a_connection_after_they_were_asked_for_come_again(made):
    federation, plan = BUDGETED[made](), budgeted(made)
    behaviour = {k: {"withhold": _loses_its_connection_before_its_update} for k in range(5)}
    alone = simulate(federation, FLEET, scheduler=plan, block=1)
    state = alone.init(SEED)
    with Sited(federation, FLEET, scheduler=plan, behaviour=behaviour) as sited:
        for found in sited.rounds(8):
            state, expected = alone.round(state)
            assert found.selected.tolist() == expected.selected.tolist()
            assert not found.rejected
        assert_replayed(federation, sited, plan, 8)
    for one, other in zip(params(state), params(sited.state), strict=True):
        np.testing.assert_array_equal(one, other)


async def _bids_twice_and_answers_twice(agent, link, answer):
    again = agent.asked.count(agent.kept[0]) > 1  # each bid is answered
    agent.asked.append(agent.kept[0])
    for _ in range(0 if again else 2):
        await agent.say(link, Bid(*agent.kept[0], agent.kept[1].bid))
        await agent.say(link, Sent(*agent.kept[0], agent.kept[1].update))
    return True


def test_bids_and_updates_that_come_twice_count_once():
    federation, plan = BUDGETED["mean"](), budgeted("mean")
    behaviour = {k: {"withhold": _bids_twice_and_answers_twice} for k in range(5)}
    alone = simulate(federation, FLEET, scheduler=plan, block=1)
    state = alone.init(SEED)
    with Sited(federation, FLEET, scheduler=plan, behaviour=behaviour) as sited:
        sited.rounds(6)
        assert_replayed(federation, sited, plan, 6)
    for _ in range(6):
        state, _ = alone.round(state)
    for one, other in zip(params(state), params(sited.state), strict=True):
        np.testing.assert_array_equal(one, other)


async def _sends_rubbish_when_asked(agent, link, answer):
    await agent.say(link, Sent(*agent.kept[0], b"rubbish"))
    return True


async def _keeps_its_update(agent, link, answer):
    return True


async def _goes_away_when_asked(agent, link, answer):
    agent.address = "nowhere"
    await link.close()
    return True


WITHHELD = {
    "rubbish": (_sends_rubbish_when_asked, "it has 7 bytes, and its bid said"),
    "nothing": (_keeps_its_update, "did not come"),
    "gone": (_goes_away_when_asked, "did not come"),
}


@pytest.mark.parametrize("what", WITHHELD)
@pytest.mark.parametrize("made", BUDGETED)
def test_an_update_that_was_asked_for_and_does_not_come_is_missed_alone(made, what):
    federation, plan = BUDGETED[made](), budgeted(made)
    withhold, reason = WITHHELD[what]
    behaviour = {k: {"withhold": withhold} for k in (1, 3)}
    with Sited(federation, FLEET, scheduler=plan, patience_s=0.5, behaviour=behaviour) as sited:
        seen = sited.rounds(5)
        assert_replayed(federation, sited, plan, 5)
    missed = [each for found in seen for each in found.rejected]
    assert missed
    assert {agent for agent, _ in missed} <= {1, 3}
    assert all(reason in why for _, why in missed)
    assert all(not {agent for agent, _ in found.rejected} & set(found.selected.tolist()) for found in seen)


async def _bids_nonsense(agent, link, task):
    for content in (b"nonsense",) if task.version % 2 else ():
        await agent.say(link, Bid(task.job, task.version, content))
        return True
    return False


async def _sends_unasked(agent, link, task):
    await agent.say(link, Sent(task.job, task.version, agent.kept[1].update))
    return True


@pytest.mark.parametrize(
    ("act", "reason"), [(_bids_nonsense, "its bid can't be read"), (_sends_unasked, "before it was asked for")]
)
def test_who_does_not_bid_as_agreed_is_refused_and_costs_itself_alone(act, reason):
    federation, plan = BUDGETED["SCAFFOLD"](), budgeted("SCAFFOLD")
    with Sited(federation, FLEET, scheduler=plan, behaviour={2: {"act": act}}) as sited:
        seen = sited.rounds(4)
        assert_replayed(federation, sited, plan, 4)
    refused = [each for found in seen for each in found.rejected]
    assert {agent for agent, _ in refused} == {2}
    assert all(reason in why for _, why in refused)


async def _bids_for_nothing(agent, link, task):
    await agent.say(link, Bid(task.job, task.version, b"1234"))
    return True


def test_a_bid_without_a_budget_is_refused():
    federation = FEDERATIONS["mean"]()
    with Sited(federation, FLEET, behaviour={2: {"act": _bids_for_nothing}}) as sited:
        seen = sited.rounds(3)
        assert_replayed(federation, sited, plan_of("all"), 3)
    assert all([agent for agent, _ in found.rejected] == [2] for found in seen)
    assert "nobody asked for one" in seen[0].rejected[0].reason


def test_an_agent_that_does_not_know_of_the_budget_is_sent_away():
    federation, setting = BUDGETED["mean"](), jax.tree.map(lambda x: x[0], FLEET)
    check = MembershipCheck(federation, setting, 2, Bridge(LocalTransport(), "hub"), lambda name: 0, ("norm",))
    hello = Hello("", 0, 0, json.dumps(as_json(wire_digest(federation, setting))).encode())
    answer = check.answer("site-0", hello)
    assert isinstance(answer, Stop)
    assert answer.code == "other_federation"
    assert "sent after a bid with norm here" in answer.why
    hello = Hello("", 0, 0, json.dumps(as_json(wire_digest(federation, setting, ("norm",)))).encode())
    assert not isinstance(check.answer("site-0", hello), Stop)


WITHOUT_BIDS = {
    "withholding": (federate(VALLEY, mean(), lag(factor=2.0), reports=["norm"]), None, "withholds updates"),
    "reports": (federate(VALLEY, mean(), reports=["norm", "loss"]), oort(3, "loss"), "needs 'loss' when"),
}


@pytest.mark.parametrize("name", WITHOUT_BIDS)
def test_a_budget_that_would_need_more_than_bids_is_refused_before_anyone_can_connect(name):
    federation, selection, why = WITHOUT_BIDS[name]
    plan = Scheduler(synchronous(), selection, upload_budget=greedy(2000))
    with pytest.raises(ConfigError, match=why):
        Sited(federation, FLEET, scheduler=plan)


def test_a_number_beyond_the_seats_is_sent_away():
    federation = FEDERATIONS["mean"]()
    check = MembershipCheck(
        federation, jax.tree.map(lambda x: x[0], FLEET), 2, Bridge(LocalTransport(), "hub"), lambda name: 2
    )
    answer = check.answer("site-2", Hello("", 0, 0, b"{}"))
    assert isinstance(answer, Stop)
    assert (answer.code, answer.retry) == ("no_seat", False)


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"no json", "bad_message"), (b"[" * 100_000, "bad_message"), (b"{}", "bad_message"), (b"\xff", "bad_message")],
)
def test_what_an_unknown_agent_says_is_refused_in_a_sentence(content, code):
    federation = FEDERATIONS["mean"]()
    check = MembershipCheck(
        federation, jax.tree.map(lambda x: x[0], FLEET), 2, Bridge(LocalTransport(), "hub"), lambda name: 0
    )
    answer = check.answer("site-0", Hello("", 0, 0, content))
    assert isinstance(answer, Stop)
    assert answer.code == code
    assert answer.why


def test_another_federation_is_sent_away_with_the_part_that_differs():
    mine, theirs = (federate(VALLEY, rule) for rule in (mean(), median()))
    setting = jax.tree.map(lambda x: x[0], FLEET)
    check = MembershipCheck(mine, setting, 2, Bridge(LocalTransport(), "hub"), lambda name: 0)
    answer = check.answer("site-0", Hello("", 0, 0, json.dumps(as_json(wire_digest(theirs, setting))).encode()))
    assert isinstance(answer, Stop)
    assert answer.code == "other_federation"
    assert "median" in answer.why
