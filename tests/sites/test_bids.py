"""Agents of sites under an upload budget: what leaves, what is sent again, and what a site is told beforehand."""

import asyncio
import contextlib

import jax
import numpy as np
import pytest

from fedrl.aggregators import mean
from fedrl.core.errors import ConfigError
from fedrl.engines.simulate import simulate
from fedrl.federation.federate import federate
from fedrl.network.bridge import Bridge
from fedrl.network.choices import sites
from fedrl.network.log import ReplayClock, entries_of, line_of, replaying
from fedrl.server import greedy
from fedrl.server.scheduler import Scheduler
from fedrl.sites.agent import SiteAgent
from fedrl.sites.check import would_leave
from fedrl.sites.jobs import RunJobs
from fedrl.sites.memory import RunMemory
from fedrl.sites.policy import MayLeave, check_federation, leaving_of, needed
from fedrl.sites.sent_log import NAME, read_log
from fedrl.stages import error_feedback, hard_threshold, top_k
from fedrl.transport.local import LocalTransport
from fedrl.wire.protocol import Answer, Bid, Sent
from tests.network.test_bits import params
from tests.sites.test_agent import AGENTS, FLEET, QUICK, SEED, VALLEY
from tests.sites.test_lies import WELCOME, done, tasks
from tests.support.coordinating import FragileTransport, KilledError, Moments
from tests.support.noting import Noting

FEDERATION = federate(VALLEY, mean(), error_feedback(top_k(0.3)), local_steps=2, reports=["norm"])
"""Its stage remembers what it has not sent, so that a wrong verdict shows in all bits after it."""
PLAN = Scheduler(upload_budget=greedy(60))
BIDS, ALLOWED, ROUNDS = ("norm",), MayLeave(reports=("norm",)), 5


class Budgeted:
    """A coordinator with a budget, and agents of sites in its event loop."""

    def __init__(self, folder, moments=None, **options):
        self.folder, self.moments, self.notices = folder, moments, [[] for _ in range(AGENTS)]
        self.observer = Noting()
        self.bridge = Bridge(LocalTransport(), f"bids-{id(self)}", replayable=True, observer=self.observer)
        self.agents = {}
        placement = sites(self.bridge, lambda name: int(name.split("-")[1]), patience_s=60.0)
        self.simulation = simulate(FEDERATION, FLEET, executor=placement, scheduler=PLAN)
        self.tasks = [
            asyncio.run_coroutine_threadsafe(self.live(k, **options), self.bridge._loop) for k in range(AGENTS)
        ]
        self.state = self.simulation.init(SEED)

    async def live(self, number, **options):
        while True:
            fragile = self.moments is not None and number == 0
            name = f"site-{number}"
            transport = FragileTransport(name, self.moments) if fragile else LocalTransport(name)
            with contextlib.suppress(KilledError):
                self.agents[number] = SiteAgent(
                    FEDERATION,
                    lambda k: jax.tree.map(lambda x: x[k], FLEET),
                    transport,
                    self.bridge.address,
                    self.folder / name,
                    ALLOWED,
                    seed=SEED,
                    backoff=QUICK,
                    notice=self.notices[number].append,
                    bids=BIDS,
                    **options,
                )
                return await self.agents[number].run()

    def rounds(self, count):
        seen = []
        for _ in range(count):
            self.state, found = self.simulation.round(self.state)
            seen.append(found)
        return seen

    def close(self):
        for agent in self.agents.values():
            self.bridge._loop.call_soon_threadsafe(agent.stop)
        for task in self.tasks:
            task.result(60)
        self.bridge.close()
        self.simulation.close()

    def left(self, number):
        """What has left a site: kind and job of each message."""
        return [(each.kind, each.job) for each in read_log(self.folder / f"site-{number}" / NAME).records]


def test_sites_send_the_updates_that_were_selected_and_of_the_others_a_bid(tmp_path):
    alone = simulate(FEDERATION, FLEET, scheduler=PLAN, block=1)
    state = alone.init(SEED)
    with contextlib.closing(Budgeted(tmp_path)) as run:
        seen = run.rounds(ROUNDS)
        for _ in range(ROUNDS):
            state, _ = alone.round(state)
    for one, other in zip(params(state), params(run.state), strict=True):
        np.testing.assert_array_equal(one, other)
    for k in range(AGENTS):
        chosen = [n + 1 for n, found in enumerate(seen) if k in found.selected]
        left = run.left(k)
        assert [job for kind, job in left if kind == "Bid"] == list(range(1, ROUNDS + 1))
        assert [job for kind, job in left if kind == "Sent"] == chosen
        told = [notice.event for notice in run.notices[k] if notice.event in ("bid", "sent")]
        assert told.count("bid") == ROUNDS
        assert told.count("sent") == len(chosen)
    assert sum(len(found.selected) for found in seen) < ROUNDS * AGENTS


