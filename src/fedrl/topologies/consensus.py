"""Consensus itself: the weights of each step among those present, and their product with what agents hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from scipy.sparse import csr_array

from fedrl.topologies.graph import Graph, check_graph
from fedrl.topologies.rules import Rule
from fedrl.topologies.weights import Mixing, check_sums

Matrix: TypeAlias = np.ndarray | csr_array

DENSE = 1 / 16
"""The share of weights that are not zero above which a dense product is faster."""


def weighing(graph: Graph, mixing: Mixing, rule: Rule, agents: int) -> Callable[[int, np.ndarray], Matrix]:
    """Check that graph, weights and rule go together, and return `(step, present) -> [agents, agents]` weights.

    `present` says of each agent whether it takes part; edges to those who do not are absent. The weights of a whole
    graph are made once in its period.

    Raises:
        ConfigError: The graph does not connect so many agents, or a step of consensus is too long for it.
        UnsoundError: The weights do not suit the graph or the rule.
    """
    check_graph(graph, agents)
    known: dict[int, Matrix] = {}

    def made(step: int, present: np.ndarray) -> Matrix:
        heard = graph.adjacency(agents, step) & present[:, None] & present[None, :]
        matrix = mixing.weights(heard)
        check_sums(matrix, rule.sums, mixing, rule)
        return matrix if (matrix != 0).mean() > DENSE else csr_array(matrix)

    def weights(step: int, present: np.ndarray) -> Matrix:
        if graph.period is None or not present.all():
            return made(step, present)
        turn = step % graph.period
        if turn not in known:
            known[turn] = made(turn, present)
        return known[turn]

    for step in range(graph.period or 1):
        weights(step, np.ones(agents, bool))
    return weights


def mixer(matrices: Sequence[Matrix]) -> Callable[[np.ndarray], np.ndarray]:
    """The product with the weights of several steps in turn, `[agents, ...] -> [agents, ...]` in float64."""

    def mix(x: np.ndarray) -> np.ndarray:
        rows = np.asarray(x, np.float64).reshape(len(x), -1)
        for matrix in matrices:
            rows = matrix @ rows
        return rows.reshape(x.shape)

    return mix


def messages_sent(matrices: Sequence[Matrix]) -> np.ndarray:
    """How many messages each agent sends in these steps, `[agents]`: one over every edge that leads away from it."""
    return np.sum([(matrix != 0).sum(0) - (matrix.diagonal() != 0) for matrix in matrices], axis=0)
