"""A small synchronous coordinator over links, made of a `ServerHalf`; and links that break, or kill, at one moment."""

import asyncio
import contextlib
import itertools

import jax
import numpy as np

from fedrl.core.keys import keys_of, noise_of_seed, server_secret
from fedrl.engines.down_content import DownCodec, DownContents
from fedrl.engines.down_messages import WHOLE
from fedrl.engines.halves import ServerHalf, Verdict
from fedrl.engines.inbox import Copied
from fedrl.transport.local import LocalTransport
from fedrl.transport.seam import LinkClosedError
from fedrl.wire.protocol import (
    Beat,
    Failed,
    Hello,
    Leave,
    Reader,
    Ready,
    Sent,
    Stop,
    Taken,
    Task,
    Welcome,
    sent,
)

RUN = "0123456789abcdef" * 2
ADDRESSES = itertools.count()
LARGEST = 1 << 24


class ScriptedCoordinator:
    """Asks agents whose names end in their numbers, merges what comes, and notes everything.

    `change(agent, message) -> message` may make a lie of anything that it sends. So many first updates of agent 0 as
    `losing` says are lost, with their connection, after they were noted. Its updates wait for `gate`, and `alter(agent,
    job, content)` is what arrives of an update.
    """

    def __init__(self, federation, fleet, seed=0, replayable=True, run=RUN, beat_s=5.0):
        keys, self.agents = keys_of(seed), jax.tree.leaves(fleet)[0].shape[0]
        setting = jax.tree.map(lambda x: x[0], fleet)
        steps = [federation.local_steps] * self.agents
        noise = noise_of_seed(keys) if replayable else None
        self.half = ServerHalf(federation, setting, steps, keys.run.tobytes(), server_secret(keys), noise)
        self.state = self.half.start()
        self.down = None if federation.downlink is None else DownCodec(federation, self.half.wire.sent)
        self.run, self.replayable, self.beat_s, self.term = run, replayable, beat_s, 0
        self.address = f"scripted-{next(ADDRESSES)}"
        self.jobs, self.settled = [0] * self.agents, [(0, "dropped")] * self.agents
        self.tasks, self.links = {}, {}
        self.heard, self.lost, self.updates, self.failed = [], [], {}, {}
        self.change = lambda agent, message: message
        self.end = Stop("The run is complete.", "done", False)
        self.ended, self.losing = False, 0
        self.gate, self.alter = asyncio.Event(), lambda agent, job, content: content
        self.gate.set()
        self._news = asyncio.Event()

    @contextlib.asynccontextmanager
    async def listening(self, transport=None, address=None):
        transport = LocalTransport() if transport is None else transport
        listener = await transport.listen(self.address if address is None else address, self.session)
        self.address = listener.address
        try:
            yield self
        finally:
            await listener.close()

    async def session(self, link):
        agent = int(link.peer.rpartition("-")[2])
        reader = Reader(LARGEST, (Hello, Ready, Beat, Sent, Failed, Leave))
        with contextlib.suppress(LinkClosedError):
            while True:
                message = reader.take(await link.receive())
                if message is not None:
                    self.heard.append((agent, message))
                    if not await self.answered(agent, link, message):
                        return
                    self._news.set()

    async def answered(self, agent, link, message):
        if isinstance(message, Hello):
            where = (self.run, "scripted", agent, self.agents, int(self.state.server.version), self.term)
            await self.say(agent, link, Welcome(*where, self.replayable, self.beat_s))
        elif isinstance(message, Ready):
            self.links[agent] = link
            if agent in self.tasks:
                await self.say(agent, link, self.tasks[agent])
            elif self.ended:
                await self.say(agent, link, self.end)
        elif isinstance(message, Sent):
            return await self.took(agent, link, message)
        elif isinstance(message, Failed):
            self.failed[agent, message.job] = message.reason
            self.here.add(agent)
        elif isinstance(message, Leave):
            self.links.pop(agent, None)
            return False
        return True

    async def took(self, agent, link, message):
        if agent == 0:
            await self.gate.wait()
        known = self.updates.setdefault((agent, message.job), [])
        known.append(message.content)
        if agent == 0 and self.losing:
            self.losing -= 1
            known.remove(message.content)
            self.lost.append(message.content)
            return False
        due = agent in self.tasks and message.job == self.tasks[agent].job
        outcome, why = ("taken" if len(known) == 1 else "known") if due else "late", ""
        if due and len(known) == 1:
            why = self.version.take(agent, self.alter(agent, message.job, message.content))
            outcome = "refused" if why else outcome
        if outcome != "taken":
            await self.say(agent, link, Taken(message.job, outcome, why))
        if due:
            self.here.add(agent)
        return True

    async def say(self, agent, link, message):
        message = self.change(agent, message)
        for frame in sent(message) if message is not None else ():
            await link.send(frame)

    async def round(self, ordered=None, without=()):
        """Ask for a version and merge it; agents in `without` are asked, and not waited for."""
        self.version = self.half.open(self.state, ordered)
        self.here = set(without)
        for agent, order in self.version.orders.items():
            self.jobs[agent] += 1
            told = (order.version, order.cohort, order.steps, order.share, *self.settled[agent])
            self.tasks[agent] = Task(self.jobs[agent], *told, *self.contents())
            with contextlib.suppress(LinkClosedError):
                if agent in self.links:
                    await self.say(agent, self.links[agent], self.tasks[agent])
        while not self.here >= set(self.version.orders):
            self._news.clear()
            await self._news.wait()
        closed = self.version.close()
        for agent, verdict in closed.verdicts.items():
            if verdict is not Verdict.DROPPED:
                self.settled[agent] = (self.jobs[agent], verdict.value)
        self.tasks, self.state = {}, closed.run
        return closed

    def contents(self):
        """The content of a task, and under down stages the number of the copy, which is sent whole."""
        if self.down is None:
            return (self.version.broadcast,)
        copy, sent = self.state.server.down, jax.tree.map(np.asarray, self.version.sent)
        copied = jax.tree.map(np.asarray, Copied(copy.number, 0, (copy.held,), (), 0.0))
        contents = DownContents(self.down, sent, copied, lambda number: None)
        return contents.encoded(WHOLE)[0], contents.number

    async def done(self):
        self.ended = True
        for agent, link in self.links.items():
            with contextlib.suppress(LinkClosedError):
                await self.say(agent, link, self.end)


