"""Standard graphs: rings, grids, stars and the like. All are undirected, unless they say otherwise.

A directed edge saves one message per step, and needs `column_stochastic()` weights with `push_sum()`, except where
every agent has as many senders as receivers.
"""

from __future__ import annotations

import math

import numpy as np

from fedrl.core.component import component
from fedrl.core.errors import ConfigError
from fedrl.core.ranges import Count
from fedrl.topologies.graph import Adjacency, Graph, static


@component("graph")
def ring(directed: bool = False) -> Graph:
    """Build a ring: agent i receives from i - 1 and i + 1.

    Args:
        directed: Receive from i - 1 only.

    >>> ring().adjacency(4, 0).astype(int).tolist()
    [[0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0]]
    """
    return static(lambda agents: _circulant(agents, [-1] if directed else [-1, 1]))


@component("graph")
def torus(rows: Count | None = None) -> Graph:
    """Build a torus: a grid without borders, where every agent receives from the four around it.

    Args:
        rows: Rows of the grid, a divisor of the number of agents; by default as close to a square as possible.

    Raises:
        ConfigError: When a simulation is built: its number of agents makes no grid.
    """

    def build(agents: int) -> Adjacency:
        height = rows or max(d for d in range(1, math.isqrt(agents) + 1) if agents % d == 0)
        if height < 2 or agents % height or agents // height < 2:
            raise ConfigError(
                f"torus(rows={rows}) got {agents} agents, which do not fill {height} rows of two or more each. "
                "A grid needs at least two rows and two columns. Choose agents = rows * columns, or use ring()."
            )
        place = np.arange(agents).reshape(height, -1)
        heard = np.zeros((agents, agents), bool)
        for axis in (0, 1):
            for shift in (-1, 1):
                heard[place, np.roll(place, shift, axis)] = True
        return heard

    return static(build)


@component("graph")
def star() -> Graph:
    """Build a star: agent 0 receives from all others, and they from agent 0 only."""

    def build(agents: int) -> Adjacency:
        heard = np.zeros((agents, agents), bool)
        heard[0, 1:] = heard[1:, 0] = True
        return heard

    return static(build)


@component("graph")
def complete() -> Graph:
    """Build a complete graph: with `metropolis()` weights, every step is uniform averaging over all agents."""
    return static(lambda agents: ~np.eye(agents, dtype=bool))


@component("graph")
def hypercube() -> Graph:
    """Build a hypercube: agents whose numbers differ in one bit are neighbours; degree and diameter are log2(agents).

    Raises:
        ConfigError: When a simulation is built: its number of agents is no power of two.
    """

    def build(agents: int) -> Adjacency:
        if agents & (agents - 1):
            raise ConfigError(
                f"hypercube() got {agents} agents. This is no power of two, so some corners would be empty. "
                f"Use {2 ** (agents.bit_length() - 1)} or {2 ** agents.bit_length()} agents, or exponential()."
            )
        ids = np.arange(agents)
        differing = ids[:, None] ^ ids[None, :]
        return (differing != 0) & (differing & (differing - 1) == 0)

    return static(build)


@component(
    "graph",
    reference="Assran et al. (2019), https://arxiv.org/abs/1811.10792; "
    "Ying et al. (2021), https://arxiv.org/abs/2110.13363",
)
def exponential(one_peer: bool = False) -> Graph:
    """Build a directed exponential graph: agent i receives from i - 1, i - 2, i - 4, ...; it mixes fast.

    Every agent has as many senders as receivers, so even `uniform_neighbours()` preserves the mean.

    Args:
        one_peer: Receive from one of them per step, in a cycle. If the number of agents is a power of two,
            log2(agents) steps with `uniform_neighbours()` reach the exact mean.
    """

    def hops(agents: int) -> list[int]:
        return [2**k for k in range(max(1, (agents - 1).bit_length()))]

    def adjacency(agents: int, step: int) -> Adjacency:
        reach = hops(agents)
        return _circulant(agents, [-reach[step % len(reach)]] if one_peer else [-hop for hop in reach])

    return Graph(adjacency, None if one_peer else 1)


def _circulant(agents: int, offsets: list[int]) -> Adjacency:
    """Return the adjacency in which agent i receives from i + offset, modulo the number of agents."""
    ids = np.arange(agents)
    heard = np.zeros((agents, agents), bool)
    for offset in offsets:
        heard[ids, (ids + offset) % agents] = True
    np.fill_diagonal(heard, False)
    return heard
