"""What a graph is: for a number of agents and a step of consensus, who hears whom."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool
from scipy.sparse.csgraph import connected_components

from fedrl.core.checks import check_positive
from fedrl.core.component import Call, record
from fedrl.core.errors import ConfigError

Adjacency = Bool[np.ndarray, "agents agents"]


@record
class Graph:
    """Who hears whom.

    Attributes:
        adjacency: `(agents, step) -> [agents, agents]` of bool; entry [i, j] says whether agent i hears agent j in
            that step of consensus. Nobody hears itself.
        period: After how many steps it repeats: 1 for a graph that stays as it is, None for one that never does.
    """

    adjacency: Callable[[int, int], np.ndarray]
    period: int | None = 1
    call: Call | None = None


def static(build: Callable[[int], Adjacency]) -> Graph:
    """A graph that stays as it is; `build` makes it for a number of agents."""
    return Graph(lambda agents, step: build(agents))


def check_graph(graph: Graph, agents: int) -> None:
    """Refuse a graph that is none, or through which some agent never hears from another.

    A graph that repeats has to connect all agents within a period; of one that does not, only the first step is seen.

    Raises:
        ConfigError: It names the graph and the way out.
    """
    check_positive(agents=agents)
    union = np.zeros((agents, agents), bool)
    for step in range(graph.period or 1):
        heard = graph.adjacency(agents, step)
        if heard.shape != union.shape or heard.dtype != bool or heard.diagonal().any():
            raise ConfigError(
                f"{graph!r} has an adjacency of {heard.dtype} {heard.shape} in step {step} for {agents} agents. "
                "It says for each pair whether the first hears the second, and nobody hears itself. Make it bool, "
                f"[{agents}, {agents}], false on the diagonal."
            )
        union |= heard
    if graph.period is None:
        return
    parts, _ = connected_components(union, directed=True, connection="strong")
    if parts > 1:
        raise ConfigError(
            f"{graph!r} falls into {parts} parts with {agents} agents. What an agent learns would never reach all "
            "others. Add edges, take another seed, or use a graph that connects any number of agents, such as ring()."
        )
