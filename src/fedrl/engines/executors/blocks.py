"""Compiled environments: agents learn side by side in blocks, and blocks on all devices.

    resident    every agent has a seat in a block that stays on its device
    packed      agents are rows of words; those who are due are gathered into full blocks, and scattered back

Both run the same compiled program, to the same bits. Seats are faster where all agents take part, and a ring of
experience is not moved; rows are faster where few do, since no seat is empty but in the last block.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core.environment import compiled
from fedrl.core.faults import FAULT
from fedrl.core.federation import AgentState, Federation, ServerState
from fedrl.core.learner import policy_of
from fedrl.core.shares import shares
from fedrl.core.types import Broadcast, Key, Params, PyTree
from fedrl.engines.executors.programs import (
    SUMS,
    Asked,
    adoption,
    block_program,
    layout,
    logging,
    metric_names,
)
from fedrl.engines.inbox import Outcome, Table
from fedrl.engines.merging import Upload, failures
from fedrl.engines.records import NOBODY, Jobs
from fedrl.engines.sharing import shapes
from fedrl.engines.simulation import Refusal, seated, starting
from fedrl.engines.topologies.server import Server

AHEAD = 1024
"""The most agents that may have learned ahead of time, whatever the blocks and devices: it shapes checkpoints."""


class Ahead(NamedTuple):
    """What was computed before it was due, `[places, ...]`, NumPy arrays.

    Of agents (-1 for a free place), the states that they come to, and what they will hand over.
    """

    agent: np.ndarray
    states: np.ndarray
    items: PyTree
    columns: np.ndarray
    uploads: Upload


class Team(NamedTuple):
    """What the executor keeps of agents beside resident blocks.

    NumPy arrays, `[agents, ...]`, that are brought up to date in place.

    Attributes:
        states: Of packed agents, as rows of words, after the last of their jobs that has ended.
        heard: The broadcast each heard last, if those who work at the same time may have heard different ones.
        row: Else the row of the table that it hears.
        version: Of what each heard; -1 for nothing yet.
        again: How often each has heard that version before.
        cohort: How many heard the same with it.
        steps: Local steps it was asked for.
        share: Its weight among all agents, as they are asked now.
        trained: How often anybody has learned, `[1]`.
        ahead: Of packed agents who learned before it was due.
    """

    states: np.ndarray
    heard: PyTree
    row: np.ndarray
    version: np.ndarray
    again: np.ndarray
    cohort: np.ndarray
    steps: np.ndarray
    share: np.ndarray
    trained: np.ndarray
    ahead: PyTree = ()


class Agents(NamedTuple):
    """The agents' half of a run."""

    blocks: tuple[AgentState, ...]
    team: Team


class Learned(NamedTuple):
    """What came of local work.

    Attributes:
        agent: Those whose training came to something; in the order of `outcomes`, or else as they were asked.
        items: What was collected of each, with a leading axis; () if sums were.
        outcomes: The sums.
        uploads: An `Upload` with a row for each.
        metrics: Of each, by name.
        failed: Those whose training came to nothing.
        undo: For `give_back`.
    """

    agent: np.ndarray
    items: PyTree
    outcomes: list[Outcome]
    uploads: Upload
    metrics: dict[str, np.ndarray]
    failed: tuple[Refusal, ...]
    undo: Any


