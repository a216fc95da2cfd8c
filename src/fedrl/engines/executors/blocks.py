"""Executor for compiled environments: agents train side by side in blocks, and blocks run on all devices.

    resident    every agent has a seat in a block that stays on its device
    packed      agents are rows of words; agents that are due are gathered into full blocks, and scattered back

Both run the same compiled program, with bit-identical results. Resident blocks are faster if all agents take part, and
move no replay ring; packed rows are faster if few do, because only the last block has empty seats.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from fedrl.clocks.events import NOBODY
from fedrl.core.environment import compiled
from fedrl.core.faults import FAULT
from fedrl.core.keys import Keys
from fedrl.core.types import Broadcast, PyTree
from fedrl.engines.executors.ahead import places_for
from fedrl.engines.executors.executor import Executor
from fedrl.engines.executors.programs import block_program, logging, metric_names
from fedrl.engines.executors.records import Agents, ExecutorPlan, Found, Learned, Team, joined
from fedrl.engines.inbox import SUMS, Table
from fedrl.engines.program_cache import shapes
from fedrl.engines.state import in_slots
from fedrl.federation.federation import Federation

SlotMap = list[tuple[int, np.ndarray, np.ndarray]]
"""Blocks: a number, the agent of each seat (any agent in an empty seat), and the mask of seats in use."""


class Blocks(Executor):
    """Executor with agents in compiled blocks; packed if few of them are due at a time, else resident."""

    def __init__(
        self,
        federation: Federation,
        fleet: PyTree,
        plan: ExecutorPlan,
        size: int,
        devices: Sequence[jax.Device],
        order: Any = None,
        resident: bool | None = None,
    ) -> None:
        compiled(federation.learner.environment)
        super().__init__(federation, fleet, plan, size, devices, order)
        self.resident = not plan.sparse if resident is None else resident
        self._run, self._logs = block_program(federation, plan.collects), logging(federation)
        self._names = metric_names(federation, shapes(fleet, skip=1))
        self.metrics = [name for name in self._names if name != FAULT]
        self._last: tuple[np.ndarray, SlotMap] = (NOBODY, [])
        self._ready = threading.Event()

    def prepared(self, agents: Agents, sent: Broadcast, result: PyTree) -> Agents:
        """Allocate places for agents that train ahead of time."""
        agents = super().prepared(agents, sent, result)
        if not self.plan.ahead:
            return agents
        columns = np.zeros(len(self._names), np.float32)
        ahead = places_for(self.agents, self.layout.num_words, (*result, columns))
        return agents._replace(team=agents.team._replace(ahead=ahead))

    def fillers(self, agents: Agents, ids: np.ndarray, due: int) -> np.ndarray:
        """Return the first of these agents that fill the empty seats on all devices beside `due` agents."""
        ahead = agents.team.ahead
        if not ahead:
            return ids[:0]
        # As many as there are empty seats once all devices have full blocks.
        free = min(len(ahead.free()), -due % (self.size * len(self.devices)))
        return ids[~np.isin(ids, ahead.agent)][:free]

    def cancel(self, agents: Agents, ids: np.ndarray) -> Agents:
        """Cancel the jobs of these agents, and discard results that they computed ahead of time."""
        if agents.team.ahead:
            agents.team.ahead.take(ids)
        return agents

    def train(
        self, keys: Keys, agents: Agents, ids: np.ndarray, table: Table, fillers: np.ndarray = NOBODY
    ) -> tuple[Agents, Learned]:
        """Train these agents, whose updates are due, unless they have trained ahead; `fillers` train ahead."""
        team, early = agents.team, None
        due, before = ids, []
        if team.ahead:
            early = team.ahead.take(ids)
            before = [(0, early[0], team.states[early[0], self.layout.memory])]
            # Trained ahead and due now: the state that was kept apart becomes the agent's.
            due, team.states[early[0]] = ids[~np.isin(ids, early[0])], early[1]
        if not len(due):
            assert early is not None
            return agents, self.learned(self._found(early[0], early[2])._replace(undo=before), ids)
        agents, found, states, columns = self._learn(keys, agents, due, fillers, table)
        if early is None or not team.ahead:
            return agents, self.learned(found, ids)
        later = np.isin(found.agent, fillers)
        results = (found.items, found.uploads, columns)
        team.ahead.keep(found.agent[later], states[later], jax.tree.map(lambda x: x[later], results))
        now = jax.tree.map(lambda x: x[~later], results)
        whole = jax.tree.map(lambda *leaves: np.concatenate(leaves), now, early[2])
        agent = np.concatenate([found.agent[~later], early[0]])
        return agents, self.learned(self._found(agent, whole)._replace(undo=before + found.undo), ids)

    def train_ahead(self, keys: Keys, agents: Agents, fillers: np.ndarray, table: Table) -> Agents:
        """Train these agents ahead of time, without any that are due."""
        agents, found, states, columns = self._learn(keys, agents, NOBODY, fillers, table)
        assert agents.team.ahead
        agents.team.ahead.keep(found.agent, states, (found.items, found.uploads, columns))
        return agents

    def _found(self, agent: np.ndarray, results: PyTree) -> Found:
        items, uploads, columns = results
        metrics = dict(zip(self._names, columns.T, strict=True))
        return Found(agent, metrics.pop(FAULT).astype(int), [], items, uploads, metrics, [])

    def _learn(
        self, keys: Keys, agents: Agents, due: np.ndarray, fillers: np.ndarray, table: Table
    ) -> tuple[Agents, Found, np.ndarray, np.ndarray]:
        """Train agents; also return the states of packed agents as rows, and the columns of the metrics."""
        team, blocks = agents.team, list(agents.blocks)
        communicates, alike, slot_map = np.bool_(table.row is not None), self._alike(team), self._in_slots(due, fillers)
        heard_by: dict[bytes, Broadcast] = {}

        def received(who: np.ndarray) -> Broadcast:
            # Blocks whose agents receive the same rows share one array.
            rows = b"" if self.plan.mixed else team.row[who].tobytes()
            found = heard_by.get(rows) if rows else None
            if found is None:
                found = heard_by[rows] = self._heard(team, table, who)
            return found

        def dispatch(i: int, who: np.ndarray, here: np.ndarray) -> tuple[Any, ...]:
            place = self.devices[i % len(self.devices)]
            block = blocks[i] if self.resident else self.layout.unpack(jax.device_put(team.states[who], place))
            asked = self._asked(keys, team, who)
            after, *rest = self._run(received(who), asked, communicates, alike, block, self._logs(block), here)
            if self.resident:
                blocks[i] = after
            return (() if self.resident else self.layout.pack(after)), *rest

        if self._ready.is_set():
            results = [dispatch(*each) for each in slot_map]
        else:
            # Each device compiles its own copy of the program at its first call; threads compile them side by side.
            with ThreadPoolExecutor(len(self.devices)) as pool:
                results = list(pool.map(lambda each: dispatch(*each), slot_map))
            self._ready.set()
        rows, agent = [here for *_, here in slot_map], np.concatenate([who[here] for _, who, here in slot_map])
        packed, before, handed, tables, uploads = zip(*results, strict=True)
        columns = joined([np.asarray(each).T for each in tables], rows)
        states, undo = joined(packed, rows) if not self.resident else team.states, []
        if self.resident:
            undo = [(i, who[here], memory) for memory, (i, who, here) in zip(before, slot_map, strict=True)]
        else:
            undo = [(0, agent, team.states[agent, self.layout.memory].copy())]
            # Fillers keep their old state: until their update is due, nothing of a job may show.
            mine = np.isin(agent, due)
            team.states[agent[mine]] = states[mine]
        sums = [(each, who, here) for each, (_, who, here) in zip(handed, slot_map, strict=True)]
        if self.plan.collects != SUMS:
            handed, sums = joined(handed, rows), []
        found = self._found(agent, (handed if not sums else (), joined(uploads, rows), columns))
        self.calls += len(results)
        return agents._replace(blocks=tuple(blocks)), found._replace(sums=sums, undo=undo), states, columns

    def _in_slots(self, due: np.ndarray, fillers: np.ndarray) -> SlotMap:
        """Return the blocks that these agents fill."""
        ids, (last, slot_map) = np.concatenate([due, fillers]), self._last
        if np.array_equal(last, ids):  # cached, because in most runs the same agents take part in every round
            return slot_map
        if self.resident:
            found = [(i, np.maximum(slot, 0), (slot >= 0) & np.isin(slot, ids)) for i, slot in enumerate(self.slots)]
            slot_map = [each for each in found if each[2].any()]
        else:
            summed = self.plan.collects == SUMS
            groups = [ids[self.plan.group[ids] == g] for g in np.unique(self.plan.group[ids])] if summed else [ids]
            rows = [slot for members in groups for slot in in_slots(members, self.size)]
            # An empty seat repeats the first agent of its block, and its result is left out.
            slot_map = [(i, np.where(slot < 0, slot[0], slot), slot >= 0) for i, slot in enumerate(rows)]
        self._last = ids, slot_map
        return slot_map

    def _alike(self, team: Team) -> np.int32 | None:
        """Return the local steps of every agent if all are equal; None if they differ, or if all take one step."""
        if self.federation.local_steps == 1 or (self.plan.mixed and self.plan.varied):
            return None
        common = self.alike(team)
        return None if common is None else np.int32(common)
