"""Some of a simulation's agents, in a worker process.

    Work (jobs of due agents) + broadcasts --train--> Learned: one exact sum for all blocks, or an item of each agent

A shard has an executor of its own, for its agents. It knows nothing of the others: the numbers of its agents, their
shares and the size of their cohort come with each job. Everything it returns is NumPy.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np

from fedrl.core.keys import Keys
from fedrl.core.types import Broadcast, Params, PyTree
from fedrl.engines.aggregation import BlockSums
from fedrl.engines.distributed import modules
from fedrl.engines.distributed.portable import dumps, loads
from fedrl.engines.executors.blocks import Blocks
from fedrl.engines.executors.host import Host
from fedrl.engines.executors.placement import executor_of
from fedrl.engines.executors.records import Agents, ExecutorPlan, Learned, Team
from fedrl.engines.inbox import PartialSums, Table
from fedrl.environments import choices


class Setup(NamedTuple):
    """What a shard is made from.

    Attributes:
        federation: Bytes of the federation, by `portable.dumps`.
        modules: Sources of the user's own modules, by `modules.sources`.
        choices: Values of the fleet's settings that are no numbers.
        fleet: Parameters of the environments of its agents.
        plan: Requirements of the simulation, with the groups of its agents.
        size: Agents per compiled block.
        numbers: Numbers of its agents in the simulation.
        options: Options of the executor.
    """

    federation: bytes
    modules: dict[str, str]
    choices: Sequence[Any]
    fleet: PyTree
    plan: ExecutorPlan
    size: int
    numbers: np.ndarray
    options: dict[str, Any]


class Work(NamedTuple):
    """Jobs of agents of a shard, `[n]` each; those that are due come first.

    Attributes:
        ordinal: Number of the call, which names the stage memory from before it.
        trained: Number of calls of the simulation before this one, for executors that count them.
        agent: Agents by their places in the shard.
        due: How many of them are due; the others train ahead of time.
        row: Row of the broadcasts that each received.
        version, again, cohort, steps, share: As in `Team`, of each job.
        alike: Local steps of every agent of the simulation, if all have the same number.
        communicates: Whether agents train from their broadcast; else from their own parameters.
        forgotten: Calls whose stage memory is not needed any more.
    """

    ordinal: int
    trained: int
    agent: np.ndarray
    due: int
    row: np.ndarray
    version: np.ndarray
    again: np.ndarray
    cohort: np.ndarray
    steps: np.ndarray
    share: np.ndarray
    alike: int | None
    communicates: bool
    forgotten: tuple[int, ...] = ()


@dataclass
class ShardRun:
    """One simulated run: its agents, and their stage memory from before the calls that are not settled."""

    agents: Agents
    undo: dict[int, Any] = field(default_factory=dict)


class AgentShard:
    """Agents of a simulation, for any number of its runs at a time. Agents are named by their places in the shard."""

    def __init__(self, setup: Setup) -> None:
        modules.installed(setup.modules)
        choices.install(setup.choices)
        federation = _federation(setup.federation)
        kind = executor_of(None, federation)
        self.numbers = setup.numbers
        self.executor: Any = kind(
            federation, setup.fleet, setup.plan, setup.size, jax.local_devices(), None, **setup.options
        )
        self.executor.numbers = setup.numbers
        self.runs: dict[int, ShardRun] = {}
        self._standing = -1  # the run to which the current episodes of host environments belong

    def start(self, run: int, keys: Keys, steps: np.ndarray, share: np.ndarray, policy: Params | None) -> None:
        """Initialise the agents of a run."""
        _, agents = self.executor.start(keys, steps, policy, share)
        self.runs[run] = ShardRun(agents)
        self._stand(run, keys, 0)

    def prepared(self, run: int, sent: Broadcast, result: PyTree) -> None:
        """Allocate what agents receive and compute ahead of time; for the arguments see `Executor.prepared`."""
        held = self.runs[run]
        held.agents = self.executor.prepared(held.agents, sent, result)

    def train(self, sent: Broadcast, run: int, keys: Keys, work: Work) -> Learned | None:
        """Train agents and return the results of those that are due; None if none is."""
        held = self.runs[run]
        for call in work.forgotten:
            held.undo.pop(call, None)
        self._note(held.agents.team, sent, work)
        table = Table(sent, work.row if work.communicates else None)
        due, fillers = work.agent[: work.due], work.agent[work.due :]
        self.executor.alike = lambda team: work.alike
        if isinstance(self.executor, Host):
            self._stand(run, keys, work.trained)
        if not len(due):
            assert isinstance(self.executor, Blocks)
            held.agents = self.executor.train_ahead(keys, held.agents, fillers, table)
            return None
        held.agents, learned = self.executor.train(keys, held.agents, due, table, fillers)
        held.undo[work.ordinal] = learned.undo
        return self._sent(learned)

    def train_and_save(self, sent: Broadcast, run: int, keys: Keys, work: Work) -> tuple[Learned | None, bytes]:
        """Train agents and return also what `restore` needs: another training would be in other episodes."""
        learned = self.train(sent, run, keys, work)
        return learned, self.saved()[1]

    def give_back(self, run: int, calls: Sequence[int], dropped: np.ndarray) -> None:
        """Restore the stage memory of dropped agents to that from before these calls."""
        held = self.runs[run]
        undo = [each for call in calls for each in held.undo.pop(call, ())]
        held.agents = self.executor.give_back(held.agents, undo, dropped)

    def cancel(self, run: int, agents: np.ndarray) -> None:
        """Discard what these agents have computed ahead of time."""
        held = self.runs[run]
        held.agents = self.executor.cancel(held.agents, agents)

    def restarted(
        self, run: int, keys: Keys, agents: np.ndarray, steps: np.ndarray, share: np.ndarray, policy: Params | None
    ) -> None:
        """Initialise these agents again, after a restart."""
        held = self.runs[run]
        held.agents.team.steps[agents], held.agents.team.share[agents] = steps, share
        held.agents = self.executor.restarted(keys, held.agents, agents, policy)

    def rows(self, run: int) -> np.ndarray:
        """Return the states of all agents as rows of words."""
        agents = self.runs[run].agents
        rows: np.ndarray = agents.team.states if not self.executor.resident else self.executor.packed(agents.blocks)
        return rows

    def load(self, run: int, keys: Keys, rows: np.ndarray, team: Team, prepared: tuple[Any, Any] | None) -> None:
        """Begin a run with these states of the agents, and of the executor about them."""
        agents = self._placed(rows, jax.tree.map(np.array, team))
        self.runs[run] = ShardRun(agents)
        if prepared is not None:
            received = agents.team.received
            self.prepared(run, *prepared)
            held = self.runs[run]
            if self.executor.plan.mixed:
                held.agents = held.agents._replace(team=held.agents.team._replace(received=received))
        self._stand(run, keys, int(team.trained[0]))

    def adopt(self, sent: Broadcast, run: int, new: int, row: np.ndarray) -> None:
        """Begin a run with the agents of another after they have adopted a broadcast."""
        agents = self.runs[run].agents
        adopted = self.executor.adopt(agents, Table(sent, row))
        self.runs[new] = ShardRun(adopted._replace(team=jax.tree.map(np.array, adopted.team)))

    def params_of(self, run: int) -> Params:
        """Return the parameters with which each agent acts."""
        return jax.tree.map(np.asarray, self.executor.params_of(self.runs[run].agents))

    def held(self, run: int) -> Params:
        """Return the shared part of each agent's parameters."""
        return jax.tree.map(np.asarray, self.executor.held(self.runs[run].agents))

    def release(self, run: int) -> None:
        """Forget a run."""
        self.runs.pop(run, None)

    def saved(self) -> tuple[None, bytes]:
        """Return all runs as bytes for `restore`."""
        content = {
            run: (self.rows(run), held.agents.team._replace(states=np.zeros((0, 0), np.uint32)), held.undo)
            for run, held in self.runs.items()
        }
        return None, dumps(content)

    def restore(self, content: bytes) -> None:
        """Continue from what `saved` has returned, in another process; host environments begin new episodes."""
        for run, (rows, team, undo) in loads(content).items():
            self.runs[run] = ShardRun(self._placed(rows, team), undo)
        self._standing = -1

    def close(self) -> None:
        """Close the environments."""
        self.executor.close()

    def _placed(self, rows: np.ndarray, team: Team) -> Agents:
        if not self.executor.resident:
            return Agents((), team._replace(states=np.array(rows)))
        return Agents(tuple(self.executor.unpacked(rows)), team._replace(states=np.zeros((0, 0), np.uint32)))

    def _stand(self, run: int, keys: Keys, count: int) -> None:
        """Let the episodes of host environments belong to this run, new ones if they belonged to another."""
        if isinstance(self.executor, Host):
            if run in self.runs:
                self.runs[run].agents.team.trained[0] = count
            self.executor.standing_at(keys, count, anew=self._standing != run)
            self._standing = run

    def _note(self, team: Team, sent: Broadcast, work: Work) -> None:
        ids = work.agent
        team.version[ids], team.again[ids] = work.version, work.again
        # Others sit in the same blocks: their rows of an earlier call may be beyond the broadcasts of this one.
        team.row[:] = 0
        team.row[ids] = work.row
        team.cohort[ids], team.steps[ids], team.share[ids] = work.cohort, work.steps, work.share
        if self.executor.plan.mixed:
            for own, rows in zip(jax.tree.leaves(team.received), jax.tree.leaves(sent), strict=True):
                own[ids] = np.asarray(rows)[work.row]

    def _sent(self, learned: Learned) -> Learned:
        """Return a result with the numbers of agents in the simulation, as NumPy arrays, and with one sum per group."""

        def numbered(each: Any) -> Any:
            return each._replace(agent=int(self.numbers[each.agent]))

        return Learned(
            self.numbers[learned.agent],
            jax.tree.map(np.asarray, learned.items),
            self._added(learned.block_sums),
            jax.tree.map(np.asarray, learned.uploads),
            learned.metrics,
            tuple(map(numbered, learned.failed)),
            (),
            tuple(map(numbered, learned.failures)),
        )

    def _added(self, parts: Sequence[PartialSums]) -> list[PartialSums]:
        """Add the sums of blocks of one group, exactly, so that one sum is sent and not one for each block."""
        groups: dict[int, list[PartialSums]] = {}
        for part in parts:
            if len(part.agent):
                groups.setdefault(int(self.executor.plan.group[part.agent[0]]), []).append(part)
        return [self._one(each) for each in groups.values()]

    def _one(self, parts: Sequence[PartialSums]) -> PartialSums:
        agent = self.numbers[np.concatenate([part.agent for part in parts])]
        reach = np.concatenate([np.asarray(part.result.reach)[part.here] for part in parts])
        updates, statistics = (
            _total([getattr(part.result, name) for part in parts]) for name in ("updates", "statistics")
        )
        return PartialSums(BlockSums(updates, statistics, reach), np.ones(len(agent), bool), agent)  # type: ignore[arg-type]


def _total(parts: Sequence[Any]) -> np.ndarray:
    """Add the integers of several blocks; int32 holds those of one block alone."""
    first = np.asarray(parts[0])
    if len(parts) == 1:
        return first
    total = first.astype(np.int64 if first.dtype == np.int32 else first.dtype)
    for part in parts[1:]:
        total += np.asarray(part)
    return total


@functools.lru_cache(maxsize=8)
def _federation(content: bytes) -> Any:
    # One object for equal bytes, so that functions in it are the same objects and programs are compiled once.
    return loads(content)
