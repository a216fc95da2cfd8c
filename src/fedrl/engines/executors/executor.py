"""The executor interface and the state that all executors share: jobs of agents, their states, results of training.

assign(jobs, table)         record the jobs of selected agents; nothing is computed yet
train(ids) -> Learned       train the agents whose updates are due
give_back(undo, dropped)    restore the stage memory of agents whose updates were not merged
restarted(ids)              initialise agents again that have lost their state
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.clocks.events import NOBODY, Jobs
from fedrl.core.keys import Keys, Root, Stream, agent_secret, derived, stream_key, turns
from fedrl.core.learner import policy_of
from fedrl.core.types import Broadcast, Params, PyTree
from fedrl.engines.environment_failures import EnvironmentFailure
from fedrl.engines.executors.ahead import TrainedAhead
from fedrl.engines.executors.programs import JobInputs, adoption, layout
from fedrl.engines.inbox import SUMS, PartialSums, Table
from fedrl.engines.messages import Upload, failures
from fedrl.engines.program_cache import shapes
from fedrl.engines.state import Rejection, in_slots, start_programs, starting
from fedrl.engines.topologies.server import Server
from fedrl.federation.federation import AgentState, Federation, ServerState
from fedrl.federation.shares import shares


class Team(NamedTuple):
    """The executor's state about agents, beside resident blocks.

    NumPy arrays, `[agents, ...]`, that are updated in place.

    Attributes:
        states: States of packed agents as rows of words, after their last finished job.
        received: Last broadcast that each agent received, if agents may train from different versions at a time.
        row: Otherwise the row of the table that each agent receives.
        version: Version of that broadcast; -1 before the first.
        again: Number of earlier jobs of each agent with the same version.
        cohort: Number of agents that received the same broadcast.
        steps: Local steps of the current job.
        share: Share of each agent among all agents, at the time of its job.
        trained: Number of calls of `train`, `[1]`.
        restarts: Number of restarts of each agent.
        ahead: Results of packed agents that trained before they were due; () if none ever does.
    """

    states: np.ndarray
    received: PyTree
    row: np.ndarray
    version: np.ndarray
    again: np.ndarray
    cohort: np.ndarray
    steps: np.ndarray
    share: np.ndarray
    trained: np.ndarray
    restarts: np.ndarray
    ahead: TrainedAhead | tuple[()] = ()


class Agents(NamedTuple):
    """The agents' half of the simulation state: resident blocks, and the state of the executor."""

    blocks: tuple[AgentState, ...]
    team: Team


class Learned(NamedTuple):
    """Result of training.

    Attributes:
        agent: Agents whose training succeeded; in the order of `block_sums`, or else in the order they were requested.
        items: The collected updates or parameters of each, with a leading axis; () if sums are collected.
        block_sums: The sums, if sums are collected.
        uploads: An `Upload` with a row for each agent.
        metrics: Metrics of each agent, by name.
        failed: Agents whose training failed.
        undo: Earlier stage memories, for `give_back`.
        failures: Failures of environments, also those after which an agent's round was repeated.
    """

    agent: np.ndarray
    items: PyTree
    block_sums: list[PartialSums]
    uploads: Upload
    metrics: dict[str, np.ndarray]
    failed: tuple[Rejection, ...]
    undo: Any
    failures: tuple[EnvironmentFailure, ...] = ()


LOST = -1
"""The fault number of an agent whose environment failed."""


class Found(NamedTuple):
    """Raw result of training, in the order of blocks.

    Attributes:
        agent: All agents that trained.
        fault: Fault number of each agent, 0 if its training succeeded: `fedrl.core.faults.FAULT`, or `LOST`.
        sums: For each block its exact sums, the agents of its seats, and the mask of seats in use; empty if sums are
            not collected.
        items: The collected updates or parameters of each agent; () if sums are collected.
        uploads: An `Upload` with a row for each agent.
        metrics: Metrics of each agent, by name.
        undo: For `give_back`: a block's number, its agents, and their stage memory before training.
    """

    agent: np.ndarray
    fault: np.ndarray
    sums: list[tuple[Any, np.ndarray, np.ndarray]]
    items: PyTree
    uploads: Upload
    metrics: dict[str, np.ndarray]
    undo: list[tuple[int, np.ndarray, Any]]


