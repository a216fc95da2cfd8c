"""Read updates as they arrive, and sum them exactly if the rule needs only the sum.

    add(update) ... --8 or 16 at a time--> decode --> exact sums, or the decoded updates --> results()

Sums are integers, so the result depends neither on the order of arrival nor on how many are added at a time. Memory is
that of two sums and at most 32 updates, for any number of agents.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core import exact
from fedrl.core.types import Broadcast, PyTree, Update
from fedrl.engines.aggregation import BlockSums, partial_sums, summed
from fedrl.engines.program_cache import cached_program
from fedrl.federation.federation import Federation

CACHED = 1 << 20
"""Bytes of an update up to which 8 or 16 are summed in one program; for larger ones more than 4 at once are slower."""


class Adding:
    """The updates of agents that have received the same broadcast.

    Args:
        read: The program of `reading`.
        sent: The broadcast.
        together: Number of updates that are read at a time, as of `lanes`.
    """

    def __init__(self, read: Callable[[Broadcast, Update], BlockSums | Update], sent: Broadcast, together: int) -> None:
        self._read, self._sent, self._together = read, sent, together
        self._waiting: list[Update] = []
        self._sums: Any = None
        self._running: tuple[BlockSums | Update, int] | None = None
        """What a program computes at this moment, of so many updates: meanwhile others arrive."""
        self._updates: list[tuple[Update, np.ndarray]] = []

    def add(self, update: Update) -> None:
        """Add an encoded update, as NumPy arrays."""
        self._waiting.append(update)
        if len(self._waiting) == self._together:
            self.add_up()

    def add_up(self) -> None:
        """Read the updates that wait."""
        while self._waiting:
            # Powers of two, so that only programs for 1, 2, 4, 8 and 16 updates are compiled.
            few = min(1 << (len(self._waiting).bit_length() - 1), self._together)
            some, self._waiting = self._waiting[:few], self._waiting[few:]
            stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *some)
            self._collect()
            self._running = self._read(self._sent, stacked), few

    def _collect(self) -> None:
        """Wait for the program that runs, and take its result."""
        if self._running is None:
            return
        (found, few), self._running = self._running, None
        if isinstance(found, BlockSums):
            self._summed(jax.tree.map(np.asarray, found), few)
        else:
            self._updates.append((jax.tree.map(np.asarray, found), np.ones(few, bool)))

    def _summed(self, found: Any, few: int) -> None:
        if self._sums is None:
            self._sums = found
            return
        # The digits of an exact sum are int32, which hold LANES terms; beyond, int64.
        many = len(self._sums.reach) + few > exact.LANES
        kind = np.int64 if many else np.int32
        updates, statistics = (
            _added(own, new, kind)
            for own, new in ((self._sums.updates, found.updates), (self._sums.statistics, found.statistics))
        )
        reach: Any = np.concatenate([self._sums.reach, found.reach])
        self._sums = found._replace(updates=updates, statistics=statistics, reach=reach)

    def results(self) -> list[tuple[Any, np.ndarray]]:
        """Return sums or decoded updates, as `merge_blocks` takes them, in order of arrival."""
        self.add_up()
        self._collect()
        if self._sums is None:
            return list(self._updates)
        return [(self._sums, np.ones(len(self._sums.reach), bool))]


def lanes(update: PyTree, agents: int) -> int:
    """Return how many updates of these shapes, of so many agents, are best read at a time."""
    dense = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(update))
    if dense >= CACHED:
        return 4
    # With few agents, half of them are read while the others arrive. With many, each sum of sums costs more than that.
    return exact.LANES if agents > exact.LANES else exact.LANES // 2


@cached_program
def reading(federation: Federation, sums: bool = True) -> Callable[[Broadcast, Update], BlockSums | Update]:
    """Return the program that decodes updates; `sums` allows it to sum them, if the rule needs only the sum."""

    def read(sent: Broadcast, updates: Update) -> BlockSums | Update:
        decoded = jax.vmap(federation.decode, (None, 0))(sent, updates)
        return partial_sums(federation, decoded, jnp.ones(updates.weight.shape, bool)) if sums else decoded

    return jax.jit(read)


@cached_program
def rounding(federation: Federation) -> Callable[[Broadcast, Update], BlockSums]:
    """Return the program that decodes updates and rounds them to the grid of the summation, whatever the rule needs."""

    def read(sent: Broadcast, updates: Update) -> BlockSums:
        decoded = jax.vmap(federation.decode, (None, 0))(sent, updates)
        return summed(federation, decoded, jnp.ones(updates.weight.shape, bool))

    return jax.jit(read)


def compile_reading(
    read: Callable[[Broadcast, Update], BlockSums | Update], sent: Broadcast, update: Update, together: int
) -> None:
    """Compile the programs for each number of updates that is read at a time, from the shapes of one.

    Otherwise the first round in which an agent is missing would wait for the program that reads one update less.
    """
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), sent)
    few = 1
    while few <= together:
        read(zeros, jax.tree.map(lambda x, few=few: np.zeros((few, *x.shape), x.dtype), update))
        few *= 2


def _added(own: np.ndarray, new: np.ndarray, kind: Any) -> np.ndarray:
    """Return the sum in integers of type `kind`, computed in the memory of the first if possible."""
    place = own if own.flags.writeable and own.dtype == kind else None
    return np.add(own, new, out=place, dtype=kind)
