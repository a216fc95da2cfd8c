"""What agents are sent, and how many bytes that takes, where a server compresses what it sends.

    number of the copy an agent holds    is sent                        bytes besides shared state and version
    one less than that of the copy now   the difference                 1 + as the codec encodes it
    the same                             that nothing has changed       1
    any other, or none                   the copy whole                 1 + all parameters

An agent holds no copy in the first round and after a restart, and an old one after rounds in which it was not asked or
not there. It keeps its copy apart from what it trains, so a turn that comes to nothing costs none. A version that was
skipped has the copy of the one before. The byte says which of the three it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedrl.core.types import Broadcast
from fedrl.engines.inbox import Table
from fedrl.wire.codec import size_bytes

KIND_BYTES = 1
"""What says whether a message is a difference, a copy whole, or neither."""
NOTHING = -1
"""The number of the copy that an agent holds which holds none."""
SAME, DIFFERENCE, WHOLE = range(3)


class DownTraffic(NamedTuple):
    """What was sent down since the last merge: NumPy arrays that are brought up to date in place.

    Attributes:
        dispatches: How often each agent was sent for, `[agents]`.
        size_bytes: Of what was sent to each agent and, in a tree, to each relay above, a list of levels.
        messages: How many messages those are, likewise.
        whole: How many copies each agent was sent whole, `[agents]`.
    """

    dispatches: np.ndarray
    size_bytes: list[np.ndarray]
    messages: list[np.ndarray]
    whole: np.ndarray


class DownMessages:
    """What agents are sent in place of whole parameters."""

    def __init__(self, sent: Broadcast, agents: int, relays: Sequence[np.ndarray], ahead: bool, compressed: bool):
        self.agents, self.relays, self.ahead, self.compressed = agents, relays, ahead, compressed
        self.whole_bytes, self.rest_bytes = int(size_bytes(sent.params)), int(size_bytes(sent._replace(params=())))

    def start(self) -> np.ndarray:
        """The number of the copy that each agent holds, `[agents]`; empty if nothing is compressed."""
        return np.full(self.agents if self.compressed else 0, NOTHING, np.int32)

    def new_traffic(self) -> DownTraffic:
        """Nothing was sent yet."""
        counts = [self.agents, *(int(over.max()) + 1 for over in self.relays)]
        sizes, messages = ([np.zeros(count, np.int64) for count in counts] for _ in range(2))
        return DownTraffic(np.zeros(self.agents, int), sizes, messages, np.zeros(self.agents, int))

    def sizes(self, known: np.ndarray, ids: np.ndarray, table: Table) -> np.ndarray:
        """Bytes of what each of these agents would be sent, `[n]`; empty if nothing is compressed."""
        return self._messages(known, ids, table)[1] if self.compressed else np.zeros(0, np.int64)

    def send(self, down_traffic: DownTraffic, known: np.ndarray, ids: np.ndarray, table: Table) -> None:
        """These agents, each once, are sent their rows of a table.

        A relay is sent each message once that any agent below it needs, and keeps none.
        """
        down_traffic.dispatches[ids] += 1
        if not self.compressed:
            return
        kind, size = self._messages(known, ids, table)
        row = _rows(table)[ids]
        known[ids] = table.copies.number[row]
        down_traffic.whole[ids] += kind == WHOLE
        down_traffic.size_bytes[0][ids] += size
        down_traffic.messages[0][ids] += 1
        for level, over in enumerate(self.relays, 1):
            once = np.unique(np.stack([over[ids], row, kind]), axis=1, return_index=True)[1]
            np.add.at(down_traffic.size_bytes[level], over[ids][once], size[once])
            np.add.at(down_traffic.messages[level], over[ids][once], 1)

    def _messages(self, known: np.ndarray, ids: np.ndarray, table: Table) -> tuple[np.ndarray, np.ndarray]:
        """Of each of these agents, the kind of its message, and the bytes."""
        row, held = _rows(table)[ids], known[ids]
        number, difference = (np.asarray(column)[row].astype(np.int64) for column in table.copies)
        following = (held == number - 1) & (held != NOTHING)
        kind = np.where(held == number, SAME, np.where(following, DIFFERENCE, WHOLE))
        whole = self.whole_bytes + (difference if self.ahead else 0)  # agents look ahead along the last difference
        said = np.where(kind == SAME, 0, np.where(kind == DIFFERENCE, difference, whole))
        return kind, KIND_BYTES + self.rest_bytes + said


def _rows(table: Table) -> np.ndarray:
    assert table.row is not None  # a server is heard
    return table.row
