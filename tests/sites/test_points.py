"""Moments that no message marks: between training and disk, a full disk, a stop, what is compiled, what is fuzzed."""

import asyncio
import contextlib
import time

import jax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrl.core.errors import RunError, WireError
from fedrl.sites.connection import Connection
from fedrl.sites.jobs import RunJobs, RunRefusedError, rehearse
from fedrl.sites.memory import RunMemory
from fedrl.sites.sent_log import SentLog
from fedrl.transport.seam import LinkClosedError
from fedrl.wire.protocol import Beat, Leave, Sent, Task, sent
from tests.sites.test_agent import AGENTS, ERRING, FLEET, SEED, again, agent_of, equal, served, simulated
from tests.sites.test_lies import WELCOME, done, jobs_of, tasks
from tests.support.coordinating import FragileTransport, KilledError, Moments, ScriptedCoordinator


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("save", [0, 1, 2, 3])
def test_killed_while_a_job_is_stored_it_is_the_same_run(save, when, tmp_path, monkeypatch):
    """Save 0 is that of the state before the first job."""
    saving, saves = RunMemory.save, []

    def fragile(self, kept):
        mine = self.folder.parent.name == "site-0"
        saves.extend([kept.job] * mine)
        if mine and len(saves) == save + 1 and when == "before":
            raise KilledError
        saving(self, kept)
        if mine and len(saves) == save + 1 and when == "after":
            raise KilledError

    monkeypatch.setattr(RunMemory, "save", fragile)
    coordinator, notices = ScriptedCoordinator(ERRING, FLEET, SEED), []
    runs = [agent_of(ERRING, coordinator, k, tmp_path).run() for k in range(1, AGENTS)]
    runs.append(again(ERRING, coordinator, 0, tmp_path, Moments(), notices))
    assert {end.code for end in asyncio.run(served(coordinator, runs, 3))} == {"done"}
    equal(simulated(ERRING, 3).server, coordinator.state.server)
    # What was on disk is not trained again; what was not is, and nothing of it had left.
    trained = [notice.job for notice in notices if notice.event == "training"]
    assert trained == sorted([1, 2, 3] + [save] * (when == "before" and save > 0))


def test_a_full_disk_ends_the_agent_and_the_update_does_not_leave(tmp_path, monkeypatch):
    saving = RunMemory.save

    def full(self, kept):
        if kept.job == 2 and self.folder.parent.name == "site-0":
            raise RunError("state.safetensors can't be written: No space left on device.")
        saving(self, kept)

    monkeypatch.setattr(RunMemory, "save", full)
    coordinator = ScriptedCoordinator(ERRING, FLEET, SEED)
    runs = [agent_of(ERRING, coordinator, k, tmp_path).run() for k in range(AGENTS)]
    with pytest.raises(RunError, match="No space left on device"):
        asyncio.run(served(coordinator, runs, 3))
    assert (0, 1) in coordinator.updates
    assert (0, 2) not in coordinator.updates


def test_two_agents_do_not_share_a_folder(tmp_path):
    coordinator = ScriptedCoordinator(ERRING, FLEET, SEED)

    async def run():
        async with coordinator.listening():
            first, second = (agent_of(ERRING, coordinator, 0, tmp_path) for _ in range(2))
            running = asyncio.ensure_future(first.run())
            while not coordinator.links:
                await asyncio.sleep(0.01)
            with pytest.raises(RunError, match="is in use by process"):
                await second.run()
            first.stop()
            return await asyncio.wait_for(running, 60)

    assert asyncio.run(run()).code == "interrupted"
    assert not (tmp_path / "site-0" / ".lock").exists()


