"""Bids of agents at other sites, until it is decided whose updates are sent, and what then comes of these updates.

take(bid)                  reports and size, which the scheduler gets in place of those of an update
whole(update)              the update with the reports of its bid
after(inbox, came, why)    the inbox with the updates that were sent
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from fedrl.core.errors import WireError
from fedrl.core.types import PyTree, Update
from fedrl.engines.bidding import BidContent, Bidding
from fedrl.engines.executors.records import AfterBids
from fedrl.engines.halves.adding import Adding
from fedrl.engines.inbox import Inbox
from fedrl.engines.messages import Messages
from fedrl.engines.state import Rejection
from fedrl.federation.trust import beyond_range
from fedrl.server.board import Bids


class KnownBids:
    """The bids of agents since the last merge.

    Args:
        bids: The costs of bids.
        wire: Shapes of messages.
        agents: Number of agents.
    """

    def __init__(self, bids: Bids, wire: Messages, agents: int) -> None:
        self._bidding, self._wire, self._agents = Bidding(bids.names, wire.update), wire, agents
        self._repeated_bytes = bids.repeated_bytes
        self._bids: dict[int, bytes] = {}
        self._said: dict[int, Mapping[str, Any]] = {}

    def __contains__(self, agent: int) -> bool:
        return agent in self._bids

    def take(self, agent: int, ordered: int, version: int, content: bytes) -> BidContent | str:
        """Take a bid; return its reports and the size of the whole update, or why it is refused.

        Args:
            agent: Number of the agent.
            ordered: Version that it was sent.
            version: Version from which it says that it trained.
            content: The bid.
        """
        try:
            found = self._bidding.bid(content)
        except WireError as fault:
            return f"its bid can't be read: {fault}"
        if version != ordered:
            return f"it bids for version {version}, and {ordered} was sent"
        why = beyond_range(found.report)
        if why:
            return why
        self._bids[agent] = content
        return found._replace(size_bytes=found.size_bytes + self._repeated_bytes)

    def whole(self, agent: int, content: bytes) -> Update:
        """Return an update with the reports of its bid.

        Raises:
            WireError: It can't be read, or has not the size that its bid has said.
        """
        update = self._bidding.whole(self._bids[agent], content)
        self._said[agent] = {name: x for name, x in update.report.items() if name not in self._bidding.names}
        return update

    def after(
        self, inbox: Inbox, came: np.ndarray, why: Mapping[int, str], adding: Sequence[tuple[Adding, list[int]]]
    ) -> AfterBids:
        """Return the inbox with the updates that were sent, and forget all bids.

        Args:
            inbox: All agents that have bid.
            came: Mask of those whose updates were asked for and came.
            why: Why those of others that were asked for are missing, by agent.
            adding: The updates, and the agents of each.
        """
        order: list[int] = []
        items: list[PyTree] = []
        for each, whose in adding:
            order += whose
            items += [found for found, _ in each.results()]
        place = {agent: i for i, agent in enumerate(inbox.agent.tolist())}
        rows = np.array([place[agent] for agent in order], int)

        def joined(like: Any, *parts: Any) -> np.ndarray:
            # Of updates that were not sent nothing is written, so these rows take no memory.
            whole = np.zeros((len(inbox.agent), *like.shape), like.dtype)
            if parts:
                whole[rows] = np.concatenate(parts)
            return whole

        inbox = inbox._replace(items=jax.tree.map(joined, self._wire.decoded, *items)).without(~came)
        names = [name for name in self._wire.upload.report if name not in self._bidding.names]
        report = {name: np.full(self._agents, np.nan, np.float32) for name in names}
        for agent in order:
            for name, x in self._said[agent].items():
                report[name][agent] = x
        self._bids.clear()
        self._said.clear()
        return AfterBids(inbox, tuple(Rejection(agent, why[agent]) for agent in sorted(why)), report)
