"""CHOCO, compressed gossip: agents send compressed differences to the copies that their neighbours have of them.

    params --training--> message x --x - copy--> stages --> wire --decode--> q       at the sender and at all receivers

    copy <- copy + q        x_i <- x_i + gamma sum_j W_ij (copy_j - copy_i), float64, in the order of senders

The next difference contains the compression error, so no error feedback is needed. Copies are float32, and sender and
receivers add the same numbers to them: copies that differ once would stay different. So a copy has a number, the count
of its differences. An agent that was absent has an old number, and is sent the whole copy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core.keys import Keys, Root, Stream, agent_secret, derived
from fedrl.core.stage import pipeline
from fedrl.core.types import Params, PyTree, Update, UpdateContext
from fedrl.engines.down_messages import NOTHING
from fedrl.engines.program_cache import Shapes, cached_program
from fedrl.engines.topologies.gossip import Exchanged, Gossip, renewed
from fedrl.engines.topologies.server import TopologySpec
from fedrl.engines.topologies.step_size import as_sent, message_shapes, step_size
from fedrl.federation.federate import federate
from fedrl.federation.federation import Federation, ServerState
from fedrl.topologies.consensus import messages_sent
from fedrl.topologies.gossip import Rule
from fedrl.topologies.graph import Graph
from fedrl.topologies.mixing import MixingMatrix
from fedrl.wire.codec import size_bytes

if TYPE_CHECKING:
    from scipy.sparse import csr_array  # slow to import, and only runs among neighbours need it

NUMBER_BYTES = 4
"""Bytes of a copy's number in a message."""


class Copies(NamedTuple):
    """The copies that neighbours have of each other.

    One copy per agent suffices: neighbours that are up to date have the same bits, and others are sent the whole copy
    before they use it.

    Attributes:
        held: Copy of each agent's message, with a leading agent axis on every leaf.
        number: Number of differences in each copy, int32 `[agents]`.
        known: Number of the copy that the receiver of each edge has of the sender, int32 `[edges]`.
        stage_states: Memory of each agent's stages.
    """

    held: PyTree
    number: np.ndarray
    known: np.ndarray
    stage_states: PyTree


class Compressor(NamedTuple):
    """Programs of one agent, the same in the simulation and in a peer by itself, for the same bits.

    Attributes:
        encode: `(key data, agent, version, steps, stage_states, difference) -> (encoded, stage_states, bytes)`, with
            the `message_key` of this agent, version and consensus step, which is used for nothing else.
        decode: `encoded -> q`.
        stage_states: Initial memory of an agent's stages.
        encoded: Shapes of an encoded difference.
    """

    encode: Callable[..., tuple[PyTree, PyTree, jax.Array]]
    decode: Callable[[PyTree], PyTree]
    stage_states: PyTree
    encoded: PyTree


@cached_program
def compressor(federation: Federation, like: Shapes) -> Compressor:
    """Return the compressor made of a federation's stages, for messages of these shapes."""
    pipe, nothing = pipeline(federation.stages), jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like.tree)
    at_server, stage_states = pipe.init(nothing)
    undo = pipe.decode
    assert undo is not None

    def encode(
        key: jax.Array,
        agent: jax.Array,
        version: jax.Array,
        steps: jax.Array,
        stage_states: PyTree,
        difference: PyTree,
    ) -> tuple[PyTree, PyTree, jax.Array]:
        own = jax.random.wrap_key_data(key)
        update = Update(difference, jnp.float32(1.0), version)
        update, stage_states = pipe.encode(
            own, UpdateContext(agent, version, jnp.int32(1), steps), at_server, stage_states, update
        )
        return update.value, stage_states, jnp.asarray(size_bytes(update.value), jnp.int32)

    def decode(encoded: PyTree) -> PyTree:
        return undo(at_server, Update(encoded, jnp.float32(1.0), jnp.int32(0))).value

    number = jnp.int32(0)
    sent = jax.eval_shape(encode, jnp.zeros(2, jnp.uint32), number, number, number, stage_states, nothing)[0]
    return Compressor(jax.jit(encode), jax.jit(decode), jax.tree.map(np.asarray, stage_states), sent)


def message_key(secret: Root, version: int, step: int) -> np.ndarray:
    """Return the key data with which an agent encodes its message in one consensus step."""
    return derived(secret, Stream.ENCODE, version, 0, step)[0]


