"""Agents at other sites, as tasks of a coordinator's event loop: the half of an agent, and the dialogue around it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import jax

from fedrl.core.keys import agent_secret, keys_of, noise_of_seed
from fedrl.core.summation import hidden
from fedrl.engines.halves import AgentHalf, Order, Verdict
from fedrl.federation.wire_digest import as_json, wire_digest
from fedrl.network.sum_terms import terms_of
from fedrl.secure.credential import SumSigner
from fedrl.secure.orders import NO_SUM
from fedrl.sites.jobs import reader_of
from fedrl.sites.memory import Kept, RunMemory
from fedrl.sites.summing import SiteSums
from fedrl.transport.local import LocalTransport
from fedrl.transport.seam import LinkClosedError
from fedrl.wire.protocol import Answer, Bid, Failed, Hello, Reader, Ready, Sent, Stop, Task, Welcome, sent
from fedrl.wire.secure_sum import Credential, Invitation, SumRequest
from tests.support.certified import credentials


class DistantAgent:
    """An agent of a federation, with the keys of a simulation of the same seed.

    Attributes:
        sent: Jobs for which it has sent an update or a bid.
        asked: Jobs whose update was asked for, under an upload budget.
        trained: Jobs for which it has trained.
        told: The messages it has received, by type name.
        replies: Its answers in secure sums.
        contents: The contents of tasks that it has read, under down stages.
    """

    def __init__(
        self, federation: Any, fleet: Any, number: int, seed: int, address: str, bids: Any = None, **behaviour: Any
    ) -> None:
        keys = keys_of(seed)
        self.setting = jax.tree.map(lambda x: x[number], fleet)
        secret = agent_secret(keys, number)
        run, noise = keys.run.tobytes(), noise_of_seed(keys)
        vectors = hidden(federation.summation) is not None
        self.half = AgentHalf(federation, number, self.setting, run, secret, bids=bids, noise=noise, vectors=vectors)
        self.sums, self.replies, self.last_sum = None, [], NO_SUM
        self.bids, self.asked = bids, []
        self.federation, self.number, self.address = federation, number, address
        self.run, self.kept = self.half.start(), None
        self.reader, self.copy = reader_of(federation), None
        self.sent, self.trained, self.told, self.contents = [], [], [], []
        self.behaviour = behaviour
        self.ended: Stop | None = None

    async def live(self) -> None:
        """Connect, take part, connect again, until the coordinator says that it is done."""
        while self.ended is None or self.ended.retry:
            try:
                link = await LocalTransport(f"site-{self.number}").connect(self.address)
                await self.session(link)
            except LinkClosedError:
                pass
            await asyncio.sleep(0.01)

    async def session(self, link: Any) -> None:
        digest = as_json(wire_digest(self.federation, self.setting, self.bids))
        await self.say(link, Hello("", 0, 0, json.dumps(digest).encode()))
        reader = Reader(1 << 24)
        while True:
            message = reader.take(await link.receive())
            if message is None:
                continue
            self.told.append(message)
            if isinstance(message, Welcome):
                if self.half.vectors:
                    self.sums = self.sums or self.summing(message)
                    await self.say(link, Credential(self.sums.credential))
                copy = () if self.copy is None else self.reader.wire.id_of(self.copy)
                await self.say(link, Ready(self.behaviour.get("steps_per_s", float("nan")), *copy))
            elif isinstance(message, Stop):
                self.ended = message
                await link.close()
                return
            elif isinstance(message, Task):
                await self.work(link, message)
            elif isinstance(message, Invitation | SumRequest):
                await self.summed(link, message)
            elif isinstance(message, Answer) and message.send and self.kept[0][0] == message.job:
                await self.answer(link, message)

    def summing(self, welcome: Welcome) -> SiteSums:
        """Its part in the secure sums of a run, with the certificates and the folder that its behaviour names."""
        digest = wire_digest(self.federation, self.setting, self.bids).digest
        terms = terms_of(self.federation, welcome.run, welcome.agents, digest)
        mine = credentials(self.behaviour["certificates"], f"site-{self.number}")
        memory = RunMemory(self.behaviour["folder"] / f"site-{self.number}", welcome.run, digest)
        signer = SumSigner(mine, self.behaviour.get("shared"))
        return SiteSums(welcome.agent, terms, signer, mine.ca, memory)

    async def summed(self, link: Any, message: Any) -> None:
        """Take a step in a secure sum, unless its behaviour does something else."""
        otherwise = self.behaviour.get("summed")
        if otherwise is not None and await otherwise(self, link, message):
            return
        reply = await asyncio.to_thread(self.reply, message)
        self.replies.append(reply)
        await self.say(link, reply)

    def reply(self, message: Any) -> Any:
        """Its answer in a secure sum."""
        return self.sums.reply(message, self.as_kept())

    def as_kept(self) -> Kept:
        """Its last job, as a site keeps it."""
        (job, version), turn, broadcast = *self.kept, self.broadcast
        vector = b"" if turn.vector is None else turn.vector.tobytes()
        told = {"order": self.order, "last_sum": self.last_sum}
        return Kept(self.run, job, version, vector=vector, broadcast=broadcast, **told)

    async def answer(self, link: Any, answer: Answer) -> None:
        """Send the update that was asked for."""
        known, found = self.kept
        if known not in self.asked:
            self.asked.append(known)
        withhold = self.behaviour.get("withhold")
        if withhold is None or not await withhold(self, link, answer):
            await self.say(link, Sent(*known, found.update))

    async def work(self, link: Any, task: Task) -> None:
        lose = self.behaviour.get("lose")
        if lose is not None and await lose(self, link, task):
            return
        known, broadcast = (task.job, task.version), task.content
        if self.reader is not None:
            self.contents.append(task.content)
            broadcast, self.copy = self.reader.read(task.content, self.copy, task.copy, task.ahead)
        if self.kept is None or self.kept[0] != known:
            if self.kept is not None:
                verdict = Verdict(task.verdict) if task.settled == self.kept[0][0] else Verdict.DROPPED
                self.run = self.half.settle(self.run, verdict)
                if self.sums is not None:
                    self.last_sum = self.sums.last_sum(self.as_kept(), verdict is Verdict.MERGED)
            order = Order(task.version, task.cohort, task.steps, task.share)
            found = await asyncio.to_thread(self.half.train, self.run, broadcast, order)
            self.run, self.kept = found.run, (known, found)
            self.broadcast, self.order = self.half.digest_of(broadcast), (task.steps, task.share)
            self.trained.append(known)
        act = self.behaviour.get("act")
        if act is not None and await act(self, link, task):
            return
        found = self.kept[1]
        if found.failed:
            await self.say(link, Failed(task.job, found.failed))
        elif self.half.vectors:
            await self.say(link, self.sums.done(self.as_kept()))
        elif self.bids is not None:
            await self.say(link, Bid(task.job, task.version, found.bid))
        else:
            await self.say(link, Sent(task.job, task.version, found.update))
        self.sent.append(known)

    async def say(self, link: Any, message: Any) -> None:
        for frame in sent(message):
            await link.send(frame)
