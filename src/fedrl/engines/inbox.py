"""What agents may hear, and the updates of theirs that arrived: between an executor and a topology."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from fedrl.core.types import Broadcast, PyTree

SUMS, UPDATES, PARAMS, ENCODED = "sums", "updates", "params", "encoded"
"""What is collected of a block: exact sums of all its updates, each decoded update, what each agent holds, or each
update as it travels."""


class Copied(NamedTuple):
    """Of each row of a table, by how many differences its parameters were made, and the bytes of the last of them."""

    number: np.ndarray
    size_bytes: np.ndarray


class Table(NamedTuple):
    """What agents may hear now: broadcasts with a leading axis of rows, as NumPy arrays, and the row of each agent.

    `row` is None where agents hear nobody: each goes on from what it holds. `copies` says how the parameters of the
    rows were `Copied`; () if they are sent as they are.
    """

    sent: Broadcast
    row: np.ndarray | None
    copies: PyTree = ()


class PartialSums(NamedTuple):
    """What a block of agents of one group hands over: exact sums, whose they are, in their order, and who of it is in.

    Attributes:
        result: `fedrl.engines.aggregation.BlockSums`.
        here: `[block]` bool.
        agent: Their numbers, as many as are here.
    """

    result: Any
    here: np.ndarray
    agent: np.ndarray


class Inbox(NamedTuple):
    """The updates that arrived since the last merge, in the order of arrival.

    Attributes:
        agent: Who sent each, `[n]`.
        version: The version that it started from, `[n]`.
        items: What the executor was asked to collect of each, NumPy arrays with a leading axis; () if sums.
        block_sums: The sums, if it was asked for those.
        received: What each had heard, NumPy arrays with a leading axis; () if it does not matter.
        scale: What each is scaled by, float32 `[n]`.
        steps: Local steps of every agent, `[agents]`.
    """

    agent: np.ndarray
    version: np.ndarray
    items: PyTree
    block_sums: list[PartialSums]
    received: PyTree
    scale: np.ndarray
    steps: np.ndarray

    def nobody(self) -> Inbox:
        """The same without any update."""
        none = np.zeros(len(self.agent), bool)
        return self._replace(block_sums=[], scale=none.astype(np.float32)).of(none)

    def of(self, which: np.ndarray) -> Inbox:
        """Some of the updates, by a mask; sums are those of the blocks whose agents are all among them."""

        def some(x: np.ndarray) -> np.ndarray:
            return x[which]

        ids = self.agent[which]
        block_sums = [each for each in self.block_sums if np.isin(each.agent, ids).all()]
        items, received = jax.tree.map(some, (self.items, self.received))
        return Inbox(ids, self.version[which], items, block_sums, received, self.scale[which], self.steps)
