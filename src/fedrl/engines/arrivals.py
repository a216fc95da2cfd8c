"""The updates that arrive between two merges, with the information that the merge needs."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from fedrl.clocks.events import ARRIVED, FAILED, MALFORMED, NOBODY, Events
from fedrl.core.types import PyTree
from fedrl.engines.executors.records import Learned, OpenedUpdates, Team
from fedrl.engines.inbox import Inbox, Table
from fedrl.engines.round_log import RoundLog
from fedrl.engines.state import Uploads, no_uploads


class PendingUpdates:
    """Updates that arrived since the last merge.

    Attributes:
        log: Log of the round.
        undo: Earlier stage memories, for `Executor.give_back`.
        uploads: All uploads, including those that could not be read.
        restarted: Agents that have restarted.
        unread: Number of bids that could not be read, under an upload budget.
    """

    def __init__(self, log: RoundLog, agents: int) -> None:
        self.log = log
        self.undo: list[Any] = []
        self.uploads: Uploads = no_uploads(agents)
        self.restarted, self.unread = NOBODY, 0
        self._parts: list[tuple[np.ndarray, np.ndarray, PyTree, PyTree]] = []
        self._outcomes: list[Any] = []

    @property
    def agent(self) -> np.ndarray:
        """Senders of the updates, in the order of arrival."""
        return np.concatenate([NOBODY, *(part[0] for part in self._parts)])

    def add(
        self, found: Learned, uploads: Uploads, team: Team, table: Table, needs_broadcasts: bool, waits: bool
    ) -> None:
        """Add updates of agents, each at most once."""
        self.weigh(uploads)
        ids = found.agent
        received: PyTree = ()
        if needs_broadcasts:
            told = (
                team.received.params if team.received != () else jax.tree.map(lambda x: x[team.row], table.sent.params)
            )
            # Copied now: the arrays are updated in place when the agent gets its next job, maybe before the merge.
            received = jax.tree.map(lambda x: x[ids].copy(), told)
        self._parts.append((ids, team.version[ids].copy(), found.items, received))
        self._outcomes += found.block_sums
        self.undo += found.undo if waits else []

    def weigh(self, uploads: Uploads) -> None:
        """Add the sizes and numbers of uploads."""
        self.uploads.size_bytes[:] += uploads.size_bytes
        self.uploads.messages[:] += uploads.messages

    def add_sums(self, found: OpenedUpdates) -> tuple[int, int]:
        """Add what sums by a protocol cost; return bytes and number of the messages to agents."""
        self.log.add_sums(found)
        if not isinstance(found.cost.size_bytes, tuple):
            sent = Uploads(found.cost.size_bytes, found.cost.messages, {})
            self.weigh(sent)
            self.log.weigh(sent)
        return found.cost.bytes_down, found.cost.messages_down

    def inbox(self, scale: np.ndarray, steps: np.ndarray) -> Inbox:
        """Return all updates as an inbox, with the scale of each."""
        if not self._parts:
            return Inbox(NOBODY, NOBODY, (), [], (), scale, steps)
        ids, versions, items, received = zip(*self._parts, strict=True)
        joined = [jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts) for parts in (items, received)]
        return Inbox(np.concatenate(ids), np.concatenate(versions), joined[0], self._outcomes, joined[1], scale, steps)


def with_failures(events: Events, failed: np.ndarray) -> Events:
    """Return the events, with those marked of agents whose training failed: their jobs bring no update."""
    ended = np.isin(events.agent, failed) & np.isin(events.kind, (ARRIVED, MALFORMED))
    return events._replace(kind=np.where(ended, FAILED, events.kind))
