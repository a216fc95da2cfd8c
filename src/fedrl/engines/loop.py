"""The event loop of a simulation, for every executor, topology, scheduler and clock.

    events -> scheduler.step -> actions -> clock.dispatch, executor.assign
       ^                            +----> topology.merge -> next version
       +---- clock.peek -> executor.train

Time is simulated, training is computed. A selected agent is trained when its update is due, in a block with others
whose updates are due. The result of training depends on (seed, agent, version), and the time of events on (seed, agent,
job). So neither depends on devices, blocks, or the order of computation.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from fedrl.clocks.events import ARRIVED, AWAY, MALFORMED, NOBODY, OPENED, RESTARTED, Actions, Events, Jobs
from fedrl.core.aggregator import Arrivals
from fedrl.core.keys import NoiseSource, Stream, derived, keys_of, no_noise
from fedrl.core.reports import DURATION
from fedrl.core.summation import opens_by_protocol
from fedrl.core.types import Params
from fedrl.engines.arrivals import PendingUpdates, with_failures
from fedrl.engines.compute import COMPUTE
from fedrl.engines.continuing import begun
from fedrl.engines.delayed import at_first, delayed, shifted
from fedrl.engines.down_messages import NOTHING, DownMessages, DownTraffic
from fedrl.engines.engine_state import EngineState
from fedrl.engines.executors.executor import Executor
from fedrl.engines.executors.records import Agents, Learned, OpenedUpdates
from fedrl.engines.inbox import PARAMS, Table
from fedrl.engines.messages import accounting
from fedrl.engines.opening import left_out, opening
from fedrl.engines.round_log import TIMES, RoundLog
from fedrl.engines.secure_sums import secure_sums, sum_measures
from fedrl.engines.soundness import cohort_ids
from fedrl.engines.state import ClockStats, Rejection, RoundResult, Simulation, SimulationState, no_uploads
from fedrl.engines.topologies.isolated import Isolated
from fedrl.engines.topologies.server import MergeResult, SentMessages, Traffic
from fedrl.engines.upload_bids import after_bids, with_bids, without_bids
from fedrl.federation.shares import shares
from fedrl.server.board import Board
from fedrl.server.cohorts import sizes_told
from fedrl.server.scheduler import Scheduler


class Loop:
    """The loop and the parts that it drives."""

    def __init__(
        self,
        topology: Any,
        executor: Executor,
        scheduler: Scheduler,
        clock: Any,
        steps: np.ndarray,
        merges: int,
        noise: NoiseSource = no_noise,
    ) -> None:
        self.topology, self.executor, self.scheduler, self.clock = topology, executor, scheduler, clock
        self.noise = noise
        self.steps, self.merges, self.agents = steps, merges, len(steps)
        self.share = shares(executor.federation, steps)
        summation = executor.federation.summation
        self.sums = secure_sums(executor, clock, topology)
        self.account = accounting(topology.wire, self.agents, later=opens_by_protocol(summation))
        self.served = topology.collects != PARAMS and not isinstance(topology, Isolated)
        down = self.served and bool(topology.federation.down_stages)
        relays, ahead = (topology.relays, topology.looks_ahead) if down else ([], False)
        self.down_messages = DownMessages(topology.wire.sent, self.agents, relays, ahead, down)

    def simulation(self) -> Simulation:
        """Return the simulation, a record of the loop's functions."""
        executor = self.executor
        return Simulation(
            init=self.init,
            round=self.round,
            params_of=lambda run_state: executor.params_of(_agents(run_state)),
            agents=self.agents,
            block=executor.size,
            close=executor.close,
            adopt=self.adopt,
            held=lambda run_state: executor.held(_agents(run_state)),
            states_of=lambda run_state: executor.states_of(_agents(run_state)),
            with_states=lambda run_state, states: _with(run_state, executor.with_states(_agents(run_state), states)),
            measures=COMPUTE | (TIMES if self.clock.timed else {}) | sum_measures(self.sums, self.clock.timed),
            whole=lambda run_state: _with(run_state, executor.whole(_agents(run_state))),
            placed=lambda run_state: _with(run_state, executor.placed(_agents(run_state))),
            elsewhere=executor.elsewhere,
            silent=executor.silent,
        )

    def init(self, seed: int, params: Params | None = None, earlier: SimulationState | None = None) -> SimulationState:
        """Return the initial state of a run, from a trained policy or an earlier run if given; errors as of `begun`."""
        keys = keys_of(seed)
        server, memory, agents, policy = begun(self.executor, self.topology, keys, self.steps, params, earlier)
        table = self.topology.table(server, memory)
        agents = self.executor.prepared(agents, table.sent, (self.topology.item(), self.topology.wire.upload))
        # From a stream of its own, so that selections depend on nothing that agents draw.
        raw = derived(keys.run.tobytes(), Stream.SELECTION)[0].tolist()
        board = self.scheduler.init(self.steps, [*raw, seed])
        past, copies = at_first(table, int(board.delay.max())), self.down_messages.start()
        engine_state = EngineState(
            memory, agents.team, board, self.clock.start(seed), np.zeros(1, np.int64), past, copies
        )
        return SimulationState(server, agents.blocks, keys, engine_state, policy)

    def round(
        self,
        run_state: SimulationState,
        cohort: Sequence[int] | np.ndarray | None = None,
        without: Sequence[int] | np.ndarray = (),
    ) -> tuple[SimulationState, RoundResult]:
        """Run one round of `merges` merges.

        Args:
            run_state: The state before it.
            cohort: The agents that take part, in place of those that the selection selects.
            without: Agents that take no part, also if they are selected. As the selection does not know of them, each
                of the others is selected with the same probability as ever.

        Raises:
            ConfigError: The cohort names an agent that does not exist.
            NoMoreUpdatesError: On a virtual clock, no update will arrive any more.
        """
        told = (self.down_messages.compressed, self.executor.clock is not None)
        began, log = time.perf_counter(), RoundLog(self.agents, self.executor.metrics, *told)
        summation = self.executor.federation.summation if self.served else None
        allowed = np.full(1, -1) if cohort is None else cohort_ids(cohort, self.agents, summation)
        if len(without):
            allowed = np.concatenate([allowed, left_out(without)])
        for _ in range(self.merges):
            run_state = self.merge(run_state, allowed, log)
        engine_state: EngineState = run_state.engine_state
        engine_state.iterations[0] += log.steps.sum()
        done = int(engine_state.iterations[0])
        samples = self.executor.federation.learner.samples
        clock_stats = (
            ClockStats(self.clock.now_s(engine_state.clock), done * samples, *log.counts) if self.clock.timed else None
        )
        spent = {"agents_compute": log.agents_s, "server_compute": time.perf_counter() - began - log.agents_s}
        spent = {} if self.executor.silent else spent  # of a round in real time, most is waiting
        left = {} if self.sums is None else {"left_sums": float(log.left)}
        traffic = log.whole
        seen = RoundResult(
            metrics=log.metrics,
            weight=log.weight,
            rejected=tuple(sorted(log.rejected)),
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
            clock_stats=clock_stats,
            selected=np.sort(np.concatenate(log.selected)) if log.selected else None,
            skipped="; ".join(dict.fromkeys(log.skipped)),
            sums={name: round(x, 6) for name, x in spent.items()} | (log.sums if self.clock.timed else {}) | left,
            turns=log.arrived if self.clock.timed else None,
            failures=tuple(log.failures),
            deaths=self.executor.deaths(),
        )
        return run_state, seen

    def merge(self, run_state: SimulationState, cohort: np.ndarray, log: RoundLog) -> SimulationState:
        """Process events until the next merge, and merge."""
        # The noise root is drawn here and forgotten at the end: a state that is continued twice gets other noise each
        # time, so no difference between two results is free of noise.
        stored, keys = run_state.keys, run_state.keys._replace(noise=self.noise(run_state.keys))
        return self._merge(run_state._replace(keys=keys), cohort, log)._replace(keys=stored)

    def _merge(self, run_state: SimulationState, cohort: np.ndarray, log: RoundLog) -> SimulationState:
        engine_state: EngineState = run_state.engine_state
        board, clock_state, agents = engine_state.board, engine_state.clock, _agents(run_state)
        # Made once: all jobs of a version receive the same broadcasts, whenever they are dispatched.
        table = delayed(self.topology.table(run_state.server, engine_state.topology), engine_state.past, board.delay)
        pending, down_traffic = PendingUpdates(log, self.agents), self.down_messages.new_traffic()
        share, log.fruitless = self.share, 0
        events = opening(self.scheduler, self.executor, self.clock.now_s(clock_state), cohort)
        while True:
            board, actions = self.scheduler.step(board, events, run_state.keys.noise)
            if events.kind[0] == OPENED and self.scheduler.local_steps is not None:
                share = shares(self.executor.federation, board.steps)
            ids, away = actions.dispatch, NOBODY
            if len(ids):
                sizes = self.down_messages.sizes(engine_state.copies, ids, table)
                clock_state, there = self.clock.dispatch(clock_state, ids, actions.since_s, board.steps[ids], sizes)
                ids, away = ids[there], ids[~there]
                if self.down_messages.compressed:
                    self.clock.correct(engine_state.copies, ids, table)
                agents = self.executor.assign(agents, self._jobs(ids, board, table, share), table)
                self.down_messages.send(down_traffic, engine_state.copies, ids, table)
                log.hung += self.clock.hanging(clock_state, ids)
            if len(away):
                # Absent agents are reported to the scheduler at once, so that it can select others at the same time.
                gone = Events(np.full(len(away), AWAY), away, np.full(len(away), self.clock.now_s(clock_state)))
                if actions.merge is None:
                    events = gone
                    continue
                board, _ = self.scheduler.step(board, gone)
            if len(actions.cancel):
                log.cancelled += len(actions.cancel)
                clock_state = self.clock.cancel(clock_state, actions.cancel)
                agents = self.executor.cancel(agents, actions.cancel)
            if actions.merge is not None:
                break
            again = board.steps if self.scheduler.redispatch else None
            clock_state, events = self.clock.peek(
                clock_state, actions.wake_s, actions.wants, again, self.scheduler.one_at_a_time
            )
            agents, events = self._learned(run_state, agents, events, table, clock_state, board, pending)
            log.check_progress(events, self.clock.now_s(clock_state))
        past = shifted(table, engine_state.past)
        engine_state = EngineState(
            engine_state.topology, agents.team, board, clock_state, engine_state.iterations, past, engine_state.copies
        )
        return self._merged(
            run_state._replace(blocks=agents.blocks, engine_state=engine_state), pending, actions, down_traffic
        )

    def _jobs(self, ids: np.ndarray, board: Board, table: Table, share: np.ndarray) -> Jobs:
        row = np.zeros(len(ids), np.int32) if table.row is None else table.row[ids]
        plan = self.scheduler
        cohort = sizes_told(plan.selection, plan.schedule, plan.groups(self.agents), ids, row, self.served)
        return Jobs(ids, row, board.steps[ids], cohort, share[ids])

    def _learned(
        self,
        run_state: SimulationState,
        agents: Agents,
        events: Events,
        table: Table,
        clock_state: Any,
        board: Board,
        pending: PendingUpdates,
    ) -> tuple[Agents, Events]:
        """Train the agents whose updates arrive, and mark jobs whose training failed as failed."""
        log, new = pending.log, self.scheduler.fresh(board, events)
        if self.down_messages.compressed:
            run_state.engine_state.copies[events.agent[events.kind == RESTARTED]] = NOTHING
        agents, failed = self._gone_wrong(run_state, agents, events, table, board, pending)
        log.duplicates += int((~new).sum())
        # Trained only now that the update arrives: a job that was dropped or cancelled is never computed.
        ids = events.agent[new & (events.kind == ARRIVED)]
        if not len(ids):
            return agents, with_failures(events, failed)
        began, fillers = time.perf_counter(), NOBODY
        if self.executor.plan.ahead:
            # Empty seats of a block train agents whose updates are due next; their results are kept apart until then.
            soon = self.clock.soon(clock_state)
            fillers = self.executor.fillers(agents, soon[~np.isin(soon, ids)], len(ids))
        agents, found = self.executor.train(run_state.keys, agents, ids, table, fillers)
        log.agents_s += time.perf_counter() - began
        failed = np.union1d(failed, self._failed(found, board, log))
        log.learned(found.agent, found.metrics, agents.team.steps[found.agent])
        uploads = self.account(found.agent, found.uploads) if self.served else no_uploads(self.agents)
        work_s, messages_s = self.clock.costs(clock_state, found.agent)
        log.spent(found.agent, work_s, messages_s)
        pending.add(found, uploads, agents.team, table, self.topology.needs_broadcasts, self.scheduler.waits)
        if self.served:
            if DURATION in uploads.report:
                uploads.report[DURATION][found.agent] = work_s
            stale = int(board.version[0]) - agents.team.version[found.agent]
            log.receive(Arrivals(found.agent.astype(np.int32), stale.astype(np.int32)), uploads, work_s)
        report = {name: column[events.agent] for name, column in uploads.report.items()}
        events = events._replace(report=report, size_bytes=uploads.size_bytes[events.agent])
        return agents, with_failures(events, failed)

    def _gone_wrong(
        self, run: SimulationState, agents: Agents, events: Events, table: Table, board: Board, pending: PendingUpdates
    ) -> tuple[Agents, np.ndarray]:
        """Process jobs without an update; also return the agents with unreadable messages whose training failed."""
        log = pending.log
        log.ended(events)
        anew, unread = events.agent[events.kind == RESTARTED], events.agent[events.kind == MALFORMED]
        if len(anew):
            log.restarted += len(anew)
            pending.restarted = np.union1d(pending.restarted, anew)
            agents = self.executor.restarted(run.keys, agents, anew, run.policy)
        if not len(unread):
            return agents, NOBODY
        began = time.perf_counter()
        # The agent of an unreadable message has trained all the same: its learner has, its stages get their memory
        # back as after any rejected update.
        agents, found = self.executor.train(run.keys, agents, unread, table)
        agents = self.executor.give_back(agents, found.undo, found.agent)
        log.agents_s += time.perf_counter() - began
        log.malformed += len(found.agent)
        log.rejected += [Rejection(agent, self.executor.rejection_of(agent)) for agent in np.sort(found.agent).tolist()]
        if self.scheduler.bids is not None:
            pending.unread += len(found.agent)
        elif self.served:
            uploads = self.account(found.agent, found.uploads)
            pending.weigh(uploads)
            log.weigh(uploads)
        return agents, self._failed(found, board, log)

    def _failed(self, found: Learned, board: Board, log: RoundLog) -> np.ndarray:
        """Log and return the agents whose training ended in a number that is not finite."""
        failed = np.array([agent for agent, _ in found.failed], int)
        log.rejected += found.failed
        log.failures += found.failures
        log.steps[failed] += board.steps[failed]
        return failed

    def _merged(
        self, run_state: SimulationState, pending: PendingUpdates, actions: Actions, down_traffic: DownTraffic
    ) -> SimulationState:
        server, engine_state, agents = run_state.server, run_state.engine_state, _agents(run_state)
        memory, log, scale = engine_state.topology, pending.log, actions.merge
        assert scale is not None
        inbox = pending.inbox(scale, agents.team.steps if len(scale) else engine_state.board.steps)
        if self.scheduler.bids is not None:
            inbox = after_bids(self.executor, inbox, self.scheduler.schedule.deadline_s, log)
            scale = inbox.scale
        whole, down_sums, opened = inbox, (0, 0), OpenedUpdates(inbox)
        if self.sums is not None and len(scale):
            clock_state, opened = self.sums.open(engine_state.clock, inbox, run_state.keys.run.tobytes())
            engine_state, inbox = engine_state._replace(clock=clock_state), opened.inbox
            down_sums = pending.add_sums(opened)
        if len(pending.restarted):
            anew = (pending.restarted, run_state.policy)
            server, memory = self.topology.restarted(run_state.keys, server, memory, *anew)
        number = int(server.version) + 1
        if len(scale) and (inbox.scale > 0.0).any():
            server, memory, result = self.topology.merge(run_state.keys, server, memory, inbox)
            log.staleness.append((number - 1 - inbox.version)[inbox.scale > 0.0])
            # An update that arrived and was not merged: the stages of its agent get their memory back, too.
            dropped = np.union1d(result.dropped, np.setdiff1d(whole.agent, opened.merged))
        elif self.topology.releases:
            # A server that adds noise also does so without updates: a round without noise would reveal that.
            server, memory, result = self.topology.merge(run_state.keys, server, memory, inbox.nobody())
            dropped = np.arange(self.agents)
        else:
            server, memory = self.topology.skip(server, memory)
            result, dropped = MergeResult(0.0, (), inbox.agent), np.arange(self.agents)
        agents = self.executor.give_back(agents, pending.undo, dropped)
        log.weight += result.weight
        log.rejected += result.rejected
        log.skipped += [result.skipped] if result.skipped else []
        log.known = result.metrics
        if self.down_messages.compressed:
            log.whole_copies += down_traffic.whole
        found = self._traffic(log, pending, down_traffic, number, result, scale)
        log.traffic.append(found.with_down(*down_sums))
        engine_state = engine_state._replace(topology=memory, team=agents.team)
        return run_state._replace(server=server, blocks=agents.blocks, engine_state=engine_state)

    def _traffic(
        self,
        log: RoundLog,
        pending: PendingUpdates,
        down_traffic: DownTraffic,
        number: int,
        result: MergeResult,
        scale: np.ndarray,
    ) -> Traffic:
        """Return the traffic since the last merge; under an upload budget, with bids and answers."""
        sizes, said = pending.uploads.size_bytes, pending.uploads.messages
        # Messages between neighbours are known only after their exchange, so they are logged here and not on arrival.
        if result.messages is not None and result.size_bytes is not None:
            sizes, said = result.size_bytes.astype(np.int64), result.messages.astype(np.int64)
            log.sent_up.size_bytes[:] += sizes
            log.sent_up.messages[:] += said
        came = np.isin(np.arange(self.agents), pending.agent)
        if self.scheduler.upload_budget is not None and self.scheduler.bids is not None:
            rejected = pending.agent[scale == 0.0] if len(scale) else pending.agent
            sizes, said = without_bids(sizes, said, rejected, self.scheduler.bids)
            log.correct(pending.uploads, sizes, said, rejected, self.scheduler.bids.names)
            log.selected.append(np.setdiff1d(pending.agent, rejected))
        traffic = self.topology.traffic(SentMessages(down_traffic, came, sizes, said), number, len(scale) > 0)
        return with_bids(traffic, len(pending.agent) + pending.unread, self.scheduler.bids)

    def adopt(self, run_state: SimulationState) -> SimulationState:
        """Return the state in which every agent has adopted the broadcast it would receive now."""
        table = self.topology.holds(run_state.server, run_state.engine_state.topology)
        return _with(run_state, self.executor.adopt(_agents(run_state), table))


def _agents(run_state: SimulationState) -> Agents:
    return Agents(run_state.blocks, run_state.engine_state.team)


def _with(run_state: SimulationState, agents: Agents) -> SimulationState:
    return run_state._replace(blocks=agents.blocks, engine_state=run_state.engine_state._replace(team=agents.team))
