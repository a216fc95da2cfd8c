"""Trees of servers: agents, edge servers, further levels of servers, and one root.

    agents --link 0--> edges --link 1--> regions --link 2--> root      parents of each level, in the order of its nodes

Each level merges every `period` rounds. Every link has a latency and a bandwidth, from which the time of a round
follows: with branching b and depth log_b K it grows as O(log K), where that of a single server grows as O(K).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

from fedrl.core.component import Call, component, record
from fedrl.core.errors import ConfigError
from fedrl.core.ranges import Count, Duration, Rate, Whole

LIU = "Liu et al. (2020), https://arxiv.org/abs/1905.06641"
Parents = list[Int[np.ndarray, " _"]]


@record
class Tree:
    """A tree of servers, with the merge periods and the links of its levels.

    Attributes:
        parents: `agents -> parents`: for each agent the number of its edge server, for each edge server that of the
            server above it, and so on; for the last level all zeros, the root.
        periods: Rounds between two merges, for each level above the agents.
        latency_s: Latency of a message, for the links of each level, from the agents' links up.
        bytes_per_s: Bandwidth that a node's children share, for each level from the edge servers up.
    """

    parents: Callable[[int], Parents]
    periods: tuple[int, ...]
    latency_s: tuple[float, ...]
    bytes_per_s: tuple[float, ...]
    call: Call | None = None


@component("hierarchy", reference=LIU)
def tree(
    branching: Sequence[Count],
    periods: Sequence[Count] | None = None,
    latency_s: Sequence[Duration] = (0.0,),
    bytes_per_s: Sequence[Rate] = (math.inf,),
) -> Tree:
    """Build a tree with a fixed number of children per server on each level; the root takes all remaining nodes.

    Args:
        branching: Children per server on each level, from the edge servers up, without the root: `[8, 16]` makes edge
            servers of 8 agents, regions of 16 edge servers, and a root. The last server of a level may have fewer.
        periods: Rounds between two merges of each level, the root included; the first is 1, and each is a multiple of
            the one before. By default all levels merge in every round, which is bit-identical to a single server.
        latency_s: Latency of the links of each level in seconds, one for all or one per level.
        bytes_per_s: Bandwidth that the children of a server share, one for all levels or one per level.

    Raises:
        ConfigError: A number is out of range, or a list has the wrong length.

    >>> [parents.tolist() for parents in tree([2, 2]).parents(5)]
    [[0, 0, 1, 1, 2], [0, 0, 1], [0, 0]]
    """

    def parents(agents: int) -> Parents:
        found, nodes = [], agents
        for width in (*branching, None):
            found.append(np.arange(nodes) // (width or nodes))
            nodes = int(found[-1][-1]) + 1
        return found

    return _checked(parents, len(branching) + 1, periods, latency_s, bytes_per_s)


@component("hierarchy", reference=LIU)
def given_tree(
    parents: Sequence[Sequence[Whole]],
    periods: Sequence[Count] | None = None,
    latency_s: Sequence[Duration] = (0.0,),
    bytes_per_s: Sequence[Rate] = (math.inf,),
) -> Tree:
    """Build a tree of any shape from the parents of its nodes.

    Args:
        parents: For each agent the number of its edge server, for each edge server that of the server above it, and so
            on. The last level is left out: its parents are all the root.
        periods: As for `tree`.
        latency_s: As for `tree`.
        bytes_per_s: As for `tree`.

    Raises:
        ConfigError: A server has no child, or the lists do not fit each other or the number of agents.

    >>> [found.tolist() for found in given_tree([[0, 0, 0, 1]]).parents(4)]
    [[0, 0, 0, 1], [0, 0]]
    """
    levels = [np.asarray(level, dtype=int) for level in parents]

    def fitting(agents: int) -> Parents:
        found, nodes = [], agents
        for i, level in enumerate(levels):
            if len(level) != nodes or not np.array_equal(np.unique(level), np.arange(level.max(initial=-1) + 1)):
                raise ConfigError(
                    f"parents[{i}] is {level.tolist()}. A server without children has nothing to merge. Give a number "
                    f"for each of the {nodes} nodes below, such that every number from 0 on occurs."
                )
            found.append(level)
            nodes = int(level.max()) + 1
        return [*found, np.zeros(nodes, int)]

    # Checked at once, for the number of agents that the first list implies.
    if levels:
        fitting(len(levels[0]))
    return _checked(fitting, len(levels) + 1, periods, latency_s, bytes_per_s)


def round_latency(
    parents: Parents,
    due: int,
    present: list[np.ndarray],
    size_bytes: list[Float[np.ndarray, " _"]],
    links: Tree,
) -> float:
    """Return the seconds from the broadcast of the highest merging level until it has received from all its children.

    A node's messages to and from its children share its link, and it waits for the slowest child:

        time(node) = max over children time(child) + 2 latency + (sum over children bytes) / bandwidth.

    In a full tree of depth L and branching b this is L (2 latency + b bytes / bandwidth), and L = log_b K.

    Args:
        parents: Parents of the nodes of each level.
        due: Number of levels above the agents that merge.
        present: Whether each child takes part, for each level.
        size_bytes: Bytes that each child receives and sends, for each level.
        links: Tree with the latencies and bandwidths.
    """
    # Level by level upwards: a server is ready when its slowest child is.
    ready = np.zeros(len(parents[0]))
    for level in range(due):
        here, over = present[level], parents[level]
        nodes = int(over.max()) + 1
        carried = np.bincount(over[here], size_bytes[level][here], nodes)
        slowest = np.zeros(nodes)
        # `maximum.at`, as `slowest[over] = ...` would use only one child of each node.
        np.maximum.at(slowest, over[here], ready[here])
        busy = np.bincount(over[here], minlength=nodes) > 0
        ready = np.where(busy, slowest + 2 * links.latency_s[level] + carried / links.bytes_per_s[level], 0.0)
    return float(ready.max())


def _checked(
    parents: Callable[[int], Parents],
    levels: int,
    periods: Sequence[int] | None,
    latency_s: Sequence[float],
    bytes_per_s: Sequence[float],
) -> Tree:
    often = (1,) * levels if periods is None else tuple(periods)
    if len(often) != levels:
        raise ConfigError(
            f"periods is {list(often)}. There are {levels} levels above the agents. Give one number per level."
        )
    # Each period against the one below; the first against 1.
    for i, (below, period) in enumerate(zip((1, *often), often, strict=False)):
        if period < 1 or period % below or (i == 0 and period != 1):
            raise ConfigError(
                f"periods is {list(often)}. The first level merges in every round, and every other level after a whole "
                "number of merges of the level below. Begin with 1 and make each number a multiple of the one before."
            )
    latencies, speeds = (tuple(x) * (levels if len(x) == 1 else 1) for x in (latency_s, bytes_per_s))
    if len(latencies) != levels or len(speeds) != levels:
        raise ConfigError(
            f"latency_s is {list(latency_s)} and bytes_per_s is {list(bytes_per_s)}. There are {levels} levels of "
            "links. Give one number for all, or one for each level."
        )
    if min(latencies) < 0.0 or min(speeds) <= 0.0:
        raise ConfigError(
            f"latency_s is {list(latency_s)} and bytes_per_s is {list(bytes_per_s)}. No message arrives before it is "
            "sent. Latencies are at least 0, speeds above 0."
        )
    return Tree(parents, often, latencies, speeds)
