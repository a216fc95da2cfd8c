"""What a tree of servers sends in a round, and how long that takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from fedrl.core import exact
from fedrl.core.types import PyTree
from fedrl.engines.aggregation import Messages
from fedrl.engines.down_messages import DownTraffic
from fedrl.topologies.trees import Parents, Tree, round_latency

WORD_BYTES = 4
MOST_TERMS_BITS = 12
EXACT_BYTES = -(-(exact.BITS * exact.UPDATES.number + MOST_TERMS_BITS) // 8)
"""An exact sum is an integer of 22 bytes, in steps of `exact.UPDATES.fine`: enough for 4,096 terms at their limit."""


class Costs(NamedTuple):
    """What a round costs.

    Attributes:
        levels: Bytes up and down over each level's links, from the agents on.
        messages_up: Over all levels.
        messages_down: Over all levels.
        latency_s: How long the messages take.
    """

    levels: tuple[tuple[int, int], ...]
    messages_up: int
    messages_down: int
    latency_s: float


def traffic(
    tree: Tree, parents: Parents, holding: Sequence[int], wire: Messages, sums: PyTree, summed: bool, copied: bool
) -> Callable[[DownTraffic, np.ndarray, np.ndarray, np.ndarray, int], Costs]:
    """What a round costs: `(down_traffic, arrived, sizes, messages, due) -> Costs`.

    How often each agent was sent for and what it was sent, whose updates arrived, and how many levels merge.

    The sizes are those of the agents' updates in bytes, the messages how many each sends: one, or none.

    Args:
        tree: The links.
        parents: Of the nodes of each level.
        holding: Levels whose servers have parameters of their own, the root's last.
        wire: What an agent and its server send each other.
        sums: What servers with parameters of their own add up over all agents, beside these.
        summed: Whether a relay sends the sum of what it received, or passes all of it on.
        copied: Whether agents hold copies of what they are sent: then links between them and the lowest servers with
            parameters of their own carry what was `down_traffic`.
    """
    update, change = terms(wire), moved(wire, sums)

    def costs(
        down_traffic: DownTraffic, present: np.ndarray, sizes: np.ndarray, messages_sent: np.ndarray, due: int
    ) -> Costs:
        here, up, down, told = [], [], [], []
        for level in range(due):
            nodes = len(parents[level])
            if level == 0 or level in holding:  # where messages begin: an agent, or a server that sends its change
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
        silent = ((0, 0),) * (len(parents) - due)
        said = int(sum(there.sum() for there in here[1:])) + int(messages_sent[present].sum())
        return Costs((*levels, *silent), said, int(sum(told)), round_latency(parents, due, here, carried, tree))

    return costs


def terms(wire: Messages) -> int:
    """Numbers in what a relay adds up of agents."""
    return _entries((wire.decoded.value, wire.decoded.statistics))


def moved(wire: Messages, sums: PyTree) -> int:
    """Numbers in the change of a server with parameters of its own."""
    return _entries((wire.sent.params, sums))


def sum_bytes(entries: int) -> int:
    """Bytes of an exact sum of so many numbers, with that of the weights, and a version."""
    return EXACT_BYTES * (entries + 1) + WORD_BYTES


def change_bytes(entries: int) -> int:
    """Bytes of a change of so many numbers, with a weight and a version."""
    return WORD_BYTES * (entries + 2)


def _entries(tree: PyTree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
