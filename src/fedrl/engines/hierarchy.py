"""The engine for a tree of servers: agents meet at an edge, edges further up, all of them at the root.

    agents --exact sums--> relay --exact sums--> holder, which commits        every round
                                                   +--its change--> holder above, or root, every so many rounds

A server that merges as often as the one above it is a relay: it adds up what its children send and passes it on.
Sums of integers do not depend on their grouping, so a tree of relays gives what a single server gives, bit for bit.
To a rule that sees each update, a relay passes all of them on. A server that merges more often than the one above is a
holder: it has parameters of its own, which agents below it hear, and sends up how far they have moved since it last
adopted those from above.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import jax
import numpy as np
import optax

from fedrl.core.aggregator import on_time
from fedrl.core.errors import UnsoundError
from fedrl.core.federation import Federation, ServerState, federate
from fedrl.core.keys import Purpose, run_key
from fedrl.core.types import Params, PyTree
from fedrl.engines.blocks import training
from fedrl.engines.compute import compute_of
from fedrl.engines.ladder import Holder, climbing, sums_of
from fedrl.engines.merging import accounting, merging, messages
from fedrl.engines.simulation import (
    LARGEST_BLOCK,
    QUICK,
    Population,
    Round,
    Simulation,
    adoption,
    assigning,
    attendance,
    chosen_size,
    given_back,
    iterations,
    no_uploads,
    params_held,
    seated,
    starting,
)
from fedrl.engines.traffic import traffic
from fedrl.topologies.trees import Parents, Tree


def hierarchy(
    federation: Federation,
    fleet: PyTree,
    tree: Tree,
    *,
    upper_opt: optax.GradientTransformation | None = None,
    local_steps: Sequence[int] | np.ndarray | None = None,
    block: int | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> Simulation:
    """Prepare a federation to be simulated with a tree of servers.

    The rounds are those of `fedrl.engines.blocks.simulate`, and so is the result if every level merges in every round.
    Otherwise the lowest servers that have parameters of their own run the federation as it is (stages, server optimiser
    and all), each with its agents; those above merge their changes by the federation's aggregator, weighted by what is
    behind them. `Population.server` is the root: between two of its merges it stands still. What a stage sums up over
    all agents (`Stage.sums`), a server knows as of its last merge, and from its own agents since.

    `Round.levels` are the bytes up and down over each level's links, `Round.latency_s` the time they take. A relayed
    sum travels as an integer of 22 bytes per parameter, in steps of `exact.UPDATES.fine`, so that no bit of it is lost.

    Args:
        federation: What to run.
        fleet: Parameters of each agent's environment, a leading agent axis on every leaf.
        tree: Who reports to whom, and how often.
        upper_opt: What servers above others do with the merged change; `optax.sgd(1.0)`, all the way, by default.
        local_steps: Local iterations of each agent, at most `federation.local_steps`, which is the default.
        block: Agents per compiled block, all under one edge; by default such that few seats stay empty.
        devices: Where to run; all local devices by default.

    Raises:
        ConfigError: An argument does not fit the fleet.
        UnsoundError: Agents count statistics, and not all levels merge in every round.

    Reference: Liu et al. (2020), https://arxiv.org/abs/1905.06641
    """
    agents = jax.tree.leaves(fleet)[0].shape[0]
    parents = tree.parents(agents)
    holding = _holding(tree)
    _check(federation, len(holding))
    size = chosen_size(agents, _fitting(parents[0]) if block is None else block)
    places = list(jax.local_devices() if devices is None else devices)
    seats = [row for ids in _groups(parents[0]) for row in seated(ids, size)]
    home = _ancestors(parents[: holding[0]])[[row.max() for row in seats]]
    steps = iterations(federation, agents, local_steps)
    wire = messages(federation, fleet)
    train = training(federation, fleet, seats, places)
    merge, account = merging(federation, wire.decoded), accounting(wire, agents)
    upper = federate(federation.learner, federation.aggregator, server_opt=upper_opt)
    begin = starting(federation, fleet, seats, steps, places)
    adopt_block = adoption(federation)
    sums = [i for i, stage in enumerate(federation.stages) if stage.sums is not None]
    added_up = tuple(wire.sent.shared[i] for i in sums)
    costs = traffic(tree, parents, holding, wire, added_up, federation.aggregator.sees == "sum")
    above = [_ancestors(parents[low:high]) for low, high in pairwise(holding)]
    climb = climbing(upper, wire.sent.params, above, sums)

    def init(seed: int) -> Population:
        first = begin(seed)
        if not above:
            return first
        start = jax.jit(upper.init_server, compiler_options=QUICK)(run_key(seed, Purpose.SERVER))
        nought = sums_of(first.server, sums)
        start = start._replace(params=first.server.params, shared=nought)
        kinds = [first.server] + [start] * (len(above) - 1)
        nothing = np.zeros((), np.float32)
        between = tuple((Holder(kind, nothing, nought),) * len(over) for kind, over in zip(kinds, above, strict=True))
        return first._replace(server=start, between=between)

    def servers(population: Population) -> list[ServerState]:
        return [holder.server for holder in population.between[0]] if above else [population.server]

    def round(
        population: Population, cohort: Sequence[int] | np.ndarray | None = None, talk: bool = True
    ) -> tuple[Population, Round]:
        lowest, number = servers(population), int(population.server.version) + 1
        heard = [federation.broadcast(server) for server in lowest]
        began = time.perf_counter()
        work = train(population, [heard[i] for i in home], cohort, talk)
        trained = time.perf_counter()
        outcomes: list[list[Any]] = [[] for _ in lowest]
        members: list[list[np.ndarray]] = [[np.zeros(0, int)] for _ in lowest]
        for (i, _), result in zip(attendance(cohort, seats)[1], work.outcomes, strict=True):
            outcomes[home[i]].append(result)
            members[home[i]].append(seats[i][result[1]])
        keys = [jax.random.fold_in(population.key, i) for i in range(len(lowest))] if above else [population.key]
        merged = [
            merge(key, server, found if talk else (), on_time(np.concatenate(ids)))
            for server, key, found, ids in zip(lowest, keys, outcomes, members, strict=True)
        ]
        blocks = work.blocks
        if talk:
            gone = [each.lost(np.concatenate(ids)) for each, ids in zip(merged, members, strict=True)]
            blocks = given_back(blocks, work.before, np.concatenate(gone))
        due = sum(number % tree.periods[level - 1] == 0 for level in holding) if talk else 0
        server, between = merged[0].server, population.between
        skipped = [f"edge {i}: {each.skipped}" if above else each.skipped for i, each in enumerate(merged)]
        if above:
            edges = [
                holder._replace(server=each.server, weight=np.asarray(np.float32(holder.weight + each.weight)))
                for holder, each in zip(population.between[0], merged, strict=True)
            ]
            top = Holder(population.server, np.zeros((), np.float32))
            ladder, faults = climb([edges, *map(list, population.between[1:]), [top]], due, population.key)
            server, between = ladder[-1][0].server, tuple(map(tuple, ladder[:-1]))
            skipped = [why for why, each in zip(skipped, merged, strict=True) if each.skipped] + faults
        uploads = account(work.agents, work.uploads) if talk else no_uploads(agents)
        present = np.isin(np.arange(agents), work.agents)
        cost = costs(present & talk, uploads.size_bytes, uploads.messages, holding[due - 1] if due else 0)
        up, down = (sum(level[i] for level in cost.levels) for i in (0, 1))
        refused = work.failed + tuple(refusal for each in merged for refusal in each.refused)
        seen = Round(
            metrics=work.metrics,
            weight=sum(each.weight for each in merged),
            refused=tuple(sorted(refused)),
            bytes_up=up,
            bytes_down=down,
            messages_up=cost.messages_up,
            messages_down=cost.messages_down,
            uploads=uploads,
            arrivals=on_time(work.agents if talk else work.agents[:0]),
            levels=cost.levels,
            latency_s=cost.latency_s,
            skipped="; ".join(filter(None, skipped)),
            sums=compute_of(began, trained),
        )
        return Population(server, blocks, population.key, between), seen

    def adopt(population: Population) -> Population:
        held = [jax.tree.map(np.asarray, server.params) for server in servers(population)]
        blocks = tuple(adopt_block(block, held[home[i]]) for i, block in enumerate(population.blocks))
        return population._replace(blocks=blocks)

    def params_of(population: Population) -> Params:
        return params_held(federation, population.blocks, seats)

    return Simulation(init, round, params_of, agents, size, adopt=adopt, assign=assigning(federation))


def _holding(tree: Tree) -> list[int]:
    """The levels whose servers have parameters of their own: the root, and any that merges more often than the next."""
    often = tree.periods
    return [level for level in range(1, len(often)) if often[level] > often[level - 1]] + [len(often)]


def _ancestors(parents: Parents) -> np.ndarray:
    """The number of each node's ancestor, so many levels up."""
    found = parents[0]
    for over in parents[1:]:
        found = over[found]
    return found


def _groups(edge: np.ndarray) -> list[np.ndarray]:
    """The agents of each edge."""
    return [np.flatnonzero(edge == i) for i in range(int(edge.max()) + 1)]


def _fitting(edge: np.ndarray) -> int:
    """The block size with the fewest seats over all edges; a block is worth two seats by itself."""
    counts = np.bincount(edge)
    return min(range(LARGEST_BLOCK, 0, -1), key=lambda size: int((size + 2) * (-(-counts // size)).sum()))


def _check(federation: Federation, holding: int) -> None:
    learner, aggregator = federation.learner, federation.aggregator
    if aggregator.asks and holding > 1:
        raise UnsoundError(
            f"{aggregator!r} asks agents for {list(aggregator.asks)}, and here servers merge below servers, which have "
            "nothing to tell. Let every level merge in every round (no periods), or use mean()."
        )
    if learner.statistics is not None and holding > 1:
        raise UnsoundError(
            f"{learner!r} counts statistics about moments that stand still between two merges of all agents, and here "
            "servers below the root merge more often. Let every level merge in every round (no periods), or let every "
            "agent keep its own: personal(learner, keep=['moments'])."
        )
