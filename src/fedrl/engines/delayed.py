"""Delayed broadcasts: agent k receives the parameters of d_k versions ago.

    current rows | rows of a version ago | ... | rows of D versions ago        D = the longest delay

An agent's broadcast is a row of a table, so a delay is a row further down in a longer table. Each row has its version,
from which keys, staleness and the reference point of an update follow.
"""

from __future__ import annotations

import jax
import numpy as np

from fedrl.core.types import PyTree
from fedrl.engines.inbox import Table


def at_first(table: Table, longest: int) -> PyTree:
    """Return the past rows at the first version, copies of the current ones; () without delays."""
    if not longest:
        return ()
    return jax.tree.map(lambda x: np.concatenate([x] * longest), (table.sent, table.copies))


def delayed(table: Table, past: PyTree, delay: np.ndarray) -> Table:
    """Return the table in which each agent has the row of `delay` versions ago."""
    if past == () or table.row is None:
        return table
    rows = len(table.sent.version)
    sent, copies = jax.tree.map(lambda now, old: np.concatenate([now, old]), (table.sent, table.copies), past)
    return Table(sent, (table.row + rows * delay).astype(np.int32), copies)


def shifted(table: Table, past: PyTree) -> PyTree:
    """Return the past rows for the next version, given a delayed table."""
    return jax.tree.map(lambda rows, old: rows[: len(old)], (table.sent, table.copies), past) if past != () else ()
