"""A coordinator that lies ends a connection, never the agent, and never has a key used again."""

import asyncio
import math

import jax
import numpy as np
import pytest

from fedrl.aggregators import mean
from fedrl.core.errors import RunError, WireError
from fedrl.core.keys import keys_of, noise_of_seed
from fedrl.engines.halves import Verdict
from fedrl.federation.federate import federate
from fedrl.learners import add_correction, chain, sgd
from fedrl.secure.grid import ring_sum
from fedrl.sites import jobs as jobs_module
from fedrl.sites.check import check_coordinator
from fedrl.sites.jobs import RunJobs, RunRefusedError, check_seed, setting_for
from fedrl.sites.memory import RunMemory
from fedrl.sites.policy import MayLeave
from fedrl.sites.summing import SiteSums
from fedrl.stages import quantize, scaffold
from fedrl.transport.local import LocalTransport
from fedrl.wire.protocol import Failed, Hello, Leave, Reader, Ready, Stop, Task, Welcome, sent
from tests.sites.test_agent import AGENTS, ALL, ERRING, FLEET, SEED, SIZE, agent_of, equal, served, simulated
from tests.support.coordinating import RUN, ScriptedCoordinator
from tests.support.quadratic import quadratic

WELCOME = Welcome(RUN, "scripted", 0, AGENTS, 0, 0, True, 5.0)
WIDE = jax.tree.map(lambda x: np.repeat(x, 32, 1), FLEET)


def changing(kind, alter, times=1):
    """Alter the first messages of a kind to agent 0."""
    left = [times]

    def change(agent, message):
        if agent == 0 and isinstance(message, kind) and left[0]:
            left[0] -= 1
            return alter(message)
        return message

    return change


LIES = {
    "a run that is a path": (Welcome, lambda m: m._replace(run="../../etc")),
    "a number out of range": (Welcome, lambda m: m._replace(agent=AGENTS)),
    "a beat that is no number": (Welcome, lambda m: m._replace(beat_s=math.nan)),
    "a beat of no time": (Welcome, lambda m: m._replace(beat_s=0.0)),
    "a task in place of the welcome": (Welcome, lambda m: Task(1, 0, 3, 1, 0.3, 0, "dropped", b"x")),
    "a message of an agent": (Welcome, lambda m: Ready(1.0)),
    "another version": (Task, lambda m: m._replace(version=m.version + 1)),
    "too many steps": (Task, lambda m: m._replace(steps=2000)),
    "no steps": (Task, lambda m: m._replace(steps=0)),
    "an empty cohort": (Task, lambda m: m._replace(cohort=0)),
    "a share that is no number": (Task, lambda m: m._replace(share=math.nan)),
    "a broadcast that is cut off": (Task, lambda m: m._replace(content=m.content[:-1])),
    "no broadcast": (Task, lambda m: m._replace(content=b"")),
    "huge content": (Task, lambda m: m._replace(content=bytes(1 << 22))),
    "a verdict on this job": (Task, lambda m: m._replace(settled=m.job)),
    "job 0": (Task, lambda m: m._replace(job=0)),
    "a restart": (Task, lambda m: Stop("Be back soon.", "restarting", True)),
}


@pytest.mark.parametrize("name", LIES)
def test_after_a_lie_the_run_goes_on_as_if_it_had_not_been_told(name, tmp_path):
    kind, alter = LIES[name]
    coordinator, notices = ScriptedCoordinator(ERRING, FLEET, SEED), []
    coordinator.change = changing(kind, alter)
    runs = [
        agent_of(ERRING, coordinator, k, tmp_path, notices=notices if k == 0 else None).run() for k in range(AGENTS)
    ]
    assert {end.code for end in asyncio.run(served(coordinator, runs, 2))} == {"done"}
    equal(simulated(ERRING, 2).server, coordinator.state.server)
    assert [n.job for n in notices if n.event == "training"][-2:] == [1, 2]
    wrong = [n.text for n in notices if n.event == "wrong_message"]
    assert len(wrong) == (name != "a restart"), wrong
    assert not any("Traceback" in text for text in wrong)
    assert all(len(set(copies)) == 1 for copies in coordinator.updates.values())