class Plan(NamedTuple):
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
        self, federation: Federation, fleet: PyTree, plan: Plan, size: int, places: Sequence[jax.Device], order: Any
    ) -> None:
        self.federation, self.plan, self.size, self.places = federation, plan, size, list(places)
        self.agents = len(plan.group)
        seating = np.arange(self.agents) if order is None else np.asarray(order)
        groups = np.unique(plan.group) if plan.collects == SUMS else [None]
        members = [seating if g is None else seating[plan.group[seating] == g] for g in groups]
        self.seats = [seat for ids in members for seat in seated(ids, size)]
        self.layout = layout(federation, shapes(fleet, skip=1))
        self._failures = failures(federation, shapes(fleet, skip=1))
        self._adopt = adoption(federation)
        self._fleet = fleet

    resident = True
    metrics: list[str]
    """What agents measure."""
    wave = 1
    """How many agents learn side by side."""

    def start(self, seed: int, steps: np.ndarray) -> tuple[ServerState, Key, Agents]:
        """Begin a run; also returns what a server begins with, and the key of the run."""
        places = self.places if self.resident else self.places[:1]
        first = starting(self.federation, self._fleet, self.seats, steps, places)(seed)
        blocks, states = first.blocks, np.zeros((0, 0), np.uint32)
        if not self.resident:
            states, blocks = self._packed(blocks), ()
        count = self.agents
        team = Team(
            states=states,
            heard=(),
            row=np.zeros(count, np.int32),
            version=np.full(count, -1, np.int32),
            again=np.zeros(count, np.int32),
            cohort=np.ones(count, np.int32),
            steps=np.asarray(steps, np.int32).copy(),
            share=shares(self.federation, steps),
            trained=np.zeros(1, np.int64),
        )
        return first.server, first.key, Agents(tuple(blocks), team)

    def assign(self, agents: Agents, jobs: Jobs, table: Table) -> Agents:
        """These agents are sent for, each with a row of the table."""
        team, ids = agents.team, jobs.agent
        version = np.asarray(table.sent.version)[jobs.row]
        team.again[ids] = np.where(team.version[ids] == version, team.again[ids] + 1, 0)
        team.version[ids], team.cohort[ids], team.row[ids] = version, jobs.cohort, jobs.row
        team.steps[ids] = jobs.steps
        if self.plan.mixed:
            for own, rows in zip(jax.tree.leaves(team.heard), jax.tree.leaves(table.sent), strict=True):
                own[ids] = rows[jobs.row]
        return agents

    def cancel(self, agents: Agents, ids: np.ndarray) -> Agents:
        """As if they had not been sent for; who has learned ahead of time has not."""
        ahead = agents.team.ahead
        if ahead != ():
            ahead.agent[np.isin(ahead.agent, ids)] = -1
        return agents

    def room(self, agents: Agents) -> int:
        """How many more agents may learn ahead of time."""
        ahead = agents.team.ahead
        return 0 if ahead == () else int((ahead.agent < 0).sum())

    def strangers(self, agents: Agents, ids: np.ndarray, due: np.ndarray) -> np.ndarray:
        """Those of these agents who have not learned and are not due."""
        known = np.concatenate([due, agents.team.ahead.agent]) if agents.team.ahead != () else due
        return ids[~np.isin(ids, known)]

    def prepared(self, agents: Agents, sent: Broadcast, topology: Server) -> Agents:
        """With room for what each agent hears, if that differs; `sent` has the shape of a table of broadcasts."""
        del topology
        if not self.plan.mixed:
            return agents
        room = jax.tree.map(lambda x: np.zeros((self.agents, *np.shape(x)[1:]), np.asarray(x).dtype), sent)
        return agents._replace(team=agents.team._replace(heard=room))

    def train(
        self, key: Key, agents: Agents, ids: np.ndarray, table: Table, company: np.ndarray = NOBODY
    ) -> tuple[Agents, Learned]:
        """These agents, whose updates are due, learn, if they have not; so may others, ahead of time."""
        raise NotImplementedError

    def _heard(self, team: Team, table: Table, who: np.ndarray) -> Broadcast:
        """What each seat of a block has heard."""
        if self.plan.mixed:
            return jax.tree.map(lambda own: own[who], team.heard)
        rows = team.row[who]
        return jax.tree.map(lambda x: x[rows], table.sent)

    def _asked(self, team: Team, who: np.ndarray) -> Asked:
        return Asked(team.cohort[who], team.again[who], team.steps[who], team.share[who])

    def give_back(self, agents: Agents, undo: Sequence[Any], lost: np.ndarray) -> Agents:
        """Stages of these agents remember what they did before they learned: their updates came to nothing."""
        blocks = list(agents.blocks)
        for i, ids, memory in undo if len(lost) else ():
            mine = np.isin(ids, lost)
            if not self.resident:
                agents.team.states[ids[mine], self.layout.memory] = memory[mine]
            elif mine.any():
                here = np.isin(self.seats[i], ids[mine])

                def chosen(old: jax.Array, new: jax.Array, here: np.ndarray = here) -> jax.Array:
                    return jnp.where(here.reshape(-1, *[1] * (new.ndim - 1)), old, new)

                blocks[i] = blocks[i]._replace(local=jax.tree.map(chosen, memory, blocks[i].local))
        return agents._replace(blocks=tuple(blocks))

    def blocks(self, agents: Agents) -> list[AgentState]:
        """All agents, by `seats`."""
        if self.resident:
            return list(agents.blocks)
        return [self.layout.unpack(agents.team.states[np.maximum(seat, 0)]) for seat in self.seats]

    def with_blocks(self, agents: Agents, blocks: Sequence[AgentState]) -> Agents:
        """The same with other states of all agents, by `seats`."""
        if self.resident:
            return agents._replace(blocks=tuple(blocks))
        return agents._replace(team=agents.team._replace(states=self._packed(blocks)))

    def adopt(self, agents: Agents, table: Table) -> Agents:
        """Every agent has adopted what it would hear now."""
        row = table.row
        if row is None:
            return agents
        params = [jax.tree.map(lambda x, s=seat: x[row[np.maximum(s, 0)]], table.sent.params) for seat in self.seats]
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

    def going_on(self, agents: Agents, states: PyTree) -> Agents:
        """Agents that go on from what the learners of others remember."""

        def remembering(block: AgentState, seat: np.ndarray) -> AgentState:
            rows = np.maximum(seat, 0)
            taken = jax.tree.map(lambda new, old: jax.device_put(new[rows], old.sharding), states, block.learner)
            return block._replace(learner=taken)

        return self.with_blocks(agents, [remembering(*at) for at in zip(self.blocks(agents), self.seats, strict=True)])

    def _packed(self, blocks: Sequence[AgentState]) -> np.ndarray:
        rows = np.concatenate([np.asarray(self.layout.pack(block)) for block in blocks])
        ids = np.concatenate(self.seats)
        back = np.flatnonzero(ids >= 0)[np.argsort(ids[ids >= 0])]
        return np.asarray(rows[back])

    def _in_order(self, held: Sequence[PyTree]) -> PyTree:
        ids = np.concatenate(self.seats)
        back = np.flatnonzero(ids >= 0)[np.argsort(ids[ids >= 0])]
        return jax.tree.map(lambda *leaves: np.concatenate([np.asarray(x) for x in leaves])[back], *held)

    def close(self) -> None:
        """Let go of what is held outside this process."""


