"""The executor of agents at other sites: it gives them tasks, reads their updates, and tells them what became of these.

    assign(jobs, table)   one task per agent: its broadcast, its order, and the verdict on its job before
    receive(update)       decode, compare with what the server knows (`fedrl.federation.trust`), add up
    train(ids)            the sums or updates of these agents, which have arrived
    give_back, cancel     verdicts: rejected, dropped

Under an upload budget a bid takes the place of the update in all of these, and `after_bids` asks for the updates that
were selected. Where sums hide updates, the message that a job is done takes its place, and `open_sums` carries out the
protocol: no update is ever here.

Nothing that the server knows itself is taken from a message: sender, version, weight and steps follow from the order.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from fedrl.clocks.events import NOBODY, Jobs
from fedrl.core.errors import ConfigError, WireError
from fedrl.core.keys import Keys
from fedrl.core.types import Broadcast, Params, PyTree, Update
from fedrl.engines.down_content import DownContents
from fedrl.engines.executors.executor import Executor
from fedrl.engines.executors.records import AfterBids, Agents, Learned, OpenedUpdates, Team
from fedrl.engines.halves.adding import Adding, compile_reading, lanes, reading
from fedrl.engines.halves.orders import Verdict
from fedrl.engines.inbox import PARAMS, SUMS, Inbox, PartialSums, Table
from fedrl.engines.messages import Upload, messages
from fedrl.engines.state import Rejection, starting
from fedrl.federation.federation import AgentState, ServerState
from fedrl.federation.shares import shares
from fedrl.federation.trust import lie, weight_of
from fedrl.federation.wire_digest import wire_digest
from fedrl.network.bridge import Bridge
from fedrl.network.clock import RealClock
from fedrl.network.known_bids import KnownBids
from fedrl.network.known_copies import KnownCopies, no_copies, row_of
from fedrl.network.news import AgentNews
from fedrl.network.roster import Roster
from fedrl.network.sessions import Given
from fedrl.network.sum_terms import certified, code_count, terms_of
from fedrl.network.summing import Sums
from fedrl.wire.codec import codec, is_sent
from fedrl.wire.frames import digest_of
from fedrl.wire.protocol import Task

MARGIN = 64
"""Bytes by which a message may exceed the largest valid update before it is refused unread."""
VERDICTS = tuple(verdict.value for verdict in Verdict)
MERGED, REJECTED = (VERDICTS.index(each.value) for each in (Verdict.MERGED, Verdict.REJECTED))


class Distant(NamedTuple):
    """Stands for the states of agents at other sites: NumPy arrays, `[agents]` each, that are updated in place.

    Attributes:
        jobs: Number of jobs that each agent has been given.
        ended: Number of its last job that has ended.
        settled: Number of its last job whose update arrived.
        verdict: Verdict on that job, an index into `VERDICTS`. Jobs after it that have ended were dropped.
        copies: Numbers and digests of the server's newest copies under down stages: `KnownCopies.newest`.
    """

    jobs: np.ndarray
    ended: np.ndarray
    settled: np.ndarray
    verdict: np.ndarray
    copies: tuple[np.ndarray, np.ndarray]


class Sites(Executor):
    """Agents at other sites."""

    resident = False
    elsewhere = True
    silent = True

    def __init__(
        self,
        *given: Any,
        bridge: Bridge,
        membership: Any,
        gather: int | None,
        patience_s: float,
        hang_s: float,
        **options: Any,
    ) -> None:
        super().__init__(*given)
        del options  # they are of executors that have environments
        federation = self.federation
        certificates = certified(federation, bridge.transport)
        if self.plan.collects == PARAMS:
            raise ConfigError(
                "The agents are at other sites, and the topology has no server, so there is nothing to coordinate. "
                "Use a topology with a server."
            )
        self.metrics = []
        self.plan = self.plan._replace(ahead=False)
        fleet = given[1]
        self.wire = messages(federation, fleet)
        self._broadcasts, self._sent_codec = codec(self.wire.sent), codec(self.wire.update)
        self._copies = None if federation.downlink is None else KnownCopies(federation, self.wire.sent)
        known = self.wire.up_bytes
        dense = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(self.wire.update))
        self._together, self._summed = lanes(self.wire.update, self.agents), self.plan.collects == SUMS
        self._read = reading(federation, self._summed)
        self._trusted_weight = any(stage.reweights for stage in federation.stages)
        self.bridge, self.roster = bridge, Roster(self.agents)
        everybody = self.agents if gather is None else gather
        takes = self._receive, self._announced, self._fail, self._drop
        self.clock = RealClock(bridge, self.roster, *takes, everybody, patience_s, hang_s)
        self.clock.copies = self._copies
        bids = self.plan.bids
        self._bids = None if bids is None else KnownBids(bids, self.wire, self.agents)
        bridge.observer.follow(self.clock)
        self._ordered: list[tuple[int, int]] = [(0, 0)] * self.agents  # version and steps of each agent's job
        self._received: list[Broadcast | None] = [None] * self.agents
        self._adding: dict[int, tuple[Adding, list[int]]] = {}  # by version
        self._sizes: dict[int, Upload] = {}
        self._failed: dict[int, str] = {}
        self._refused: dict[int, str] = {}
        self._distant: Distant | None = None
        self._sums: Sums | None = None
        largest = (dense if known is None else known) + MARGIN
        names, setting = None if bids is None else bids.names, jax.tree.map(lambda x: np.asarray(x)[0], fleet)
        membership = membership(federation, setting, self.agents, names)
        if certificates is None:
            bridge.serve(membership, self.agents, largest)  # agents connect and compile their own meanwhile
            compile_reading(self._read, self.wire.sent, self.wire.update, self._together)
            return
        terms = terms_of(federation, "", self.agents, wire_digest(federation, setting, names).digest)
        bridge.serve(membership, self.agents, terms.largest_reply(), certificates.ca)
        terms = terms._replace(run=bridge.run)
        self._sums = Sums(self.clock, terms, code_count(self.wire.decoded), federation.summation.phase_s)

    def start(
        self, keys: Keys, steps: np.ndarray, policy: Params | None = None, share: np.ndarray | None = None
    ) -> tuple[ServerState, Agents]:
        """Return the initial state of the server, and what stands for the agents."""
        share = shares(self.federation, steps) if share is None else share
        nobody: list[np.ndarray] = []
        begin = starting(self.federation, self._fleet, nobody, steps, self.devices, self.numbers, share)
        server, _ = begin(keys, policy)
        none = np.zeros(self.agents, np.int32)
        blocks: Any = (self._at(Distant(none, none.copy(), none.copy(), none.copy(), no_copies())),)
        return server, Agents(blocks, self.team(steps, share, np.zeros((0, 0), np.uint32)))

    def assign(self, agents: Agents, jobs: Jobs, table: Table) -> Agents:
        """Give agents their tasks."""
        agents = super().assign(agents, jobs, table)
        ids, distant = jobs.agent, self._at(_distant(agents))
        distant.jobs[ids] += 1
        tasks, encoded = [], dict[int, tuple[Broadcast, bytes | DownContents]]()
        for row in np.unique(jobs.row).tolist():
            sent = row_of(table.sent, row)
            encoded[row] = sent, self._broadcasts.encode(sent) if self._copies is None else self._copies.of(table, row)
            if self._sums is not None:
                told = distant.settled, distant.verdict == MERGED
                self._sums.heard(int(sent.version), self._broadcasts.encode(sent), *told)
        digests = {row: digest_of(x) for row, (_, x) in encoded.items() if isinstance(x, bytes)}
        for i, agent in enumerate(ids.tolist()):
            row = int(jobs.row[i])
            self._received[agent], content = encoded[row]
            tasks.append(self._task(agents.team, distant, agent, content, digests.get(row, b"")))
        self.roster.begin(ids, distant.jobs[ids], agents.team.steps[ids], time.monotonic(), agents.team.share[ids])
        self.bridge.version = max([self.bridge.version, *agents.team.version[ids].tolist()])
        self.bridge.give(tasks)
        return agents

    def _at(self, distant: Distant) -> Distant:
        """Continue from a state of the agents."""
        self._distant = distant
        if self._copies is not None:
            self._copies.newest = distant.copies
        return distant

    def _task(self, team: Team, distant: Distant, agent: int, content: bytes | DownContents, digest: bytes) -> Given:
        version, steps = int(team.version[agent]), int(team.steps[agent])
        self._ordered[agent] = version, steps
        down = content if isinstance(content, DownContents) else None
        task = Task(
            job=int(distant.jobs[agent]),
            version=version,
            cohort=int(team.cohort[agent]),
            steps=steps,
            share=float(team.share[agent]),
            settled=int(distant.settled[agent]),
            verdict=VERDICTS[int(distant.verdict[agent])] if distant.settled[agent] else "",
            content=b"" if isinstance(content, DownContents) else content,
            copy=0 if down is None else down.number,
            ahead=0.0 if down is None else down.ahead,
        )
        return agent, task, digest if down is None else down

    def _announced(self, news: AgentNews) -> str:
        """Take a bid, or that a job is done, and return why it is refused, or ""."""
        if self._sums is None:
            return self._bid(news.agent, news.version, news.content)
        why = self._sums.why_not(news, self._ordered[news.agent][0])
        if why:
            return self._refuse(news.agent, why, 0)
        self._sizes[news.agent] = self._upload(0, True, self._silent())
        return ""

    def _bid(self, agent: int, version: int, content: bytes) -> str:
        """Take the bid of an agent, and return why it is refused, or ""."""
        if self._bids is None:
            return self._refuse(agent, "it made a bid, and nobody asked for one", len(content))
        found = self._bids.take(agent, self._ordered[agent][0], version, content)
        if isinstance(found, str):
            return self._refuse(agent, found, len(content))
        report = self._silent() | {name: np.float32(x) for name, x in found.report.items()}
        self._sizes[agent] = self._upload(found.size_bytes, True, report)
        return ""

    def _refuse(self, agent: int, why: str, size: int) -> str:
        """Note a message that is refused: it is counted with its bytes, as one that reports nothing."""
        self._refused[agent] = why
        self._sizes[agent] = self._upload(size, True, self._silent())
        return why

    def _silent(self) -> dict[str, Any]:
        return {name: np.float32(np.nan) for name in self.federation.reports}

    def _receive(self, agent: int, version: int, content: bytes) -> str:
        """Take the update of an agent, and return why it is refused, or ""."""
        ordered, steps = self._ordered[agent]
        if self._bids is not None and agent not in self._bids:
            return self._refuse(agent, "it sent its update before it was asked for", len(content))
        try:
            update: Update = (
                self._sent_codec.decode(content) if self._bids is None else self._bids.whole(agent, content)
            )
            why = lie(self.federation, update, ordered, steps)
        except WireError as fault:
            why = f"it can't be read: {fault}"
        if not why and version != ordered:
            why = f"it says that it is of version {version}, and {ordered} was sent"
        if why:
            # After a bid, the bid is counted.
            return self._refuse(agent, why, len(content)) if self._bids is None else why
        if not self._trusted_weight:
            # The weight follows from the ordered steps; the agent's own counts only where a stage may change it.
            weight: Any = np.float32(weight_of(self.federation, steps))
            update = update._replace(weight=weight)
        received = self._received[agent]
        assert received is not None
        if ordered not in self._adding:
            self._adding[ordered] = Adding(self._read, received, self._together), []
        adding, whose = self._adding[ordered]
        adding.add(update)
        whose.append(agent)
        if self._bids is not None:
            return ""
        said = is_sent(update)
        self._sizes[agent] = self._upload(
            len(content), said, {name: np.float32(x) for name, x in update.report.items()}
        )
        return ""

    def _upload(self, size: int, said: Any, report: dict[str, Any]) -> Upload:
        """Return size and reports of an update, in the form of `wire.upload`."""
        like = self.wire.upload
        return Upload(
            () if isinstance(like.size_bytes, tuple) else np.uint32(size),
            () if isinstance(like.messages, tuple) else np.int32(said),
            report,
        )

    def rejection_of(self, agent: int) -> str:
        """Return why the message of an agent was refused."""
        return self._refused.pop(agent)

    def _fail(self, agent: int, reason: str) -> None:
        self._failed[agent] = f"its training failed: {reason}" if reason else "its training failed"

    def _drop(self, ids: np.ndarray) -> None:
        """Note that the jobs of these agents were dropped."""
        if self._distant is not None and len(ids):
            self._distant.ended[ids] = self._distant.jobs[ids]

    def _settle(self, distant: Distant, ids: np.ndarray, verdict: int) -> None:
        distant.settled[ids], distant.verdict[ids] = distant.jobs[ids], verdict
        distant.ended[ids] = distant.jobs[ids]

    def train(
        self, keys: Keys, agents: Agents, ids: np.ndarray, table: Table, fillers: np.ndarray = NOBODY
    ) -> tuple[Agents, Learned]:
        """Return what these agents have sent."""
        del keys, table, fillers
        distant = _distant(agents)
        if len(ids) and int(ids[0]) in self._refused:
            # They have trained: they keep what they have learned, and their stages forget it.
            self._settle(distant, ids, REJECTED)
            return agents, Learned(ids, (), [], self._uploads(ids), {}, (), [ids])
        failed = tuple(Rejection(agent, self._failed.pop(agent)) for agent in sorted(self._failed))
        lost = np.array([agent for agent, _ in failed], int)
        self._settle(distant, ids, MERGED)
        self._settle(distant, lost, REJECTED)
        if self._bids is not None or self._sums is not None:
            came = ids[~np.isin(ids, lost)]  # they keep their updates until they are asked for them, or for good
            return agents, Learned(came, (), [], self._uploads(came), {}, failed, [came])
        block_sums, items, order = [], [], []
        for adding, whose in self._adding.values():
            order += whose
            results = adding.results()
            if self._summed:
                block_sums += [PartialSums(found, here, np.array(whose)) for found, here in results]
            else:
                items += [found for found, _ in results]
        self._adding.clear()
        agent, joined = np.array(order, int), ()
        if not self._summed and items:
            wanted = ids[np.isin(ids, agent)]
            place = np.argsort(agent)[np.argsort(np.argsort(wanted))]
            joined = jax.tree.map(lambda *leaves: np.concatenate(leaves)[place], *items)
            agent = wanted
        elif not self._summed:
            joined = self._no_items()
        uploads = self._uploads(agent)
        return agents, Learned(agent, joined, block_sums, uploads, {}, failed, [agent])

    def _uploads(self, agent: np.ndarray) -> Upload:
        rows = [self._sizes.pop(int(each)) for each in agent]
        if rows:
            found: Upload = jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
            return found
        return jax.tree.map(lambda x: np.zeros((0, *x.shape), x.dtype), self.wire.upload)

    def after_bids(self, inbox: Inbox, wanted: np.ndarray, within_s: float) -> AfterBids:
        """Ask for the updates that the budget has selected, and return them."""
        came, why = self.clock.collect(inbox.agent, wanted, within_s)
        assert self._bids is not None
        found = self._bids.after(inbox, came, why, list(self._adding.values()))
        self._adding.clear()
        return found

    def open_sums(self, inbox: Inbox) -> OpenedUpdates:
        """Carry out a secure sum over the updates of these agents, which stay with them."""
        assert self._sums is not None
        return self._sums.open(inbox)

    def _no_items(self) -> PyTree:
        return jax.tree.map(lambda x: np.zeros((0, *x.shape), x.dtype), self.wire.decoded)

    def give_back(self, agents: Agents, undo: Sequence[Any], dropped: np.ndarray) -> Agents:
        """Note that the updates of `dropped` agents were not merged: they hear of it with their next task."""
        for ids in undo:
            _distant(agents).verdict[ids[np.isin(ids, dropped)]] = REJECTED
        return agents

    def cancel(self, agents: Agents, ids: np.ndarray) -> Agents:
        """Cancel the jobs of these agents."""
        _distant(agents).ended[ids] = _distant(agents).jobs[ids]
        return agents

    def placed(self, agents: Agents) -> Agents:
        """Return the agents of a checkpoint, and give those at work their tasks again."""
        team, distant = agents.team, self._at(_distant(agents))
        busy = np.flatnonzero(distant.jobs > distant.ended)
        tasks = []
        for agent in busy.tolist() if self.plan.mixed else ():
            sent = row_of(team.received, agent)
            self._received[agent] = sent
            content = self._broadcasts.encode(sent) if self._copies is None else self._copies.apart(sent)
            digest = digest_of(content) if isinstance(content, bytes) else b""
            tasks.append(self._task(team, distant, agent, content, digest))
        if tasks:
            self.roster.begin(busy, distant.jobs[busy], team.steps[busy], time.monotonic(), team.share[busy])
            self.bridge.give(tasks)
        return agents

    def restarted(self, keys: Keys, agents: Agents, ids: np.ndarray, policy: Params | None = None) -> Agents:
        """Return the agents unchanged: a site initialises its agent again by itself."""
        del keys, policy
        agents.team.restarts[ids] += 1
        return agents

    def blocks(self, agents: Agents) -> list[AgentState]:
        """Refuse: the states of agents never leave their sites."""
        raise ConfigError(
            "The agents are at other sites, and their states never leave these. Evaluate the server's policy instead."
        )

    def adopt(self, agents: Agents, table: Table) -> Agents:
        """Return the agents unchanged: a site adopts with its next task."""
        del table
        return agents


def _distant(agents: Agents) -> Distant:
    found: Any = agents.blocks[0]
    assert isinstance(found, Distant)
    return found
