"""Agents who never hear of each other: each goes on from what it holds."""

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
    """No server: what stands for one counts rounds alone. Agents run the same program as those of a server."""

    def table(self, server: ServerState, memory: PyTree) -> Table:
        """Nothing is heard."""
        del memory
        sent = jax.tree.map(lambda x: np.asarray(x)[None], self.federation.broadcast(server))
        return Table(sent, None)

    holds = table

    def merge(
        self, keys: Keys, server: ServerState, memory: PyTree, inbox: Inbox
    ) -> tuple[ServerState, PyTree, MergeResult]:
        """Nothing is merged."""
        del keys, inbox
        return skip_round(server), memory, MergeResult(0.0, (), np.zeros(0, int))

    def traffic(self, sent: SentMessages, number: int, merged: bool) -> Traffic:
        """Nothing is sent."""
        del sent, number, merged
        return Traffic()