class ExecutorPlan(NamedTuple):
    """Requirements of the other parts of a simulation on its executor.

    Attributes:
        collects: What a block returns: "sums", "updates", "params" or "encoded".
        group: `[agents]`, group of each agent; only updates of one group may be summed.
        sparse: Whether few agents may be due at a time.
        mixed: Whether agents that train at the same time may have received different versions.
        ahead: Whether agents may train before they are due.
        varied: Whether agents may have different numbers of local steps.
    """

    collects: str
    group: np.ndarray
    sparse: bool
    mixed: bool
    ahead: bool
    varied: bool


class Executor:
    """Base of all executors: the jobs and the states of agents."""

    def __init__(
        self,
        federation: Federation,
        fleet: PyTree,
        plan: ExecutorPlan,
        size: int,
        devices: Sequence[jax.Device],
        order: Any,
    ) -> None:
        self.federation, self.plan, self.size, self.devices = federation, plan, size, list(devices)
        self.agents = len(plan.group)
        self.numbers = np.arange(self.agents)  # global numbers: in a process of its own, an agent sits in seat 0
        slot_map = np.arange(self.agents) if order is None else np.asarray(order)
        # A block that returns a sum has agents of one group only, because it is summed inside the program.
        groups = np.unique(plan.group) if plan.collects == SUMS else [None]
        members = [slot_map if g is None else slot_map[plan.group[slot_map] == g] for g in groups]
        self.slots = [slot for ids in members for slot in in_slots(ids, size)]
        self.layout = layout(federation, shapes(fleet, skip=1))
        self._failures = failures(federation, shapes(fleet, skip=1))
        self._adopt = adoption(federation)
        self._fleet = fleet

    resident = True
    secret_of: Callable[[Keys, int], Root] = staticmethod(agent_secret)
    """`(keys, number) -> secret` of an agent."""
    metrics: list[str]
    """Names of the agents' metrics."""

    def start(self, keys: Keys, steps: np.ndarray, policy: Params | None = None) -> tuple[ServerState, Agents]:
        """Return the initial state of a server, and of all agents, from the parameters of a trained policy if given."""
        devices = self.devices if self.resident else self.devices[:1]
        first = starting(self.federation, self._fleet, self.slots, steps, devices, self.numbers)(keys, policy)
        blocks, states = first.blocks, np.zeros((0, 0), np.uint32)
        if not self.resident:
            states, blocks = self._packed(blocks), ()
        count = self.agents
        team = Team(
            states=states,
            received=(),
            row=np.zeros(count, np.int32),
            version=np.full(count, -1, np.int32),
            again=np.zeros(count, np.int32),
            cohort=np.ones(count, np.int32),
            steps=np.asarray(steps, np.int32).copy(),
            share=shares(self.federation, steps),
            trained=np.zeros(1, np.int64),
            restarts=np.zeros(count, np.int32),
        )
        return first.server, Agents(tuple(blocks), team)

    def assign(self, agents: Agents, jobs: Jobs, table: Table) -> Agents:
        """Record the jobs of agents, each with a row of the table."""
        team, ids = agents.team, jobs.agent
        version = np.asarray(table.sent.version)[jobs.row]
        # Counted, so that a second job of the same version has other keys.
        team.again[ids] = np.where(team.version[ids] == version, team.again[ids] + 1, 0)
        team.version[ids], team.cohort[ids], team.row[ids] = version, jobs.cohort, jobs.row
        team.steps[ids], team.share[ids] = jobs.steps, jobs.share
        if self.plan.mixed:
            for own, rows in zip(jax.tree.leaves(team.received), jax.tree.leaves(table.sent), strict=True):
                own[ids] = rows[jobs.row]
        return agents

    def cancel(self, agents: Agents, ids: np.ndarray) -> Agents:
        """Cancel the jobs of these agents; nothing to undo, since an agent trains only when its update is due."""
        del ids
        return agents

    def fillers(self, agents: Agents, ids: np.ndarray, due: int) -> np.ndarray:
        """Return those of these agents that may train ahead of time, beside `due` agents that are due."""
        del agents, due
        return ids[:0]

    def prepared(self, agents: Agents, sent: Broadcast, topology: Server) -> Agents:
        """Allocate a broadcast per agent, if agents may receive different versions; `sent` has a table's shapes."""
        del topology
        if not self.plan.mixed:
            return agents
        room = jax.tree.map(lambda x: np.zeros((self.agents, *np.shape(x)[1:]), np.asarray(x).dtype), sent)
        return agents._replace(team=agents.team._replace(received=room))

    def train(
        self, keys: Keys, agents: Agents, ids: np.ndarray, table: Table, fillers: np.ndarray = NOBODY
    ) -> tuple[Agents, Learned]:
        """Train these agents, whose updates are due, unless they have trained ahead; `fillers` may train ahead."""
        raise NotImplementedError

    def _heard(self, team: Team, table: Table, who: np.ndarray) -> Broadcast:
        """Return the broadcast that each seat of a block has received."""
        if self.plan.mixed:
            return jax.tree.map(lambda own: own[who], team.received)
        rows = team.row[who]
        return jax.tree.map(lambda x: x[rows], table.sent)

    def _asked(self, keys: Keys, team: Team, who: np.ndarray) -> JobInputs:
        received = (team.version[who].tolist(), team.again[who].tolist())
        own = turns(keys, self.numbers[who].tolist(), *received, self.secret_of)
        return JobInputs(own, team.cohort[who], team.steps[who], team.share[who])

    def give_back(self, agents: Agents, undo: Sequence[Any], dropped: np.ndarray) -> Agents:
        """Restore the stage memory of `dropped` agents: their updates were not merged.

        Only the memory of stages: the learner keeps what it has learned. A stage that remembered an update which was
        never merged, as SCAFFOLD's c_k, would be inconsistent with the server.
        """
        blocks = list(agents.blocks)
        for i, ids, memory in undo if len(dropped) else ():
            mine = np.isin(ids, dropped)
            if not self.resident:
                agents.team.states[ids[mine], self.layout.memory] = memory[mine]
            elif mine.any():
                here = np.isin(self.slots[i], ids[mine])

                def chosen(old: jax.Array, new: jax.Array, here: np.ndarray = here) -> jax.Array:
                    return jnp.where(here.reshape(-1, *[1] * (new.ndim - 1)), old, new)

                blocks[i] = blocks[i]._replace(stage_states=jax.tree.map(chosen, memory, blocks[i].stage_states))
        return agents._replace(blocks=tuple(blocks))

    def restarted(self, keys: Keys, agents: Agents, ids: np.ndarray, policy: Params | None = None) -> Agents:
        """Initialise these agents again, after a restart in which they lost their state.

        The key includes the number of restarts. Each agent is initialised by itself, so the result depends neither on
        blocks nor on devices.

        Args:
            keys: Keys of the run.
            agents: The agents' half of the simulation state.
            ids: Agents that restart, each once.
            policy: Parameters of the trained policy from which the run started, if there was one.
        """
        team, begin, blocks = agents.team, start_programs(self.federation), list(agents.blocks)
        first = begin.server(stream_key(keys, Stream.SERVER), policy).params
        team.restarts[ids] += 1
        for k in ids.tolist():
            number = int(self.numbers[k])
            key = derived(keys.run.tobytes(), Stream.AGENTS, number, int(team.restarts[k]))[0]
            settings = jax.tree.map(lambda leaf, k=k: jnp.asarray(leaf)[k], self._fleet)
            state = begin.agent(key, first, np.int32(number), settings, team.steps[k], team.share[k], policy)
            if not self.resident:
                team.states[k] = np.asarray(self.layout.pack(jax.tree.map(lambda x: x[None], state)))[0]
                continue
            i = next(i for i, slot in enumerate(self.slots) if k in slot)
            slot, place = int(np.argmax(self.slots[i] == k)), self.devices[i % len(self.devices)]
            block, state = jax.device_put((blocks[i], state), place)
            blocks[i] = jax.tree.map(lambda own, new, slot=slot: own.at[slot].set(new), block, state)
        return agents._replace(blocks=tuple(blocks))

    def blocks(self, agents: Agents) -> list[AgentState]:
        """Return the states of all agents, in the blocks of `slots`."""
        if self.resident:
            return list(agents.blocks)
        return [self.layout.unpack(agents.team.states[np.maximum(slot, 0)]) for slot in self.slots]

    def with_blocks(self, agents: Agents, blocks: Sequence[AgentState]) -> Agents:
        """Return the agents with other states, given in the blocks of `slots`."""
        if self.resident:
            return agents._replace(blocks=tuple(blocks))
        return agents._replace(team=agents.team._replace(states=self._packed(blocks)))

    def adopt(self, agents: Agents, table: Table) -> Agents:
        """Return the agents after each has adopted the broadcast it would receive now."""
        row = table.row
        if row is None:
            return agents
        params = [jax.tree.map(lambda x, s=slot: x[row[np.maximum(s, 0)]], table.sent.params) for slot in self.slots]
        return self.with_blocks(agents, [self._adopt(*each) for each in zip(self.blocks(agents), params, strict=True)])

    def params_of(self, agents: Agents) -> Params:
        """Return the parameters each agent acts with, in the order of agents."""
        learner = self.federation.learner
        held = [jax.vmap(lambda state: policy_of(learner, state))(block.learner) for block in self.blocks(agents)]
        return self._in_order(held)

    def held(self, agents: Agents) -> Params:
        """Return the shared part of each agent's parameters, in the order of agents."""
        return self._in_order(
            [jax.vmap(self.federation.learner.params)(block.learner) for block in self.blocks(agents)]
        )

    def states_of(self, agents: Agents) -> PyTree:
        """Return the state of each agent's learner, in the order of agents."""
        return self._in_order([block.learner for block in self.blocks(agents)])

    def with_states(self, agents: Agents, states: PyTree) -> Agents:
        """Return the agents with these learner states."""

        def remembering(block: AgentState, slot: np.ndarray) -> AgentState:
            rows = np.maximum(slot, 0)
            taken = jax.tree.map(lambda new, old: jax.device_put(new[rows], old.sharding), states, block.learner)
            return block._replace(learner=taken)

        return self.with_blocks(agents, [remembering(*at) for at in zip(self.blocks(agents), self.slots, strict=True)])

    def _packed(self, blocks: Sequence[AgentState]) -> np.ndarray:
        rows = np.concatenate([np.asarray(self.layout.pack(block)) for block in blocks])
        ids = np.concatenate(self.slots)
        back = np.flatnonzero(ids >= 0)[np.argsort(ids[ids >= 0])]
        return np.asarray(rows[back])

    def _in_order(self, held: Sequence[PyTree]) -> PyTree:
        ids = np.concatenate(self.slots)
        back = np.flatnonzero(ids >= 0)[np.argsort(ids[ids >= 0])]
        return jax.tree.map(lambda *leaves: np.concatenate([np.asarray(x) for x in leaves])[back], *held)

    def learned(self, found: Found, ids: np.ndarray) -> Learned:
        """Return the result without agents whose training failed, in the order of sums, or else that of `ids`."""
        sound, block_sums, items, end = found.fault == 0, [], (), 0
        keep = np.flatnonzero(sound)
        for result, who, here in found.sums:
            fine = here.copy()
            fine[here] = sound[end : end + int(here.sum())]
            end += int(here.sum())
            block_sums.append(PartialSums(result, fine, who[fine]))
        if self.plan.collects != SUMS:
            # From the order of blocks to that of `ids`: the inverse of one sort after the other.
            back = np.argsort(found.agent)[np.argsort(np.argsort(ids))]
            keep = back[sound[back]]
            items = jax.tree.map(lambda x: x[keep], found.items)
        uploads, metrics = jax.tree.map(lambda x: x[keep], (found.uploads, found.metrics))
        failed = self._failures(found.agent, found.fault)
        return Learned(found.agent[keep], items, block_sums, uploads, metrics, failed, found.undo)

    def close(self) -> None:
        """Release resources outside this process."""


def joined(parts: Sequence[PyTree], here: Sequence[np.ndarray]) -> PyTree:
    """Concatenate the results of blocks as NumPy arrays, without seats that are not in use."""
    rows = [jax.tree.map(lambda x, h=h: np.asarray(x)[h], part) for part, h in zip(parts, here, strict=True)]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *rows)


def together(parts: Sequence[Learned], ids: np.ndarray, summed: bool) -> Learned:
    """Return the results of several calls for some of these agents each as that of one call."""
    if len(parts) == 1:
        return parts[0]
    agent = np.concatenate([part.agent for part in parts])
    # Sums are exact, so only single updates have an order: that of `ids`.
    order = np.arange(len(agent)) if summed else np.argsort(np.argsort(ids)[np.searchsorted(np.sort(ids), agent)])

    def rows(trees: Sequence[PyTree]) -> PyTree:
        return jax.tree.map(lambda *leaves: np.concatenate(leaves)[order], *trees)

    return Learned(
        agent[order],
        rows([part.items for part in parts]),
        [each for part in parts for each in part.block_sums],
        rows([part.uploads for part in parts]),
        rows([part.metrics for part in parts]),
        tuple(each for part in parts for each in part.failed),
        [each for part in parts for each in part.undo],
    )
