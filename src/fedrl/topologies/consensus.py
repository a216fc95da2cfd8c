"""Consensus steps: the mixing weights among the agents present, and their product with the agents' messages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np

from fedrl.core.types import Params, PyTree
from fedrl.topologies.gossip import Rule
from fedrl.topologies.graph import Graph, check_graph
from fedrl.topologies.mixing import MixingMatrix, check_sums

if TYPE_CHECKING:
    from scipy.sparse import csr_array  # slow to import, and only runs among neighbours need it


def step_weights(graph: Graph, mixing: MixingMatrix, rule: Rule, agents: int) -> Callable[[int, np.ndarray], csr_array]:
    """Check that graph, weights and rule fit together, and return `(step, present) -> [agents, agents]` weights.

    `present` `[agents]` says which agents take part; edges to all others are absent. With all agents present, the
    weights of each step in the graph's period are computed once.

    Raises:
        ConfigError: The graph does not connect so many agents, or the step size of consensus is too large for it.
        UnsoundError: The weights do not fit the graph or the rule.
    """
    from scipy.sparse import csr_array

    check_graph(graph, agents)
    known: dict[int, csr_array] = {}

    def made(step: int, present: np.ndarray) -> csr_array:
        peer_step = graph.adjacency(agents, step) & present[:, None] & present[None, :]
        matrix = mixing.weights(peer_step)
        check_sums(matrix, rule.sums, mixing, rule)
        # Columns of a CSR matrix made from a dense one are in order, so messages are summed by ascending sender:
        # `peer_step` does the same, which makes both agree to the last bit.
        return csr_array(matrix)

    def weights(step: int, present: np.ndarray) -> csr_array:
        # Only weights of the whole graph are cached: subsets of present agents are too many.
        if graph.period is None or not present.all():
            return made(step, present)
        turn = step % graph.period
        if turn not in known:
            known[turn] = made(turn, present)
        return known[turn]

    # All steps of a period are checked before the run, not when it first reaches them.
    for step in range(graph.period or 1):
        weights(step, np.ones(agents, bool))
    return weights


def consensus_step(
    rule: Rule, matrices: Sequence[csr_array], steps: np.ndarray, start: Params, memory: PyTree, trained: Params
) -> tuple[Params, PyTree]:
    """Return the parameters and memory of all agents after consensus, one step for each matrix of weights.

    The result is bit-identical to what each agent computes by itself with `peer_step`. A product of dense matrices
    would not be: its order of summation is unknown to a single agent.
    """
    message = rule.send(steps, start, memory, trained)
    return rule.receive(message, memory, jax.tree.map(lambda x: _mixed(matrices, x), message))


def peer_step(
    rule: Rule, message: PyTree, memory: PyTree, messages: Sequence[tuple[float, PyTree]]
) -> tuple[Params, PyTree]:
    """Return the parameters and memory of one agent after a consensus step.

    Args:
        rule: Gossip rule.
        message: The agent's own message, with a leading axis of one, as in all other arguments.
        memory: The rule's memory of this agent.
        messages: Weight and message of every sender, the agent itself among them, by ascending sender.
    """

    def total(*leaves: np.ndarray) -> np.ndarray:
        # In float64 and in this order, as in `_mixed`.
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
    """Return the bytes of a message in each consensus step of a round, including 4 bytes for the round's number.

    The first message is what the rule sends; later ones are weighted sums of messages, in float64.

    Args:
        rule: Gossip rule.
        params: Parameters of one agent, arrays or shapes.
        steps: Consensus steps per round.
    """
    start = jax.tree.map(lambda x: np.zeros((1, *x.shape), x.dtype), params)
    arrays = [np.asarray(x) for x in jax.tree.leaves(rule.send(np.ones(1, int), start, rule.init(start), start))]
    first, sums = sum(x.nbytes for x in arrays), 8 * sum(x.size for x in arrays)
    return [4 + first, *[4 + sums] * (steps - 1)]


def messages_sent(matrices: Sequence[csr_array]) -> np.ndarray:
    """Return the number of messages each agent sends in these steps, `[agents]`: one per outgoing edge."""
    return np.sum([(matrix != 0).sum(0) - (matrix.diagonal() != 0) for matrix in matrices], axis=0)
