"""Rounds on a budget of bytes: all who are asked train and bid, and a server decides whose updates are sent.

    broadcast --> [block 0] [block 1] ...     train, encode          not yet sent
                     | bids                                          told, and the size if it varies
                  admit  (fedrl.selection.admission)
                     | answers
                  [block 0] [block 1] ...     sums of those admitted, memory of stages of the others put back --> merge

Both programs are compiled once. Who is admitted is data, and follows from what is told and from the key of the round,
so the result is bit-identical for any number of devices and any order of the agents.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core.aggregator import on_time
from fedrl.core.codec import size_bytes
from fedrl.core.errors import ConfigError
from fedrl.core.federation import AgentState, Federation
from fedrl.core.types import Params, PyTree, Update
from fedrl.engines.blocks import training
from fedrl.engines.compute import compute_of
from fedrl.engines.merging import Messages, accounting, merging, messages, outcome, passed_over
from fedrl.engines.sharing import shared
from fedrl.engines.simulation import (
    Population,
    Round,
    Simulation,
    Uploads,
    adopting,
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
from fedrl.selection.admission import left_for_updates
from fedrl.selection.selection import Admission

ADMISSION = 1
"""Sets the generator of a round apart from the one by which agents are selected."""


class Bid(NamedTuple):
    """What an agent says before it sends: by name what it was asked, and the size of its update if that varies."""

    told: dict[str, Any]
    size_bytes: Any = None


def simulate_budget(
    federation: Federation,
    fleet: PyTree,
    admission: Admission,
    *,
    local_steps: Sequence[int] | np.ndarray | None = None,
    block: int | None = None,
    devices: Sequence[jax.Device] | None = None,
    order: Sequence[int] | np.ndarray | None = None,
) -> Simulation:
    """Prepare a federation for simulation in which updates are admitted under a budget of bytes.

    The federation tells what is bid: `federate(..., tells=admission.asks)`. What was told in a bid is not sent again
    with the update. `Round.admitted` says whose updates were sent; what agents were asked beside their bids is NaN in
    `Round.uploads.report` for the others. Arguments are those of `fedrl.engines.blocks.simulate`.

    Raises:
        ConfigError: An argument does not fit the fleet, or the budget is too small for one update: at once if it always
            is, else in the first round with so many agents.
    """
    agents = jax.tree.leaves(fleet)[0].shape[0]
    size = chosen_size(agents, block)
    places = list(jax.local_devices() if devices is None else devices)
    seats = seated(np.arange(agents) if order is None else np.asarray(order), size)
    steps = iterations(federation, agents, local_steps)
    train = training(federation, fleet, seats, places, hand_over=_held_back)
    wire = messages(federation, fleet)
    merge, account = merging(federation, wire.decoded), accounting(wire, agents)
    settle = _settling(federation)
    bid, bid_bytes, least = _bidding(federation, admission, wire)
    repeated, answer_bytes = int(size_bytes(bid.told)), int(size_bytes(np.bool_(True)))
    left_for_updates(admission, 1, bid_bytes, least)

    def round(
        population: Population, cohort: Sequence[int] | np.ndarray | None = None, talk: bool = True
    ) -> tuple[Population, Round]:
        asked, present = attendance(cohort, seats)
        if talk:
            left_for_updates(admission, asked, bid_bytes, least)
        began = time.perf_counter()
        work = train(population, federation.broadcast(population.server), cohort, talk)
        trained = time.perf_counter()
        if not talk:
            population = population._replace(server=passed_over(population.server), blocks=work.blocks)
            nobody = on_time(np.zeros(0, int))
            silent = Round(
                work.metrics, 0.0, work.failed, 0, 0, 0, 0, no_uploads(agents), nobody, sums=compute_of(began, trained)
            )
            return population, silent
        ids, uploads = np.sort(work.agents), account(work.agents, work.uploads)
        said = {name: x[ids] for name, x in uploads.report.items()}  # whose training failed does not bid
        bids = len(ids)
        left = left_for_updates(admission, bids, bid_bytes, least)
        key, number = np.asarray(jax.random.key_data(population.key)).tolist(), int(population.server.version) + 1
        rng = np.random.default_rng([*key, number, ADMISSION])
        each = uploads.size_bytes[ids] - repeated
        admitted = admission.admit(rng, ids, left, population.between, said, each) if bids else np.zeros(0, bool)
        blocks, outcomes = list(work.blocks), []
        for (i, _), (updates, here) in zip(present, work.outcomes, strict=True):
            chosen = here & np.isin(seats[i], ids[admitted])
            local, result = settle(work.before[i], blocks[i].local, updates, chosen)
            blocks[i] = blocks[i]._replace(local=local)
            outcomes.append((result, chosen))
        sending = work.agents[np.isin(work.agents, ids[admitted])]
        merged = merge(population.key, population.server, outcomes, on_time(sending))
        blocks = list(given_back(blocks, work.before, merged.lost(sending)))
        memory = admission.hear(ids, admitted, population.between, said) if bids else population.between
        sent = np.isin(np.arange(agents), sending)
        report = {name: x if name in bid.told else np.where(sent, x, np.nan) for name, x in uploads.report.items()}
        sizes, spoken = np.where(sent, uploads.size_bytes - repeated, 0), np.where(sent, uploads.messages, 0)
        seen = Round(
            metrics=work.metrics,
            weight=merged.weight,
            refused=tuple(sorted(work.failed + merged.refused)),
            bytes_up=int(sizes.sum()) + bids * bid_bytes,
            bytes_down=asked * wire.down_bytes + bids * answer_bytes,
            messages_up=bids + int(spoken.sum()),  # bids, then updates
            messages_down=asked + bids,  # broadcasts, then answers to bids
            uploads=Uploads(sizes, spoken, report),
            arrivals=on_time(ids),
            admitted=ids[admitted],
            skipped=merged.skipped,
            sums=compute_of(began, trained),
        )
        return Population(merged.server, tuple(blocks), population.key, memory), seen

    begin = starting(federation, fleet, seats, steps, places)

    def init(seed: int) -> Population:
        return begin(seed)._replace(between=admission.init(agents))

    def params_of(population: Population) -> Params:
        return params_held(federation, population.blocks, seats)

    return Simulation(init, round, params_of, agents, size, adopt=adopting(federation), assign=assigning(federation))


def check_budget(federation: Federation, fleet: PyTree, admission: Admission, bids: int) -> None:
    """Refuse a budget under which nothing would ever be sent if so many agents bid.

    Raises:
        ConfigError: It says how much would be needed.
    """
    _, bid_bytes, least = _bidding(federation, admission, messages(federation, fleet))
    left_for_updates(admission, bids, bid_bytes, least)


def _bidding(federation: Federation, admission: Admission, wire: Messages) -> tuple[Bid, int, int]:
    """A bid, its bytes, and those of the smallest update after it, which does not repeat what was bid."""
    bid = Bid({name: jnp.float32(0.0) for name in _asked(federation, admission)}, _size_bid(wire.up_bytes))
    return bid, int(size_bytes(bid)), 1 if wire.up_bytes is None else wire.up_bytes - int(size_bytes(bid.told))


def _asked(federation: Federation, admission: Admission) -> tuple[str, ...]:
    """What is bid, if the federation tells it."""
    missing = [name for name in admission.asks if name not in federation.reports]
    if missing:
        raise ConfigError(
            f"{admission!r} asks agents for {missing[0]!r}, and this federation does not tell it. "
            f"Write federate(..., tells={list(admission.asks)})."
        )
    return admission.asks


def _size_bid(up_bytes: int | None) -> Any:
    """What a bid has to say of the size of an update."""
    return np.uint32(0) if up_bytes is None else None


def _held_back(federation: Federation, agents: AgentState, updates: Update, here: jax.Array) -> Update:
    """What a block hands over: the updates themselves, as the server would read them."""
    del federation, agents, here
    return updates


@shared
def _settling(federation: Federation) -> Callable[..., tuple[PyTree, Any]]:
    """`(memory before, after, updates, admitted) -> (memory, outcome)` of a block, in a compiled program."""

    def settle(before: PyTree, after: PyTree, updates: Update, admitted: jax.Array) -> tuple[PyTree, Any]:
        def kept(new: jax.Array, old: jax.Array) -> jax.Array:
            return jnp.where(admitted.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        return jax.tree.map(kept, after, before), outcome(federation, updates, admitted)

    return jax.jit(settle)