class Choco(Gossip):
    """Neighbours that exchange compressed differences in every round.

    The metrics of a round are those of `Gossip`, and `whole_copies`, the number of whole copies each agent sent.

    Reference: Koloskova, Stich & Jaggi (2019), https://arxiv.org/abs/1902.00340, algorithm 2; local steps and networks:
        Koloskova et al. (2020), https://arxiv.org/abs/1907.09356; with gradient tracking: Liao et al. (2022),
        https://arxiv.org/abs/2103.13748.
    """

    def __init__(
        self,
        setting: TopologySpec,
        graph: Graph,
        mixing: MixingMatrix,
        rule: Rule,
        consensus_steps: int,
        gamma: float | None,
    ) -> None:
        whole = setting.federation
        super().__init__(setting._replace(federation=without_stages(whole)), graph, mixing, rule, consensus_steps)
        self.gamma = step_size(whole, graph, mixing, rule, gamma, self.agents)
        like = message_shapes(whole, rule)
        self.compressor = compressor(whole, like)
        self.whole_bytes = int(size_bytes(like.tree))
        self.edges = np.nonzero(graph.adjacency(self.agents, 0))
        alone: Any = ()  # no weight
        self.wire = self.wire._replace(update=Update(self.compressor.encoded, alone, jnp.int32(0)))

    def start(self, keys: Keys, first: ServerState) -> tuple[ServerState, PyTree]:
        """Return the initial parameters of all agents, and the copies, which are the first parameters of the run."""
        server, _ = super().start(keys, first)
        number, known = np.zeros(self.agents, np.int32), np.zeros(len(self.edges[0]), np.int32)
        held, stage_states = self._first(server)
        return server, Copies(held, number, known, stage_states)

    def _first(self, server: ServerState) -> tuple[PyTree, PyTree]:
        """Return the copies of agents with the first parameters, and the initial memory of their stages."""
        alike = self.rule.send(np.ones(self.agents, int), server.params, server.aggregator, server.params)
        stage_states = jax.tree.map(lambda x: np.repeat(x[None], self.agents, axis=0), self.compressor.stage_states)
        return as_sent(alike), stage_states

    def restarted(
        self, keys: Keys, server: ServerState, memory: PyTree, ids: np.ndarray, policy: Params | None = None
    ) -> tuple[ServerState, PyTree]:
        """Reset these agents, which have lost all copies: those of others are sent to them whole.

        The copy of a restarted agent also starts again, with a new number, from which its neighbours see that theirs is
        old.
        """
        server, _ = super().restarted(keys, server, memory, ids, policy)
        held, stage_states = renewed((memory.held, memory.stage_states), self._first(server), ids)
        number, mine = memory.number.copy(), np.isin(self.edges[0], ids)
        number[ids] += 1
        return server, Copies(held, number, np.where(mine, NOTHING, memory.known).astype(np.int32), stage_states)

    def exchanged(
        self,
        keys: Keys,
        server: ServerState,
        memory: PyTree,
        steps: np.ndarray,
        trained: Params,
        matrices: Sequence[csr_array],
    ) -> Exchanged:
        """Return the result of the consensus steps of all agents, one for each matrix of weights."""
        from scipy.sparse import eye_array

        message = as_sent(self.rule.send(steps, server.params, server.aggregator, trained))
        total = jax.tree.map(lambda x: np.asarray(x, np.float64), message)
        sizes, resent = np.zeros(self.agents, int), np.zeros(self.agents, int)
        version, copies = int(server.version), memory
        for step, matrix in enumerate(matrices):
            copies, cost, whole = self._spoken(keys, version, step, steps, total, copies, matrix)
            # Indices in order, so that copies are summed by ascending sender, as `choco_peer.mix` does.
            toward = (matrix - eye_array(self.agents, format="csr")).sorted_indices()
            total = jax.tree.map(lambda x, copy, by=toward: x + self.gamma * _times(by, copy), total, copies.held)
            sizes, resent = sizes + cost, resent + whole
        params, kept = self.rule.receive(message, server.aggregator, total)
        return Exchanged(params, kept, copies, messages_sent(matrices), sizes, {"whole_copies": resent})

    def _spoken(
        self, keys: Keys, version: int, step: int, steps: np.ndarray, total: PyTree, copies: Copies, matrix: csr_array
    ) -> tuple[Copies, np.ndarray, np.ndarray]:
        """Let every agent with receivers send a difference; also return its bytes and number of whole copies."""
        hearing, heard = self.edges
        weight = matrix[hearing, heard] if len(heard) else np.zeros(0)  # of no entries, SciPy makes a matrix
        meeting = np.asarray(weight).reshape(-1) != 0.0
        speaking = np.unique(heard[meeting])
        held, stage_states = jax.tree.map(np.array, (copies.held, copies.stage_states))
        size = np.zeros(self.agents, int)
        # Agent by agent, with the programs that a peer runs by itself: a batched program could round differently.
        for k in speaking.tolist():
            mine = jax.tree.map(lambda x, k=k: x[k], copies.stage_states)
            apart = jax.tree.map(lambda x, copy, k=k: difference(x[k], copy[k]), total, copies.held)
            numbers = (np.int32(n) for n in (k, version, steps[k]))
            data = message_key(agent_secret(keys, k), version, step)
            encoded, after, size[k] = self.compressor.encode(data, *numbers, mine, apart)
            q = self.compressor.decode(encoded)
            after = (jax.tree.map(lambda copy, q, k=k: added(copy[k], q), copies.held, q), after)
            jax.tree.map(lambda rows, row, k=k: _set(rows, k, row), (held, stage_states), after)
        behind = meeting & (copies.known != copies.number[heard])
        number = copies.number.copy()
        number[speaking] += 1
        cost, whole = np.zeros(self.agents, int), np.bincount(heard[behind], minlength=self.agents)
        np.add.at(cost, heard[meeting], np.where(behind, self.whole_bytes, size[heard])[meeting] + NUMBER_BYTES)
        return Copies(held, number, np.where(meeting, number[heard], copies.known), stage_states), cost, whole


def without_stages(federation: Federation) -> Federation:
    """Return the federation that the agents run; the stages belong to the topology, which has the copies."""
    return federate(federation.learner, federation.aggregator, local_steps=federation.local_steps)


def difference(message: np.ndarray, copy: np.ndarray) -> np.ndarray:
    """Return the difference of a message's array to its copy."""
    return (message - copy).astype(copy.dtype)


def added(copy: np.ndarray, q: Any) -> np.ndarray:
    """Return the copy after a difference."""
    # By NumPy: a compiler may fuse the sum with the decoding and round differently, and copies would differ.
    return copy + np.asarray(q)


def _set(rows: np.ndarray, k: int, row: Any) -> None:
    rows[k] = np.asarray(row)


def _times(matrix: csr_array, copies: np.ndarray) -> np.ndarray:
    rows = np.asarray(copies, np.float64).reshape(len(copies), -1)
    return np.asarray((matrix @ rows).reshape(copies.shape))
