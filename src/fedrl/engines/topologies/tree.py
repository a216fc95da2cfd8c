"""The topology with a tree of servers: edge servers, servers above them, and a root.

    agents --exact sums--> relay --exact sums--> server, which commits        every round
                                                   +--its change--> server above, or root, every `period` rounds

A server that merges as often as the one above it is a relay: it sums the updates of its children and sends the sum up.
Sums of integers do not depend on their grouping, so a tree of relays is bit-identical to a single server. If the rule
needs each update, a relay forwards all of them. A server that merges more often than the one above has parameters of
its own, which the agents below it receive, and sends up their change since it last adopted parameters from above.

With down stages, each of the lowest servers with parameters of its own stores the copy that its agents have of them;
relays forward its messages and store no copy. Servers above send uncompressed parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedrl.core.keys import Keys, Stream, server_data, server_keys, server_noise, server_secret, stream_key
from fedrl.core.types import Params, PyTree
from fedrl.engines.aggregation import Merged, skip_round
from fedrl.engines.inbox import Inbox, Table
from fedrl.engines.levels import StatefulServer, propagating, sums_of
from fedrl.engines.program_cache import cached_program
from fedrl.engines.state import QUICK
from fedrl.engines.topologies.server import MergeResult, SentMessages, Server, TopologySpec, Traffic
from fedrl.engines.traffic import traffic
from fedrl.federation.downlink import ServerCopy
from fedrl.federation.federate import federate
from fedrl.federation.federation import Federation, ServerState
from fedrl.topologies.trees import Parents, Tree

EDGES = 1
"""Level, in keys, of the lowest servers of a tree with parameters of their own; a single server has level 0."""


class InTree(Server):
    """The topology with a tree of servers.

    Each of the lowest servers with parameters of its own runs the whole federation; servers above merge the changes of
    the servers below by the federation's aggregator, with the total weights behind these changes.
    """

    def __init__(
        self, setting: TopologySpec, tree: Tree, global_optimizer: optax.GradientTransformation | None = None
    ) -> None:
        super().__init__(setting)
        federation, wire, agents = setting.federation, setting.wire, setting.agents
        self.tree, parents, self.holding = tree, tree.parents(agents), holding(tree)
        self.periods = tuple(tree.periods)
        self.edge = parents[0]
        self.row = lowest(tree, agents).astype(np.int32)
        self.group = self.row.astype(int)
        self.relays = [ancestors(parents[:level]).astype(int) for level in range(1, self.holding[0])]
        self.above = [ancestors(parents[low:high]) for low, high in pairwise(self.holding)]
        self.upper = federate(federation.learner, federation.aggregator, server_optimizer=global_optimizer)
        self.sums = [i for i, stage in enumerate(federation.stages) if stage.sums is not None]
        self.propagate = propagating(self.upper, wire.sent.params, self.above, self.sums)
        added_up = tuple(wire.sent.stage_states[i] for i in self.sums)
        summed, copied = federation.aggregator.needs == "sum", bool(federation.down_stages)
        self.costs = traffic(tree, parents, self.holding, wire, added_up, summed, copied)
        self._renewed = _renewing(federation) if copied else None

    def start(self, keys: Keys, first: ServerState) -> tuple[ServerState, PyTree]:
        """Return the initial state of the root server, and of the topology."""
        if not self.above:
            return first, ((), [self._before(first)])
        start = jax.jit(self.upper.init_server, compiler_options=QUICK)(stream_key(keys, Stream.SERVER))
        nought = sums_of(first, self.sums)
        start = start._replace(params=first.params, stage_states=nought)
        kinds, nothing = [first] + [start] * (len(self.above) - 1), np.zeros((), np.float32)
        levels = tuple(
            (StatefulServer(k, nothing, nought),) * len(over) for k, over in zip(kinds, self.above, strict=True)
        )
        return start, (levels, [self._before(first)] * len(levels[0]))

    def table(self, server: ServerState, memory: PyTree) -> Table:
        """Return the broadcasts of the lowest servers with parameters, and the row that each agent receives."""
        servers = self._lowest(server, memory)
        return Table(self._heard(servers, list(memory[1])), self.row, self._copied(servers, list(memory[1])))

    def holds(self, server: ServerState, memory: PyTree) -> Table:
        """Return the same without look-ahead: the servers' own parameters."""
        return Table(self._heard(self._lowest(server, memory)), self.row)

    def _lowest(self, server: ServerState, memory: PyTree) -> list[ServerState]:
        """Return the servers from which agents receive broadcasts."""
        return [holder.server for holder in memory[0][0]] if memory[0] else [server]

    def merge(
        self, keys: Keys, server: ServerState, memory: PyTree, inbox: Inbox
    ) -> tuple[ServerState, PyTree, MergeResult]:
        """Merge the updates at every server that is due, and advance the version."""
        levels, before = memory
        if not levels:
            after, kept, result = super().merge(keys, server, before[0], inbox)
            return after, ((), [kept]), result
        number = int(server.version) + 1
        found, earlier = [], []
        for i, holder in enumerate(levels[0]):
            mine = inbox.of(self.group[inbox.agent] == i)
            noise = server_noise(keys, int(holder.server.version), EDGES, i)
            merged: Merged = self._merge_updates(server_secret(keys, EDGES, i), holder.server, mine, noise)
            found.append((merged, mine.agent))
            earlier.append(self._before(holder.server) if merged.weight > 0.0 and not merged.skipped else before[i])
        edges = [
            holder._replace(server=each.server, weight=np.asarray(np.float32(holder.weight + each.weight)))
            for holder, (each, _) in zip(levels[0], found, strict=True)
        ]
        # The copies that agents have; the merge above has made newer ones that they have not received.
        held = [holder.server.down for holder in levels[0]]
        root, levels, faults = self._propagate(keys, server, (edges, *levels[1:]), number)
        if self._renewed is not None and number % self.tree.periods[self.holding[1] - 1] == 0:
            levels = (tuple(self._adopted(keys, number - 1, levels[0], held)), *levels[1:])
        skipped = [f"edge {i}: {each.skipped}" for i, (each, _) in enumerate(found) if each.skipped] + faults
        result = MergeResult(
            sum(each.weight for each, _ in found),
            tuple(rejection for each, _ in found for rejection in each.rejected),
            np.concatenate([each.dropped(ids) for each, ids in found]),
            "; ".join(skipped),
        )
        return root, (levels, earlier), result

    def _adopted(
        self, keys: Keys, version: int, edges: Sequence[StatefulServer], held: Sequence[PyTree]
    ) -> Iterator[StatefulServer]:
        """Yield the edge servers with a new copy, after they have adopted parameters from above.

        Its difference leads to the adopted parameters, and replaces the one to the edge's own merge, which no agent
        has received.
        """
        assert self._renewed is not None
        for i, (edge, copy) in enumerate(zip(edges, held, strict=True)):
            data = server_data(server_secret(keys, EDGES, i), version, again=1)
            down = self._renewed(data, np.int32(version), copy, edge.server.params)
            yield edge._replace(server=edge.server._replace(down=down))

    def skip(self, server: ServerState, memory: PyTree) -> tuple[ServerState, PyTree]:
        """Advance the version of every server without a merge."""
        levels, before = memory
        if not levels:
            return super().skip(server, memory)
        edges = [holder._replace(server=skip_round(holder.server)) for holder in levels[0]]
        root, levels, _ = self._propagate(None, server, (edges, *levels[1:]), 0)
        return root, (levels, before)

    def _propagate(
        self, keys: Keys | None, server: ServerState, levels: tuple[PyTree, ...], number: int
    ) -> tuple[ServerState, PyTree, list[str]]:
        """Merge changes upwards, on all levels that are due in round `number`; none is due in round 0."""
        due = sum(number % self.tree.periods[level - 1] == 0 for level in self.holding) if number else 0
        servers = [*map(list, levels), [StatefulServer(server, np.zeros((), np.float32))]]
        servers, faults = self.propagate(servers, due, keys)
        return servers[-1][0].server, tuple(map(tuple, servers[:-1])), faults

    def traffic(self, sent: SentMessages, number: int, merged: bool) -> Traffic:
        """Return the traffic of version `number`, in which all due levels merge if there is a merge."""
        due = sum(number % self.tree.periods[level - 1] == 0 for level in self.holding) if merged else 1
        cost = self.costs(sent.down_traffic, sent.arrived, sent.size_bytes, sent.messages, self.holding[due - 1])
        unread, (edge_up, edge_down), *above = (
            ~sent.arrived,
            *cost.levels,
        )  # what can't be read ends at the first server
        levels = ((edge_up + int(sent.size_bytes[unread].sum()), edge_down), *above)
        up, down = (sum(level[i] for level in levels) for i in (0, 1))
        said = cost.messages_up + int(sent.messages[unread].sum())
        return Traffic(up, down, said, cost.messages_down, levels, cost.latency_s)


@cached_program
def _renewing(federation: Federation) -> Callable[..., ServerCopy]:
    """Return the program of the next copy; it returns the previous copy if a number would not be finite."""
    assert federation.downlink is not None
    send = federation.downlink.send

    def renewed(keys: jax.Array, version: jax.Array, copy: ServerCopy, params: Params) -> ServerCopy:
        after = send(server_keys(keys).down, version, copy, params)
        finite = jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(after)]).all()
        return jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, copy)

    return jax.jit(renewed)


def holding(tree: Tree) -> list[int]:
    """Return the levels with parameters of their own: the root, and any that merges more often than the next one."""
    often = tree.periods
    return [level for level in range(1, len(often)) if often[level] > often[level - 1]] + [len(often)]


def lowest(tree: Tree, agents: int) -> np.ndarray:
    """Return for each agent the lowest server above it with parameters of its own, `[agents]`."""
    return ancestors(tree.parents(agents)[: holding(tree)[0]])


def ancestors(parents: Parents) -> np.ndarray:
    """Return the number of each node's ancestor, `len(parents)` levels up."""
    found = parents[0]
    for over in parents[1:]:
        found = over[found]
    return found
