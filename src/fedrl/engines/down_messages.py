"""Kind and bytes of the messages to agents, where a server compresses its broadcasts by down stages.

    number of the agent's copy               message                    bytes besides shared state and version
    one less than the current copy's         the difference             1 + encoded difference
    the same                                 "unchanged"                1
    any other, or none                       the whole copy             1 + all parameters

The first byte names the kind. An agent has no copy in the first round and after a restart, and an old one after rounds
in which it was not selected or absent. It stores its copy apart from the parameters it trains, so a dropped job does
not cost the copy. A skipped version has the copy of the version before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedrl.core.types import Broadcast
from fedrl.engines.inbox import Table
from fedrl.wire.codec import size_bytes

KIND_BYTES = 1
"""Byte that names the kind of a message: difference, whole copy, or unchanged."""
NOTHING = -1
"""Number of the copy of an agent that has none."""
SAME, DIFFERENCE, WHOLE = range(3)


class DownTraffic(NamedTuple):
    """Downward traffic since the last merge: NumPy arrays that are updated in place.

    Attributes:
        dispatches: Number of jobs that each agent got, `[agents]`.
        size_bytes: Bytes sent to each agent and, in a tree, to each relay above, a list by level.
        messages: Number of these messages, likewise.
        whole: Number of whole copies sent to each agent, `[agents]`.
    """

    dispatches: np.ndarray
    size_bytes: list[np.ndarray]
    messages: list[np.ndarray]
    whole: np.ndarray


class DownMessages:
    """Messages from servers to agents, and the count of their bytes."""

    def __init__(
        self,
        sent: Broadcast,
        agents: int,
        relays: Sequence[np.ndarray],
        ahead: bool,
        compressed: bool,
    ) -> None:
        self.agents, self.relays, self.ahead, self.compressed = agents, relays, ahead, compressed
        self.whole_bytes, self.rest_bytes = int(size_bytes(sent.params)), int(size_bytes(sent._replace(params=())))

    def start(self) -> np.ndarray:
        """Return the initial number of each agent's copy, `[agents]`; empty if nothing is compressed."""
        return np.full(self.agents if self.compressed else 0, NOTHING, np.int32)

    def new_traffic(self) -> DownTraffic:
        """Return traffic of zero."""
        counts = [self.agents, *(int(over.max()) + 1 for over in self.relays)]
        sizes, messages = ([np.zeros(count, np.int64) for count in counts] for _ in range(2))
        return DownTraffic(np.zeros(self.agents, int), sizes, messages, np.zeros(self.agents, int))

    def sizes(self, known: np.ndarray, ids: np.ndarray, table: Table) -> np.ndarray:
        """Return the bytes of the message that each of these agents would be sent, `[n]`; empty if uncompressed."""
        return self._messages(known, ids, table)[1] if self.compressed else np.zeros(0, np.int64)

    def send(self, down_traffic: DownTraffic, known: np.ndarray, ids: np.ndarray, table: Table) -> None:
        """Count the messages to these agents, each once, and update the numbers of their copies in `known`.

        A relay is sent each message once that any agent below it needs, and stores none.
        """
        down_traffic.dispatches[ids] += 1
        if not self.compressed:
            return
        kind, size = self._messages(known, ids, table)
        row = _rows(table)[ids]
        # After `_messages`, which compares with the old numbers.
        known[ids] = table.copies.number[row]
        down_traffic.whole[ids] += kind == WHOLE
        down_traffic.size_bytes[0][ids] += size
        down_traffic.messages[0][ids] += 1
        for level, over in enumerate(self.relays, 1):
            # Agents below one relay with the same row and kind of message share one message to that relay.
            once = np.unique(np.stack([over[ids], row, kind]), axis=1, return_index=True)[1]
            np.add.at(down_traffic.size_bytes[level], over[ids][once], size[once])
            np.add.at(down_traffic.messages[level], over[ids][once], 1)

    def _messages(self, known: np.ndarray, ids: np.ndarray, table: Table) -> tuple[np.ndarray, np.ndarray]:
        """Return the kind and the bytes of each of these agents' messages."""
        row, held = _rows(table)[ids], known[ids]
        columns = table.copies.number, table.copies.size_bytes
        number, difference = (np.asarray(column)[row].astype(np.int64) for column in columns)
        following = (held == number - 1) & (held != NOTHING)
        kind = np.where(held == number, SAME, np.where(following, DIFFERENCE, WHOLE))
        # With look-ahead an agent extrapolates along the last difference, so a whole copy comes with it.
        whole = self.whole_bytes + (difference if self.ahead else 0)
        said = np.where(kind == SAME, 0, np.where(kind == DIFFERENCE, difference, whole))
        return kind, KIND_BYTES + self.rest_bytes + said


def _rows(table: Table) -> np.ndarray:
    assert table.row is not None  # isolated agents have no down messages
    return table.row
