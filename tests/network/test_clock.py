"""What a clock of real time makes of the news of agents, in a time that passes only while it waits."""

import math
from collections import deque
from types import SimpleNamespace

import numpy as np
import pytest

from fedrl.clocks.events import ARRIVED, BACK, DROPPED, FAILED, HUNG, MALFORMED
from fedrl.network import clock as clock_module
from fedrl.network import listening
from fedrl.network.bridge import Bridge
from fedrl.network.clock import RealClock
from fedrl.network.log import Collected, Happened
from fedrl.network.news import BID, FAILURE, GONE, HERE, LEFT, MOVED, UPDATE, AgentNews
from fedrl.network.roster import Roster
from fedrl.transport.local import LocalTransport
from fedrl.wire.protocol import Answer, Taken

AGENTS, PATIENCE_S, HANG_S, BEGAN_S = 3, 5.0, 20.0, 100.0


class Planned(Bridge):
    """News at planned seconds; keeps what the clock says."""

    def __init__(self):
        super().__init__(LocalTransport(), "nowhere")
        self.now, self.planned, self.heard, self.moved = BEGAN_S, deque(), [0.0] * AGENTS, [0.0] * AGENTS
        self.receipts, self.answers, self.places, self.hanging = [], [], [], []

    def at(self, second, kind, agent, job=0, **more):
        self.planned.append(AgentNews(kind, agent, job, time_s=BEGAN_S + second, **more))

    def wait(self, seconds, enough=1):
        if self.planned and self.planned[0].time_s <= self.now + seconds:
            self.now = max(self.now, self.planned[0].time_s)
            return [self.planned.popleft()]
        assert seconds < math.inf, "it waits for ever"
        self.now += seconds
        return []

    def ended(self, receipts):
        self.receipts += receipts

    def answer(self, answers):
        self.answers += answers

    def taken_over(self, count):
        self.places.append(count)

    def hang(self, ids):
        self.hanging += ids

    def heard_s(self, agent):
        return self.heard[agent]

    def moved_s(self, agent):
        return self.moved[agent]


class Timed:
    """A clock whose agents are all there and at work on their first jobs, from second 0 on."""

    def __init__(self, monkeypatch, gather=AGENTS):
        self.bridge, self.roster = Planned(), Roster(AGENTS)
        for module in (clock_module, listening):
            monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.bridge.now))
        self.refused, self.taken, self.failed, self.dropped = {}, [], [], []
        self.clock = RealClock(
            self.bridge,
            self.roster,
            lambda *update: self.took(UPDATE, *update),
            lambda news: self.took(news.kind, news.agent, news.version, news.content),
            lambda *failure: self.failed.append(failure),
            lambda ids: self.dropped.extend(ids.tolist()),
            gather,
            PATIENCE_S,
            HANG_S,
        )
        self.state = self.clock.start(0)
        self.clock.now_s(self.state)
        self.roster.ready[:] = True
        self.begin([0, 1, 2], [1, 1, 1])

    def took(self, kind, agent, version, content):
        self.taken.append((kind, agent, content))
        return self.refused.get(agent, "")

    def begin(self, ids, jobs):
        self.roster.begin(np.array(ids), np.array(jobs), np.ones(len(ids), int), self.bridge.now, np.zeros(len(ids)))

    def events(self, wants=AGENTS, until_s=1000.0, again=None, one=False):
        """The next events: kind, agent, second and job of each."""
        self.state, found = self.clock.peek(self.state, until_s, wants, again, one)
        columns = (found.kind, found.agent, found.time_s, found.dispatch)
        return list(zip(*(column.tolist() for column in columns), strict=True))


@pytest.fixture
def timed(monkeypatch):
    return Timed(monkeypatch)


def test_patience_counts_from_the_end_of_the_connection(timed):
    timed.bridge.at(4.0, GONE, 0)
    (event,) = timed.events(one=True)
    assert event == (DROPPED, 0, pytest.approx(9.0, abs=0.1), 1)
    assert timed.dropped == [0]
    assert timed.bridge.receipts == [(0, None)]


def test_patience_with_an_agent_that_is_not_there_counts_from_its_job(timed):
    timed.bridge.at(2.0, GONE, 0)
    timed.bridge.at(3.0, UPDATE, 0, 1)  # it left this before it went
    assert timed.events(one=True) == [(ARRIVED, 0, 3.0, 1)]
    timed.bridge.now = BEGAN_S + 10.0
    timed.begin([0], [2])
    (event,) = timed.events(one=True)
    assert event == (DROPPED, 0, pytest.approx(15.0, abs=0.1), 2)


