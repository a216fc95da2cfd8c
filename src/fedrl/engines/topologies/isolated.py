"""Isolated agents: each trains from its own parameters, without communication."""

from __future__ import annotations

import jax
import numpy as np

from fedrl.core.keys import Keys
from fedrl.core.types import PyTree
from fedrl.engines.aggregation import skip_round
from fedrl.engines.inbox import Inbox, Table
from fedrl.engines.topologies.server import MergeResult, SentMessages, Server, Traffic
from fedrl.federation.federation import ServerState


class Isolated(Server):
    """A topology without communication; its server state only counts rounds. Agents run the usual program."""

    def table(self, server: ServerState, memory: PyTree) -> Table:
        """Return a table in which no agent receives a row."""
        del memory
        sent = jax.tree.map(lambda x: np.asarray(x)[None], self.federation.broadcast(server))
        return Table(sent, None)

    holds = table

    def merge(
        self, keys: Keys, server: ServerState, memory: PyTree, inbox: Inbox
    ) -> tuple[ServerState, PyTree, MergeResult]:
        """Advance the version, without a merge."""
        del keys, inbox
        return skip_round(server), memory, MergeResult(0.0, (), np.zeros(0, int))

    def traffic(self, sent: SentMessages, number: int, merged: bool) -> Traffic:
        """Return traffic of zero."""
        del sent, number, merged
        return Traffic()
