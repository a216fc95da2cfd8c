"""One job after the other: each is trained in a thread while beats are sent, kept on disk, and answered.

    add(Task) --> run(): check --> train --> keep --> Sent or Failed, on the connection that there is then
                                               +----> Bid --> add(Answer) --> Sent, under an upload budget
                                               +----> JobDone --> add(Invitation) --> SumReply, where sums hide updates

A job outlives its connection. What comes while a job is trained waits; only the latest task is trained, with the
answers after it, and the others are received for their part of the server's parameters.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor as Thread
from contextlib import suppress
from typing import Any, NamedTuple, TypeAlias, TypeVar

from fedrl.core.errors import RunError, WireError
from fedrl.sites.connection import Connection
from fedrl.sites.jobs import OldVersionError, RunJobs, RunRefusedError
from fedrl.sites.policy import Allowance
from fedrl.transport.seam import LinkClosedError
from fedrl.wire.protocol import LARGEST_INT, Answer, Beat, Bid, Failed, Leave, Sent, Task
from fedrl.wire.secure_sum import Declined, Invitation, JobDone, SumRequest

T = TypeVar("T")
SHORTEST_BEAT_S = 0.1


class SiteEnd(NamedTuple):
    """Why an agent has ended.

    Attributes:
        code: That of the coordinator's `Stop`; or "interrupted", "gone" (no coordinator within the time limit),
            "refused" (the connection, for a reason that stays), "replayable" (a replayable run, and no seed here), or
            "state_missing" (of a replayable run).
        why: The reason, for people.
    """

    code: str
    why: str


Asked: TypeAlias = Task | Answer | Invitation | SumRequest
"""A message about a job."""
LEAVING = {
    Sent: ("sent", "The update of job {} leaves."),
    Bid: ("bid", "A bid for the update of job {} leaves."),
    JobDone: ("trained", "Job {} is done; its update stays here until a secure sum hides it."),
}
"""What is said when a message about a finished job leaves: an event, and a sentence with its number."""
Say: TypeAlias = Callable[[str, str, int | None, int | None], None]
"""Reports an event `(event, text, job, version)`: `fedrl.transport.notices.NetworkNotice`."""


class JobLoop:
    """The jobs of an agent, whichever connection they come on.

    Args:
        thread: The thread in which all jobs are trained and stored.
        allowance: The jobs that may leave in a day.
        clock: The time in seconds since 1970.
        say: Where events are reported.

    Attributes:
        jobs: The jobs of the run; None before the first.
        connection: The connection on which updates leave; None while there is none.
        fault: What was wrong with the last task, if it ended its connection.
        waiting: Whether no further job may leave today.
        storing: Held while a job is written to the disk.
    """

    def __init__(self, thread: Thread, allowance: Allowance, clock: Callable[[], float], say: Say) -> None:
        self._thread, self._allowance, self._clock, self._say = thread, allowance, clock, say
        self.jobs: RunJobs | None = None
        self.connection: Connection | None = None
        self.fault: WireError | None = None
        self.waiting = False
        self.storing = asyncio.Lock()
        self._tasks: asyncio.Queue[tuple[RunJobs | None, Asked]] = asyncio.Queue()
        self._training: int | None = None

    def add(self, message: Asked) -> None:
        """Take a task, the answer to a bid, or a message of a secure sum."""
        # The update of a job in training is sent when it is done, without being asked for again.
        if message.job != self._training:
            self._tasks.put_nowait((self.jobs, message))

    async def replaced(self, jobs: RunJobs) -> None:
        """Continue with the jobs of another run; a job of the last one that is in training is given up after it."""
        before, self.jobs = self.jobs, jobs
        if before is not None:
            await self.in_thread(before.close)

    async def run(self) -> SiteEnd:
        """Do one job after the other; return why the agent ends.

        Raises:
            RunError: A job or the log can't be written.
        """
        while True:
            waiting = [await self._tasks.get()]
            while not self._tasks.empty():
                waiting.append(self._tasks.get_nowait())
            tasks = [place for place, (_, message) in enumerate(waiting) if isinstance(message, Task)]
            last = tasks[-1] if tasks else 0
            for place, (jobs, message) in enumerate(waiting):
                if jobs is None or jobs is not self.jobs:
                    continue  # a message of another run
                try:
                    if isinstance(message, Task):
                        await (self._done(jobs, message) if place == last else self.in_thread(jobs.receive, message))
                    elif place >= last and isinstance(message, Answer):
                        await self._answered(jobs, message)
                    elif place >= last and not isinstance(message, Answer):
                        await self._summed(jobs, message)
                except LinkClosedError:
                    pass  # the update is kept, and sent when the coordinator asks for the job again
                except WireError as wrong:
                    self.fault = wrong
                    self._say("wrong_message", str(wrong), message.job, getattr(message, "version", None))
                    await self._disconnect()
                except RunRefusedError as refused:
                    return SiteEnd(refused.code, str(refused))

    async def _done(self, jobs: RunJobs, task: Task) -> None:
        try:
            new = jobs.check(task)
        except OldVersionError as old:
            await self._declined(jobs, task, str(old))
            return
        if new:
            if not self._allowance.allows(jobs.welcome.run, task.job, self._clock()):
                self.waiting = True
                if self.connection is not None:
                    await self.connection.send(Leave(False, "This site lets no further job leave today."))
                await self._disconnect()
                return
            if jobs.fresh and task.job > 1:
                self._say(
                    "begun_anew",
                    f"This site has no state of the jobs before job {task.job}; it begins anew.",
                    task.job,
                    None,
                )
            await self._trained(jobs, task)
        else:
            await self.in_thread(jobs.receive, task)
        if self.jobs is not jobs or self.connection is None:
            return
        message = jobs.answer()
        if isinstance(message, Failed):
            self._say("failed", f"Job {message.job} has no update: {jobs.kept.failed}", message.job, None)
        else:
            self._allowance.count(jobs.welcome.run, message.job, self._clock())
            event, text = LEAVING[type(message)]
            self._say(event, text.format(message.job), message.job, message.version)
            if isinstance(message, JobDone) and not message.fits:
                self._say("failed", f"Its update is left out of the sum: {jobs.kept.beyond}.", message.job, None)
        await self.connection.send(message)

    async def _answered(self, jobs: RunJobs, answer: Answer) -> None:
        """Send the update of a job, if the answer to its bid asks for it."""
        message = jobs.update_for(answer)
        if message is not None and self.connection is not None:
            self._say("sent", f"The update of job {message.job} leaves.", message.job, message.version)
            await self.connection.send(message)
        elif not answer.send:
            text = f"The coordinator does not want the update of job {answer.job}: its budget is for others."
            self._say("not_taken", text, answer.job, None)

    async def _summed(self, jobs: RunJobs, asked: Invitation | SumRequest) -> None:
        """Take a step in a secure sum, and send the message that comes of it."""
        message = await self.in_thread(jobs.summed, asked)
        if isinstance(message, Declined):
            self._say("declined", f"It takes no part in the sum of job {asked.job}: {message.reason}", asked.job, None)
        for wrong in [] if jobs.sums is None else jobs.sums.faults:
            self._say("wrong_message", wrong, asked.job, None)
        if self.jobs is jobs and self.connection is not None:
            await self.connection.send(message)

    async def _declined(self, jobs: RunJobs, task: Task, why: str) -> None:
        # A coordinator that was killed between two merges gives jobs again whose updates it had, and whose agents have
        # gone on. Without an answer it would send such a task at each connection, and the job would never end.
        self._say("failed", f"Job {task.job} has no update: {why}", task.job, task.version)
        if self.connection is not None:
            with suppress(LinkClosedError):
                await self.connection.send(jobs.declined(task, why))

    async def _trained(self, jobs: RunJobs, task: Task) -> None:
        verdict = jobs.verdict(task)
        self._training = task.job
        self._say("training", f"Job {task.job}: {task.steps} local steps.", task.job, task.version)
        beating = asyncio.ensure_future(self._beat(jobs, task.job))
        try:
            kept = await self.in_thread(jobs.train, task, verdict)
            async with self.storing:
                await asyncio.shield(self.in_thread(jobs.keep, kept))
        finally:
            self._training = None
            beating.cancel()

    async def _beat(self, jobs: RunJobs, job: int) -> None:
        """Say again and again how far a job is. The coordinator decides when it takes that for a hang."""
        while True:
            await asyncio.sleep(max(jobs.welcome.beat_s, SHORTEST_BEAT_S))
            if self.connection is not None:
                with suppress(LinkClosedError, RunError):  # a log that can't be written fails the job itself, too
                    await self.connection.send(Beat(job, jobs.progress() % (LARGEST_INT + 1)))

    async def _disconnect(self) -> None:
        if self.connection is not None:
            await self.connection.close()

    async def in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function in the thread of the agent."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)
