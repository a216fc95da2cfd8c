"""Broadcasts of versions ago, for agents that hear the server late: theta of d_k versions ago.

    rows of now | rows of a version ago | ... | rows of D versions ago        D = the longest delay

What an agent hears is a row of a table, so a delay is another row of a longer table. Its version is that of its row,
so keys, staleness and what an update is a change to follow from it.
"""

from __future__ import annotations

import jax
import numpy as np

from fedrl.core.types import PyTree
from fedrl.engines.inbox import Table


def at_first(table: Table, longest: int) -> PyTree:
    """What there was before the first version: the same; () if nobody hears anything late."""
    if not longest:
        return ()
    return jax.tree.map(lambda x: np.concatenate([x] * longest), (table.sent, table.copies))


def delayed(table: Table, past: PyTree, delay: np.ndarray) -> Table:
    """A table in which each agent has the row of so many versions ago."""
    if past == () or table.row is None:
        return table
    rows = len(table.sent.version)
    sent, copies = jax.tree.map(lambda now, old: np.concatenate([now, old]), (table.sent, table.copies), past)
    return Table(sent, (table.row + rows * delay).astype(np.int32), copies)


def shifted(table: Table, past: PyTree) -> PyTree:
    """What is past in the next version, of a delayed table."""
    return jax.tree.map(lambda rows, old: rows[: len(old)], (table.sent, table.copies), past) if past != () else ()
