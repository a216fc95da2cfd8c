"""The updates that arrive between two merges, and what else has to be known of them when they are merged."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from fedrl.clocks.events import NOBODY
from fedrl.core.types import PyTree
from fedrl.engines.executors.executor import Learned, Team
from fedrl.engines.inbox import Inbox, Table
from fedrl.engines.round_log import RoundLog
from fedrl.engines.state import Uploads, no_uploads


class PendingUpdates:
    """What arrived since the last merge.

    Attributes:
        log: Of the round.
        undo: For `give_back`.
        uploads: What was sent, what could not be read included.
        restarted: Agents that have begun anew.
        unread: Under a budget, bids that could not be read.
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
        """Whose."""
        return np.concatenate([NOBODY, *(part[0] for part in self._parts)])

    def add(
        self, found: Learned, uploads: Uploads, team: Team, table: Table, needs_broadcasts: bool, waits: bool
    ) -> None:
        """Updates of agents, each at most once."""
        self.weigh(uploads)
        ids = found.agent
        received: PyTree = ()
        if needs_broadcasts:
            told = (
                team.received.params if team.received != () else jax.tree.map(lambda x: x[team.row], table.sent.params)
            )
            received = jax.tree.map(lambda x: x[ids].copy(), told)
        self._parts.append((ids, team.version[ids].copy(), found.items, received))
        self._outcomes += found.block_sums
        self.undo += found.undo if waits else []

    def weigh(self, uploads: Uploads) -> None:
        """So much was sent."""
        self.uploads.size_bytes[:] += uploads.size_bytes
        self.uploads.messages[:] += uploads.messages

    def inbox(self, scale: np.ndarray, steps: np.ndarray) -> Inbox:
        """All of them, with what each is scaled by."""
        if not self._parts:
            return Inbox(NOBODY, NOBODY, (), [], (), scale, steps)
        ids, versions, items, received = zip(*self._parts, strict=True)
        joined = [jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts) for parts in (items, received)]
        return Inbox(np.concatenate(ids), np.concatenate(versions), joined[0], self._outcomes, joined[1], scale, steps)
