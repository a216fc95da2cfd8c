"""The record of a communication graph: which agents receive whose messages, in each consensus step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool

from fedrl.core.checks import check_positive
from fedrl.core.component import Call, record
from fedrl.core.errors import ConfigError

Adjacency = Bool[np.ndarray, "agents agents"]


@record
class Graph:
    """A communication graph, for any number of agents.

    Attributes:
        adjacency: `(agents, step) -> [agents, agents]` of bool; entry [i, j] says whether agent i receives the message
            of agent j in that consensus step. The diagonal is false.
        period: Number of steps after which the graph repeats: 1 for a constant graph, None for one that never repeats.
    """

    adjacency: Callable[[int, int], np.ndarray]
    period: int | None = 1
    call: Call | None = None


def static(build: Callable[[int], Adjacency]) -> Graph:
    """Return a constant graph; `build` returns its adjacency for a number of agents."""
    return Graph(lambda agents, step: build(agents))


def check_graph(graph: Graph, agents: int) -> None:
    """Refuse a graph whose adjacency is malformed, or which does not connect all agents.

    A graph that repeats has to connect all agents within one period. Of one that never repeats, only the form of the
    first step is checked.

    Raises:
        ConfigError: The graph is malformed or not connected.
    """
    check_positive(agents=agents)
    # Connected over a period, not in every step: a one-peer graph is not connected in any single step.
    union = np.zeros((agents, agents), bool)
    for step in range(graph.period or 1):
        heard = graph.adjacency(agents, step)
        if heard.shape != union.shape or heard.dtype != bool or heard.diagonal().any():
            raise ConfigError(
                f"{graph!r} has an adjacency of {heard.dtype} {heard.shape} in step {step} for {agents} agents. "
                "Entry [i, j] has to say whether agent i receives from agent j, and no agent receives from itself. "
                f"Make it bool, [{agents}, {agents}], false on the diagonal."
            )
        union |= heard
    if graph.period is None:
        return
    from scipy.sparse.csgraph import connected_components  # slow to import, and most runs have no graph

    parts, _ = connected_components(union, directed=True, connection="strong")
    if parts > 1:
        raise ConfigError(
            f"{graph!r} has {parts} parts with {agents} agents, and no path between these parts. An agent's parameters "
            "would never reach all others. Add edges, take another seed, or use a graph that connects any number of "
            "agents, such as ring()."
        )
