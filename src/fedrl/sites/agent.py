"""The agent of a site: it connects to the coordinator, trains what it is asked to, and survives cuts and restarts.

    connect --Hello--> Welcome --compile--> Ready --> Task --train in a thread, keep on disk--> Sent, again and again
       ^ back-off                                                                                 |
       +--------------------- the connection ends, or Stop says to connect again -----------------+

A job outlives its connection: training goes on while the agent connects again, and the update is sent when the
coordinator asks for the job the next time. What the coordinator says is checked, and a message that can't be right ends
the connection, never the process.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from fedrl.core.errors import WireError
from fedrl.core.types import PyTree
from fedrl.federation.federation import Federation
from fedrl.federation.wire_digest import as_json, wire_digest
from fedrl.network.sum_terms import signer_of, terms_of
from fedrl.records.lock import hold
from fedrl.secure.ckks import EncryptionKey
from fedrl.sites.connection import Connection, expected, largest_broadcast
from fedrl.sites.job_loop import JobLoop, SiteEnd
from fedrl.sites.jobs import RunJobs, RunRefusedError, check_welcome, rehearse, setting_for
from fedrl.sites.memory import RunMemory, last_run, make_folder
from fedrl.sites.policy import Allowance, MayLeave, check_federation, leaving_of
from fedrl.sites.sent_log import NAME, SentLog
from fedrl.sites.summing import SiteSums
from fedrl.transport.notices import NetworkNotice, as_text
from fedrl.transport.seam import LinkClosedError, LinkRefusedError, Transport
from fedrl.wire.protocol import (
    Answer,
    Bid,
    Hello,
    Leave,
    Message,
    Pause,
    Ready,
    Resume,
    Sent,
    Stop,
    Taken,
    Task,
    Welcome,
)
from fedrl.wire.secure_sum import Credential, Invitation, JobDone, SumRequest

HEARD = (Task, Answer, Invitation, SumRequest, Taken, Pause, Resume, Stop)
"""The kinds of messages that may come to an agent that is ready."""
ANSWER_S = 60.0
"""Seconds that a coordinator may take to answer `Hello`."""
LEAVE_S = 2.0
"""Seconds that an agent that is stopped gives its last message."""


class Backoff(NamedTuple):
    """The pauses between two attempts to connect: each twice as long as the one before, times a random 0.5 to 1.5."""

    first_s: float = 0.5
    most_s: float = 60.0


def ignore(notice: NetworkNotice) -> None:
    """Take a notice and do nothing."""
    del notice


class SiteAgent:
    """The agent of one site.

    Args:
        federation: Federation of the site, from its own configuration.
        setting_of: `number -> parameters of the environment` of the agent with this number.
        transport: How to reach the coordinator.
        address: Its address.
        folder: Folder for what the agent keeps; one agent at a time uses it.
        may_leave: What may leave the site.
        seed: Seed of the run, only for runs that are replayable.
        give_up_s: Seconds without a coordinator after which the agent ends; by default it never does.
        backoff: Pauses between attempts to connect.
        notice: Called with each event.
        clock: Time in seconds since 1970.
        options: Options of the executor, such as `workers` for environments on the host.
        bids: Reports that an agent says in a bid before its update, `UploadBudget.requested` of the experiment's upload
            budget; None without a budget.
        encryption_key: The key that all agents share and the coordinator lacks, for sums with protocol "ckks".

    Raises:
        ConfigError: The federation would let out what `may_leave` does not allow, hides updates in sums and the
            transport has no certificates for that, or `encryption_key` is missing or not needed.
        UnsoundError: It hides updates in sums by a protocol that does not go over a network.

    >>> import tempfile
    >>> from fedrl.aggregators import mean
    >>> from fedrl.environments import gridworld
    >>> from fedrl.federation.federate import federate
    >>> from fedrl.learners import q_table
    >>> from fedrl.transport.local import LocalTransport
    >>> world, folder = gridworld(), Path(tempfile.mkdtemp())
    >>> federation = federate(q_table(world), mean())
    >>> agent = SiteAgent(federation, lambda number: world.params, LocalTransport("a"), "nobody", folder, give_up_s=0)
    >>> asyncio.run(agent.run()).code
    'gone'
    """

    def __init__(
        self,
        federation: Federation,
        setting_of: Callable[[int], PyTree],
        transport: Transport,
        address: str,
        folder: Path,
        may_leave: MayLeave | None = None,
        *,
        seed: int | None = None,
        give_up_s: float = math.inf,
        backoff: Backoff | None = None,
        notice: Callable[[NetworkNotice], None] = ignore,
        clock: Callable[[], float] = time.time,
        options: Mapping[str, Any] | None = None,
        bids: tuple[str, ...] | None = None,
        encryption_key: EncryptionKey | None = None,
    ) -> None:
        self._may_leave, self._bids = MayLeave() if may_leave is None else may_leave, bids
        check_federation(self._may_leave, federation, leaving_of(federation, bids))
        self._federation, self._setting_of, self._transport = federation, setting_of, transport
        self._address, self._folder, self._seed, self._options = address, folder, seed, dict(options or {})
        self._give_up_s, self._backoff = give_up_s, Backoff() if backoff is None else backoff
        self._notice, self._clock = notice, clock
        self._digest = wire_digest(federation, federation.learner.environment.params, bids)
        self._largest = largest_broadcast(federation)
        self._signer = signer_of(federation, transport, encryption_key)
        self._steps_per_s: float | None = None
        self._stopped, self._welcomed, self._stop_why = asyncio.Event(), False, ""

    async def run(self) -> SiteEnd:
        """Serve the coordinator until the end, and return why it came.

        Raises:
            RunError: The folder is in use, damaged or can't be written.
            ConfigError: The training of the first local step failed.
        """
        make_folder(self._folder)
        held = hold(self._folder, "site")
        # One thread for all that blocks: environments on the host belong to the thread that steps them.
        thread = ThreadPoolExecutor(1, "agent")
        try:
            self._log = SentLog(self._folder / NAME)
            allowance = Allowance(self._may_leave.rounds_a_day)
            for record in self._log.records:
                if record.kind in (Sent.__name__, Bid.__name__, JobDone.__name__):
                    allowance.count(record.run, record.job, record.time)
            self._log.records.clear()
            self._allowance, self._work = allowance, JobLoop(thread, allowance, self._clock, self._say)
            try:
                return await self._until_end()
            finally:
                self._log.close()
                if self._work.jobs is not None:
                    thread.submit(self._work.jobs.close)
        finally:
            thread.shutdown(wait=False)
            held.release()

    def stop(self, why: str = "") -> None:
        """End the agent: a job in training is given up, and trained again after the next start.

        Call it in the thread of the event loop.
        """
        self._stop_why = why
        self._stopped.set()

    async def _until_end(self) -> SiteEnd:
        loops = [asyncio.ensure_future(each) for each in (self._connected(), self._work.run(), self._stopped.wait())]
        try:
            await asyncio.wait(loops, return_when=asyncio.FIRST_COMPLETED)
            for loop in loops[:2]:
                if loop.done():
                    ended = loop.result()
                    assert isinstance(ended, SiteEnd)
                    return self._ended(ended)
            await self._left()
            return self._ended(SiteEnd("interrupted", self._stop_why or "The agent was stopped."))
        finally:
            async with self._work.storing:  # a job that is being stored is stored
                for loop in loops:
                    loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)

    def _ended(self, end: SiteEnd) -> SiteEnd:
        self._say("ended", end.why)
        return end

    async def _left(self) -> None:
        """Wait until a job that is being stored is stored, and take leave."""
        async with self._work.storing:
            if self._work.connection is not None:
                with suppress(LinkClosedError, TimeoutError):
                    await asyncio.wait_for(self._work.connection.send(Leave(False, self._stop_why)), LEAVE_S)
                    await asyncio.wait_for(self._work.connection.close(), LEAVE_S)

    # --- connections ---------------------------------------------------------------------------------------------

    async def _connected(self) -> SiteEnd:
        """Connect again and again, until the coordinator or this site ends it."""
        since, pause_s, why = time.monotonic(), self._backoff.first_s, "Nobody has answered."
        while True:
            await self._waited()
            self._work.fault, self._welcomed = None, False
            try:
                connection = Connection(
                    await self._transport.connect(self._address), self._log, self._largest, self._clock
                )
                try:
                    end = await self._session(connection)
                finally:
                    self._work.connection = None
                    await connection.close()
                if end is not None:
                    return end
            except LinkRefusedError as refused:
                return SiteEnd("refused", str(refused))
            except LinkClosedError as closed:
                why = self._why(closed)
            except WireError as wrong:
                self._work.fault, why = wrong, str(wrong)
                self._say("wrong_message", why)
            if self._went_well:
                since, pause_s = time.monotonic(), self._backoff.first_s
            if time.monotonic() - since >= self._give_up_s:
                return SiteEnd(
                    "gone", f"There was no coordinator for {self._give_up_s:g} seconds. The last attempt: {why}"
                )
            # At random, so that agents that were cut off together don't all come back together.
            wait_s = pause_s * random.uniform(0.5, 1.5)
            self._say("disconnected", f"{why} The next attempt to connect to {self._address} is in {wait_s:.1f} s.")
            await asyncio.sleep(wait_s)
            pause_s = min(2 * pause_s, self._backoff.most_s)

    @property
    def _went_well(self) -> bool:
        """Whether the last session was one of a coordinator that said nothing wrong."""
        return self._welcomed and self._work.fault is None

    def _why(self, closed: LinkClosedError) -> str:
        return str(closed if self._work.fault is None else self._work.fault)

    async def _waited(self) -> None:
        """Wait for the next day, if the site lets no further job leave today."""
        if self._work.waiting:
            wait_s = self._allowance.wait_s(self._clock())
            until = as_text(self._clock() + wait_s)
            self._say(
                "waiting", f"This site lets {self._may_leave.rounds_a_day} jobs a day leave, and waits until {until}."
            )
            await asyncio.sleep(wait_s)
            self._work.waiting = False

    async def _session(self, connection: Connection) -> SiteEnd | None:
        """Serve one connection; return why the agent ends, or None to connect again."""
        await connection.send(await asyncio.to_thread(self._hello))
        try:
            first = expected(await asyncio.wait_for(connection.receive(), ANSWER_S), Welcome, Stop)
        except TimeoutError:
            raise WireError(f"The coordinator has not answered for {ANSWER_S:g} s. Is it a coordinator?") from None
        if isinstance(first, Stop):
            return self._stopped_by(first)
        assert isinstance(first, Welcome)
        try:
            await self._admitted(first)
        except RunRefusedError as refused:
            await connection.send(Leave(False, refused.code))
            return SiteEnd(refused.code, str(refused))
        connection.run, self._welcomed = first.run, True
        self._say("connected", f"It is agent {first.agent} of {first.agents} in the run {first.name!r}.")
        self._work.connection = connection
        speed = self._steps_per_s if self._may_leave.capacity else None
        assert self._work.jobs is not None
        copy = await asyncio.to_thread(lambda jobs: jobs.copy_id, self._work.jobs)
        if self._work.jobs.sums is not None:
            connection.allow(self._work.jobs.sums.largest_request)
            await connection.send(Credential(self._work.jobs.sums.credential))
        await connection.send(Ready(math.nan if speed is None else speed, *copy))
        self._say("ready", "Its programs are compiled; it waits for a job.")
        while True:
            end = self._heard(expected(await connection.receive(), *HEARD))
            if isinstance(end, SiteEnd):
                return end
            if end:
                return None

    def _hello(self) -> Hello:
        run, job, term = last_run(self._folder), 0, 0
        jobs = self._work.jobs
        if jobs is not None:
            run, job, term = jobs.welcome.run, jobs.kept.job, jobs.welcome.term
        elif run:
            memory = RunMemory(self._folder, run, self._digest.digest)
            facts = memory.facts()
            job, term = memory.last_job(), 0 if facts is None else facts.term
        return Hello(run, job, term, json.dumps(as_json(self._digest)).encode())

    async def _admitted(self, welcome: Welcome) -> None:
        """Open the run, and compile its programs the first time.

        Raises:
            WireError: The coordinator contradicts itself.
            RunRefusedError: This site takes no part in such a run.
        """
        before = self._work.jobs
        if before is not None and before.welcome.run == welcome.run:
            before.check_again(welcome)
            return
        check_welcome(welcome, None)  # before a folder is named after it, and a setting looked up
        await self._work.replaced(await self._work.in_thread(self._opened, welcome, self._setting(welcome)))
        if self._steps_per_s is None:
            self._say("compiling", "It compiles its programs.")
            arguments = (self._federation, self._setting(welcome), self._may_leave.capacity, self._options)
            self._steps_per_s = await self._work.in_thread(rehearse, *arguments)

    def _setting(self, welcome: Welcome) -> PyTree:
        return setting_for(welcome, self._setting_of)

    def _opened(self, welcome: Welcome, setting: PyTree) -> RunJobs:
        memory = RunMemory(self._folder, welcome.run, self._digest.digest)
        given = (self._may_leave, self._seed, self._options, self._bids)
        sums = None
        if self._signer is not None:
            terms = terms_of(self._federation, welcome.run, welcome.agents, self._digest.digest)
            sums = SiteSums(welcome.agent, terms, *self._signer, memory)
        return RunJobs(self._federation, setting, welcome, memory, *given, sums)

    def _heard(self, message: Message) -> SiteEnd | bool:
        """Act on a message; return why the agent ends, or whether to connect again."""
        if isinstance(message, Task | Answer | Invitation | SumRequest):
            self._work.add(message)
        elif isinstance(message, Taken):
            said = f": {message.reason}" if message.reason else "."
            text = f"The coordinator has not taken the update of job {message.job} ({message.outcome}){said}"
            self._say("not_taken", text, job=message.job)
        elif isinstance(message, Stop):
            return self._stopped_by(message) or True
        else:
            paused = isinstance(message, Pause)
            self._say("paused" if paused else "resumed", "The run is paused." if paused else "The run goes on.")
        return False

    def _stopped_by(self, message: Stop) -> SiteEnd | None:
        if message.retry:
            self._say("disconnected", f"The coordinator ends the session ({message.code}): {message.why}")
            return None
        return SiteEnd(message.code, message.why)

    def _say(self, event: str, text: str, job: int | None = None, version: int | None = None) -> None:
        welcome = None if self._work.jobs is None else self._work.jobs.welcome
        run, agent = ("", None) if welcome is None else (welcome.run, welcome.agent)
        self._notice(NetworkNotice(self._clock(), event, text, run, agent, version, job))
