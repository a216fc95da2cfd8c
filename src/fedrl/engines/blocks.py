"""The fast engine: one compiled program for a fixed block of agents, a host loop over blocks and devices.

    broadcast --> [block 0 | device 0] [block 1 | device 1] [block 2 | device 0] ...     dispatched, not awaited
                        |                     |                    |
                   exact partial sums of w_k * value_k, or the updates themselves
                        +--------> merged on the host --> commit --> next broadcast

The program depends on the block size alone: not on the number of agents, blocks, devices or absent agents. Partial
sums are exact integers. So the result is bit-identical for any number of devices, any order of the agents and any
padding, and nothing is compiled after the first round.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core.aggregator import on_time
from fedrl.core.environment import compiled
from fedrl.core.faults import FAULT, rings_in, with_logs
from fedrl.core.federation import AgentState, Federation
from fedrl.core.replay import Log
from fedrl.core.types import Broadcast, Key, Params, PyTree, Update
from fedrl.engines.compute import compute_of
from fedrl.engines.merging import Upload, accounting, failures, merging, messages, outcome, uploaded
from fedrl.engines.sharing import Shapes, shapes, shared
from fedrl.engines.simulation import (
    Population,
    Refusal,
    Round,
    Simulation,
    adopting,
    assigning,
    attendance,
    block_size,
    chosen_size,
    for_all,
    given_back,
    iterations,
    no_uploads,
    params_held,
    seated,
    starting,
)

__all__ = ["Population", "Round", "Simulation", "block_size", "simulate"]


class Trained(NamedTuple):
    """What came of a round's local training.

    Attributes:
        blocks: Every agent, those who sat out as they were.
        before: What the stages of each block with anybody present remembered before the round, by its number.
        outcomes: Of each block with anybody present: what it hands over, and whose training came to something.
        agents: Ids of those, in the order of the outcomes.
        uploads: An `Upload` with a row for each of those, in that order.
        asked: How many took part.
        metrics: Each `[agents]`, of every agent; zero for who did not take part.
        failed: Those of the cohort whose training came to nothing.
    """

    blocks: tuple[AgentState, ...]
    before: dict[int, PyTree]
    outcomes: list[tuple[Any, np.ndarray]]
    agents: np.ndarray
    uploads: Upload
    asked: int
    metrics: dict[str, np.ndarray]
    failed: tuple[Refusal, ...]


def simulate(
    federation: Federation,
    fleet: PyTree,
    *,
    local_steps: Sequence[int] | np.ndarray | None = None,
    block: int | None = None,
    devices: Sequence[jax.Device] | None = None,
    order: Sequence[int] | np.ndarray | None = None,
) -> Simulation:
    """Prepare a federation for simulation.

    Args:
        federation: What to run.
        fleet: Parameters of each agent's environment, a leading agent axis on every leaf.
        local_steps: Local iterations of each agent, at most `federation.local_steps`, which is the default.
        block: Agents per compiled block. Results agree to float tolerance between block sizes and bit for bit
            within one. `block=1` is the reference: what a single agent runs on its own.
        devices: Where to run; all local devices by default.
        order: The order in which agents are seated in blocks; of no consequence for the result.

    Raises:
        ConfigError: An argument does not fit the fleet.
    """
    agents = jax.tree.leaves(fleet)[0].shape[0]
    size = chosen_size(agents, block)
    places = list(jax.local_devices() if devices is None else devices)
    seats = seated(np.arange(agents) if order is None else np.asarray(order), size)
    steps = iterations(federation, agents, local_steps)
    train = training(federation, fleet, seats, places)
    wire = messages(federation, fleet)
    merge, account = merging(federation, wire.decoded), accounting(wire, agents)

    def round(
        population: Population, cohort: Sequence[int] | np.ndarray | None = None, talk: bool = True
    ) -> tuple[Population, Round]:
        began = time.perf_counter()
        work = train(population, federation.broadcast(population.server), cohort, talk)
        trained = time.perf_counter()
        arrivals = on_time(work.agents if talk else work.agents[:0])
        merged = merge(population.key, population.server, work.outcomes if talk else (), arrivals)
        blocks = given_back(work.blocks, work.before, merged.lost(work.agents)) if talk else work.blocks
        uploads = account(work.agents, work.uploads) if talk else no_uploads(agents)
        asked = work.asked if talk else 0
        seen = Round(
            metrics=work.metrics,
            weight=merged.weight,
            refused=tuple(sorted(work.failed + merged.refused)),
            bytes_up=int(uploads.size_bytes.sum()),
            bytes_down=asked * wire.down_bytes,
            messages_up=int(uploads.messages.sum()),
            messages_down=asked,
            uploads=uploads,
            arrivals=arrivals,
            skipped=merged.skipped,
            sums=compute_of(began, trained),
        )
        return Population(merged.server, blocks, population.key), seen

    def params_of(population: Population) -> Params:
        return params_held(federation, population.blocks, seats)

    init = starting(federation, fleet, seats, steps, places)
    return Simulation(init, round, params_of, agents, size, adopt=adopting(federation), assign=assigning(federation))


def _updates(federation: Federation, agents: AgentState, updates: Update, here: jax.Array) -> Any:
    del agents
    return outcome(federation, updates, here)


def training(
    federation: Federation,
    fleet: PyTree,
    seats: list[np.ndarray],
    places: Sequence[jax.Device],
    *,
    address: Callable[[Broadcast, AgentState], Broadcast] | None = None,
    hand_over: Callable[[Federation, AgentState, Update, jax.Array], Any] = _updates,
) -> Callable[..., Trained]:
    """The agents' half of a round on all devices: `(population, sent, cohort, talk) -> Trained`.

    `sent` is one broadcast for all, or one for each block; those who share one are its cohort.

    Args:
        federation: Whose agents train.
        fleet: Parameters of each agent's environment.
        seats: Agent ids of each block.
        places: The devices.
        address: What of `sent` is for this agent, inside the compiled program; all of it by default. For `sent` that
            holds something for each of many agents.
        hand_over: `(federation, agents, decoded updates, here) -> outcome` of a block, inside the compiled program;
            what `merging` takes by default.
    """
    compiled(federation.learner.environment)
    run_block, logs = _block_program(federation, address, hand_over), _logging(federation)
    agents = jax.tree.leaves(fleet)[0].shape[0]
    names = metric_names(federation, shapes(fleet, skip=1))
    failed = failures(federation, shapes(fleet, skip=1))
    ready = threading.Event()

    def at_hand(sent: Broadcast, place: jax.Device) -> Broadcast:
        """NumPy arrays enter a program six times faster than they are put; rows of all agents are put once."""
        return jax.tree.map(np.asarray, sent) if address is None else jax.device_put(sent, place)

    def train(
        population: Population,
        sent: Broadcast | Sequence[Broadcast],
        cohort: Sequence[int] | np.ndarray | None,
        talk: bool,
    ) -> Trained:
        _, present = attendance(cohort, seats)
        spoken_to = [sent] * len(seats) if isinstance(sent, Broadcast) else sent
        asked: dict[int, int] = {}
        for i, who in present:
            asked[id(spoken_to[i])] = asked.get(id(spoken_to[i]), 0) + int(who.sum())
        copies: dict[tuple[int, jax.Device], Any] = {}
        for i, _ in present:
            spot = (id(spoken_to[i]), places[i % len(places)])
            if spot not in copies:
                copies[spot] = (at_hand(spoken_to[i], spot[1]), np.int32(asked[spot[0]]), np.bool_(talk))
        key, alike = np.asarray(jax.random.key_data(population.key)), _steps_of_all(federation, population.blocks)
        blocks, before = list(population.blocks), {}

        def dispatch(i: int, here: np.ndarray) -> tuple[Any, jax.Array, Upload]:
            given = copies[id(spoken_to[i]), places[i % len(places)]]
            blocks[i], before[i], *found = run_block(key, *given, alike, blocks[i], logs(blocks[i]), here)
            result, columns, uploads = found
            return result, columns, uploads

        if ready.is_set():
            results = [dispatch(*each) for each in present]
        else:  # each device compiles its own copy of the program: side by side, not in turn
            with ThreadPoolExecutor(len(places)) as pool:
                results = list(pool.map(lambda each: dispatch(*each), present))
            ready.set()
        here = [seated_here for _, seated_here in present]
        table = np.concatenate([np.asarray(c)[:, h] for (_, c, _), h in zip(results, here, strict=True)], axis=1)
        ids = np.concatenate([seats[i][h] for i, h in present])
        metrics = for_all(dict(zip(names, table, strict=True)), ids, agents)
        faults = metrics.pop(FAULT).astype(int)[ids]
        rows = [jax.tree.map(lambda x, h=h: np.asarray(x)[h], up) for (_, _, up), h in zip(results, here, strict=True)]
        uploads = jax.tree.map(lambda *leaves: np.concatenate(leaves)[faults == 0], *rows)
        outcomes, seen = [], np.cumsum([h.sum() for h in here])
        for (result, _, _), h, end in zip(results, here, seen, strict=True):
            sound = h.copy()
            sound[h] = faults[end - h.sum() : end] == 0
            outcomes.append((result, sound))
        failing = failed(ids, faults)
        return Trained(tuple(blocks), before, outcomes, ids[faults == 0], uploads, len(ids), metrics, failing)

    return train


def _steps_of_all(federation: Federation, blocks: Sequence[AgentState]) -> np.int32 | None:
    """How many local steps every agent takes; None if they differ, or if all take one, which is no loop."""
    if federation.local_steps == 1:
        return None
    steps = np.unique(np.concatenate([np.asarray(block.steps) for block in blocks]))
    return np.int32(steps[0]) if len(steps) == 1 else None


@shared
def _block_program(
    federation: Federation,
    address: Callable[[Broadcast, AgentState], Broadcast] | None,
    hand_over: Callable[[Federation, AgentState, Update, jax.Array], Any],
) -> Callable[..., Any]:
    """The agents' half for a block, compiled when it is first called with a block of that size."""
    learner = federation.learner

    def one(
        key: Key,
        sent: Broadcast,
        cohort: jax.Array,
        talk: jax.Array,
        alike: jax.Array | None,
        agent: AgentState,
        logs: list[Log],
        here: jax.Array,
    ) -> tuple[AgentState, Update, dict[str, jax.Array], Upload]:
        before, own = with_logs(agent, logs), learner.params(agent.learner)
        agent = agent if alike is None else agent._replace(steps=alike)
        sent = sent if address is None else address(sent, agent)
        # not a select: fused with the training, a compiler asks for `talk` in its midst and rounds the first seat apart
        sent = sent._replace(params=jax.lax.cond(talk, lambda: sent.params, lambda: own))
        update, after, metrics = federation.agent(key, sent, agent, cohort, here, before)
        spoken = jax.tree.map(lambda new, old: jnp.where(talk, new, old), after.local, agent.local)
        after = after._replace(local=spoken)  # an agent that sent nothing must not believe it did
        return (
            after,
            federation.decode(sent, update),
            jax.tree.map(lambda x: x.sum(0), metrics),
            uploaded(update),
        )

    def block(
        key: Key,
        sent: Broadcast,
        cohort: jax.Array,
        talk: jax.Array,
        alike: jax.Array | None,
        agents: AgentState,
        logs: list[Log],
        here: jax.Array,
    ) -> tuple[AgentState, PyTree, Any, jax.Array, Upload]:
        each, before, key = jax.vmap(one, (None,) * 5 + (0, 0, 0)), agents.local, jax.random.wrap_key_data(key)
        agents, updates, metrics, uploads = each(key, sent, cohort, talk, alike, agents, logs, here)
        columns = jnp.stack([metrics[name] for name in sorted(metrics)])
        return agents, before, hand_over(federation, agents, updates, here), columns, uploads

    return jax.jit(block, donate_argnums=5)


@shared
def _logging(federation: Federation) -> Callable[[AgentState], list[Log]]:
    """What a round may overwrite of the rings in a block, in a program of its own.

    In the program that overwrites them, a compiler would rather copy a whole ring than read a few rows of it first.
    """
    logs = jax.jit(jax.vmap(lambda agent: rings_in(federation.remember(agent))))
    return lambda block: logs(block) if rings_in(block) else []


@shared
def metric_names(federation: Federation, setting: Shapes) -> list[str]:
    """The names of the columns that a block's program returns."""

    def trained(key: Key, setting: PyTree) -> dict[str, jax.Array]:
        sent = federation.broadcast(federation.init_server(key))
        agent = federation.init_agent(key, jnp.int32(0), setting, jnp.int32(1))
        return federation.agent(key, sent, agent, jnp.int32(1))[2]

    return sorted(jax.eval_shape(trained, jax.random.key(0), setting.tree))
