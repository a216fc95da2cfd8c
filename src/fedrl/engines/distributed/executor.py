"""The executor whose agents train in worker processes, in this process.

    jobs of due agents --by worker--> Work --train--> Learned of each shard --together--> Learned

This process has the jobs; workers have the states of agents, which stay there, whole blocks with each. They return
exact sums, or an item of each agent, so the result has the same bits for any number of workers. In the state of a
simulation, `remote.RemoteAgents` stands for the states; `whole` fetches them for a checkpoint, with the arrays of an
executor in this process, so that either can continue what the other has begun.
"""

from __future__ import annotations

import itertools
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from fedrl.clocks.events import NOBODY
from fedrl.core.environment import HostEnvironment
from fedrl.core.faults import FAULT
from fedrl.core.keys import Keys
from fedrl.core.types import Broadcast, Params, PyTree
from fedrl.engines.distributed.modules import sources
from fedrl.engines.distributed.portable import dumps
from fedrl.engines.distributed.remote import RemoteRun, Undo, run_of, standing_for
from fedrl.engines.distributed.shard import Setup, Work
from fedrl.engines.distributed.workers import Command, Member, Workers, check_open
from fedrl.engines.environment_failures import in_attempts
from fedrl.engines.executors.ahead import AHEAD, places_for
from fedrl.engines.executors.executor import Executor
from fedrl.engines.executors.programs import metric_names
from fedrl.engines.executors.records import Agents, ExecutorPlan, Learned, Team, together
from fedrl.engines.inbox import SUMS, Table
from fedrl.engines.program_cache import shapes
from fedrl.engines.state import WorkerDeath, starting
from fedrl.environments import choices
from fedrl.federation.federation import AgentState, Federation, ServerState
from fedrl.federation.shares import shares

BY_AGENT = ("row", "version", "again", "cohort", "steps", "share", "restarts")
"""The columns of `Team` with a number for each agent."""


