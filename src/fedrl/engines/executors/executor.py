"""What all executors share: what agents were asked for, what they hold, and what comes of their work.

assign(jobs, table)      agents are sent for; nothing is computed yet
train(ids) -> Learned    those whose updates are due learn
give_back(undo, lost)    stages of agents whose updates came to nothing remember what they did before
restarted(ids)           agents that have lost all they remembered begin anew
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
from fedrl.engines.aggregation import Upload, failures
from fedrl.engines.executors.ahead import TrainedAhead
from fedrl.engines.executors.programs import JobInputs, adoption, layout
from fedrl.engines.inbox import SUMS, PartialSums, Table
from fedrl.engines.program_cache import shapes
from fedrl.engines.state import Rejection, in_slots, start_programs, starting
from fedrl.engines.topologies.server import Server
from fedrl.federation.federation import AgentState, Federation, ServerState
from fedrl.federation.shares import shares


class Team(NamedTuple):
    """What the executor keeps of agents beside resident blocks.

    NumPy arrays, `[agents, ...]`, that are brought up to date in place.

    Attributes:
        states: Of packed agents, as rows of words, after the last of their jobs that has ended.
        received: The broadcast each heard last, if those who work at the same time may have heard different ones.
        row: Else the row of the table that it hears.
        version: Of what each heard; -1 for nothing yet.
        again: How often each has heard that version before.
        cohort: How many heard the same with it.
        steps: Local steps it was asked for.
        share: Its weight among all agents, as they were asked when it was.
        trained: How often anybody has learned, `[1]`.
        restarts: How often each has begun anew.
        ahead: Of packed agents who learned before it was due; () if none ever does.
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
    """The agents' half of a run."""

    blocks: tuple[AgentState, ...]
    team: Team


class Learned(NamedTuple):
    """What came of local work.

    Attributes:
        agent: Those whose training came to something; in the order of `block_sums`, or else as they were asked.
        items: What was collected of each, with a leading axis; () if sums were.
        block_sums: The sums.
        uploads: An `Upload` with a row for each.
        metrics: Of each, by name.
        failed: Those whose training came to nothing.
        undo: For `give_back`.
    """

    agent: np.ndarray
    items: PyTree
    block_sums: list[PartialSums]
    uploads: Upload
    metrics: dict[str, np.ndarray]
    failed: tuple[Rejection, ...]
    undo: Any


class Found(NamedTuple):
    """What agents made of their work, as an executor finds it, in the order of blocks.

    Attributes:
        agent: All that worked.
        fault: Whose training came to nothing: `fedrl.core.faults.FAULT`.
        sums: Of each block its exact sums, who sits where, and who is here; empty if sums are not collected.
        items: What was collected of each agent instead; () if sums were.
        uploads: An `Upload` with a row for each.
        metrics: Of each, by name.
        undo: For `give_back`: a block, its agents, and what their stages remembered before.
    """

    agent: np.ndarray
    fault: np.ndarray
    sums: list[tuple[Any, np.ndarray, np.ndarray]]
    items: PyTree
    uploads: Upload
    metrics: dict[str, np.ndarray]
    undo: list[tuple[int, np.ndarray, Any]]


class ExecutorPlan(NamedTuple):
    """What the rest of a simulation needs of its executor.

    Attributes:
        collects: "sums", "updates" or "params".
        group: `[agents]`, whose updates may be added up together.
        sparse: Whether few agents may be due at a time.
        mixed: Whether those who work at the same time may have heard different versions.
        ahead: Whether agents may learn before it is due.
        varied: Whether agents may be asked for unlike numbers of local steps.
    """

    collects: str
    group: np.ndarray
    sparse: bool
    mixed: bool
    ahead: bool
    varied: bool


