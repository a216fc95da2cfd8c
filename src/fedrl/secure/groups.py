"""Secure sums of groups: a robust rule sees each group's sum, and nobody sees the vector of one agent.

A group's sum is as far off as its worst member, so a rule that survives a fraction f of bad groups survives about
f / size of bad agents. Groups follow from public randomness: agents that could choose theirs would fill one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fedrl.core.errors import ConfigError, TooFewAgentsError
from fedrl.secure.drive import OpenedSum, check_rows
from fedrl.secure.graph import random_order


class GroupSum(NamedTuple):
    """The sum of one group.

    Attributes:
        members: The agents of the group, ascending.
        result: Its sum; None if too few of them were left.
    """

    members: tuple[int, ...]
    result: OpenedSum | None


def partition(agents: Sequence[int], size: int, seed: bytes) -> tuple[tuple[int, ...], ...]:
    """Return groups of at least `size` agents, of sizes that differ by one at most.

    Args:
        agents: Their numbers.
        size: The least number of agents in a group.
        seed: Public randomness that no agent could choose, fresh for each sum.

    Raises:
        ConfigError: A group of fewer than two hides nothing, or there are fewer agents than one group needs.

    >>> [len(group) for group in partition(range(11), 3, b"round 1")]
    [4, 4, 3]
    """
    if not 2 <= size <= len(agents):
        raise ConfigError(
            f"Groups of {size} were asked for among {len(agents)} agents. The sum of one agent is its own vector, and "
            f"a group can't be larger than all. Use 2 to {len(agents)}."
        )
    order, count = random_order(agents, seed), len(agents) // size
    return tuple(tuple(sorted(order[i::count])) for i in range(count))


def group_sums(
    values: np.ndarray,
    members: tuple[int, ...],
    size: int,
    seed: bytes,
    add: Callable[[np.ndarray, tuple[int, ...], int], OpenedSum],
) -> tuple[GroupSum, ...]:
    """Add the rows of each group on their own.

    Args:
        values: int32 or uint32 `[agents, size]`, a row for each member.
        members: Numbers of the agents, ascending.
        size: The least number of agents in a group.
        seed: Public randomness that no agent could choose, fresh for each sum.
        add: The protocol: rows of a group, its members, its number -> its sum. Each group needs its own context.

    >>> from fedrl.secure.drive import secure_sum
    >>> from fedrl.secure.plan import sum_plan
    >>> def add(rows, group, number):
    ...     return secure_sum(rows, sum_plan(b"group %d" % number, group, rows.shape[1]))
    >>> groups = group_sums(np.ones((7, 2), np.int32), tuple(range(7)), 3, b"round 1", add)
    >>> [group.result.total.tolist() for group in groups]
    [[4, 4], [3, 3]]
    """
    check_rows(values, members)
    rows: Mapping[int, int] = {agent: place for place, agent in enumerate(members)}
    found = []
    for number, group in enumerate(partition(members, size, seed)):
        result: OpenedSum | None
        try:
            result = add(values[[rows[agent] for agent in group]], group, number)
        except TooFewAgentsError:
            result = None
        found.append(GroupSum(group, result))
    return tuple(found)