def jobs_of(folder, welcome=WELCOME, may_leave=ALL, seed=SEED, federation=ERRING, fleet=FLEET, sums=None):
    setting = jax.tree.map(lambda x: x[0], fleet)
    return RunJobs(federation, setting, welcome, RunMemory(folder, welcome.run, "d"), may_leave, seed, {}, sums=sums)


def tasks(count, federation=ERRING, fleet=FLEET):
    """The tasks of so many jobs, each after the verdict that the one before was merged."""
    coordinator = ScriptedCoordinator(federation, fleet, SEED)
    version = coordinator.half.open(coordinator.state)
    order = version.orders[0]
    return [
        Task(n, 0, order.cohort, order.steps, order.share, n - 1, "merged", version.broadcast)
        for n in range(1, count + 1)
    ]


def done(jobs, task):
    jobs.keep(jobs.train(task, jobs.verdict(task)))
    return jobs.answer()


def test_a_job_is_trained_once_whatever_it_comes_with(tmp_path):
    jobs, (first, second) = jobs_of(tmp_path), tasks(2)
    assert jobs.check(first)
    answer = done(jobs, first)
    assert not jobs.check(first)
    assert not jobs.check(first._replace(content=b"another", steps=1, settled=0))
    assert jobs.answer() == answer
    # A coordinator that has ended before it stored the job counts it anew, from another version.
    assert jobs.check(first._replace(version=1))
    done(jobs, second)
    with pytest.raises(WireError, match="accepts no older one"):
        jobs.check(second._replace(job=3, version=second.version - 1))
    with pytest.raises(WireError, match="one of merged, rejected, dropped"):
        jobs.check(second._replace(job=3, settled=2, verdict="perhaps"))


def test_a_job_from_an_older_version_fails_at_once_and_the_connection_stays(tmp_path):
    """So a coordinator that gives it again after a restart hears that it will have no update, and gives another one."""
    coordinator, notices = ScriptedCoordinator(ERRING, FLEET, SEED), []

    async def run():
        async with coordinator.listening():
            agents = [agent_of(ERRING, coordinator, k, tmp_path, notices=[notices, [], []][k]) for k in range(AGENTS)]
            running = [asyncio.ensure_future(agent.run()) for agent in agents]
            for _ in range(2):
                await coordinator.round()
            old = Task(9, 0, AGENTS, 1, 0.3, 2, "merged", b"never read")
            await coordinator.say(0, coordinator.links[0], old)
            while (0, 9) not in coordinator.failed:
                await asyncio.sleep(0.01)
            await coordinator.round()
            await coordinator.done()
            return await asyncio.gather(*running)

    assert {end.code for end in asyncio.run(asyncio.wait_for(run(), 120))} == {"done"}
    assert "accepts no older one" in coordinator.failed[0, 9]
    assert [n.job for n in notices if n.event == "training"] == [1, 2, 3]
    assert sum(n.event == "connected" for n in notices) == 1
    equal(simulated(ERRING, 3).server, coordinator.state.server)


def test_the_same_version_again_is_another_job_with_other_keys_also_after_a_restart(tmp_path):
    """Its stage draws numbers: from the same state and the same broadcast, updates are equal if their keys are."""
    drawing = {"federation": federate(quadratic(sgd(0.1), size=256), mean(), quantize(4)), "fleet": WIDE}
    asked = [task._replace(verdict="dropped") for task in tasks(4, **drawing)]
    jobs, updates = jobs_of(tmp_path, **drawing), []
    for task in asked[:2]:
        updates.append(done(jobs, task).content)
    again = jobs_of(tmp_path, **drawing)
    assert again.kept.job == 2
    for task in asked[2:]:
        updates.append(done(again, task).content)
    assert len(set(updates)) == 4
    # With the first keys they would have been equal: the test sees a key that is used twice.
    assert done(jobs_of(tmp_path / "other", **drawing), asked[0]).content == updates[0]