def test_only_the_update_of_the_job_at_work_ends_it(timed):
    timed.begin([0], [2])
    timed.bridge.at(1.0, UPDATE, 0, 1, content=b"old")
    timed.bridge.at(2.0, UPDATE, 0, 2, content=b"new")
    assert timed.events(wants=1) == [(ARRIVED, 0, 2.0, 2)]
    assert timed.taken == [(UPDATE, 0, b"new")]
    assert timed.bridge.receipts == [(0, Taken(1, "late", "")), (0, None)]
    assert (timed.roster.late[0], timed.roster.known[0]) == (1, 0)


def test_an_update_that_comes_again_is_known_and_not_taken_again(timed):
    for _ in range(2):
        timed.bridge.at(1.0, UPDATE, 0, 1)
    timed.bridge.at(2.0, UPDATE, 1, 1)
    assert [event[:2] for event in timed.events(wants=2)] == [(ARRIVED, 0), (ARRIVED, 1)]
    assert timed.bridge.receipts == [(0, None), (0, Taken(1, "known", "")), (1, None)]
    assert (timed.roster.late[0], timed.roster.known[0]) == (0, 1)


def test_a_bid_that_comes_again_does_not_end_its_task(timed):
    for second in (1.0, 1.0):
        timed.bridge.at(second, BID, 0, 1, content=b"bid")
    timed.bridge.at(2.0, BID, 1, 1)
    timed.events(wants=2)
    assert [kind for kind, *_ in timed.taken] == [BID, BID]
    assert timed.bridge.receipts == []


def test_a_refused_update_ends_its_job_and_has_not_arrived(timed):
    timed.refused[0] = "it lies"
    timed.bridge.at(1.0, UPDATE, 0, 1)
    timed.bridge.at(2.0, UPDATE, 1, 1)
    assert [event[:2] for event in timed.events(wants=1)] == [(MALFORMED, 0), (ARRIVED, 1)]
    assert timed.bridge.receipts == [(0, Taken(1, "refused", "it lies")), (1, None)]
    assert timed.roster.arrived.tolist() == [0, 1, 0]
    assert timed.roster.jobs.tolist() == [1, 1, 0]


def test_a_failed_job_ends_its_task_and_is_marked_in_the_log(timed):
    timed.bridge.at(1.0, FAILURE, 0, 1, reason="no floor")
    timed.bridge.at(2.0, UPDATE, 1, 1)
    timed.events(wants=2)
    assert timed.failed == [(0, "no floor")]
    assert timed.bridge.receipts == [(0, None), (1, None)]
    assert timed.roster.arrived.tolist() == [0, 1, 0]
    (entry,) = timed.clock.log
    assert isinstance(entry, Happened)
    assert entry.kind == [FAILED, ARRIVED]


def test_a_hang_counts_from_the_last_progress_or_from_the_job(timed):
    timed.bridge.moved[:] = [0.0, BEGAN_S + 15.0, BEGAN_S + 15.0]
    (event,) = timed.events(one=True)
    assert event == (HUNG, 0, pytest.approx(20.0, abs=0.1), 1)
    assert timed.bridge.hanging == [0]
    timed.state, there = timed.clock.dispatch(timed.state, np.array([0, 1]), *[np.zeros(2)] * 3)
    assert there.tolist() == [False, True]
    timed.bridge.at(25.0, MOVED, 0)
    assert timed.events(one=True) == [(BACK, 0, 25.0, 0)]
    timed.state, there = timed.clock.dispatch(timed.state, np.array([0]), *[np.zeros(1)] * 3)
    assert there.tolist() == [True]


def test_who_leaves_for_good_loses_its_job_at_once(timed):
    timed.bridge.at(1.0, LEFT, 0)
    assert timed.events(one=True) == [(DROPPED, 0, 1.0, 1)]
    assert timed.roster.left.tolist() == [True, False, False]


def test_the_first_job_is_given_when_enough_agents_are_there(timed):
    timed.roster.ready[:] = False
    for agent in range(AGENTS):
        timed.bridge.at(10.0 * (agent + 1), HERE, agent, reason=f"site-{agent}")
    timed.clock.dispatch(timed.state, np.arange(3), *[np.zeros(3)] * 3)
    assert timed.bridge.now == BEGAN_S + 30.0


