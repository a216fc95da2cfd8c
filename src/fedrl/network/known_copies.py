"""The server's copies under down stages, as the messages to agents that lead to them.

    table --of(row)--> DownContents, once for all jobs of a version --> sessions, which choose by the agent's copy

The digests of the two newest copies are part of the run's state: so a coordinator that was restarted still knows
whether the copies that agents say they have are its own.
"""

from __future__ import annotations

import jax
import numpy as np

from fedrl.core.types import Broadcast, PyTree
from fedrl.engines.down_content import DownCodec, DownContents
from fedrl.engines.down_messages import DIFFERENCE, NOTHING, WHOLE
from fedrl.engines.inbox import Table
from fedrl.federation.federation import Federation
from fedrl.network.log import Corrected, Entry
from fedrl.network.roster import Roster


class KnownCopies:
    """Copies of the server, by row of the table of broadcasts.

    Args:
        federation: The federation, with down stages.
        sent: Shapes of its broadcast.

    Attributes:
        newest: Numbers of the two newest copies, `[2]`, -1 for none, and their digests, uint8 `[2, 16]`; updated in
            place.
    """

    def __init__(self, federation: Federation, sent: Broadcast) -> None:
        self._wire = DownCodec(federation, sent)
        self._table: Table | None = None
        self._rows: dict[int, DownContents] = {}
        self.newest = no_copies()

    def of(self, table: Table, row: int) -> DownContents:
        """Return the messages of a row."""
        if self._table is not table:
            self._table, self._rows = table, {}
        if row not in self._rows:
            numbers, digests = self.newest
            known = {number: digest.tobytes().hex() for number, digest in zip(numbers.tolist(), digests, strict=True)}
            found = DownContents(self._wire, row_of(table.sent, row), row_of(table.copies, row), known.get)
            if found.number > numbers[1]:
                numbers[0], digests[0] = numbers[1], digests[1]
                numbers[1] = found.number
            if found.number == numbers[1]:
                digests[1] = np.frombuffer(bytes.fromhex(found.digest), np.uint8)
            # In the thread of the loop, so that the one of the sessions seldom has to.
            found.encoded(DIFFERENCE if found.number else WHOLE)
            self._rows[row] = found
        return self._rows[row]

    def apart(self, sent: Broadcast) -> DownContents:
        """Return the messages with a broadcast for one job: copies of earlier versions are not in a checkpoint."""
        return DownContents(self._wire, sent, None, lambda number: None)

    def corrections(self, roster: Roster, known: np.ndarray, ids: np.ndarray, table: Table) -> list[Corrected]:
        """Correct the numbers of the copies of agents by what they have said since their last jobs.

        Args:
            roster: What agents have said.
            known: Number of the copy of each agent, updated in place.
            ids: Agents that get a job now.
            table: The broadcasts.

        Returns:
            What was corrected, for the log; empty if all numbers were right.
        """
        assert table.row is not None  # isolated agents have no down messages
        found = {}
        for agent in ids.tolist():
            if agent in roster.copies:
                copy = roster.copies.pop(agent)
                number = self.of(table, int(table.row[agent])).number_of(copy)
                if number != known[agent]:
                    found[agent] = number
        known[list(found)] = list(found.values())
        return [Corrected(list(found), list(found.values()))] if found else []


class CopiesClock:
    """The part of a clock that knows which copies agents have.

    Attributes:
        copies: The server's copies; None without down stages.
        roster: What is known about agents.
        log: What the scheduler was told since the log was last taken away.
    """

    copies: KnownCopies | None = None
    roster: Roster
    log: list[Entry]

    def correct(self, known: np.ndarray, ids: np.ndarray, table: Table) -> None:
        """Correct the numbers of the copies of agents, `known`, by what they have said since their last jobs."""
        if self.copies is not None:
            self.log += self.copies.corrections(self.roster, known, ids, table)


def no_copies() -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers and digests of the newest copies before there is any."""
    return np.full(2, NOTHING, np.int32), np.zeros((2, 16), np.uint8)


def row_of(tree: PyTree, row: int) -> PyTree:
    """Return a row of every array of a tree."""
    return jax.tree.map(lambda x: np.asarray(x)[row], tree)