def test_stopped_in_a_job_it_leaves_at_once_and_trains_that_job_after_the_next_start(tmp_path, monkeypatch):
    """Beats go on while it trains; the job that was given up stores nothing behind the back of the next process."""
    training, begun = RunJobs.train, []

    def slow(self, task, verdict):
        if self.welcome.agent == 0 and not begun:
            begun.append(task.job)
            time.sleep(1.5)
        return training(self, task, verdict)

    monkeypatch.setattr(RunJobs, "train", slow)
    coordinator = ScriptedCoordinator(ERRING, FLEET, SEED, beat_s=0.1)

    async def run():
        async with coordinator.listening():
            agents = [agent_of(ERRING, coordinator, k, tmp_path) for k in range(AGENTS)]
            running = [asyncio.ensure_future(agent.run()) for agent in agents]
            working = asyncio.ensure_future(coordinator.round())
            while sum(isinstance(m, Beat) for k, m in coordinator.heard if k == 0) < 3:
                await asyncio.sleep(0.01)
            before = time.monotonic()
            agents[0].stop("maintenance")
            ended = await asyncio.wait_for(running[0], 60)
            took_s = time.monotonic() - before
            state = (tmp_path / "site-0" / WELCOME.run / "state.safetensors").read_bytes()
            await asyncio.sleep(2.0)  # the thread that was given up has ended
            assert (tmp_path / "site-0" / WELCOME.run / "state.safetensors").read_bytes() == state
            running[0] = asyncio.ensure_future(agent_of(ERRING, coordinator, 0, tmp_path).run())
            await asyncio.wait_for(working, 60)
            await coordinator.done()
            return ended, took_s, await asyncio.wait_for(asyncio.gather(*running), 60)

    ended, took_s, ends = asyncio.run(run())
    assert (ended.code, ended.why) == ("interrupted", "maintenance")
    assert took_s < 1.0
    assert (0, Leave(False, "maintenance")) in coordinator.heard
    assert {end.code for end in ends} == {"done"}
    equal(simulated(ERRING, 1).server, coordinator.state.server)


def test_a_beat_says_how_far_the_training_is_and_not_that_time_passes(tmp_path, monkeypatch):
    training, at, coordinator = RunJobs.train, [7], ScriptedCoordinator(ERRING, FLEET, SEED, beat_s=0.1)

    def beats():
        return [m.steps for k, m in list(coordinator.heard) if k == 0 and isinstance(m, Beat)]

    def stopping(self, task, verdict):
        if self.welcome.agent == 0:
            for at[0] in (7, 8):
                before = len(beats())
                while len(beats()) < before + 3:
                    time.sleep(0.01)
        return training(self, task, verdict)

    monkeypatch.setattr(RunJobs, "train", stopping)
    monkeypatch.setattr(RunJobs, "progress", lambda self: at[0])
    runs = [agent_of(ERRING, coordinator, k, tmp_path).run() for k in range(AGENTS)]
    assert {end.code for end in asyncio.run(served(coordinator, runs, 1))} == {"done"}
    assert set(beats()) == {7, 8}
    assert beats() == sorted(beats())
    assert beats().count(7) >= 3


def test_a_long_job_outlives_its_connection(tmp_path, monkeypatch):
    """The connection is cut while it trains; the update leaves on the next one, and nothing is trained again."""
    training, trained = RunJobs.train, []

    def slow(self, task, verdict):
        if self.welcome.agent == 0:
            trained.append(task.job)
            time.sleep(0.5)
        return training(self, task, verdict)

    monkeypatch.setattr(RunJobs, "train", slow)
    coordinator = ScriptedCoordinator(ERRING, FLEET, SEED, beat_s=0.1)
    # Connect, Hello, Welcome, Ready, Task: the first beat is cut.
    moments = Moments(7)
    runs = [agent_of(ERRING, coordinator, k, tmp_path).run() for k in range(1, AGENTS)]
    transport = FragileTransport("site-0", moments)
    runs.append(agent_of(ERRING, coordinator, 0, tmp_path, transport).run())
    assert {end.code for end in asyncio.run(served(coordinator, runs, 2))} == {"done"}
    assert trained == [1, 2]
    assert sum(isinstance(m, Sent) for k, m in coordinator.heard if k == 0) == 2
    equal(simulated(ERRING, 2).server, coordinator.state.server)