class Executor:
    """What all executors share: what agents were asked for, and what they hold."""

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
        self.numbers = np.arange(self.agents)  # by which agents are known to others
        slot_map = np.arange(self.agents) if order is None else np.asarray(order)
        groups = np.unique(plan.group) if plan.collects == SUMS else [None]
        members = [slot_map if g is None else slot_map[plan.group[slot_map] == g] for g in groups]
        self.slots = [slot for ids in members for slot in in_slots(ids, size)]
        self.layout = layout(federation, shapes(fleet, skip=1))
        self._failures = failures(federation, shapes(fleet, skip=1))
        self._adopt = adoption(federation)
        self._fleet = fleet

    resident = True
    secret_of: Callable[[Keys, int], Root] = staticmethod(agent_secret)
    """The secret of the agent with a number."""
    metrics: list[str]
    """What agents measure."""

    def start(self, keys: Keys, steps: np.ndarray) -> tuple[ServerState, Agents]:
        """Begin a run; also returns what a server begins with."""
        devices = self.devices if self.resident else self.devices[:1]
        first = starting(self.federation, self._fleet, self.slots, steps, devices, self.numbers)(keys)
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
        """These agents are sent for, each with a row of the table."""
        team, ids = agents.team, jobs.agent
        version = np.asarray(table.sent.version)[jobs.row]
        team.again[ids] = np.where(team.version[ids] == version, team.again[ids] + 1, 0)
        team.version[ids], team.cohort[ids], team.row[ids] = version, jobs.cohort, jobs.row
        team.steps[ids], team.share[ids] = jobs.steps, jobs.share
        if self.plan.mixed:
            for own, rows in zip(jax.tree.leaves(team.received), jax.tree.leaves(table.sent), strict=True):
                own[ids] = rows[jobs.row]
        return agents

    def cancel(self, agents: Agents, ids: np.ndarray) -> Agents:
        """As if they had not been sent for; nobody has learned yet who can be called back."""
        del ids
        return agents

    def fillers(self, agents: Agents, ids: np.ndarray, due: int) -> np.ndarray:
        """Those of these agents who may learn beside so many that are due."""
        del agents, due
        return ids[:0]

    def prepared(self, agents: Agents, sent: Broadcast, topology: Server) -> Agents:
        """With room for what each agent hears, if that differs; `sent` has the shape of a table of broadcasts."""
        del topology
        if not self.plan.mixed:
            return agents
        room = jax.tree.map(lambda x: np.zeros((self.agents, *np.shape(x)[1:]), np.asarray(x).dtype), sent)
        return agents._replace(team=agents.team._replace(received=room))

    def train(
        self, keys: Keys, agents: Agents, ids: np.ndarray, table: Table, fillers: np.ndarray = NOBODY
    ) -> tuple[Agents, Learned]:
        """These agents, whose updates are due, learn, if they have not; so may others, ahead of time."""
        raise NotImplementedError

    def _heard(self, team: Team, table: Table, who: np.ndarray) -> Broadcast:
        """What each seat of a block has heard."""
        if self.plan.mixed:
            return jax.tree.map(lambda own: own[who], team.received)
        rows = team.row[who]
        return jax.tree.map(lambda x: x[rows], table.sent)

    def _asked(self, keys: Keys, team: Team, who: np.ndarray) -> JobInputs:
        received = (team.version[who].tolist(), team.again[who].tolist())
        own = turns(keys, self.numbers[who].tolist(), *received, self.secret_of)
        return JobInputs(own, team.cohort[who], team.steps[who], team.share[who])

    def give_back(self, agents: Agents, undo: Sequence[Any], dropped: np.ndarray) -> Agents:
        """Stages of these agents remember what they did before they learned: their updates came to nothing."""
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

    def restarted(self, keys: Keys, agents: Agents, ids: np.ndarray) -> Agents:
        """These agents have lost all that they remembered: each begins anew, as another draw of the run's beginning.

        Its key has how often it has begun anew in it. Each is made by itself, so neither blocks nor devices matter.

        Args:
            keys: Of the run.
            agents: The agents' half of the run.
            ids: Who begins anew, each once.
        """
        team, begin, blocks = agents.team, start_programs(self.federation), list(agents.blocks)
        first = begin.server(stream_key(keys, Stream.SERVER)).params
        team.restarts[ids] += 1
        for k in ids.tolist():
            number = int(self.numbers[k])
            key = derived(keys.run.tobytes(), Stream.AGENTS, number, int(team.restarts[k]))[0]
            settings = jax.tree.map(lambda leaf, k=k: jnp.asarray(leaf)[k], self._fleet)
            state = begin.agent(key, first, np.int32(number), settings, team.steps[k], team.share[k])
            if not self.resident:
                team.states[k] = np.asarray(self.layout.pack(jax.tree.map(lambda x: x[None], state)))[0]
                continue
            i = next(i for i, slot in enumerate(self.slots) if k in slot)
            slot, place = int(np.argmax(self.slots[i] == k)), self.devices[i % len(self.devices)]
            block, state = jax.device_put((blocks[i], state), place)
            blocks[i] = jax.tree.map(lambda own, new, slot=slot: own.at[slot].set(new), block, state)
        return agents._replace(blocks=tuple(blocks))

    def blocks(self, agents: Agents) -> list[AgentState]:
        """All agents, by `slots`."""
        if self.resident:
            return list(agents.blocks)
        return [self.layout.unpack(agents.team.states[np.maximum(slot, 0)]) for slot in self.slots]

    def with_blocks(self, agents: Agents, blocks: Sequence[AgentState]) -> Agents:
        """The same with other states of all agents, by `slots`."""
        if self.resident:
            return agents._replace(blocks=tuple(blocks))
        return agents._replace(team=agents.team._replace(states=self._packed(blocks)))

    def adopt(self, agents: Agents, table: Table) -> Agents:
        """Every agent has adopted what it would hear now."""
        row = table.row
        if row is None:
            return agents
        params = [jax.tree.map(lambda x, s=slot: x[row[np.maximum(s, 0)]], table.sent.params) for slot in self.slots]
        return self.with_blocks(agents, [self._adopt(*each) for each in zip(self.blocks(agents), params, strict=True)])

    def params_of(self, agents: Agents) -> Params:
        """What each agent acts with, in the order of their numbers."""
        learner = self.federation.learner
        held = [jax.vmap(lambda state: policy_of(learner, state))(block.learner) for block in self.blocks(agents)]
        return self._in_order(held)

    def held(self, agents: Agents) -> Params:
        """What a federation sees of each agent's parameters, in the order of their numbers."""
        return self._in_order(
            [jax.vmap(self.federation.learner.params)(block.learner) for block in self.blocks(agents)]
        )

    def states_of(self, agents: Agents) -> PyTree:
        """What each agent's learner remembers, in the order of their numbers."""
        return self._in_order([block.learner for block in self.blocks(agents)])

    def with_states(self, agents: Agents, states: PyTree) -> Agents:
        """Agents that go on from what the learners of others remember."""

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
        """Without those whose training came to nothing: in the order of sums, or as agents were asked for."""
        sound, block_sums, items, end = found.fault == 0, [], (), 0
        keep = np.flatnonzero(sound)
        for result, who, here in found.sums:
            fine = here.copy()
            fine[here] = sound[end : end + int(here.sum())]
            end += int(here.sum())
            block_sums.append(PartialSums(result, fine, who[fine]))
        if self.plan.collects != SUMS:
            back = np.argsort(found.agent)[np.argsort(np.argsort(ids))]
            keep = back[sound[back]]
            items = jax.tree.map(lambda x: x[keep], found.items)
        uploads, metrics = jax.tree.map(lambda x: x[keep], (found.uploads, found.metrics))
        failed = self._failures(found.agent, found.fault)
        return Learned(found.agent[keep], items, block_sums, uploads, metrics, failed, found.undo)

    def close(self) -> None:
        """Let go of what is held outside this process."""


def joined(parts: Sequence[PyTree], here: Sequence[np.ndarray]) -> PyTree:
    """What blocks hand over, one after the other, without those who are not here."""
    rows = [jax.tree.map(lambda x, h=h: np.asarray(x)[h], part) for part, h in zip(parts, here, strict=True)]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *rows)
