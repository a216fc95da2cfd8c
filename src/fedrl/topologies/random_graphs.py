"""Graphs that chance draws: the same for the same seed, wherever they are drawn."""

from __future__ import annotations

import networkx as nx
import numpy as np

from fedrl.core.checks import check_positive
from fedrl.core.component import component
from fedrl.core.errors import ConfigError
from fedrl.topologies.graph import Adjacency, Graph, static


@component("graph", reference="Erdos & Renyi (1959); Gilbert (1959), https://doi.org/10.1214/aoms/1177706098")
def erdos_renyi(probability: float, seed: int = 0, directed: bool = False) -> Graph:
    """Each pair of agents is joined with the same probability, independently.

    It is likely to be connected if the probability is well above log(agents) / agents; one that is not is refused.

    Args:
        probability: Of an edge, in (0, 1].
        seed: Of the draw.
        directed: Draw for both directions of a pair separately.

    Raises:
        ConfigError: `probability` is out of range.
    """
    if not 0.0 < probability <= 1.0:
        raise ConfigError(f"probability is {probability}. It is that of an edge. Choose it in (0, 1].")

    def build(agents: int) -> Adjacency:
        return matrix_of(nx.fast_gnp_random_graph(agents, probability, seed, directed), agents)

    return static(build)


@component("graph", reference="Watts & Strogatz (1998), https://doi.org/10.1038/30918")
def watts_strogatz(neighbours: int = 4, rewiring: float = 0.1, seed: int = 0) -> Graph:
    """A small world: a ring of agents joined to their nearest, some edges of which lead far away instead.

    Args:
        neighbours: To how many nearest agents each one is joined at first; even.
        rewiring: Probability that an edge's end is moved anywhere, in [0, 1].
        seed: Of the draw; the first of up to 100 draws that is connected is taken.

    Raises:
        ConfigError: An argument is out of range, or, when an engine gives it a number of agents, there are too few.
    """
    check_positive(neighbours=neighbours)
    if neighbours % 2 or not 0.0 <= rewiring <= 1.0:
        raise ConfigError(
            f"watts_strogatz got neighbours = {neighbours} and rewiring = {rewiring}. Neighbours lie on both sides in "
            "equal number, and rewiring is a probability. Choose an even number, and a probability in [0, 1]."
        )

    def build(agents: int) -> Adjacency:
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
                f"{agents} agents in 100 trials. Too many of too few edges were moved. Use more neighbours."
            ) from None

    return static(build)


@component("graph", reference="Boyd et al. (2006), https://doi.org/10.1109/TIT.2006.874516")
def random_matching(seed: int = 0) -> Graph:
    """In every step, agents meet in random pairs; with an odd number, one is left out.

    One message each, and the squared distance to the mean about halves every step in expectation, however many agents
    there are.

    Args:
        seed: Of the draws; each step has its own.
    """

    def adjacency(agents: int, step: int) -> Adjacency:
        order = np.random.default_rng((seed, step)).permutation(agents)
        pairs = order[: agents // 2 * 2].reshape(-1, 2)
        heard = np.zeros((agents, agents), bool)
        heard[pairs[:, 0], pairs[:, 1]] = heard[pairs[:, 1], pairs[:, 0]] = True
        return heard

    return Graph(adjacency, period=None)


def matrix_of(graph: nx.Graph, agents: int) -> Adjacency:
    """Who hears whom; an edge u -> v of a directed graph means that v hears u."""
    heard = np.zeros((agents, agents), bool)
    edges = np.array(graph.edges, dtype=int).reshape(-1, 2)
    heard[edges[:, 1], edges[:, 0]] = True
    return heard if graph.is_directed() else heard | heard.T