def test_a_version_that_goes_back_is_refused_before_a_key_is_used(tmp_path):
    coordinator = ScriptedCoordinator(ERRING, FLEET, SEED)
    version = coordinator.half.open(coordinator.state)
    order = version.orders[0]
    jobs, (first,) = jobs_of(tmp_path), tasks(1)
    closed = version.close()
    later = coordinator.half.open(closed.run)
    ahead = Task(1, 1, order.cohort, order.steps, order.share, 0, "dropped", later.broadcast)
    done(jobs, ahead)
    before = jobs.kept
    with pytest.raises(WireError, match="has received version 1 before"):
        done(jobs, first._replace(job=2, settled=1, verdict="merged"))
    assert jobs.kept is before


def test_verdicts_are_acted_upon_and_a_missing_one_means_that_the_update_never_arrived(tmp_path):
    first, second = tasks(2)
    jobs = jobs_of(tmp_path)
    done(jobs, first)
    for verdict in Verdict:
        assert jobs.verdict(second._replace(verdict=verdict.value)) is verdict
    assert jobs.verdict(second._replace(settled=0)) is Verdict.DROPPED
    done(jobs, second)
    third = second._replace(job=3, settled=1, verdict="merged")  # the update of job 2 was lost
    assert jobs.verdict(third) is Verdict.DROPPED


class Told(SiteSums):
    """Sums of an agent whose masked vectors have all left, or none."""

    def __init__(self, left):
        self.left = left

    def has_left(self, kept):
        return self.left

    def last_sum(self, kept, merged):
        return kept.last_sum

    def advert(self, job):
        return b""


def test_no_state_stays_of_a_job_whose_order_was_compared_in_no_sum(tmp_path):
    """A share of one for this agent and of zero for the others, without a sum; then a regular sum, which would give
    its control variate: each agent subtracts the old one times the old share."""
    learner = quadratic(chain(add_correction(), sgd(0.1)), size=SIZE)
    summation = ring_sum(AGENTS, 64.0, 2, protocol="masks")
    federation = federate(learner, mean("uniform"), scaffold(0.1), summation=summation)
    first, second = tasks(2, federate(learner, mean("uniform"), scaffold(0.1)))  # with the same broadcasts
    first = first._replace(share=1.0)

    def vector(name, left, verdict):
        jobs = jobs_of(tmp_path / name, federation=federation, sums=Told(left))
        done(jobs, first)
        done(jobs, second._replace(verdict=verdict))
        return jobs.kept.vector

    rejected = vector("rejected", False, "rejected")
    assert len(rejected) > 0
    assert vector("merged", True, "merged") != rejected
    assert vector("untrue", False, "merged") == rejected


def test_a_site_without_a_seed_takes_no_part_in_a_replayable_run(tmp_path):
    with pytest.raises(RunRefusedError, match="This site has no seed") as refused:
        jobs_of(tmp_path, seed=None)
    assert refused.value.code == "replayable"
    assert not (tmp_path / RUN / "roots").exists()


@pytest.mark.parametrize("replayable", [True, False])
def test_a_site_takes_the_root_of_its_noise_from_the_seed_in_a_replayable_run_alone(replayable, tmp_path, monkeypatch):
    seen, made = [], jobs_module.AgentHalf

    def noted(*given, noise, **options):
        seen.append(noise)
        return made(*given, noise=noise, **options)

    monkeypatch.setattr(jobs_module, "AgentHalf", noted)
    jobs_of(tmp_path, WELCOME._replace(replayable=replayable))
    assert seen == [noise_of_seed(keys_of(SEED)) if replayable else None]


def test_a_lost_state_of_a_replayable_run_is_not_begun_anew(tmp_path):
    first, second = tasks(2)
    done(jobs_of(tmp_path), first)
    (tmp_path / RUN / "state.safetensors").unlink()
    with pytest.raises(RunRefusedError, match="would use keys again") as refused:
        jobs_of(tmp_path).check(second)
    assert refused.value.code == "state_missing"


def test_a_lost_state_of_any_other_run_gets_new_roots(tmp_path):
    own, (first, second) = WELCOME._replace(replayable=False), tasks(2)
    jobs = jobs_of(tmp_path, own)
    done(jobs, first)
    roots = RunMemory(tmp_path, RUN, "d").roots()
    jobs_of(tmp_path, own)
    assert RunMemory(tmp_path, RUN, "d").roots() == roots
    (tmp_path / RUN / "state.safetensors").unlink()
    again = jobs_of(tmp_path, own)
    assert again.check(second)
    found = RunMemory(tmp_path, RUN, "d").roots()
    assert len(set(found) | set(roots)) == 4


