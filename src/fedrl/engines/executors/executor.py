"""The executor interface and the state that all executors share: jobs of agents, their states, results of training.

assign(jobs, table)         record the jobs of selected agents; nothing is computed yet
train(ids) -> Learned       train the agents whose updates are due
give_back(undo, dropped)    restore the stage memory of agents whose updates were not merged
restarted(ids)              initialise agents again that have lost their state
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.clocks.events import NOBODY, Jobs
from fedrl.core.keys import Keys, Root, Stream, agent_secret, derived, stream_key, turns, turns_noise
from fedrl.core.learner import policy_of
from fedrl.core.types import Broadcast, Params, PyTree
from fedrl.engines.executors.programs import JobInputs, adoption, layout
from fedrl.engines.executors.records import (
    AfterBids,
    Agents,
    Elsewhere,
    ExecutorPlan,
    Found,
    Learned,
    OpenedUpdates,
    Team,
)
from fedrl.engines.inbox import SUMS, Inbox, PartialSums, Table
from fedrl.engines.messages import failures
from fedrl.engines.program_cache import shapes
from fedrl.engines.state import WorkerDeath, in_slots, start_programs, starting
from fedrl.federation.federation import AgentState, Federation, ServerState
from fedrl.federation.shares import shares

UNREADABLE = "its message could not be read"
"""Reason of the rejection of a malformed update."""


def alike(team: Team) -> int | None:
    """Return the local steps of every agent if all have the same number; else None."""
    return int(team.steps[0]) if (team.steps == team.steps[0]).all() else None


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
        # As NumPy: of a JAX array, each row taken would be a program, of a NumPy array a copy of the whole.
        self._fleet = jax.tree.map(np.asarray, fleet)

    resident = True
    elsewhere = False
    """Whether agents are in other processes."""
    silent = False
    """Whether agents keep their metrics and states to themselves."""
    clock: Any = None
    """The clock, where agents work in real time; None if it is simulated."""
    secret_of: Callable[[Keys, int], Root] = staticmethod(agent_secret)
    """`(keys, number) -> secret` of an agent."""
    alike: Callable[[Team], int | None] = staticmethod(alike)
    """`team -> local steps` of every agent of the run, or None if they differ."""
    metrics: list[str]
    """Names of the agents' metrics."""

    def start(
        self, keys: Keys, steps: np.ndarray, policy: Params | None = None, share: np.ndarray | None = None
    ) -> tuple[ServerState, Agents]:
        """Return the initial state of a server, and of all agents, from the parameters of a trained policy if given.

        `share` are the agents' shares among all agents of the run, by default among those of this executor.
        """
        share = shares(self.federation, steps) if share is None else share
        devices = self.devices if self.resident else self.devices[:1]
        begin = starting(self.federation, self._fleet, self.slots, steps, devices, self.numbers, share)
        server, blocks = begin(keys, policy)
        if not self.resident:
            return server, Agents((), self.team(steps, share, self.packed(blocks)))
        return server, Agents(tuple(blocks), self.team(steps, share, np.zeros((0, 0), np.uint32)))

    def team(self, steps: np.ndarray, share: np.ndarray, states: np.ndarray) -> Team:
        """Return the state about agents before their first job."""
        count = self.agents
        return Team(
            states=states,
            received=(),
            row=np.zeros(count, np.int32),
            version=np.full(count, -1, np.int32),
            again=np.zeros(count, np.int32),
            cohort=np.ones(count, np.int32),
            steps=np.asarray(steps, np.int32).copy(),
            share=np.array(share),
            trained=np.zeros(1, np.int64),
            restarts=np.zeros(count, np.int32),
        )

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

    def prepared(self, agents: Agents, sent: Broadcast, result: PyTree) -> Agents:
        """Allocate a broadcast per agent, if agents may receive different versions.

        Args:
            agents: The agents' half of the simulation state.
            sent: Broadcasts with the shapes of a table.
            result: Shapes of the collected item of one agent, and of its `Upload`.
        """
        del result
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
        numbers = self.numbers[who].tolist()
        own, noise = turns(keys, numbers, *received, self.secret_of), turns_noise(keys, numbers, *received)
        return JobInputs(own, team.cohort[who], team.steps[who], team.share[who], noise)

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
            settings = jax.tree.map(lambda leaf, k=k: jnp.asarray(leaf[k]), self._fleet)
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
        there: Any = agents.blocks[0] if agents.blocks else None
        if isinstance(there, Elsewhere):
            return self.unpacked(there.rows(agents))
        if self.resident:
            return list(agents.blocks)
        return self.unpacked(agents.team.states)

    def unpacked(self, rows: np.ndarray) -> list[AgentState]:
        """Return the blocks of agents whose states are rows of words, each on its device."""
        places = [self.devices[i % len(self.devices)] if self.resident else None for i in range(len(self.slots))]
        words = [rows[np.maximum(slot, 0)] for slot in self.slots]
        return [self.layout.unpack(jax.device_put(x, place)) for x, place in zip(words, places, strict=True)]

    def with_blocks(self, agents: Agents, blocks: Sequence[AgentState]) -> Agents:
        """Return the agents with other states, given in the blocks of `slots`."""
        if self.resident:
            return agents._replace(blocks=tuple(blocks))
        return agents._replace(team=agents.team._replace(states=self.packed(blocks)))

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

    def packed(self, blocks: Iterable[AgentState]) -> np.ndarray:
        """Return the states of all agents as rows of words, in the order of agents."""
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

    def after_bids(self, inbox: Inbox, wanted: np.ndarray, within_s: float) -> AfterBids:
        """Return the updates of agents that have bid, once it is decided which are sent.

        Args:
            inbox: Updates of all agents that have bid.
            wanted: Mask of the updates that the budget has selected.
            within_s: Seconds in which they have to come.
        """
        if self.clock is None:
            return AfterBids(inbox)
        came, _ = self.clock.collect(inbox.agent, wanted, within_s)
        return AfterBids(inbox.without(~came))

    def open_sums(self, inbox: Inbox) -> OpenedUpdates:
        """Return the sums of the updates of agents at other sites, which no message contains, by a protocol."""
        raise NotImplementedError

    def rejection_of(self, agent: int) -> str:
        """Return why the message of an agent was refused."""
        del agent  # in a simulation there is one reason
        return UNREADABLE

    def whole(self, agents: Agents) -> Agents:
        """Return the agents with all their arrays in this process, for a checkpoint."""
        return agents

    def placed(self, agents: Agents) -> Agents:
        """Return agents of a checkpoint, which `whole` has returned, where they train."""
        return agents

    def progress(self) -> int:
        """Return a number that grows while agents train, as far as that is seen outside of compiled programs.

        Each call of a compiled program counts when it has ended, and each step of environments on the host.
        """
        return self.calls

    calls = 0
    """Number of calls of compiled programs that have ended."""

    def deaths(self) -> tuple[WorkerDeath, ...]:
        """Return the deaths of worker processes since the last call."""
        return ()

    def close(self) -> None:
        """Release resources outside this process."""