@pytest.mark.parametrize("action", ["cut", "kill"])
@pytest.mark.parametrize("at", range(6, 20))
def test_an_agent_that_is_cut_off_or_killed_at_any_moment_sends_the_same_bytes_again(tmp_path, action, at):
    """Connect, Hello, Welcome, Ready; then Task, Bid, Answer, and Sent if it is asked for; sending has two moments."""
    moments = Moments(at, action)
    with contextlib.closing(Budgeted(tmp_path, moments)) as run:
        seen = run.rounds(4)
        assert_replayed_here(run, 4)
    assert not any(found.rejected for found in seen)
    assert moments.count > at
    records = read_log(tmp_path / "site-0" / NAME).records
    for kind in ("Bid", "Sent"):
        hashes = {(each.job, each.hash) for each in records if each.kind == kind}
        assert len(hashes) == len({job for job, _ in hashes})


def assert_replayed_here(run, rounds):
    clock = ReplayClock(entries_of([line_of(1, run.observer.clock.log)]))
    again = simulate(FEDERATION, FLEET, executor=replaying(clock), scheduler=PLAN, block=1, merges=1)
    state = again.init(SEED)
    for _ in range(rounds):
        state, _ = again.round(state)
    for one, other in zip(params(state), params(run.state), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_bid_and_the_update_of_the_last_job_alone_are_on_the_disk(tmp_path):
    setting, (task,) = jax.tree.map(lambda x: x[0], FLEET), tasks(1, FEDERATION)

    def opened():
        return RunJobs(FEDERATION, setting, WELCOME, RunMemory(tmp_path, WELCOME.run, "d"), ALLOWED, SEED, {}, BIDS)

    jobs = opened()
    bid = done(jobs, task)
    assert isinstance(bid, Bid)
    assert bid.content
    update = jobs.update_for(Answer(task.job, True))
    assert isinstance(update, Sent)
    again = opened()
    assert again.answer() == bid
    assert again.update_for(Answer(task.job, True)) == update
    assert again.update_for(Answer(task.job, False)) is None
    assert again.update_for(Answer(task.job + 1, True)) is None


def test_a_site_is_told_what_a_bid_has_and_may_refuse_it():
    found = {each.name: each for each in would_leave(FEDERATION, ALLOWED, BIDS)}
    assert found["bid/norm"].message == "Bid"
    assert "before the coordinator decides" in found["bid/norm"].note
    assert "report/norm" not in found
    assert found["value"].message == "Sent"
    with pytest.raises(ConfigError, match=r"lets out bid/norm .* Set may_leave.reports to a list with 'norm'"):
        check_federation(MayLeave(), FEDERATION, leaving_of(FEDERATION, BIDS))
    check_federation(ALLOWED, FEDERATION, leaving_of(FEDERATION, BIDS))
    assert needed(FEDERATION, BIDS) == ALLOWED


def test_a_bid_tells_the_size_of_its_update_only_where_sizes_vary_and_may_leave():
    varying = federate(VALLEY, mean(), hard_threshold(0.1), reports=["norm"])
    found = {each.name: each for each in would_leave(varying, ALLOWED, BIDS)}
    assert (found["bid size"].message, found["bid size"].size_bytes) == ("Bid", 4)
    assert "bid size" not in {each.name for each in would_leave(FEDERATION, ALLOWED, BIDS)}
    with pytest.raises(ConfigError, match=r"bid size .* Set may_leave.sizes = true"):
        check_federation(ALLOWED, varying, leaving_of(varying, BIDS))
    assert needed(varying, BIDS).sizes


def test_a_bid_counts_as_a_job_of_the_day(tmp_path):
    run = Budgeted(tmp_path)
    with contextlib.closing(run):
        run.rounds(2)
    jobs = {job for kind, job in run.left(0) if kind == "Bid"}
    assert jobs == {1, 2}
    limited = SiteAgent(
        FEDERATION,
        lambda k: jax.tree.map(lambda x: x[k], FLEET),
        LocalTransport("site-0"),
        "nobody",
        tmp_path / "site-0",
        MayLeave(reports=("norm",), rounds_a_day=3),
        seed=SEED,
        give_up_s=0.0,
        bids=BIDS,
    )
    assert asyncio.run(limited.run()).code == "gone"
    now = read_log(tmp_path / "site-0" / NAME).records[-1].time
    identity = run.bridge.run
    assert limited._allowance.allows(identity, 3, now)
    limited._allowance.count(identity, 3, now)
    assert not limited._allowance.allows(identity, 4, now)
