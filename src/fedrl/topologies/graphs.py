"""Graphs that a rule describes. In all but the directed ones, whoever hears is heard.

A one-way edge saves its way back, and needs weights that suit it: `column_stochastic()` with `push_sum()`.
"""

from __future__ import annotations

import math

import numpy as np

from fedrl.core.component import component
from fedrl.core.errors import ConfigError
from fedrl.topologies.graph import Adjacency, Graph, static


@component("graph")
def ring(directed: bool = False) -> Graph:
    """A circle: agent i hears i - 1 and i + 1.

    Args:
        directed: Hear only i - 1.

    >>> ring().adjacency(4, 0).astype(int).tolist()
    [[0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0]]
    """
    return static(lambda agents: _circulant(agents, [-1] if directed else [-1, 1]))


@component("graph")
def torus(rows: int | None = None) -> Graph:
    """A grid whose borders meet: every agent hears the four around it.

    Args:
        rows: Of the grid, a divisor of the number of agents; by default as close to a square as possible.

    Raises:
        ConfigError: When an engine gives it a number of agents that makes no grid.
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
    """Agent 0 hears all others and they hear only it: a server that learns along."""

    def build(agents: int) -> Adjacency:
        heard = np.zeros((agents, agents), bool)
        heard[0, 1:] = heard[1:, 0] = True
        return heard

    return static(build)


@component("graph")
def complete() -> Graph:
    """Everybody hears everybody: with `metropolis()` weights, federated averaging every step."""
    return static(lambda agents: ~np.eye(agents, dtype=bool))


@component("graph")
def hypercube() -> Graph:
    """Agents hear those whose number differs in one bit: log2(agents) neighbours, log2(agents) steps across.

    Raises:
        ConfigError: When an engine gives it a number of agents that is no power of two.
    """

    def build(agents: int) -> Adjacency:
        if agents & (agents - 1):
            raise ConfigError(
                f"hypercube() got {agents} agents, which is no power of two, so some corners would be empty. "
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
    """Agents hear those 1, 2, 4, ... places before them: directed, of any size, and quickly mixed.

    Every agent hears and is heard equally often, so even `uniform_neighbours()` keeps the mean.

    Args:
        one_peer: Hear one of them at a time, in turn. With a power of two of agents and `uniform_neighbours()`,
            log2(agents) steps reach the exact mean.
    """

    def hops(agents: int) -> list[int]:
        return [2**k for k in range(max(1, (agents - 1).bit_length()))]

    def adjacency(agents: int, step: int) -> Adjacency:
        reach = hops(agents)
        return _circulant(agents, [-reach[step % len(reach)]] if one_peer else [-hop for hop in reach])

    return Graph(adjacency, None if one_peer else 1)


def _circulant(agents: int, offsets: list[int]) -> Adjacency:
    """Agent i hears i + offset, around the circle."""
    ids = np.arange(agents)
    heard = np.zeros((agents, agents), bool)
    for offset in offsets:
        heard[ids, (ids + offset) % agents] = True
    np.fill_diagonal(heard, False)
    return heard
