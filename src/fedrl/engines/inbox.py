"""Records between executor and topology: the broadcasts that agents receive, and the updates that arrived."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from fedrl.core.types import Broadcast, PyTree

SUMS, UPDATES, PARAMS, ENCODED = "sums", "updates", "params", "encoded"
"""What a block returns: exact sums of all its updates, each decoded update, each agent's parameters, or each encoded
update."""


class Copied(NamedTuple):
    """The copies of servers with down stages, one for each row of a table.

    Attributes:
        number: Number of the copy: differences so far.
        size_bytes: Bytes of the last difference.
        held: The copy, and with look-ahead the one before as well, a tuple; only if agents are at other sites, else ().
        message: The last difference, `fedrl.federation.downlink.Downlink.message`; only if agents are at other sites.
        ahead: Factor of the look-ahead, 0 for none; only if agents are at other sites.
    """

    number: np.ndarray
    size_bytes: np.ndarray
    held: PyTree = ()
    message: PyTree = ()
    ahead: PyTree = ()


class Table(NamedTuple):
    """Broadcasts that agents may receive now.

    Attributes:
        sent: Broadcasts with a leading axis of rows, NumPy arrays.
        row: `[agents]`, the row that each agent receives; None for isolated agents, which keep their own parameters.
        copies: `Copied` for each row; () if parameters are sent uncompressed.
    """

    sent: Broadcast
    row: np.ndarray | None
    copies: PyTree = ()


class PartialSums(NamedTuple):
    """Exact sums over a block of agents of one group.

    Attributes:
        result: `fedrl.engines.aggregation.BlockSums`.
        here: `[block]` bool, the seats whose agents are in the sums.
        agent: Numbers of these agents, in the order of seats.
    """

    result: Any
    here: np.ndarray
    agent: np.ndarray


class Inbox(NamedTuple):
    """The updates that arrived since the last merge, in the order of arrival.

    Attributes:
        agent: Sender of each update, `[n]`.
        version: Version that each update started from, `[n]`.
        items: The collected updates or parameters, NumPy arrays with a leading axis; () if sums are collected.
        block_sums: The sums, if sums are collected.
        received: Parameters that each sender had received, NumPy arrays with a leading axis; () if not needed.
        scale: Factor of each update, float32 `[n]`.
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
        """Return the same inbox without any update."""
        none = np.zeros(len(self.agent), bool)
        return self._replace(block_sums=[], scale=none.astype(np.float32)).of(none)

    def without(self, which: np.ndarray) -> Inbox:
        """Return the same inbox with a scale of 0 for some updates."""
        # Without a merge there is no scale.
        return self._replace(scale=np.where(which, np.float32(0.0), self.scale)) if len(self.scale) else self

    def of(self, which: np.ndarray) -> Inbox:
        """Return a part of the inbox by a mask over updates, with the sums of blocks within it.

        Raises:
            ValueError: A sum is of agents inside and outside of it: it can't be split.
        """

        def some(x: np.ndarray) -> np.ndarray:
            return x[which]

        ids = self.agent[which]
        block_sums = [each for each in self.block_sums if np.isin(each.agent, ids).any()]
        if any(not np.isin(each.agent, ids).all() for each in block_sums):
            raise ValueError(
                "A sum over agents of several servers was to be split. Each server needs a sum of its own."
            )
        items, received = jax.tree.map(some, (self.items, self.received))
        return Inbox(ids, self.version[which], items, block_sums, received, self.scale[which], self.steps)

    def joined(self, other: Inbox) -> Inbox:
        """Return the updates of two inboxes, of different agents."""

        def both(x: np.ndarray, y: np.ndarray) -> np.ndarray:
            return np.concatenate([x, y])

        items, received = jax.tree.map(both, (self.items, self.received), (other.items, other.received))
        ids, versions = both(self.agent, other.agent), both(self.version, other.version)
        scale = both(self.scale, other.scale)
        return Inbox(ids, versions, items, self.block_sums + other.block_sums, received, scale, self.steps)
