"""Gossip without a server: each agent trains from its own parameters and combines them with its neighbours' messages.

    params --local training--> trained --W x, ...--> params        on the host, in float64, in the order of senders

The server state contains the parameters of all agents, and the memory of the rule, with a leading agent axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core.keys import Keys, Stream, stream_key
from fedrl.core.stage import Stage, zeros_like
from fedrl.core.types import Broadcast, Params, PyTree, Update
from fedrl.engines.inbox import PARAMS, Inbox, Table
from fedrl.engines.messages import Messages, messages
from fedrl.engines.state import start_programs
from fedrl.engines.topologies.server import MergeResult, SentMessages, Server, TopologySpec, Traffic
from fedrl.federation.federate import federate
from fedrl.federation.federation import Federation, ServerState
from fedrl.topologies.consensus import consensus_step, message_bytes, messages_sent, step_weights
from fedrl.topologies.gossip import Rule
from fedrl.topologies.graph import Graph
from fedrl.topologies.mixing import MixingMatrix
from fedrl.topologies.spectrum import distances

if TYPE_CHECKING:
    from scipy.sparse import csr_array  # slow to import, and only runs among neighbours need it


class Exchanged(NamedTuple):
    """Result of the exchange of messages.

    Attributes:
        params: New parameters of each agent.
        rule: Memory of the rule.
        memory: State of the topology.
        messages, size_bytes: Number and bytes of the messages each agent sent, `[agents]`.
        metrics: Further metrics of each agent, `[agents]`.
    """

    params: Params
    rule: PyTree
    memory: PyTree
    messages: np.ndarray
    size_bytes: np.ndarray
    metrics: dict[str, np.ndarray] = {}


class Gossip(Server):
    """Neighbours that exchange parameters in every round.

    An absent agent keeps its parameters, and its edges are absent.

    The metrics of a round include `drift` and `consensus_distance`, the distance of an agent from the mean of all
    before and after the exchange, and `messages`, the number it sent.
    """

    def __init__(
        self, setting: TopologySpec, graph: Graph, mixing: MixingMatrix, rule: Rule, consensus_steps: int
    ) -> None:
        # Not `Server.__init__`: neighbours need no program of a server's merge.
        federation, agents = setting.federation, setting.agents
        self.federation = steered(federation) if rule.correction is not None else federation
        self.agents, self.rule, self.often, self.needs_broadcasts = agents, rule, consensus_steps, False
        self.collects, self.group = PARAMS, np.zeros(agents, int)
        self.wire: Messages = messages(self.federation, setting.fleet)
        self.init_server = start_programs(self.federation).server
        self.weights = step_weights(graph, mixing, rule, agents)
        self.sizes = message_bytes(rule, self.wire.sent.params, consensus_steps)

    def item(self) -> PyTree:
        """Return the shapes of the item collected of one agent."""
        return self.wire.sent.params

    def start(self, keys: Keys, first: ServerState) -> tuple[ServerState, PyTree]:
        """Return the initial state of the agents' parameters, and of the topology."""
        del keys
        params = jax.tree.map(lambda x: np.repeat(np.asarray(x)[None], self.agents, axis=0), first.params)
        return ServerState(params, (), self.rule.init(params), (), jnp.int32(0)), ()

    def table(self, server: ServerState, memory: PyTree) -> Table:
        """Return the broadcasts of this version: each agent's own parameters, and its correction."""
        del memory
        hints = () if self.rule.correction is None else (self.rule.correction(server.aggregator),)
        version: Any = np.full(self.agents, int(server.version), np.int32)
        params, server_state = jax.tree.map(np.asarray, (server.params, hints))
        return Table(Broadcast(params, server_state, version), np.arange(self.agents, dtype=np.int32))

    holds = table

    def merge(
        self, keys: Keys, server: ServerState, memory: PyTree, inbox: Inbox
    ) -> tuple[ServerState, PyTree, MergeResult]:
        """Exchange messages and advance the version."""
        version, steps = int(server.version), inbox.steps
        trained = _placed(server.params, inbox.items, inbox.agent)
        present = np.isin(np.arange(self.agents), inbox.agent)
        matrices = [self.weights(version * self.often + i, present) for i in range(self.often)]
        with np.errstate(over="ignore", invalid="ignore"):  # `fault` below checks for numbers that are not finite
            found = self.exchanged(keys, server, memory, steps, trained, matrices)
            params = jax.tree.map(lambda x, like: x.astype(like.dtype), found.params, trained)
        skipped = fault(params, (found.rule, found.memory))
        # If the exchange is not finite, agents keep their own trained parameters.
        kept = (trained, server.aggregator, memory) if skipped else (params, found.rule, found.memory)
        after = server._replace(params=kept[0], aggregator=kept[1], version=jnp.int32(version + 1))
        apart = {"drift": distances(trained), "consensus_distance": distances(kept[0]), "messages": found.messages}
        weight = 0.0 if skipped else float(steps[inbox.agent].sum() * self.federation.learner.samples)
        sent = {"messages": found.messages, "size_bytes": found.size_bytes}
        return after, kept[2], MergeResult(weight, (), inbox.agent[:0], skipped, apart | found.metrics, **sent)

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
        del keys
        params, kept = consensus_step(self.rule, matrices, steps, server.params, server.aggregator, trained)
        said = [messages_sent([matrix]) for matrix in matrices]
        costs = [count * size for count, size in zip(said, self.sizes, strict=True)]
        return Exchanged(params, kept, memory, np.sum(said, axis=0), np.sum(costs, axis=0))

    def skip(self, server: ServerState, memory: PyTree) -> tuple[ServerState, PyTree]:
        """Advance the version without an exchange."""
        return server._replace(version=jnp.int32(int(server.version) + 1)), memory

    def restarted(
        self, keys: Keys, server: ServerState, memory: PyTree, ids: np.ndarray, policy: Params | None = None
    ) -> tuple[ServerState, PyTree]:
        """Set these agents back to the first parameters of the run, since no one else has a copy of theirs."""
        first = self.init_server(stream_key(keys, Stream.SERVER), policy).params
        params = jax.tree.map(lambda x: np.repeat(np.asarray(x)[None], self.agents, axis=0), first)
        kept = renewed(server.aggregator, self.rule.init(params), ids)
        return server._replace(params=renewed(server.params, params, ids), aggregator=kept), memory

    def traffic(self, sent: SentMessages, number: int, merged: bool) -> Traffic:
        """Return the traffic between neighbours; there is none downwards."""
        del number, merged
        return Traffic(int(sent.size_bytes.sum()), 0, int(sent.messages.sum()), 0)


