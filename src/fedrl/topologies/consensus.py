"""Consensus itself: the weights of each step among those present, and their product with what agents hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import numpy as np
from scipy.sparse import csr_array

from fedrl.core.types import Params, PyTree
from fedrl.topologies.gossip import Rule
from fedrl.topologies.graph import Graph, check_graph
from fedrl.topologies.mixing import MixingMatrix, check_sums


def step_weights(graph: Graph, mixing: MixingMatrix, rule: Rule, agents: int) -> Callable[[int, np.ndarray], csr_array]:
    """Check that graph, weights and rule go together, and return `(step, present) -> [agents, agents]` weights.

    `present` says of each agent whether it takes part; edges to those who do not are absent. The weights of a whole
    graph are made once in its period.

    Raises:
        ConfigError: The graph does not connect so many agents, or a step of consensus is too long for it.
        UnsoundError: The weights do not suit the graph or the rule.
    """
    check_graph(graph, agents)
    known: dict[int, csr_array] = {}

    def made(step: int, present: np.ndarray) -> csr_array:
        peer_step = graph.adjacency(agents, step) & present[:, None] & present[None, :]
        matrix = mixing.weights(peer_step)
        check_sums(matrix, rule.sums, mixing, rule)
        return csr_array(matrix)  # whose columns are in order: what is heard is added up by ascending sender

    def weights(step: int, present: np.ndarray) -> csr_array:
        if graph.period is None or not present.all():
            return made(step, present)
        turn = step % graph.period
        if turn not in known:
            known[turn] = made(turn, present)
        return known[turn]

    for step in range(graph.period or 1):
        weights(step, np.ones(agents, bool))
    return weights


def consensus_step(
    rule: Rule, matrices: Sequence[csr_array], steps: np.ndarray, start: Params, memory: PyTree, trained: Params
) -> tuple[Params, PyTree]:
    """What every agent goes on with after all have heard their neighbours, once for each matrix of weights.

    To the last bit it is what each computes by itself with `peer_step`: a product of dense matrices would add up in an
    order that no peer knows.
    """
    message = rule.send(steps, start, memory, trained)
    return rule.receive(message, memory, jax.tree.map(lambda x: _mixed(matrices, x), message))


def peer_step(
    rule: Rule, message: PyTree, memory: PyTree, messages: Sequence[tuple[float, PyTree]]
) -> tuple[Params, PyTree]:
    """An agent's own part: what it goes on with after so many messages, its own among them, by ascending sender.

    Args:
        rule: By which they meet.
        message: What the agent sent itself, a stack of one, as all that follow.
        memory: Of the rule.
        messages: Each message with its weight.
    """

    def total(*leaves: np.ndarray) -> np.ndarray:
        found = np.zeros(leaves[0].shape)
        for (weight, _), leaf in zip(messages, leaves, strict=True):
            found += weight * np.asarray(leaf, np.float64)
        return found

    return rule.receive(message, memory, jax.tree.map(total, *(message for _, message in messages)))


def _mixed(matrices: Sequence[csr_array], x: np.ndarray) -> np.ndarray:
    rows = np.asarray(x, np.float64).reshape(len(x), -1)
    for matrix in matrices:
        rows = matrix @ rows
    return np.asarray(rows.reshape(x.shape))


def message_bytes(rule: Rule, params: Params, steps: int) -> list[int]:
    """Bytes of a message in each of so many steps of consensus, with the number of the round, 4 bytes.

    The first is what the rule sends; those that follow are sums of it, float64.

    Args:
        rule: By which neighbours meet.
        params: Of one agent, arrays or shapes.
        steps: Of consensus, in a round.
    """
    start = jax.tree.map(lambda x: np.zeros((1, *x.shape), x.dtype), params)
    arrays = [np.asarray(x) for x in jax.tree.leaves(rule.send(np.ones(1, int), start, rule.init(start), start))]
    first, sums = sum(x.nbytes for x in arrays), 8 * sum(x.size for x in arrays)
    return [4 + first, *[4 + sums] * (steps - 1)]


def messages_sent(matrices: Sequence[csr_array]) -> np.ndarray:
    """How many messages each agent sends in these steps, `[agents]`: one over every edge that leads away from it."""
    return np.sum([(matrix != 0).sum(0) - (matrix.diagonal() != 0) for matrix in matrices], axis=0)
