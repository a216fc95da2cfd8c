"""Graphs read from a file, and cycles of several graphs."""

from __future__ import annotations

from pathlib import Path

from fedrl.core.component import component
from fedrl.core.errors import ConfigError, reason
from fedrl.topologies.graph import Adjacency, Graph, static
from fedrl.topologies.random_graphs import matrix_of


@component("graph")
def from_file(path: str, directed: bool = False) -> Graph:
    """Read a graph from an edge list: one edge per line, two agents' numbers from 0 on; `#` begins a comment.

    Args:
        path: Path of the file.
        directed: A line `u v` means that v receives messages from u, and not the other way round.

    Raises:
        ConfigError: The file can't be read, or its numbers are not those of agents. Numbers above the number of agents
            are found when a simulation is built.
    """
    import networkx as nx  # slow to import, and most runs have no graph

    try:
        graph = nx.read_edgelist(
            Path(path), create_using=nx.DiGraph if directed else nx.Graph, nodetype=int, data=False
        )
    except (OSError, TypeError, ValueError, nx.NetworkXError) as fault:
        raise ConfigError(
            f"path is {path!r}, which can't be read as an edge list ({reason(fault)}). Give a file with two "
            "numbers a line."
        ) from None
    if nx.number_of_selfloops(graph) or min(graph.nodes, default=0) < 0:
        raise ConfigError(
            f"{path} joins an agent to itself or has a number below 0. Agents are numbered from 0 on, and keep their "
            "own parameters without an edge. Remove those lines."
        )

    def build(agents: int) -> Adjacency:
        if max(graph.nodes, default=0) >= agents:
            raise ConfigError(
                f"{path} names agent {max(graph.nodes)}, and there are {agents} agents, numbered from 0. "
                f"Use at least {max(graph.nodes) + 1} agents, or another file."
            )
        return matrix_of(graph, agents)

    return static(build)


@component("graph")
def time_varying(*graphs: Graph) -> Graph:
    """Cycle through several graphs, one per consensus step; together they have to connect all agents.

    Args:
        *graphs: Constant graphs, in order: `time_varying(ring(), star())`.

    Raises:
        ConfigError: There are no graphs, or one of them changes over time.
    """
    if not graphs:
        raise ConfigError("time_varying() has no graphs. It cycles through them. Write time_varying(ring(), star()).")
    for graph in graphs:
        if graph.period != 1:
            raise ConfigError(
                f"time_varying(...) got {graph!r}, which changes over time. Its step within the cycle would be "
                "ambiguous. Use it alone."
            )
    return Graph(lambda agents, step: graphs[step % len(graphs)].adjacency(agents, 0), period=len(graphs))
