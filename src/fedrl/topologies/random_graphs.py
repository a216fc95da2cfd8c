"""Random graphs, reproducible from a seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedrl.core.component import component
from fedrl.core.errors import ConfigError
from fedrl.core.ranges import Count, Fraction, Whole
from fedrl.topologies.graph import Adjacency, Graph, static

if TYPE_CHECKING:
    import networkx as nx  # slow to import, and most runs have no graph


@component("graph", reference="Erdos & Renyi (1959); Gilbert (1959), https://doi.org/10.1214/aoms/1177706098")
def erdos_renyi(probability: Fraction, seed: Whole = 0, directed: bool = False) -> Graph:
    """Build an Erdos-Renyi graph: every pair of agents is joined independently with the same probability.

    It is likely to be connected if the probability is well above log(agents) / agents; an unconnected graph is refused.

    Args:
        probability: Probability of an edge, in (0, 1].
        seed: Seed of the draw.
        directed: Draw both directions of a pair separately.

    Raises:
        ConfigError: `probability` is out of range.
    """
    if not 0.0 < probability <= 1.0:
        raise ConfigError(f"probability is {probability}. The probability of an edge lies in (0, 1]. Choose one there.")

    def build(agents: int) -> Adjacency:
        import networkx as nx

        return matrix_of(nx.fast_gnp_random_graph(agents, probability, seed, directed), agents)

    return static(build)


@component("graph", reference="Watts & Strogatz (1998), https://doi.org/10.1038/30918")
def watts_strogatz(neighbours: Count = 4, rewiring: Fraction = 0.1, seed: Whole = 0) -> Graph:
    """Build a small-world graph: a ring lattice in which some edges are rewired to random agents.

    Args:
        neighbours: Nearest agents to which each agent of the lattice is joined; even.
        rewiring: Probability that an edge is rewired, in [0, 1].
        seed: Seed of the draw; the first connected one of up to 100 draws is taken.

    Raises:
        ConfigError: An argument is out of range; when a simulation is built: it has too few agents.
    """
    if neighbours % 2:
        raise ConfigError(
            f"neighbours is {neighbours}. An agent has equally many neighbours on both sides. Choose an even number."
        )

    def build(agents: int) -> Adjacency:
        import networkx as nx

        if agents <= neighbours:
            raise ConfigError(
                f"watts_strogatz(neighbours={neighbours}) got {agents} agents. Each needs that many others. Use at "
                f"least {neighbours + 1} agents, or fewer neighbours."
            )
        try:
            return matrix_of(nx.connected_watts_strogatz_graph(agents, neighbours, rewiring, 100, seed), agents)
        except nx.NetworkXError:
            raise ConfigError(
                f"watts_strogatz(neighbours={neighbours}, rewiring={rewiring}, seed={seed}) drew no connected graph of "
                f"{agents} agents in 100 trials. Too many of too few edges were rewired. Use more neighbours."
            ) from None

    return static(build)


@component("graph", reference="Boyd et al. (2006), https://doi.org/10.1109/TIT.2006.874516")
def random_matching(seed: Whole = 0) -> Graph:
    """Build a graph of random pairs, drawn anew in every step; with an odd number of agents, one has no partner.

    Each agent sends one message per step, and the squared distance to the mean about halves per step in expectation,
    for any number of agents.

    Args:
        seed: Seed of the draws.
    """

    def adjacency(agents: int, step: int) -> Adjacency:
        # Seeded by the step, so that a resumed run draws the same pairs without a generator to save.
        order = np.random.default_rng((seed, step)).permutation(agents)
        pairs = order[: agents // 2 * 2].reshape(-1, 2)
        heard = np.zeros((agents, agents), bool)
        heard[pairs[:, 0], pairs[:, 1]] = heard[pairs[:, 1], pairs[:, 0]] = True
        return heard

    return Graph(adjacency, period=None)


def matrix_of(graph: nx.Graph, agents: int) -> Adjacency:
    """Return the adjacency of a graph; an edge u -> v of a directed graph means that v receives from u."""
    heard = np.zeros((agents, agents), bool)
    edges = np.array(graph.edges, dtype=int).reshape(-1, 2)
    # Rows are receivers, columns are senders.
    heard[edges[:, 1], edges[:, 0]] = True
    return heard if graph.is_directed() else heard | heard.T
