"""Bytes, messages and latency of a round in a tree of servers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from fedrl.core import exact
from fedrl.core.types import PyTree
from fedrl.engines.down_messages import DownTraffic
from fedrl.engines.messages import Messages
from fedrl.topologies.trees import Parents, Tree, round_latency

WORD_BYTES = 4
MOST_TERMS_BITS = 12
EXACT_BYTES = -(-(exact.BITS * exact.UPDATES.number + MOST_TERMS_BITS) // 8)
"""Bytes of one entry of an exact sum, an integer in units of `exact.UPDATES.fine`: enough for 4,096 largest terms."""


class Costs(NamedTuple):
    """Communication costs of a round.

    Attributes:
        levels: Bytes up and down over the links of each level, from the agents up.
        messages_up: Number of messages up, over all levels.
        messages_down: Number of messages down, over all levels.
        latency_s: Seconds that the messages take.
    """

    levels: tuple[tuple[int, int], ...]
    messages_up: int
    messages_down: int
    latency_s: float


def traffic(
    tree: Tree, parents: Parents, holding: Sequence[int], wire: Messages, sums: PyTree, summed: bool, copied: bool
) -> Callable[[DownTraffic, np.ndarray, np.ndarray, np.ndarray, int], Costs]:
    """Return `(down_traffic, arrived, sizes, messages, due) -> Costs`.

    The arguments are the traffic down to agents, the mask of agents whose updates arrived, the bytes of each agent's
    update, the number of its messages (one or none), and the number of levels that merge.

    Args:
        tree: Tree with the links.
        parents: Parents of the nodes of each level.
        holding: Levels whose servers have parameters of their own, the root's last.
        wire: Messages of an agent and its server.
        sums: Sums over all agents that servers with parameters of their own send beside these.
        summed: Whether a relay sends the sum of the updates it received, or all of them.
        copied: Whether broadcasts are compressed: then the links between agents and the lowest servers with parameters
            of their own carry `down_traffic`.
    """
    update, change = terms(wire), moved(wire, sums)

    def costs(
        down_traffic: DownTraffic, present: np.ndarray, sizes: np.ndarray, messages_sent: np.ndarray, due: int
    ) -> Costs:
        here, up, down, told = [], [], [], []
        for level in range(due):
            nodes = len(parents[level])
            # Messages originate at agents and at servers with parameters of their own, which send a change of constant
            # size. All other servers are relays, whose messages depend on what comes from below.
            if level == 0 or level in holding:
                there = present if level == 0 else np.ones(nodes, bool)
                sent = np.where(there, sizes if level == 0 else change_bytes(change), 0)
                back = wire.down_bytes if level == 0 else WORD_BYTES * (change + 1)
                total = sum_bytes(update if level == 0 else change)
            else:
                passed = np.bincount(parents[level - 1], sent, nodes).astype(int)
                there = passed > 0
                sent = total * there if summed else passed
            here.append(there)
            up.append(sent)
            passed_on = copied and level < holding[0]
            times = down_traffic.dispatches if level == 0 else there
            down.append(down_traffic.size_bytes[level] if passed_on else back * times)
            told.append(down_traffic.messages[level].sum() if passed_on else times.sum())
        carried = [(a + b).astype(float) for a, b in zip(up, down, strict=True)]
        levels = tuple((int(a.sum()), int(b.sum())) for a, b in zip(up, down, strict=True))
        # Levels that are not due send nothing.
        silent = ((0, 0),) * (len(parents) - due)
        said = int(sum(there.sum() for there in here[1:])) + int(messages_sent[present].sum())
        return Costs((*levels, *silent), said, int(sum(told)), round_latency(parents, due, here, carried, tree))

    return costs


def terms(wire: Messages) -> int:
    """Return the entries in a relay's sum over agents."""
    return _entries((wire.decoded.value, wire.decoded.statistics))


def moved(wire: Messages, sums: PyTree) -> int:
    """Return the entries in the change of a server with parameters of its own."""
    return _entries((wire.sent.params, sums))


def sum_bytes(entries: int) -> int:
    """Return the bytes of an exact sum of so many entries, with the sum of weights, and a version."""
    return EXACT_BYTES * (entries + 1) + WORD_BYTES


def change_bytes(entries: int) -> int:
    """Return the bytes of a change of so many entries, with a weight and a version."""
    return WORD_BYTES * (entries + 2)


def _entries(tree: PyTree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