def renewed(now: PyTree, new: PyTree, ids: np.ndarray) -> PyTree:
    """Return the rows of `now`, with those of `ids` replaced by the rows of `new`."""

    def anew(now: np.ndarray, new: np.ndarray) -> np.ndarray:
        after = np.array(now)
        after[ids] = new[ids]
        return after

    return jax.tree.map(anew, now, new)


def steered(federation: Federation) -> Federation:
    """Return the federation with a stage that passes the correction in the broadcast on to local training."""
    return federate(federation.learner, federation.aggregator, PILOT, local_steps=federation.local_steps)


def _as_it_is(*given: PyTree) -> tuple[Update, PyTree]:
    *_, agent_state, update = given
    return update, agent_state


# One object: federations with equal stages share their programs only if these are the same.
PILOT = Stage(_as_it_is, lambda params: (zeros_like(params), ()), lambda server_state, agent_state: server_state)


def fault(params: Params, memory: PyTree) -> str:
    """Return, as a phrase, what is not finite after the exchange, parameters or the rule's memory; "" if all is."""
    for name, tree in (("parameters", params), ("the memory of the rule", memory)):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            if not np.isfinite(leaf).all():
                return f"{name}{jax.tree_util.keystr(path)} of neighbours would not be finite"
    return ""


def _placed(held: Params, items: Params, ids: np.ndarray) -> Params:
    """Return the parameters of every agent after training; agents that did not train keep theirs."""

    def placed(before: np.ndarray, now: np.ndarray) -> np.ndarray:
        after = np.array(before)
        after[ids] = now
        return after

    return jax.tree.map(placed, held, items)