def test_a_place_in_the_window_is_given_back_once_for_each_update_that_held_one(timed):
    timed.bridge.at(1.0, UPDATE, 0, 1, held=True)
    timed.bridge.at(1.0, UPDATE, 0, 1, held=True)  # also if it is not taken
    timed.bridge.at(2.0, UPDATE, 1, 1)
    timed.bridge.at(3.0, UPDATE, 2, 1, held=True)
    timed.events(wants=3)
    timed.begin([0], [2])
    timed.bridge.at(4.0, UPDATE, 0, 2)
    timed.events(wants=1)
    assert sum(timed.bridge.places) == 3


def test_a_cancelled_job_ends_its_task(timed):
    timed.clock.cancel(timed.state, np.array([1]))
    assert timed.bridge.receipts == [(1, None)]
    assert timed.roster.job.tolist() == [1, 0, 1]


# --- updates whose bids were accepted ---------------------------------------------------------------------------------

EVERYBODY, WANTED = np.arange(3), np.array([True, True, False])


def bidden(timed):
    for agent in range(AGENTS):
        timed.bridge.at(1.0, BID, agent, 1)
    timed.events()
    timed.clock.log.clear()


def test_updates_that_were_asked_for_are_collected_and_others_are_not_waited_for(timed):
    bidden(timed)
    timed.bridge.at(2.0, UPDATE, 1, 1, content=b"one", held=True)
    timed.bridge.at(3.0, UPDATE, 0, 1, content=b"zero")
    came, missing = timed.clock.collect(EVERYBODY, WANTED, math.inf)
    assert (came.tolist(), missing) == (WANTED.tolist(), {})
    assert timed.bridge.answers == [(0, Answer(1, True)), (1, Answer(1, True)), (2, Answer(1, False))]
    assert [content for kind, _, content in timed.taken if kind == UPDATE] == [b"one", b"zero"]
    assert sorted(timed.bridge.receipts) == [(0, None), (1, None)]
    assert timed.bridge.places == [1]
    assert timed.clock.log == [Collected([0, 1, 2], WANTED.tolist())]
    assert timed.roster.arrived.tolist() == [1, 1, 1]


def test_the_update_of_another_job_is_not_the_one_that_was_asked_for(timed):
    timed.begin([0, 1, 2], [2, 2, 2])
    for agent in range(AGENTS):
        timed.bridge.at(1.0, BID, agent, 2)
    timed.events()
    timed.bridge.at(2.0, UPDATE, 0, 1, content=b"old")
    timed.bridge.at(2.5, UPDATE, 0, 2, content=b"new")
    timed.bridge.at(2.5, UPDATE, 1, 2, content=b"other")
    timed.clock.collect(EVERYBODY, WANTED, math.inf)
    assert [content for kind, _, content in timed.taken if kind == UPDATE] == [b"new", b"other"]


def test_an_update_that_does_not_come_is_missing_after_the_patience_with_its_agent(timed):
    bidden(timed)
    timed.bridge.heard[0] = BEGAN_S + 3.0  # a part of it
    timed.bridge.at(2.0, UPDATE, 1, 1)
    came, missing = timed.clock.collect(EVERYBODY, WANTED, math.inf)
    assert timed.bridge.now == pytest.approx(BEGAN_S + 3.0 + PATIENCE_S, abs=0.1)
    assert (came.tolist(), list(missing)) == ([False, True, False], [0])
    assert timed.roster.arrived.tolist() == [0, 1, 1]
    assert (0, None) in timed.bridge.receipts
    # It is late if it comes after all, and not one that came again.
    timed.begin([1], [2])
    timed.bridge.at(10.0, UPDATE, 0, 1)
    timed.bridge.at(11.0, UPDATE, 1, 2)
    assert timed.events(wants=1) == [(ARRIVED, 1, 11.0, 2)]
    assert (timed.roster.late[0], timed.roster.known[0]) == (1, 0)


def test_an_update_is_not_waited_for_beyond_the_deadline_or_if_its_agent_has_left(timed):
    bidden(timed)
    timed.bridge.at(1.5, LEFT, 1)
    came, missing = timed.clock.collect(EVERYBODY, WANTED, 2.0)
    assert timed.bridge.now == pytest.approx(BEGAN_S + 3.0, abs=0.1)
    assert not came.any()
    assert sorted(missing) == [0, 1]
