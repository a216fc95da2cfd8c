"""Agents learn in full blocks, whenever one of them is first needed.

What an agent will send depends on its state, on what it was sent and on its key, not on the moment at which that is
computed. So agents that were sent for wait until an update is due; then those who wait are gathered into blocks, the
ones needed first, and run in the compiled program, each with a broadcast of its own.

    rows of waiting agents --gather--> [block | device 0] [block | device 1] ... --scatter--> states, updates, metrics

Who only fills a block learns ahead of its time: the state it comes to is kept apart until its update arrives, so that
`Desks.states` are of now, whatever blocks and devices there are.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core.faults import FAULT
from fedrl.core.federation import AgentState, Federation
from fedrl.core.keys import repeated_key
from fedrl.core.shares import shares
from fedrl.core.types import Broadcast, Key, Params, PyTree
from fedrl.engines.blocks import metric_names
from fedrl.engines.merging import Messages, Upload, failures, messages, uploaded
from fedrl.engines.sharing import Shapes, shapes, shared
from fedrl.engines.simulation import Population, Refusal, adoption, params_held, seated, starting, states_held
from fedrl.engines.virtual.words import numbers, packing

AHEAD = 1024
"""The most agents that may have learned ahead of time, whatever the blocks and devices: it shapes checkpoints."""


class Desks(NamedTuple):
    """What lies on every agent's desk, `[agents, ...]`; arrays that are brought up to date in place.

    Attributes:
        states: Of each agent, as a row of words, after the last of its turns that has ended.
        ahead: `[places, words]`, states after turns that were computed and have not ended.
        place: Which row of `ahead` is the agent's; -1 for none.
        sent: What each was sent last.
        updates: What each has ready, decoded: an `Update`.
        metrics: What each measured on the way.
        uploads: What the update of each takes and says: an `Upload`.
        version: Of what each was sent; -1 for nothing yet.
        again: How often each was sent that version before.
        cohort: How many were sent for with it.
        waiting: Whether it was sent for and has not learned yet.
        steps: Local steps it was asked for.
        share: Its weight among all agents, as they are asked now.
        work_s: Seconds they take.
    """

    states: np.ndarray
    ahead: np.ndarray
    place: np.ndarray
    sent: np.ndarray
    updates: np.ndarray
    metrics: np.ndarray
    uploads: np.ndarray
    version: np.ndarray
    again: np.ndarray
    cohort: np.ndarray
    waiting: np.ndarray
    steps: np.ndarray
    share: np.ndarray
    work_s: np.ndarray


class Crew(NamedTuple):
    """The agents' half.

    Attributes:
        start: `seed -> (Population, Desks)`; of the population the server and the key are of use.
        learn: `(run key, Desks, agents, others) -> None`: the agents learn what they were sent for; so do the others,
            ahead of their time.
        end: `(Desks, agents) -> None`: their turns end; who learned ahead of its time is now what it then became.
        wave: How many learn side by side.
        memory: Which words of a row of `Desks.states` are what the agent's stages remember.
        metrics: The names of the columns of `Desks.metrics`.
        uploads: `(Desks, agents) -> Upload` with a row for each of them.
        failed: `(Desks, agents) -> refusals` of those among them whose training came to nothing.
        params_of: `Desks -> params` that agents act with, a leading agent axis on every leaf.
        adopt: `(Desks, params) -> Desks` in which every agent has adopted the parameters.
        states_of: `Desks -> states` of the learners, a leading agent axis on every leaf.
    """

    start: Callable[[int], tuple[Population, Desks]]
    learn: Callable[[Key, Desks, np.ndarray, np.ndarray], None]
    end: Callable[[Desks, np.ndarray], None]
    wave: int
    memory: slice
    metrics: list[str]
    uploads: Callable[[Desks, np.ndarray], Upload]
    failed: Callable[[Desks, np.ndarray], tuple[Refusal, ...]]
    params_of: Callable[[Desks], Params]
    adopt: Callable[[Desks, Params], Desks]
    states_of: Callable[[Desks], PyTree]


def crew(
    federation: Federation, fleet: PyTree, steps: np.ndarray, size: int, places: Sequence[jax.Device], wire: Messages
) -> Crew:
    """The agents of a federation, in blocks of `size` on the devices."""
    agents = len(steps)
    seats = seated(np.arange(agents), size)
    begin = starting(federation, fleet, seats, steps, places[:1])
    names = metric_names(federation, shapes(fleet, skip=1))
    broadcast, update, upload = packing(wire.sent), packing(wire.decoded), packing(wire.upload)
    pack_block, unpack_block, run_block = _programs(federation, shapes(fleet, skip=1))
    adopt_block = adoption(federation)
    refusals, fault = failures(federation, shapes(fleet, skip=1)), names.index(FAULT)
    compiled = threading.Event()
    newcomer = _newcomer(federation, shapes(fleet, skip=1))
    first = packing(newcomer.learner).words

    def start(seed: int) -> tuple[Population, Desks]:
        first = begin(seed)
        states = np.concatenate([np.asarray(pack_block(block)) for block in first.blocks])[:agents]
        desks = Desks(
            states=states,
            ahead=np.zeros((min(agents, AHEAD), states.shape[1]), np.uint32),
            place=np.full(agents, -1, np.int32),
            sent=np.zeros((agents, broadcast.words), np.uint32),
            updates=np.zeros((agents, update.words), np.uint32),
            metrics=np.zeros((agents, len(names)), np.float32),
            uploads=np.zeros((agents, upload.words), np.uint32),
            version=np.full(agents, -1, np.int32),
            again=np.zeros(agents, np.int32),
            cohort=np.ones(agents, np.int32),
            waiting=np.zeros(agents, bool),
            steps=np.asarray(steps, np.int32).copy(),
            share=shares(federation, steps),
            work_s=np.zeros(agents),
        )
        return first, desks

    def learn(key: Key, desks: Desks, needed: np.ndarray, others: np.ndarray) -> None:
        raw_key, ids = np.asarray(jax.random.key_data(key)), np.concatenate([needed, others])
        desks.place[others] = free_places(desks)[: len(others)]

        def dispatch(i: int, seat: np.ndarray) -> tuple[jax.Array, ...]:
            who = np.where(seat < 0, ids[0], seat)
            states = jax.device_put(desks.states[who], places[i % len(places)])
            asked = (desks.again[who], desks.cohort[who], desks.steps[who], desks.share[who])
            found = run_block(raw_key, *asked, states, desks.sent[who])
            return cast(tuple[jax.Array, ...], found)

        rows = seated(ids, size)
        if compiled.is_set():
            results = [dispatch(i, seat) for i, seat in enumerate(rows)]
        else:  # each device compiles its own copy of the program: side by side, not in turn
            with ThreadPoolExecutor(len(places)) as pool:
                results = list(pool.map(dispatch, range(len(rows)), rows))
            compiled.set()
        for seat, result in zip(rows, results, strict=True):
            here = seat >= 0
            states, *rest = (np.asarray(new)[here] for new in result)
            for column, new in zip((desks.updates, desks.metrics, desks.uploads), rest, strict=True):
                column[seat[here]] = new
            place = desks.place[seat[here]]
            desks.states[seat[here][place < 0]] = states[place < 0]
            desks.ahead[place[place >= 0]] = states[place >= 0]
        desks.waiting[ids] = False

    def end(desks: Desks, ids: np.ndarray) -> None:
        early = ids[desks.place[ids] >= 0]
        if len(early):
            desks.states[early] = desks.ahead[desks.place[early]]
            desks.place[early] = -1

    def blocks(desks: Desks) -> list[AgentState]:
        return [unpack_block(desks.states[np.maximum(seat, 0)]) for seat in seats]

    def adopt(desks: Desks, params: Params) -> Desks:
        rows = [np.asarray(pack_block(adopt_block(block, params))) for block in blocks(desks)]
        return desks._replace(states=np.concatenate(rows)[:agents])

    return Crew(
        start=start,
        learn=learn,
        end=end,
        wave=size * len(places),
        memory=slice(first, first + packing(newcomer.local).words),
        metrics=names,
        uploads=lambda desks, ids: cast(Upload, numbers(wire.upload, desks.uploads[ids])),
        failed=lambda desks, ids: refusals(ids, desks.metrics[ids, fault].astype(int)),
        params_of=lambda desks: params_held(federation, blocks(desks), seats),
        adopt=adopt,
        states_of=lambda desks: states_held(blocks(desks), seats),
    )


def free_places(desks: Desks) -> np.ndarray:
    """Rows of `Desks.ahead` that are nobody's."""
    free = np.ones(len(desks.ahead), bool)
    free[desks.place[desks.place >= 0]] = False
    return np.flatnonzero(free)