def test_after_it_is_ready_an_agent_compiles_nothing(tmp_path):
    """Else the first round would wait for it: `jax.monitoring` counts what XLA compiles."""
    compiled = []

    def count(event, seconds, **more):
        del seconds, more
        compiled.extend([event] * event.endswith("backend_compile_duration"))

    asked = tasks(3)
    jax.clear_caches()
    jobs = jobs_of(tmp_path)
    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        rehearse(ERRING, jax.tree.map(lambda x: x[0], FLEET), measured=False)
        assert len(compiled) > 3  # it sees programs being compiled
        compiled.clear()
        for task, verdict in zip(asked, ("merged", "rejected", "dropped"), strict=True):
            done(jobs, task._replace(verdict=verdict))
        assert compiled == []
    finally:
        jax.monitoring.unregister_event_duration_listener(count)


def test_the_rehearsal_uses_no_key_and_changes_no_state(tmp_path):
    (task,) = tasks(1)
    setting = jax.tree.map(lambda x: x[0], FLEET)
    expected = done(jobs_of(tmp_path / "a"), task)
    jobs = jobs_of(tmp_path / "b")
    rehearse(ERRING, setting, measured=True)
    assert done(jobs, task) == expected


COUNTS = st.one_of(st.integers(0, 5), st.integers(0, 2**31 - 1))
WORDS = st.sampled_from(["merged", "rejected", "dropped", "", "perhaps"])


ANY = st.builds(
    Task,
    COUNTS,
    st.integers(0, 2),
    COUNTS,
    COUNTS,
    st.one_of(st.floats(0, 1), st.floats(allow_infinity=False)),
    COUNTS,
    WORDS,
    st.one_of(st.none(), st.binary(max_size=80)),
)
FINE = st.builds(lambda job: Task(job, 0, 3, 1, 0.3, max(job - 1, 0), "merged", None), st.integers(0, 4))
"""What an honest coordinator could send, in any order."""


@settings(max_examples=40)
@given(told=st.lists(st.one_of(ANY, FINE), min_size=1, max_size=6))
def test_whatever_a_task_says_the_last_job_is_not_trained_again_and_versions_never_go_back(told, tmp_path_factory):
    folder, (honest,) = tmp_path_factory.mktemp("site"), tasks(1)
    own = WELCOME._replace(replayable=False)
    jobs, answers = jobs_of(folder, own), {}
    for each in told:
        task = each._replace(content=honest.content if each.content is None else each.content)
        before = jobs.kept
        with contextlib.suppress(WireError, RunRefusedError):
            if jobs.check(task):
                assert (task.job, task.version) != (before.job, before.version)
                answers[task.job, task.version] = done(jobs, task)
            else:
                assert jobs.answer() == answers[task.job, task.version]
        assert jobs.kept.version >= before.version
    again = jobs_of(folder, own).kept
    assert (again.job, again.update, again.failed) == (jobs.kept.job, jobs.kept.update, jobs.kept.failed)


class Rubbish:
    peer = "coordinator"

    def __init__(self, frames):
        self.frames = list(frames)

    async def send(self, frame):
        raise AssertionError("nothing is sent")

    async def receive(self):
        if not self.frames:
            raise LinkClosedError("The end.")
        return self.frames.pop(0)

    async def close(self):
        pass


@given(data=st.data())
def test_whatever_comes_on_a_link_is_a_message_or_refused(data, tmp_path_factory):
    log = SentLog(tmp_path_factory.mktemp("log") / "sent.jsonl")
    whole = b"".join(sent(Task(1, 0, 3, 1, 0.5, 0, "", b"content")))
    damaged = st.builds(
        lambda at, byte: whole[:at] + bytes([byte]) + whole[at + 1 :],
        st.integers(0, len(whole) - 1),
        st.integers(0, 255),
    )
    frames = data.draw(st.lists(st.one_of(st.binary(max_size=200), damaged, st.just(whole)), max_size=4))
    connection = Connection(Rubbish(frames), log, 100)

    async def read():
        while True:
            await connection.receive()

    with pytest.raises((WireError, LinkClosedError)):
        asyncio.run(read())
    log.close()
