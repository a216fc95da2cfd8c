"""Trees: agents, the servers near them, the servers above those, and one root.

    agents --link 0--> edges --link 1--> regions --link 2--> root      parents of each level, in the order of its nodes

A level merges every so many rounds. Every link has a latency and a bandwidth, from which the time of a round follows:
with branching b and depth log_b K it grows as O(log K), where a single server's grows as O(K).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

from fedrl.core.checks import check_positive
from fedrl.core.component import Call, component, record
from fedrl.core.errors import ConfigError

LIU = "Liu et al. (2020), https://arxiv.org/abs/1905.06641"
Parents = list[Int[np.ndarray, " _"]]


@record
class Tree:
    """Who reports to whom, how often, and over which links.

    Attributes:
        parents: `agents -> parents`: of each agent the number of its edge server, of each edge that of the server
            above it, and so on; of the last level, all zeros: the root.
        periods: Of each level above the agents, the rounds between two of its merges.
        latency_s: Of a message over each level's links, from the agents on.
        bytes_per_s: What a node's link to its children carries, all of them together; of each level, from the edges on.
    """

    parents: Callable[[int], Parents]
    periods: tuple[int, ...]
    latency_s: tuple[float, ...]
    bytes_per_s: tuple[float, ...]
    call: Call | None = None


@component("hierarchy", reference=LIU)
def tree(
    branching: Sequence[int],
    periods: Sequence[int] | None = None,
    latency_s: Sequence[float] = (0.0,),
    bytes_per_s: Sequence[float] = (math.inf,),
) -> Tree:
    """Put so many agents under one edge server, so many of those under the next, and what is left under the root.

    Args:
        branching: Children of a node on each level, from the edges on, without the root, whose children are all that
            are left: `[8, 16]` makes edges of 8 agents, regions of 16 edges, and a root. The last node of a level may
            have fewer.
        periods: Rounds between two merges of each level, the root's included; each a multiple of the one before, the
            first one 1. By default all merge in every round, which gives what a single server would, bit for bit.
        latency_s: Seconds a message takes over the links of each level, one for all or one per level.
        bytes_per_s: What a node's link to its children carries, one for all levels or one per level.

    Raises:
        ConfigError: A number is out of range, or there are too few or too many.

    >>> [parents.tolist() for parents in tree([2, 2]).parents(5)]
    [[0, 0, 1, 1, 2], [0, 0, 1], [0, 0]]
    """
    check_positive(**{f"branching[{i}]": count for i, count in enumerate(branching)})

    def parents(agents: int) -> Parents:
        found, nodes = [], agents
        for width in (*branching, None):
            found.append(np.arange(nodes) // (width or nodes))
            nodes = int(found[-1][-1]) + 1
        return found

    return _checked(parents, len(branching) + 1, periods, latency_s, bytes_per_s)


@component("hierarchy", reference=LIU)
def given_tree(
    parents: Sequence[Sequence[int]],
    periods: Sequence[int] | None = None,
    latency_s: Sequence[float] = (0.0,),
    bytes_per_s: Sequence[float] = (math.inf,),
) -> Tree:
    """A tree of any shape: for each agent the number of its edge server, for each edge that of the one above, ...

    Args:
        parents: A list per level, without the last: all nodes of the last level report to the root.
        periods: As for `tree`.
        latency_s: As for `tree`.
        bytes_per_s: As for `tree`.

    Raises:
        ConfigError: A node has no child, or the lists do not fit each other or the agents.

    >>> [found.tolist() for found in given_tree([[0, 0, 0, 1]]).parents(4)]
    [[0, 0, 0, 1], [0, 0]]
    """
    levels = [np.asarray(level, dtype=int) for level in parents]

    def fitting(agents: int) -> Parents:
        found, nodes = [], agents
        for i, level in enumerate(levels):
            if len(level) != nodes or not np.array_equal(np.unique(level), np.arange(level.max(initial=-1) + 1)):
                raise ConfigError(
                    f"parents[{i}] is {level.tolist()}. It needs a number for each of the {nodes} nodes below, and "
                    "every number from 0 on must occur: a server without children has nothing to merge."
                )
            found.append(level)
            nodes = int(level.max()) + 1
        return [*found, np.zeros(nodes, int)]

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
    """Seconds from the moment the highest level that merges begins to send until it has heard from all its children.

    A node's messages to and from its children share its link, and it waits for the slowest child:

        time(node) = max over children time(child) + 2 latency + (sum over children bytes) / bandwidth.

    In a full tree of depth L and branching b this is L (2 latency + b bytes / bandwidth), and L = log_b K.

    Args:
        parents: Of the nodes of each level.
        due: How many levels above the agents merge.
        present: Which children of each level take part.
        size_bytes: What each child receives and sends.
        links: The latencies and bandwidths.
    """
    ready = np.zeros(len(parents[0]))
    for level in range(due):
        here, over = present[level], parents[level]
        nodes = int(over.max()) + 1
        carried = np.bincount(over[here], size_bytes[level][here], nodes)
        slowest = np.zeros(nodes)
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
            f"periods is {list(often)}. There are {levels} levels above the agents. Give a number for each."
        )
    for i, (below, period) in enumerate(zip((1, *often), often, strict=False)):
        if period < 1 or period % below or (i == 0 and period != 1):
            raise ConfigError(
                f"periods is {list(often)}. The first level merges every round, and every other one after some merges "
                "of the level below. Begin with 1 and make each number a multiple of the one before."
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