def test_the_copy_of_the_parameters_comes_back_from_the_disk_with_its_number(tmp_path):
    start, memory = jobs_of(tmp_path / "any").kept, RunMemory(tmp_path, RUN, "d")
    for copy in ((7, b"copy"), (0, b"")):
        memory.save(start._replace(copy=copy))
        assert memory.load(start.run).copy == copy


def test_roots_that_others_may_read_are_not_used(tmp_path):
    own = WELCOME._replace(replayable=False)
    done(jobs_of(tmp_path, own), tasks(1)[0])
    for mode in (0o640, 0o604):
        (tmp_path / RUN / "roots").chmod(mode)
        with pytest.raises(RunError, match="may be read by others than its owner"):
            jobs_of(tmp_path, own)


@pytest.mark.parametrize("reasons", [False, True])
def test_a_job_without_an_update_leaves_nothing_behind_and_its_reason_only_if_that_may_leave(reasons, tmp_path):
    first, second = tasks(2)
    jobs = jobs_of(tmp_path, may_leave=MayLeave(largest_bytes=8, reasons=reasons))
    before = [np.array(leaf) for leaf in jax.tree.leaves(jobs.kept.run.agents.blocks)]
    answer = done(jobs, first)
    assert isinstance(answer, Failed)
    assert bool(answer.reason) is reasons
    assert bool(jobs.declined(second, "It is old.").reason) is reasons
    for verdict in ("merged", "rejected", "dropped"):
        told = second._replace(settled=1, verdict=verdict)
        run = jobs._half.settle(jobs.kept.run, jobs.verdict(told))
        for one, other in zip(before, jax.tree.leaves(run.agents.blocks), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "change", [{"agent": 1}, {"replayable": False}, {"term": 2}], ids=["number", "kind of keys", "older term"]
)
def test_what_was_said_of_a_run_stays_so_also_after_a_restart(change, tmp_path):
    welcome = WELCOME._replace(term=3)
    jobs = jobs_of(tmp_path, welcome)
    for again in (jobs.check_again, lambda other: jobs_of(tmp_path, other)):
        with pytest.raises(WireError):
            again(welcome._replace(**change))
    jobs.check_again(welcome._replace(term=4))
    with pytest.raises(WireError, match="heard of term 4"):
        jobs_of(tmp_path, welcome)


def test_a_site_that_would_take_no_part_says_so_whether_it_is_asked_or_begins():
    run = Welcome("0" * 32, "run", 2, 3, 0, 0, True, 1.0)
    with pytest.raises(RunRefusedError, match="This site has no seed"):
        check_seed(run, None)
    check_seed(run, 0)
    check_seed(run._replace(replayable=False), None)

    def setting_of(number):
        if number > 1:
            raise LookupError("the experiment has 2 agents")
        return number

    assert setting_for(run._replace(agent=1), setting_of) == 1
    with pytest.raises(RunRefusedError, match="agent 2, counted from 0, and the experiment has 2 agents") as refused:
        setting_for(run, setting_of)
    assert refused.value.code == "other_federation"


def test_a_check_does_not_agree_where_the_site_would_take_no_part(tmp_path):
    """Before, `fedrl agent --check` agreed, and the agent ended at once."""

    async def test():
        async def session(link):
            reader = Reader(1 << 20, (Hello, Leave))
            reader.take(await link.receive())
            for frame in sent(Welcome("0" * 32, "run", 0, 1, 0, 0, True, 1.0)):
                await link.send(frame)
            await link.receive()

        listener = await LocalTransport().listen("checked", session)
        given = federate(quadratic(sgd(0.1), size=4), mean()), LocalTransport("site-0"), "checked", tmp_path
        found = await check_coordinator(*given, takes_part=lambda welcome: check_seed(welcome, None))
        await listener.close()
        return found

    found = asyncio.run(asyncio.wait_for(test(), 60.0))
    assert not found.agrees
    assert "This site has no seed" in found.text