def _newcomer(federation: Federation, setting: Shapes) -> AgentState:
    """The shapes of an agent's state."""
    found = jax.eval_shape(federation.init_agent, jax.random.key(0), jnp.int32(0), setting.tree, jnp.int32(1))
    return cast(AgentState, found)


class Programs(NamedTuple):
    """What is compiled for a block of agents.

    Attributes:
        pack: `AgentState[c] -> rows`.
        unpack: `rows -> AgentState[c]`.
        run: `(raw key, again, cohort, steps, share, states, sent) -> (states, updates, metrics, uploads)`, one row per
            agent each.
    """

    pack: Callable[[AgentState], jax.Array]
    unpack: Callable[[np.ndarray], AgentState]
    run: Callable[..., tuple[jax.Array, jax.Array, jax.Array, jax.Array]]


@shared
def _programs(federation: Federation, setting: Shapes) -> Programs:
    """The programs of a block, compiled when they are first called with a block of that size."""
    one_agent = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), setting.tree)
    wire = messages(federation, one_agent)
    state, upload = packing(_newcomer(federation, setting)), packing(wire.upload)
    broadcast, update = packing(wire.sent), packing(wire.decoded)

    def one(
        key: Key,
        again: jax.Array,
        cohort: jax.Array,
        steps: jax.Array,
        share: jax.Array,
        row: jax.Array,
        sent: jax.Array,
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        agent: AgentState = jax.lax.optimization_barrier(state.unpack(row))
        heard: Broadcast = jax.lax.optimization_barrier(broadcast.unpack(sent))
        own_key = jax.lax.select(again > 0, repeated_key(key, again), key)  # never the same noise twice
        value, agent, metrics = federation.agent(own_key, heard, agent._replace(steps=steps, share=share), cohort)
        metrics = jax.tree.map(lambda x: x.sum(0), metrics)
        columns = jnp.stack([metrics[name].astype(jnp.float32) for name in sorted(metrics)])
        return state.pack(agent), update.pack(federation.decode(heard, value)), columns, upload.pack(uploaded(value))

    def block(raw_key: jax.Array, *rows: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        return jax.vmap(one, (None, 0, 0, 0, 0, 0, 0))(jax.random.wrap_key_data(raw_key), *rows)

    return Programs(jax.jit(jax.vmap(state.pack)), jax.jit(jax.vmap(state.unpack)), jax.jit(block))
