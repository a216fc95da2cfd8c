"""One loop for every executor, topology, scheduler and clock.

    events -> scheduler.step -> actions -> clock.dispatch, executor.assign
       ^                            +----> topology.merge -> next version
       +---- clock.peek -> executor.train

Time is simulated, learning is not. Who is sent for learns when its update is due, in whatever company fills the
devices; what it learns follows from (seed, agent, version), and what happens when from (seed, agent, turn). So nothing
depends on devices, blocks, or the order in which the computer gets to things.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fedrl.clocks.events import (
    ARRIVED,
    AWAY,
    FAILED,
    MALFORMED,
    NOBODY,
    OPENED,
    RESTARTED,
    WITHOUT_UPDATE,
    Actions,
    Events,
    Jobs,
)
from fedrl.core.aggregator import Arrivals
from fedrl.core.errors import ConfigError
from fedrl.core.keys import Keys, Stream, derived, keys_of
from fedrl.core.reports import DURATION
from fedrl.core.types import PyTree
from fedrl.engines.aggregation import accounting
from fedrl.engines.arrivals import Letters
from fedrl.engines.compute import COMPUTE
from fedrl.engines.delayed import at_first, delayed, shifted
from fedrl.engines.down_messages import NOTHING, Heard, Hearing
from fedrl.engines.executors.executor import Agents, Executor, Learned, Team
from fedrl.engines.inbox import PARAMS, Table
from fedrl.engines.round_log import TIMES, Log
from fedrl.engines.state import Population, Refusal, Round, Simulation, Tick, no_uploads
from fedrl.engines.topologies.isolated import Isolated
from fedrl.engines.topologies.server import Met, Sent
from fedrl.engines.upload_bids import without_bids
from fedrl.federation.shares import shares
from fedrl.server.scheduler import Board, Scheduler

UNREADABLE = "its message could not be read"
"""Why a malformed update is refused."""


class Between(NamedTuple):
    """What a run keeps beside the server and resident blocks.

    Attributes:
        topology: What the topology keeps, such as servers between agents and the root.
        team: What the executor keeps of agents.
        board: Of the scheduler.
        clock: Of the clock.
        iterations: Local steps of all agents since the run began, `[1]`.
        past: Broadcasts of versions ago, if agents hear them late; else ().
        copies: The number of the copy that each agent holds of what its server sends; empty without down stages.
    """

    topology: PyTree
    team: Team
    board: Board
    clock: PyTree
    iterations: np.ndarray
    past: PyTree = ()
    copies: np.ndarray = NOBODY


class Loop:
    """The loop, and the parts that it drives."""

    def __init__(
        self, topology: Any, executor: Executor, scheduler: Scheduler, clock: Any, steps: np.ndarray, merges: int
    ) -> None:
        self.topology, self.executor, self.scheduler, self.clock = topology, executor, scheduler, clock
        self.steps, self.merges, self.agents = steps, merges, len(steps)
        self.share = shares(executor.federation, steps)
        self.account = accounting(topology.wire, self.agents)
        self.served = topology.collects != PARAMS and not isinstance(topology, Isolated)
        down = self.served and bool(topology.federation.down_stages)
        relays, ahead = (topology.relays, topology.looks_ahead) if down else ([], False)
        self.hearing = Hearing(topology.wire.sent, self.agents, relays, ahead, down)

    def simulation(self) -> Simulation:
        """The functions that callers use."""
        return Simulation(
            init=self.init,
            round=self.round,
            params_of=lambda population: self.executor.params_of(_agents(population)),
            agents=self.agents,
            block=self.executor.size,
            close=self.executor.close,
            adopt=self.adopt,
            held=lambda population: self.executor.held(_agents(population)),
            states_of=lambda population: self.executor.states_of(_agents(population)),
            going_on=lambda population, states: _with(population, self.executor.going_on(_agents(population), states)),
            measures=COMPUTE | (TIMES if self.clock.timed else {}),
        )

    def init(self, seed: int) -> Population:
        """A run at its beginning."""
        keys = keys_of(seed)
        first, agents = self.executor.start(keys, self.steps)
        server, memory = self.topology.start(keys, first)
        table = self.topology.table(server, memory)
        agents = self.executor.prepared(agents, table.sent, self.topology)
        raw = derived(keys.run.tobytes(), Stream.SELECTION)[0].tolist()
        board = self.scheduler.init(self.steps, [*raw, seed])
        past, copies = at_first(table, int(board.delay.max())), self.hearing.start()
        between = Between(memory, agents.team, board, self.clock.start(seed), np.zeros(1, np.int64), past, copies)
        return Population(server, agents.blocks, keys, between)

    def round(
        self, population: Population, cohort: Sequence[int] | np.ndarray | None = None
    ) -> tuple[Population, Round]:
        """So many merges. `cohort` are the agents that may be sent for, whatever the selection says.

        Raises:
            ConfigError: There are not so many.
        """
        began, log = time.perf_counter(), Log(self.agents, self.executor.metrics, self.hearing.compressed)
        allowed = np.full(1, -1) if cohort is None else _cohort(cohort, self.agents)
        for _ in range(self.merges):
            population = self.merge(population, allowed, log)
        between: Between = population.between
        between.iterations[0] += log.steps.sum()
        done = int(between.iterations[0])
        samples = self.executor.federation.learner.samples
        tick = Tick(self.clock.now_s(between.clock), done * samples, *log.counts) if self.clock.timed else None
        spent = {"agents_compute": log.agents_s, "server_compute": time.perf_counter() - began - log.agents_s}
        traffic = log.whole
        seen = Round(
            metrics=log.metrics,
            weight=log.weight,
            refused=tuple(sorted(log.refused)),
            bytes_up=traffic.bytes_up,
            bytes_down=traffic.bytes_down,
            messages_up=traffic.messages_up,
            messages_down=traffic.messages_down,
            uploads=log.uploads,
            arrivals=log.arrivals,
            levels=traffic.levels,
            latency_s=traffic.latency_s,
            steps=log.steps,
            iterations=done,
            tick=tick,
            admitted=np.sort(np.concatenate(log.admitted)) if log.admitted else None,
            skipped="; ".join(dict.fromkeys(log.skipped)),
            sums={name: round(x, 6) for name, x in spent.items()} | (log.sums if self.clock.timed else {}),
            turns=log.arrived if self.clock.timed else None,
        )
        return population, seen

    def merge(self, population: Population, cohort: np.ndarray, log: Log) -> Population:
        """Let things happen until the next merge, and merge."""
        between: Between = population.between
        board, ticking, agents = between.board, between.clock, _agents(population)
        table = delayed(self.topology.table(population.server, between.topology), between.past, board.delay)
        letters, heard = Letters(log, self.agents), self.hearing.opened()
        opened, share = np.full(len(cohort), OPENED), self.share
        events = Events(opened, cohort, np.full(len(cohort), self.clock.now_s(ticking)))
        while True:
            board, actions = self.scheduler.step(board, events)
            if events.kind[0] == OPENED and self.scheduler.workload is not None:
                share = shares(self.executor.federation, board.steps)
            ids, away = actions.dispatch, NOBODY
            if len(ids):
                sizes = self.hearing.sizes(between.copies, ids, table)
                ticking, there = self.clock.dispatch(ticking, ids, actions.since_s, board.steps[ids], sizes)
                ids, away = ids[there], ids[~there]
                agents = self.executor.assign(agents, self._jobs(ids, board, table, share), table)
                self.hearing.send(heard, between.copies, ids, table)
                log.hung += self.clock.hanging(ticking, ids)
            if len(away):
                gone = Events(np.full(len(away), AWAY), away, np.full(len(away), self.clock.now_s(ticking)))
                if actions.merge is None:
                    events = gone
                    continue
                board, _ = self.scheduler.step(board, gone)
            if len(actions.cancel):
                log.late += len(actions.cancel)
                ticking = self.clock.cancel(ticking, actions.cancel)
                agents = self.executor.cancel(agents, actions.cancel)
            if actions.merge is not None:
                break
            again = board.steps if self.scheduler.redispatch else None
            ticking, events = self.clock.peek(ticking, actions.wake_s, actions.wants, again, self.scheduler.in_turn)
            agents, events = self._learned(population, agents, events, table, ticking, board, letters)
        past = shifted(table, between.past)
        between = Between(between.topology, agents.team, board, ticking, between.iterations, past, between.copies)
        return self._merged(population._replace(blocks=agents.blocks, between=between), letters, actions, heard)

    def _jobs(self, ids: np.ndarray, board: Board, table: Table, share: np.ndarray) -> Jobs:
        row = np.zeros(len(ids), np.int32) if table.row is None else table.row[ids]
        waits_for = self.scheduler.schedule.wait_for
        if waits_for is None:
            alike = np.bincount(row)[row] if not self.scheduler.redispatch else np.full(len(ids), self.agents)
            alike = np.full(len(ids), len(ids)) if not self.served else alike
        else:
            alike = np.full(len(ids), waits_for)
        return Jobs(ids, row, board.steps[ids], alike.astype(np.int32), share[ids])

    def _learned(
        self,
        population: Population,
        agents: Agents,
        events: Events,
        table: Table,
        ticking: Any,
        board: Board,
        letters: Letters,
    ) -> tuple[Agents, Events]:
        """Whose update arrives has learned by now; a turn whose training failed brings none."""
        log, new = letters.log, self.scheduler.fresh(board, events)
        if self.hearing.compressed:
            population.between.copies[events.agent[events.kind == RESTARTED]] = NOTHING
        agents, failed = self._gone_wrong(population.keys, agents, events, table, board, letters)
        log.duplicates += int((~new).sum())
        ids = events.agent[new & (events.kind == ARRIVED)]
        if not len(ids):
            return agents, _with_failures(events, failed)
        began, company = time.perf_counter(), NOBODY
        if self.executor.plan.ahead:
            soon = self.clock.soon(ticking)
            company = self.executor.company(agents, soon[~np.isin(soon, ids)], len(ids))
        agents, found = self.executor.train(population.keys, agents, ids, table, company)
        log.agents_s += time.perf_counter() - began
        failed = np.union1d(failed, self._failed(found, board, log))
        log.learned(found.agent, found.metrics, agents.team.steps[found.agent])
        uploads = self.account(found.agent, found.uploads) if self.served else no_uploads(self.agents)
        work_s, messages_s = self.clock.costs(ticking, found.agent)
        log.messages_s += float(messages_s.sum())
        log.worked_s += float(work_s.sum())
        letters.add(found, uploads, agents.team, table, self.topology.hears, self.scheduler.waits)
        if self.served:
            if DURATION in uploads.report:
                uploads.report[DURATION][found.agent] = work_s
            stale = int(board.version[0]) - agents.team.version[found.agent]
            log.receive(Arrivals(found.agent.astype(np.int32), stale.astype(np.int32)), uploads, work_s)
        report = {name: column[events.agent] for name, column in uploads.report.items()}
        events = events._replace(report=report, size_bytes=uploads.size_bytes[events.agent])
        return agents, _with_failures(events, failed)

    def _gone_wrong(
        self, keys: Keys, agents: Agents, events: Events, table: Table, board: Board, letters: Letters
    ) -> tuple[Agents, np.ndarray]:
        """Turns of which no update comes; also returns whose training failed among those whose messages are unread."""
        log = letters.log
        log.lost += int(np.isin(events.kind, WITHOUT_UPDATE).sum())
        anew, unread = events.agent[events.kind == RESTARTED], events.agent[events.kind == MALFORMED]
        if len(anew):
            log.restarted += len(anew)
            letters.restarted = np.union1d(letters.restarted, anew)
            agents = self.executor.restarted(keys, agents, anew)
        if not len(unread):
            return agents, NOBODY
        began = time.perf_counter()
        agents, found = self.executor.train(keys, agents, unread, table)
        agents = self.executor.give_back(agents, found.undo, found.agent)
        log.agents_s += time.perf_counter() - began
        log.malformed += len(found.agent)
        log.refused += [Refusal(agent, UNREADABLE) for agent in np.sort(found.agent).tolist()]
        if self.scheduler.bids is not None:
            letters.unread += len(found.agent)
        elif self.served:
            uploads = self.account(found.agent, found.uploads)
            letters.weigh(uploads)
            log.weigh(uploads)
        return agents, self._failed(found, board, log)

    def _failed(self, found: Learned, board: Board, log: Log) -> np.ndarray:
        """Whose training came to nothing."""
        failed = np.array([agent for agent, _ in found.failed], int)
        log.refused += found.failed
        log.steps[failed] += board.steps[failed]
        return failed

    def _merged(self, population: Population, letters: Letters, actions: Actions, heard: Heard) -> Population:
        server, between, agents = population.server, population.between, _agents(population)
        memory, log, scale = between.topology, letters.log, actions.merge
        assert scale is not None
        inbox = letters.inbox(scale, agents.team.steps if len(scale) else between.board.steps)
        if len(letters.restarted):
            server, memory = self.topology.restarted(population.keys, server, memory, letters.restarted)
        number = int(server.version) + 1
        if len(scale) and (scale > 0.0).any():
            server, memory, met = self.topology.merge(population.keys, server, memory, inbox)
            log.staleness.append((number - 1 - inbox.version)[scale > 0.0])
            lost = np.union1d(met.lost, inbox.agent[scale == 0.0])
        elif self.topology.releases:
            server, memory, met = self.topology.merge(population.keys, server, memory, inbox.nobody())
            lost = np.arange(self.agents)
        else:
            server, memory = self.topology.skip(server, memory)
            met, lost = Met(0.0, (), inbox.agent), np.arange(self.agents)
        agents = self.executor.give_back(agents, letters.undo, lost)
        log.weight += met.weight
        log.refused += met.refused
        log.skipped += [met.skipped] if met.skipped else []
        log.known = met.metrics
        if self.hearing.compressed:
            log.whole_copies += heard.whole
        log.traffic.append(self._traffic(log, letters, heard, number, met, scale))
        between = between._replace(topology=memory, team=agents.team)
        return Population(server, agents.blocks, population.keys, between)

    def _traffic(self, log: Log, letters: Letters, heard: Heard, number: int, met: Met, scale: np.ndarray) -> Any:
        """What was sent since the last merge; under a budget, bids and answers, too."""
        sizes, said = letters.uploads.size_bytes, letters.uploads.messages
        if met.messages is not None and met.size_bytes is not None:
            sizes, said = met.size_bytes.astype(np.int64), met.messages.astype(np.int64)
            log.sent_up.size_bytes[:] += sizes
            log.sent_up.messages[:] += said
        came = np.isin(np.arange(self.agents), letters.agent)
        if self.scheduler.admission is not None and self.scheduler.bids is not None:
            rejected = letters.agent[scale == 0.0] if len(scale) else letters.agent
            sizes, said = without_bids(sizes, said, rejected, self.scheduler.bids)
            log.correct(letters.uploads, sizes, said, rejected, self.scheduler.bids.names)
            log.admitted.append(np.setdiff1d(letters.agent, rejected))
        traffic = self.topology.traffic(Sent(heard, came, sizes, said), number, len(scale) > 0)
        if self.scheduler.bids is None:
            return traffic
        bids = len(letters.agent) + letters.unread
        return traffic._replace(
            bytes_up=traffic.bytes_up + bids * self.scheduler.bids.bid_bytes,
            bytes_down=traffic.bytes_down + bids * self.scheduler.bids.answer_bytes,
            messages_up=traffic.messages_up + bids,
            messages_down=traffic.messages_down + bids,
        )

    def adopt(self, population: Population) -> Population:
        """Every agent adopts what it would hear now."""
        table = self.topology.holds(population.server, population.between.topology)
        return _with(population, self.executor.adopt(_agents(population), table))


def _cohort(cohort: Sequence[int] | np.ndarray, agents: int) -> np.ndarray:
    ids = np.unique(np.asarray(cohort, int))
    if not len(ids):
        return np.full(1, agents)  # nobody's number
    if ids[0] < 0 or ids[-1] >= agents:
        raise ConfigError(
            f"cohort is {ids.tolist()}. It says which of {agents} agents may be sent for, from 0 to {agents - 1}. Name "
            "those of them, or nobody."
        )
    return ids


def _with_failures(events: Events, failed: np.ndarray) -> Events:
    """Turns that would have brought an update, and whose training came to nothing."""
    ended = np.isin(events.agent, failed) & np.isin(events.kind, (ARRIVED, MALFORMED))
    return events._replace(kind=np.where(ended, FAILED, events.kind))


def _agents(population: Population) -> Agents:
    return Agents(population.blocks, population.between.team)


def _with(population: Population, agents: Agents) -> Population:
    return population._replace(blocks=agents.blocks, between=population.between._replace(team=agents.team))