class Distributed(Executor):
    """Executor of agents in worker processes.

    Args:
        federation: Federation of the agents.
        fleet: Parameters of each agent's environment, with a leading agent axis on every leaf.
        plan: Requirements of the simulation.
        size: Agents per compiled block.
        devices: Devices of this process.
        order: Order in which agents are placed in blocks.
        cluster: The workers. Each gets whole blocks, in turn.
        **options: Options of the executors in the workers.
    """

    elsewhere = True

    def __init__(
        self,
        federation: Federation,
        fleet: PyTree,
        plan: ExecutorPlan,
        size: int,
        devices: Sequence[jax.Device],
        order: Any = None,
        *,
        cluster: Workers,
        **options: Any,
    ) -> None:
        super().__init__(federation, fleet, plan, size, devices, order)
        self._on_host = isinstance(federation.learner.environment, HostEnvironment)
        self.resident = self._on_host or not plan.sparse
        self.metrics = []  # of host environments known after the first training
        if not self._on_host:
            self.metrics = [name for name in metric_names(federation, shapes(fleet, skip=1)) if name != FAULT]
        if self._on_host:
            options = {"workers": 1} | options  # each worker process has one core
        self._workers, self._runs = cluster, itertools.count()
        self._prepared: tuple[Any, Any] | None = None
        dealt = [self.slots[i :: len(cluster)] for i in range(min(len(cluster), len(self.slots)))]
        self._own = [np.concatenate(slots) for slots in dealt]
        self._own = [np.sort(ids[ids >= 0]) for ids in self._own]
        self._worker, self._place = np.zeros(self.agents, int), np.zeros(self.agents, int)
        for worker, ids in enumerate(self._own):
            self._worker[ids], self._place[ids] = worker, np.arange(len(ids))
        content = dumps(federation)
        modules = sources(content)
        self._members = cluster.open([self._setup(content, modules, ids, options) for ids in self._own])
        self._released: deque[int] = deque()
        self._open = True

    def _setup(self, content: bytes, modules: dict[str, str], ids: np.ndarray, options: dict[str, Any]) -> Setup:
        own = jax.tree.map(lambda leaf: np.asarray(leaf)[ids], self._fleet)
        plan = self.plan._replace(group=self.plan.group[ids])
        return Setup(content, modules, choices.installed(), own, plan, self.size, ids, options)

    def start(
        self, keys: Keys, steps: np.ndarray, policy: Params | None = None, share: np.ndarray | None = None
    ) -> tuple[ServerState, Agents]:
        """Return the initial state of a server, and of all agents, from the parameters of a trained policy if given."""
        share = shares(self.federation, steps) if share is None else share
        nobody: list[np.ndarray] = []
        begin = starting(self.federation, self._fleet, nobody, steps, self.devices, self.numbers, share)
        server, _ = begin(keys, policy)
        held = self._new()
        self._post(lambda ids: ("start", held.number, keys, steps[ids], share[ids], policy))
        return server, standing_for(held, self.team(steps, share, np.zeros((0, 0), np.uint32)), self)

    def prepared(self, agents: Agents, sent: Broadcast, result: PyTree) -> Agents:
        """Allocate what agents receive and compute ahead of time, here and in the workers."""
        one = jax.tree.map(lambda x: np.zeros((1, *np.shape(x)[1:]), np.asarray(x).dtype), sent)
        like = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), result)
        self._prepared = one, like
        self._post(lambda ids: ("prepared", self._run(agents).number, one, like))
        return super().prepared(agents, sent, result)

    def fillers(self, agents: Agents, ids: np.ndarray, due: int) -> np.ndarray:
        """Return those of these agents that fill the last block of each worker, or one block if none is due there."""
        del due
        if self._on_host:
            return ids[:0]
        waiting = self._run(agents).ahead
        chosen = []
        for worker, own in enumerate(self._own):
            soon = ids[(self._worker[ids] == worker) & ~waiting[ids]]
            chosen.append(soon[: min(self.size, AHEAD - int(waiting[own].sum()))])
        return np.concatenate(chosen)

    def cancel(self, agents: Agents, ids: np.ndarray) -> Agents:
        """Cancel the jobs of these agents, and discard results that they computed ahead of time."""
        held = self._run(agents)
        early = ids[held.ahead[ids]]
        held.ahead[early] = False
        for member, mine in self._by_worker(early):
            self._workers.post(member, "cancel", held.number, self._place[mine])
        return agents

    def train(
        self, keys: Keys, agents: Agents, ids: np.ndarray, table: Table, fillers: np.ndarray = NOBODY
    ) -> tuple[Agents, Learned]:
        """Train these agents, whose updates are due, unless they have trained ahead; `fillers` may train ahead."""
        held, team = self._run(agents), agents.team
        due = ids[~held.ahead[ids]]
        fillers, alone = self._filling(due, fillers)
        # From here on the states from before this call are gone, also if it fails.
        held.calls, held.now = held.calls + 1, held.now + 1
        forgotten = tuple(held.forgotten)
        del held.forgotten[: len(forgotten)]
        known = self.alike(team), forgotten
        waiting: list[tuple[Member, Command]] = []
        # The episodes of a worker that has died are lost, so what they have taught is saved with it.
        name = "train_and_save" if self._on_host else "train"
        for member, mine in self._by_worker(np.concatenate([ids, fillers])):
            given = self._work(held, keys, team, table, mine, int(np.isin(mine, ids).sum()), *known)
            waiting.append((member, self._workers.submit(member, name, *given)))
        for member, mine in self._by_worker(alone):
            self._workers.post(member, "train", *self._work(held, keys, team, table, mine, 0, *known))
        held.ahead[ids], held.ahead[fillers], held.ahead[alone] = False, True, True
        parts = [self._workers.result(*each) for each in waiting]
        if self._on_host:
            team.trained[0] += 1
        learned = together(parts, ids, self.plan.collects == SUMS)
        failures = in_attempts(each for part in parts for each in part.failures)
        if self._on_host:
            self.metrics = sorted(learned.metrics)
        return standing_for(held, team, self), learned._replace(undo=[Undo(held, held.calls)], failures=failures)

    def give_back(self, agents: Agents, undo: Sequence[Any], dropped: np.ndarray) -> Agents:
        """Restore the stage memory of `dropped` agents: their updates were not merged."""
        held = self._run(agents)
        if len(dropped) and undo:
            for member, mine in self._by_worker(dropped):
                self._workers.post(member, "give_back", held.number, [each.ordinal for each in undo], self._place[mine])
        for member in self._members:
            self._workers.save(member)
        return agents

    def restarted(self, keys: Keys, agents: Agents, ids: np.ndarray, policy: Params | None = None) -> Agents:
        """Initialise these agents again, after a restart in which they lost their state."""
        held, team = self._run(agents), agents.team
        held.now += 1
        team.restarts[ids] += 1
        for member, mine in self._by_worker(ids):
            given = (self._place[mine], team.steps[mine], team.share[mine], policy)
            self._workers.post(member, "restarted", held.number, keys, *given)
        return standing_for(held, team, self)

    def with_blocks(self, agents: Agents, blocks: Sequence[AgentState]) -> Agents:
        """Return the agents with other states, given in the blocks of `slots`."""
        return self._loaded(agents.team, self.packed(blocks))

    def adopt(self, agents: Agents, table: Table) -> Agents:
        """Return the agents after each has adopted the broadcast it would receive now."""
        if table.row is None:
            return agents
        new = self._new()
        new.ahead[:] = self._run(agents).ahead
        for member, ids in zip(self._members, self._own, strict=True):
            sent, rows = _used(table.sent, table.row[ids])
            self._workers.post(member, "adopt", sent, self._run(agents).number, new.number, rows)
        return standing_for(new, agents.team, self)

    def params_of(self, agents: Agents) -> Params:
        """Return the parameters each agent acts with, in the order of agents."""
        return self._asked_of_all("params_of", agents)

    def held(self, agents: Agents) -> Params:
        """Return the shared part of each agent's parameters, in the order of agents."""
        return self._asked_of_all("held", agents)

    def whole(self, agents: Agents) -> Agents:
        """Return the agents with all their arrays in this process, as an executor without workers has them."""
        rows, team = self.rows(agents), agents.team
        if self.resident:
            return Agents(tuple(self.unpacked(rows)), team)
        ahead: Any = ()
        if self.plan.ahead and self._prepared is not None:
            # What was computed ahead of time is computed again when it is due.
            columns = np.zeros(len(self.metrics) + 1, np.float32)
            ahead = places_for(self.agents, self.layout.num_words, (*self._prepared[1], columns))
        return Agents((), team._replace(states=rows, ahead=ahead))

    def placed(self, agents: Agents) -> Agents:
        """Return agents of a checkpoint, which `whole` has returned, where they train."""
        rows, team = self.packed(agents.blocks) if self.resident else agents.team.states, agents.team
        if team.ahead and self._prepared is None:  # of a simulation without an initial state, from which it is known
            one = jax.tree.map(lambda x: np.zeros((1, *x.shape[1:]), x.dtype), team.received)
            self._prepared = one, jax.tree.map(lambda x: np.zeros(x.shape[1:], x.dtype), team.ahead.results[:-1])
        return self._loaded(agents.team._replace(states=np.zeros((0, 0), np.uint32), ahead=()), rows)

    def deaths(self) -> tuple[WorkerDeath, ...]:
        """Return the deaths of worker processes since the last call."""
        return self._workers.deaths()

    def close(self) -> None:
        """Close the agents' part of the workers, and end them if no other simulation has agents there."""
        if self._open:
            self._open = False
            self._workers.close(self._members)

    def _run(self, agents: Agents) -> RemoteRun:
        check_open(self._members[0])
        return run_of(agents)

    def _new(self) -> RemoteRun:
        """Return what stands for a new run; workers forget the run when it is gone."""
        while self._released:
            try:
                number = self._released.popleft()
            except IndexError:  # the thread of another seed was faster
                break
            for member in self._members:
                self._workers.post(member, "release", number)
        held = RemoteRun(next(self._runs), self.agents)
        weakref.finalize(held, self._released.append, held.number).atexit = False
        return held

    def _post(self, command: Callable[[np.ndarray], tuple[Any, ...]]) -> None:
        for member, ids in zip(self._members, self._own, strict=True):
            self._workers.post(member, *command(ids))

    def _by_worker(self, ids: np.ndarray) -> list[tuple[Member, np.ndarray]]:
        """Return these agents by worker, without workers that have none of them."""
        groups = [(member, ids[self._worker[ids] == worker]) for worker, member in enumerate(self._members)]
        return [(member, mine) for member, mine in groups if len(mine)]

    def _filling(self, due: np.ndarray, fillers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the agents that train ahead beside due ones of their worker, and those in a block of their own."""
        if not len(due) or not len(fillers):
            return NOBODY, NOBODY
        counts = np.bincount(self._worker[due], minlength=len(self._own))
        chosen = [fillers[self._worker[fillers] == worker] for worker in range(len(self._own))]
        beside = [ids[: -n % self.size] for ids, n in zip(chosen, counts.tolist(), strict=True) if n]
        alone = [ids[: self.size] for ids, n in zip(chosen, counts.tolist(), strict=True) if not n]
        return np.concatenate([NOBODY, *beside]), np.concatenate([NOBODY, *alone])

    def _work(
        self,
        held: RemoteRun,
        keys: Keys,
        team: Team,
        table: Table,
        ids: np.ndarray,
        due: int,
        alike: int | None,
        forgotten: tuple[int, ...],
    ) -> tuple[Any, ...]:
        """Return the arguments of a worker's `train`, for its agents `ids`, of which the first `due` are due."""
        sent, rows = self._received(held, team, table, ids)
        work = Work(
            ordinal=held.calls,
            trained=int(team.trained[0]),
            agent=self._place[ids],
            due=due,
            row=rows,
            version=team.version[ids],
            again=team.again[ids],
            cohort=team.cohort[ids],
            steps=team.steps[ids],
            share=team.share[ids],
            alike=alike,
            communicates=table.row is not None,
            forgotten=forgotten,
        )
        return sent, held.number, keys, work

    def _received(self, held: RemoteRun, team: Team, table: Table, ids: np.ndarray) -> tuple[Any, np.ndarray]:
        """Return the broadcasts that these agents received, and the row of each."""
        if self.plan.mixed:
            return jax.tree.map(lambda own: own[ids], team.received), np.arange(len(ids))
        rows = team.row[ids]
        if len(np.asarray(table.sent.version)) > 1:
            return _used(table.sent, rows)
        if held.sent[0] is not table.sent:
            held.sent = table.sent, self._workers.transport.share(table.sent)
        return held.sent[1], rows

    def rows(self, agents: Agents) -> np.ndarray:
        """Return the states of all agents as rows of words."""
        parts = self._asked_of_each("rows", agents)
        rows = np.zeros((self.agents, parts[0].shape[1]), np.uint32)
        for ids, part in zip(self._own, parts, strict=True):
            rows[ids] = part
        return rows

    def _loaded(self, team: Team, rows: np.ndarray) -> Agents:
        team = team._replace(states=np.zeros((0, 0), np.uint32))
        held, root = self._new(), Keys(np.zeros(8, np.uint32), np.zeros(8, np.uint32))
        for member, ids in zip(self._members, self._own, strict=True):
            columns = {name: getattr(team, name)[ids] for name in BY_AGENT}
            received = jax.tree.map(lambda x, ids=ids: x[ids], team.received)
            own = team._replace(received=received, trained=team.trained.copy(), ahead=(), **columns)
            self._workers.post(member, "load", held.number, root, rows[ids], own, self._prepared)
        return standing_for(held, team, self)

    def _asked_of_each(self, name: str, agents: Agents) -> list[Any]:
        number = self._run(agents).number
        asked = [(member, self._workers.submit(member, name, number)) for member in self._members]
        return [self._workers.result(*each) for each in asked]

    def _asked_of_all(self, name: str, agents: Agents) -> PyTree:
        """Return what workers answer about their agents, in the order of agents."""
        back = np.argsort(np.concatenate(self._own))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves)[back], *self._asked_of_each(name, agents))


def _used(sent: Broadcast, rows: np.ndarray) -> tuple[Broadcast, np.ndarray]:
    """Return those rows of broadcasts that are used, and where each is among them."""
    used, where = np.unique(rows, return_inverse=True)
    return jax.tree.map(lambda x: np.asarray(x)[used], sent), where