class KilledError(BaseException):
    """The process ends here."""


class Moments:
    """Counts what happens, and acts at one moment: "cut" closes the connection, "kill" ends the process."""

    def __init__(self, at=None, action="cut"):
        self.at, self.action, self.count = at, action, 0

    def passed(self):
        """Return whether this is the moment to cut."""
        self.count += 1
        if self.count - 1 != self.at:
            return False
        if self.action == "kill":
            raise KilledError
        return True


class FragileTransport(LocalTransport):
    """A transport whose links obey `Moments`, before and after each frame."""

    def __init__(self, name, moments):
        super().__init__(name)
        self.moments = moments

    async def connect(self, address):
        if self.moments.passed():
            raise LinkClosedError("The wire is cut.")
        return FragileLink(await super().connect(address), self.moments)


class FragileLink:
    def __init__(self, link, moments):
        self.link, self.moments = link, moments

    @property
    def peer(self):
        return self.link.peer

    async def send(self, frame):
        await self.pass_on()
        await self.link.send(frame)
        await self.pass_on()

    async def receive(self):
        frame = await self.link.receive()
        await self.pass_on()
        return frame

    async def pass_on(self):
        if self.moments.passed():
            await self.link.close()
            raise LinkClosedError("The wire is cut.")

    async def close(self):
        await self.link.close()