class Blocks(Executor):
    """Agents in compiled blocks."""

    def __init__(
        self,
        federation: Federation,
        fleet: PyTree,
        plan: Plan,
        size: int,
        places: Sequence[jax.Device],
        order: Any = None,
        resident: bool | None = None,
    ) -> None:
        compiled(federation.learner.environment)
        super().__init__(federation, fleet, plan, size, places, order)
        self.resident = not plan.sparse if resident is None else resident
        self.wave = size * len(self.places)
        self._run, self._logs = block_program(federation, plan.collects), logging(federation)
        self._names = metric_names(federation, shapes(fleet, skip=1))
        self._fault = self._names.index(FAULT)
        self.metrics = [name for name in self._names if name != FAULT]
        self._cohort: tuple[np.ndarray, list[Any]] = (NOBODY, [])
        self._ready = threading.Event()

    def train(
        self, key: Key, agents: Agents, ids: np.ndarray, table: Table, company: np.ndarray = NOBODY
    ) -> tuple[Agents, Learned]:
        """These agents, whose updates are due, learn, if they have not; so do others, ahead of time."""
        team = agents.team
        early = NOBODY if team.ahead == () else np.flatnonzero(np.isin(team.ahead.agent, ids))
        due = ids if not len(early) else ids[~np.isin(ids, team.ahead.agent[early])]
        others = company if len(due) else NOBODY
        agents, found = self._learn(key, agents, due, others, table)
        if not len(early) and not len(others):
            return agents, self._sorted(found, ids)
        return agents, self._sorted(self._with_early(agents.team, found, len(due), others, early), ids)

    def _dispatches(self, agents: Agents, ids: np.ndarray) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """Blocks that these agents fill: a number, who sits there (an empty seat has the first), and which are here."""
        if not np.array_equal(self._cohort[0], ids):  # the same agents take part in most rounds
            self._cohort = ids.copy(), self._seating(ids)
        return self._cohort[1]

    def _seating(self, ids: np.ndarray) -> list[tuple[int, np.ndarray, np.ndarray]]:
        if self.resident:
            found = [(i, np.maximum(seat, 0), (seat >= 0) & np.isin(seat, ids)) for i, seat in enumerate(self.seats)]
            return [each for each in found if each[2].any()]
        summed = self.plan.collects == SUMS
        groups = [ids[self.plan.group[ids] == g] for g in np.unique(self.plan.group[ids])] if summed else [ids]
        rows = [seat for members in groups for seat in seated(members, self.size)]
        return [(i, np.where(seat < 0, seat[0], seat), seat >= 0) for i, seat in enumerate(rows)]

    def _learn(
        self, key: Key, agents: Agents, due: np.ndarray, others: np.ndarray, table: Table
    ) -> tuple[Agents, dict[str, Any]]:
        team, ids, raw = agents.team, np.concatenate([due, others]), np.asarray(jax.random.key_data(key))
        if not len(ids):
            return agents, {"ids": ids, "columns": np.zeros((0, len(self._names)), np.float32)}
        talk, alike = np.bool_(table.row is not None), self._alike(team)
        blocks, undo = list(agents.blocks), []
        dispatches = self._dispatches(agents, ids)
        same: dict[bytes, Broadcast] = {}

        def dispatch(i: int, who: np.ndarray, here: np.ndarray) -> Any:
            place = self.places[i % len(self.places)]
            block = blocks[i] if self.resident else self.layout.unpack(jax.device_put(team.states[who], place))
            known = b"" if self.plan.mixed else team.row[who].tobytes()
            heard = same.get(known) if known else None
            if heard is None:
                heard = same[known] = self._heard(team, table, who)
            after, *found = self._run(raw, heard, self._asked(team, who), talk, alike, block, self._logs(block), here)
            if self.resident:
                blocks[i] = after
                return found
            return [self.layout.pack(after), *found]

        if self._ready.is_set():
            results = [dispatch(*each) for each in dispatches]
        else:  # each device compiles its own copy of the program: side by side, not in turn
            with ThreadPoolExecutor(len(self.places)) as pool:
                results = list(pool.map(lambda each: dispatch(*each), dispatches))
            self._ready.set()
        order = np.concatenate([who[here] for _, who, here in dispatches])
        found: dict[str, Any] = {"ids": order}
        if not self.resident:
            found["states"] = np.concatenate(
                [np.asarray(result.pop(0))[here] for result, (_, _, here) in zip(results, dispatches, strict=True)]
            )
            undo.append((0, order, team.states[order, self.layout.memory].copy()))
            mine = np.isin(order, due)
            team.states[order[mine]] = found["states"][mine]
        rows = [here for _, _, here in dispatches]
        found["columns"] = np.concatenate(
            [np.asarray(columns)[:, here].T for (_, _, columns, _), here in zip(results, rows, strict=True)]
        )
        found["uploads"] = _joined([result[3] for result in results], rows)
        if self.plan.collects == SUMS:
            found["sums"] = [(result[1], who, here) for result, (_, who, here) in zip(results, dispatches, strict=True)]
        else:
            found["items"] = _joined([result[1] for result in results], rows)
        if self.resident:
            undo = [(i, who[here], result[0]) for result, (i, who, here) in zip(results, dispatches, strict=True)]
        found["undo"] = undo
        return agents._replace(blocks=tuple(blocks)), found

    def _alike(self, team: Team) -> np.int32 | None:
        """How many local steps every agent takes; None if they differ, or if all take one, which is no loop."""
        if self.federation.local_steps == 1 or (self.plan.mixed and self.plan.varied):
            return None
        return np.int32(team.steps[0]) if (team.steps == team.steps[0]).all() else None

    def _with_early(
        self, team: Team, found: dict[str, Any], due: int, others: np.ndarray, early: np.ndarray
    ) -> dict[str, Any]:
        """What was found for those who are due, with what others came to before; what is not due yet is kept."""
        ahead: Ahead = team.ahead
        if len(early):
            mine = ahead.agent[early].copy()
            team.states[mine] = ahead.states[early]
            kept = jax.tree.map(lambda x: x[early].copy(), (ahead.items, ahead.columns, ahead.uploads))
            ahead.agent[early] = -1
        now = ~np.isin(found["ids"], others)
        if len(others):
            later, spots = ~now, np.flatnonzero(ahead.agent < 0)[: len(others)]
            ahead.agent[spots], ahead.states[spots] = found["ids"][later], found["states"][later]
            for name in ("items", "uploads"):
                for own, new in zip(jax.tree.leaves(getattr(ahead, name)), jax.tree.leaves(found[name]), strict=True):
                    own[spots] = new[later]
            ahead.columns[spots] = found["columns"][later]
        parts = (
            [(found["ids"][now], *jax.tree.map(lambda x: x[now], (found["items"], found["columns"], found["uploads"])))]
            if due
            else []
        )
        if len(early):
            parts.append((mine, *kept))
        ids, items, columns, uploads = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
        return {"ids": ids, "items": items, "columns": columns, "uploads": uploads, "undo": found.get("undo", [])}

    def _sorted(self, found: dict[str, Any], ids: np.ndarray) -> Learned:
        """As they were asked, or in the order of sums; without those whose training came to nothing."""
        order = found["ids"]
        faults = found["columns"][:, self._fault].astype(int)
        failed = self._failures(order, faults)
        outcomes, items = [], ()
        if self.plan.collects == SUMS:
            keep, end = np.flatnonzero(faults == 0), 0
            for result, who, here in found.get("sums", ()):
                sound = here.copy()
                sound[here] = faults[end : end + int(here.sum())] == 0
                end += int(here.sum())
                outcomes.append(Outcome(result, sound, who[sound]))
        else:
            back = np.argsort(order)[np.argsort(np.argsort(ids))]
            keep = back[faults[back] == 0]
            items = jax.tree.map(lambda x: x[keep], found["items"])
        columns = {name: found["columns"][keep, i] for i, name in enumerate(self._names) if name != FAULT}
        uploads = jax.tree.map(lambda x: x[keep], found["uploads"])
        return Learned(order[keep], items, outcomes, uploads, columns, failed, found["undo"])

    def prepared(self, agents: Agents, sent: Broadcast, topology: Server) -> Agents:
        """With places for agents who learn ahead of time."""
        agents = super().prepared(agents, sent, topology)
        if not self.plan.ahead:
            return agents
        places = min(self.agents, AHEAD)
        shape = (topology.item(), topology.wire.upload)
        items, rows = jax.tree.map(lambda x: np.zeros((places, *x.shape), x.dtype), shape)
        ahead = Ahead(
            np.full(places, -1, np.int32),
            np.zeros((places, self.layout.words), np.uint32),
            items,
            np.zeros((places, len(self._names)), np.float32),
            rows,
        )
        return agents._replace(team=agents.team._replace(ahead=ahead))


def _joined(parts: Sequence[PyTree], here: Sequence[np.ndarray]) -> PyTree:
    """What blocks hand over, one after the other, without those who are not here."""
    rows = [jax.tree.map(lambda x, h=h: np.asarray(x)[h], part) for part, h in zip(parts, here, strict=True)]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *rows)
