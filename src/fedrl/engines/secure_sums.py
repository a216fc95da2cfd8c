"""Open sums by the protocol of a federation's summation, after it is decided whose updates are merged.

    inbox: updates that came --codes of each--> phases, in which agents may leave --> sums of those that stay
                                                                                 or: it stays hidden

In a simulation all parties are in this process, and the clock says who leaves when. At other sites they are real
(`fedrl.network`). The agents of each server with parameters of its own have a sum of their own. For a rule that needs
each update, they are divided into groups, and the rule gets the mean of each group in place of an update.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core import exact
from fedrl.core.errors import TooFewAgentsError
from fedrl.core.keys import Root, Stream, derived
from fedrl.core.measures import Measure
from fedrl.core.summation import opens_by_protocol
from fedrl.core.types import PyTree, Update
from fedrl.engines.aggregation import BlockSums, inside, refused_rows, summed, unflatten, weight_scale
from fedrl.engines.executors.executor import Executor
from fedrl.engines.executors.records import OpenedUpdates, SumCost
from fedrl.engines.inbox import Inbox, PartialSums
from fedrl.engines.program_cache import cached_program, shapes
from fedrl.engines.state import Rejection
from fedrl.engines.topologies.server import Server
from fedrl.federation.federation import Federation
from fedrl.secure.additive import AdditivePlan
from fedrl.secure.ckks import EncryptionKey, new_encryption_key
from fedrl.secure.drive import CostMeter, OpenedSum, secure_sum
from fedrl.secure.drive_additive import additive_sum
from fedrl.secure.drive_encrypted import encrypted_sum
from fedrl.secure.encrypted import EncryptedSumPlan
from fedrl.secure.groups import partition
from fedrl.secure.identity import Identity, new_identities
from fedrl.secure.plan import SumPlan, sum_plan
from fedrl.secure.sizes import PhaseBytes, additive_phases, encrypted_phases, mask_phases
from fedrl.secure.vector import codes_and_digits, vector_of

LEFT = {"left_sums": Measure("round", "", "lower")}
"""Measure of a protocol: agents that left in the phases of a sum, after they had trained."""
PHASES = {"sum_phases": Measure("round", "s", "lower")}
"""The same on a clock: seconds of all phases of the sums of a round."""
TOGETHER = 16
"""Updates that are rounded to the grid in one program."""


def sum_measures(sums: SecureSums | None, timed: bool) -> dict[str, Measure]:
    """Return the measures of sums by a protocol; none without one."""
    return {} if sums is None or not sums.by_protocol else LEFT | (PHASES if timed else {})


def secure_sums(executor: Executor, clock: Any, topology: Server) -> SecureSums | None:
    """Return what opens the sums of a simulation; None if blocks of agents are simply added up."""
    summation = executor.federation.summation
    apart = opens_by_protocol(summation) or summation.group_size
    return SecureSums(executor, clock, topology) if apart else None


class SecureSums:
    """Opens the sums of a simulation.

    Args:
        executor: Where the agents are.
        clock: The clock.
        topology: Where the sums are merged.

    Attributes:
        by_protocol: Whether messages are exchanged.
    """

    def __init__(self, executor: Executor, clock: Any, topology: Server) -> None:
        self._executor, self._clock, self._group = executor, clock, topology.group
        self._federation, self._like = executor.federation, topology.wire.decoded
        self._codes, self.by_protocol = codes_of(self._federation), opens_by_protocol(self._federation.summation)

    @cached_property
    def _identities(self) -> Mapping[int, Identity]:
        return new_identities(tuple(range(len(self._group))))

    @cached_property
    def _key(self) -> EncryptionKey:
        return new_encryption_key()

    def open(self, clock_state: Any, inbox: Inbox, run: Root) -> tuple[Any, OpenedUpdates]:
        """Return the sums of the updates whose scale is above 0, as far as they are opened.

        Args:
            clock_state: The state of the clock, on which the phases take time.
            inbox: All updates that came.
            run: Root of the run's keys, from which groups follow.
        """
        wanted, silent = inbox.of(inbox.scale > 0.0), self._executor.silent
        found = OpenedUpdates(self._nobody(inbox))
        if not len(wanted.agent):
            return clock_state, found
        sums = None if silent else self._codes(wanted.items)
        parts, why = self._parts(wanted, run)
        for rows in parts:
            some, alone = wanted.of(rows), jax.tree.map(lambda x, rows=rows: x[rows], sums)
            opened = self._executor.open_sums(some) if silent else self._opened(clock_state, some, alone)
            found = found.with_sum(self._as_update(opened) if self._federation.summation.group_size else opened)
        found = found._replace(why=(*found.why, *why))
        return clock_state if silent else self._clock.advance(clock_state, found.cost.seconds), found

    def _nobody(self, inbox: Inbox) -> Inbox:
        """Return an inbox without updates: of groups, or of single agents."""
        empty = inbox.of(np.zeros(len(inbox.agent), bool))._replace(items=(), block_sums=[])
        if not self._federation.summation.group_size:
            return empty
        return empty._replace(items=jax.tree.map(lambda x: np.zeros((0, *x.shape), x.dtype), self._like))

    def _parts(self, inbox: Inbox, run: Root) -> tuple[list[np.ndarray], list[str]]:
        """Return masks of the updates that are added to each other, and why others are left out."""
        server, size = self._group[inbox.agent], self._federation.summation.group_size
        parts = [server == number for number in np.unique(server)]
        if not size:
            return parts, []
        enough = [part for part in parts if part.sum() >= size]
        few = [int(part.sum()) for part in parts if part.sum() < size]
        # From public keys of the run: nobody chooses a group, and a replay finds the same ones.
        seed = derived(run, Stream.GROUPS, int(inbox.version.max())).tobytes()
        groups = [group for part in enough for group in partition(inbox.agent[part].tolist(), size, seed)]
        why = [f"{count} updates arrived, and a group has {size} or more" for count in few]
        return [np.isin(inbox.agent, group) for group in groups], why

    def _as_update(self, opened: OpenedUpdates) -> OpenedUpdates:
        """Return the mean of a group in place of its sum."""
        inbox, federation = opened.inbox, self._federation
        if not inbox.block_sums:
            return opened._replace(inbox=self._nobody(inbox))
        (sums,) = inbox.block_sums
        rejected = refused_rows(federation, self._like, [(sums.result, sums.here)], sums.agent)
        members = np.sort(sums.agent[inside(federation, self._like, sums.result.reach)])
        mean, units = exact.mean_of(federation.summation.total([sums.result.updates]))
        if not units > 0.0:
            return opened._replace(inbox=self._nobody(inbox), rejected=rejected)
        value = jax.tree.map(np.asarray, unflatten(mean[None], shapes(self._like.value)))
        first = inbox._replace(block_sums=[]).of(inbox.agent == members[0])
        weight: Any = np.full(1, units * weight_scale(federation), np.float32)
        version: Any = first.version.astype(np.int32)
        items = Update(value, weight, version)
        return opened._replace(inbox=first._replace(items=items, block_sums=[]), groups=(members,), rejected=rejected)

    def _opened(self, clock_state: Any, inbox: Inbox, sums: Any) -> OpenedUpdates:
        """Return the sum of one group."""
        summation, fits = self._federation.summation, inside(self._federation, inbox.items, sums.reach)
        agents, minimum = inbox.agent[fits], max(summation.minimum, 2)
        included, missing, why, cost = np.zeros(len(fits), bool), tuple[Rejection, ...](), "", SumCost()
        opened: OpenedSum | None = None
        vectors = vector_of(sums.updates[:, 0], sums.statistics)
        if self._executor.clock is not None:  # a log tells who was in the sum
            included[fits] = self._executor.clock.summed(agents)
        elif len(agents) < minimum:
            why = f"{len(agents)} of at least {minimum} updates arrived that {summation!r} needs"
        elif not self.by_protocol:
            included[fits] = True
        else:
            opened, missing, why, cost = self._carried_out(clock_state, agents, vectors[fits])
            included[fits] = np.isin(agents, () if opened is None else opened.included)
        total = vectors[included].sum(axis=0, dtype=np.int32) if opened is None else opened.total
        codes, digits = codes_and_digits(np.asarray(total), sums.updates.shape[2])
        # An update beyond the grid is no part of the protocol: its agent says so, and it is named like any other one.
        there = included | ~fits
        whole = sums._replace(updates=codes[None], statistics=digits, reach=sums.reach[there])
        rest = inbox.of(there)
        block = [PartialSums(whole, np.ones(there.sum(), bool), rest.agent)] if there.any() else []
        # Without the updates themselves: what is merged is the sum, or nothing.
        return OpenedUpdates(rest._replace(items=(), block_sums=block), missing, (why,) if why else (), cost)

    def _carried_out(
        self, clock_state: Any, agents: np.ndarray, vectors: np.ndarray
    ) -> tuple[OpenedSum | None, tuple[Rejection, ...], str, SumCost]:
        """Carry out the protocol: its result, who left when, why it was given up, and what it cost."""
        order = np.argsort(agents)
        agents, vectors, meter = agents[order], vectors[order], CostMeter()
        steps, add = self._protocol(tuple(agents.tolist()), vectors, meter)
        found = self._clock.phases(
            clock_state, agents, [(step.down, step.up) for step in steps], self._federation.summation.phase_s
        )
        leaves = {
            agent: steps[number].name
            for agent, number in zip(agents.tolist(), found.left.tolist(), strict=True)
            if number < len(steps)
        }
        opened, why = None, ""
        try:
            opened = add(leaves)
        except TooFewAgentsError as few:
            why = f"a sum was given up: {few}"
        began = sum(step.name in meter.costs for step in steps)
        cost = cost_of(meter, float(found.took_s[:began].sum()), len(self._group))
        left = sorted((agent, phase) for agent, phase in leaves.items() if phase in meter.costs)
        missing = tuple(Rejection(agent, f"it left in the phase {phase!r} of the sum") for agent, phase in left)
        return opened, missing, why, cost

    def _protocol(
        self, members: tuple[int, ...], vectors: np.ndarray, meter: CostMeter
    ) -> tuple[tuple[PhaseBytes, ...], Callable[[Mapping[int, str]], OpenedSum]]:
        """Return the phases of the protocol, and what carries it out if these agents leave."""
        summation, context, size = self._federation.summation, os.urandom(32), vectors.shape[1]
        minimum = max(summation.minimum, 2)
        if summation.protocol == "additive":
            shared = AdditivePlan(context, members, size, minimum=minimum, aggregators=2)
            return additive_phases(shared), lambda leaves: additive_sum(vectors, shared, leaves, meter)
        if summation.protocol == "ckks":
            closed = EncryptedSumPlan(members, size, minimum=minimum)
            return encrypted_phases(closed), lambda leaves: encrypted_sum(vectors, closed, leaves, self._key, meter)
        plan: SumPlan = sum_plan(context, members, size, minimum=minimum, verified=summation.verified)
        return mask_phases(plan), lambda leaves: secure_sum(vectors, plan, leaves, self._identities, meter=meter)


def cost_of(meter: CostMeter, seconds: float, agents: int) -> SumCost:
    """Return what a protocol has counted, among so many agents."""
    size_bytes, messages = (np.zeros(agents, np.int64) for _ in range(2))
    for column, counted in ((size_bytes, meter.sent), (messages, meter.messages)):
        column[list(counted)] = list(counted.values())
    down = sum(cost.down_bytes for cost in meter.costs.values())
    return SumCost(size_bytes, messages, down, meter.heard, seconds)


def codes_of(federation: Federation) -> Callable[[PyTree], Any]:
    """Return `updates -> BlockSums` with the sums of each update alone, NumPy arrays with a leading axis."""
    program = _each_alone(federation)

    def codes(updates: PyTree) -> BlockSums:
        count, parts = len(jax.tree.leaves(updates)[0]), []
        for start in range(0, count, TOGETHER):
            # Padded with copies of the last one: one program for any number of updates.
            rows = np.minimum(np.arange(start, start + TOGETHER), count - 1)
            parts.append(program(jax.tree.map(lambda x, rows=rows: x[rows], updates)))
        joined: BlockSums = jax.tree.map(lambda *leaves: np.concatenate(leaves)[:count], *parts)
        return joined._replace(reach=joined.reach[:, 0])

    return codes


@cached_program
def _each_alone(federation: Federation) -> Callable[[Update], BlockSums]:
    def alone(update: Update) -> Any:
        one = jax.tree.map(lambda x: x[None], update)
        return summed(federation, one, jnp.ones(1, bool))

    return jax.jit(jax.vmap(alone))
