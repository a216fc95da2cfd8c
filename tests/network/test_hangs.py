"""Life is not progress: agents that are connected and do not move lose their jobs, and get others when they move."""

import asyncio

import numpy as np
import pytest

from fedrl.aggregators import mean
from fedrl.clocks.events import BACK, HUNG, Events
from fedrl.core.errors import NoMoreUpdatesError
from fedrl.engines import round_log
from fedrl.engines.halves import AgentHalf, ServerHalf
from fedrl.engines.round_log import RoundLog
from fedrl.environments.adapters import gymnasium
from fedrl.federation.federate import federate
from fedrl.learners import a2c, mlp
from fedrl.network.log import Dispatched
from fedrl.network.seat import Seat
from fedrl.server.scheduler import Scheduler
from fedrl.server.schedules import fed_buff, synchronous
from fedrl.wire.protocol import Beat
from tests.engines.test_halves import FLEET, VALLEY
from tests.network.test_bits import Sited
from tests.network.test_faults import assert_replayed, told

FEDERATION = federate(VALLEY, mean(), local_steps=2)
EVERYBODY = Scheduler(synchronous())
HANG_S = 2.0


def rounds(sited, count):
    """Rounds of which only those after the second, when programs are compiled, notice hangs."""
    seen = sited.rounds(2)
    sited.simulation_clock.hang_s, sited.simulation_clock._hang_at_s = HANG_S, 0.0
    return seen + sited.rounds(count - 2)


class Stuck:
    """Agent 1 stays connected and says again and again that it is where it was, from version 2 on until `go`."""

    def __init__(self):
        self.go, self.beats = asyncio.Event(), 0

    async def __call__(self, agent, link, task):
        if task.version < 2 or self.go.is_set():
            return False
        while not self.go.is_set() and self.beats < 600:  # half a minute, so that a failure ends
            await agent.say(link, Beat(task.job, 17))
            self.beats += 1
            await asyncio.sleep(0.05)
        return False


def dispatched(sited, agent):
    """Whether an agent was there, for each time that it was dispatched."""
    entries = [entry for entry in sited.simulation_clock.log if isinstance(entry, Dispatched)]
    return [there for entry in entries for k, there in zip(entry.agent, entry.there, strict=True) if k == agent]


def test_a_job_without_progress_is_dropped_although_beats_come_and_the_agent_is_back_when_it_moves():
    stuck = Stuck()
    with Sited(FEDERATION, FLEET, behaviour={1: {"act": stuck}}) as sited:
        seen = rounds(sited, 5)
        hung = [found.clock_stats.hung for found in seen]
        assert hung == [0, 0, 1, 0, 0]
        assert [found.clock_stats.dropped for found in seen] == hung
        assert seen[2].weight < seen[1].weight
        assert stuck.beats > 5  # it was alive all the time
        assert sited.bridge.sessions.seats[1].state == "hung"
        assert dispatched(sited, 1)[:4] == [True, True, True, False]  # no job before it moves again
        assert any("site-1 has shown no progress in job 3 for 2 s" in text for text in sited.observer.texts)
        sited.bridge._loop.call_soon_threadsafe(stuck.go.set)
        for _ in range(2000):
            seen += sited.rounds(1)
            if seen[-1].weight == seen[1].weight:
                break
        assert seen[-1].weight == seen[1].weight, "it never took part again"
        assert_replayed(FEDERATION, sited, EVERYBODY, len(seen))
    kinds = [kind for entry in told(sited) for kind in entry.kind]
    assert kinds.count(HUNG) == 1
    assert BACK in kinds


async def _slow(agent, link, task):
    if task.version == 2:
        for step in range(6):
            await agent.say(link, Beat(task.job, step))
            await asyncio.sleep(HANG_S / 2.5)
    return False


def test_an_agent_that_is_slow_and_moves_keeps_its_job():
    with Sited(FEDERATION, FLEET, behaviour={1: {"act": _slow}}) as sited:
        seen = rounds(sited, 4)
        assert [found.clock_stats.hung for found in seen] == [0] * 4
        assert seen[2].weight == seen[1].weight
        assert seen[2].clock_stats.time_s - seen[1].clock_stats.time_s > 1.5 * HANG_S


def test_only_a_beat_that_is_further_is_progress():
    seat = Seat()
    assert not seat.move(Beat(3, 5))
    first, seat.hung = seat.moved_s, True
    assert not seat.move(Beat(3, 5))
    assert (seat.moved_s, seat.hung) == (first, True)
    assert seat.move(Beat(3, 6))
    assert not seat.hung
    assert not seat.move(Beat(4, 6))
    seat.hung = True
    assert seat.move()  # an update, or a part of one


def test_progress_grows_with_steps_of_environments_on_the_host_and_with_calls_of_compiled_programs():
    on_host = a2c(gymnasium("CartPole-v1", max_steps=12), network=mlp([4]), num_envs=2, num_steps=6)
    for learner, options, least, most in ((on_host, {"workers": 0}, 12, 20), (VALLEY, {}, 1, 1)):
        federation = federate(learner, mean(), local_steps=2)
        half = AgentHalf(federation, 0, learner.environment.params, b"r" * 32, b"s" * 32, **options)
        before = half.progress()
        train_once(federation, half)
        assert least <= half.progress() - before <= most
        half.close()


def train_once(federation, half):
    server = ServerHalf(federation, federation.learner.environment.params, [2], b"r" * 32, b"t" * 32)
    version = server.open(server.start(), {0: 2})
    assert half.train(half.start(), version.broadcast, version.orders[0]).update


def test_in_real_time_a_round_is_not_given_up_for_agents_that_come_and_go(monkeypatch):
    absences = Events(np.full(30_000, BACK), np.zeros(30_000, int), np.zeros(30_000))
    virtual, real = RoundLog(5, []), RoundLog(5, [], real_time=True)
    real.check_progress(absences, 1.0)
    with pytest.raises(NoMoreUpdatesError, match="virtual clock"):
        virtual.check_progress(absences, 1.0)

    async def loses(agent, link, task):
        lost = agent.__dict__.setdefault("lost", [])
        if len(lost) < 4:
            lost.append(task)
            await link.close()
            await asyncio.sleep(0.3)
            return True
        return False

    monkeypatch.setattr(round_log, "MOST_FRUITLESS", 4)
    monkeypatch.setattr(round_log, "MOST_PER_AGENT", 0)
    plan = Scheduler(fed_buff(3))
    behaviour = {k: {"lose": loses} for k in range(5)}
    with Sited(FEDERATION, FLEET, scheduler=plan, patience_s=0.05, behaviour=behaviour) as sited:
        seen = sited.rounds(3)
        assert sum(found.clock_stats.dropped for found in seen) > 4
        assert sum(found.clock_stats.arrived for found in seen) >= 9
