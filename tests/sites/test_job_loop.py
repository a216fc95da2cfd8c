"""One job after the other: which tasks are trained, and which may leave, with jobs that take no time."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from fedrl.engines.halves import Verdict
from fedrl.sites.job_loop import JobLoop
from fedrl.sites.jobs import RunJobs
from fedrl.sites.policy import Allowance
from fedrl.wire.protocol import Answer, Leave, Sent, Task
from tests.network.test_hostile_agents import until
from tests.sites.test_lies import WELCOME


class Quick(RunJobs):
    """Jobs without a federation; `during` is called while one is trained."""

    def __init__(self, during=None):
        self.welcome, self.kept, self.fresh, self.during = WELCOME, SimpleNamespace(job=0, failed=""), False, during
        self.trained, self.received = [], []

    def check(self, task):
        return task.job != self.kept.job

    def verdict(self, task):
        del task
        return Verdict.DROPPED

    def receive(self, task):
        self.received.append(task.job)
        return task.content

    def train(self, task, verdict):
        del verdict
        self.trained.append(task.job)
        if self.during is not None:
            self.during(task)
        return SimpleNamespace(job=task.job, failed="")

    def keep(self, kept):
        self.kept = kept

    def answer(self):
        return Sent(self.kept.job, 0, b"update")

    def update_for(self, answer):
        return self.answer() if answer.send else None


class Working:
    """A job loop at work, with a connection that keeps what is sent."""

    def __init__(self, jobs, most=None):
        self.sent, self.closed = [], 0
        self.thread = ThreadPoolExecutor(1)
        self.loop = JobLoop(self.thread, Allowance(most), lambda: 1000.0, lambda *said: None)
        self.loop.jobs, self.loop.connection = jobs, self

    async def send(self, message):
        self.sent.append(message)

    async def close(self):
        self.closed += 1

    async def __aenter__(self):
        self.running = asyncio.ensure_future(self.loop.run())
        return self

    async def __aexit__(self, *error):
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)
        self.thread.shutdown()

    async def told(self, *messages):
        """Add messages at once, and wait until something is sent."""
        before = len(self.sent)
        for message in messages:
            self.loop.add(message)
        await until(lambda: len(self.sent) > before)


def task(job):
    return Task(job, job - 1, 1, 1, 1.0, 0, "", b"broadcast")


def run(test):
    asyncio.run(asyncio.wait_for(test(), 60))


def test_no_further_job_leaves_than_a_day_may_have_and_one_that_has_left_leaves_again():
    async def test():
        jobs = Quick()
        async with Working(jobs, most=2) as work:
            for job in (1, 2, 2):
                await work.told(task(job))
            assert not work.loop.waiting
            await work.told(task(3))
            await until(lambda: work.closed)
            assert [type(message) for message in work.sent] == [Sent, Sent, Sent, Leave]
            assert work.loop.waiting
            assert jobs.trained == [1, 2]

    run(test)


@pytest.mark.parametrize("again", [0, 3])
def test_a_task_that_comes_again_while_it_is_trained_is_answered_once(again):
    async def test():
        jobs = Quick(lambda task: [work.loop.add(task) for _ in range(again)])
        async with Working(jobs) as work:
            await work.told(task(1))
            await work.told(task(2))
            assert [message.job for message in work.sent] == [1, 2]
            assert jobs.received == []

    run(test)


def test_of_tasks_that_wait_the_last_one_is_trained_and_all_are_received():
    async def test():
        jobs = Quick()
        async with Working(jobs) as work:
            await work.told(task(1), Answer(1, True), task(2), task(3), Answer(3, True))
            await until(lambda: len(work.sent) == 2)
            assert jobs.trained == [3]
            assert jobs.received == [1, 2]
            assert [message.job for message in work.sent] == [3, 3]

    run(test)


def test_what_came_for_another_run_is_not_trained():
    async def test():
        before, jobs = Quick(), Quick()
        before.close = lambda: None
        async with Working(before) as work:
            work.loop.add(task(1))
            await work.loop.replaced(jobs)
            await work.told(task(2))
            assert (before.trained, jobs.trained) == ([], [2])

    run(test)
