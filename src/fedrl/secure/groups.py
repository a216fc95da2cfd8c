"""Secure sums of groups: a robust rule sees each group's sum, and nobody sees the vector of one agent.

A group's sum is as far off as its worst member, so a rule that survives a fraction f of bad groups survives about
f / size of bad agents. Groups follow from public randomness: agents that could choose theirs would fill one.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedrl.core.errors import ConfigError
from fedrl.secure.graph import random_order


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
