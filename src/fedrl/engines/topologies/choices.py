"""The topologies that users choose from.

server()                            one server aggregates all updates
tree([8, 16], ...)                  edge servers aggregate updates of agents, servers above those of edge servers
gossip(ring(), metropolis())        neighbours average their parameters, without a server
isolated()                          no communication
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

import optax

from fedrl.core.checks import check_positive
from fedrl.engines.topologies.choco import Choco
from fedrl.engines.topologies.gossip import Gossip
from fedrl.engines.topologies.isolated import Isolated
from fedrl.engines.topologies.server import Server, TopologySpec
from fedrl.engines.topologies.tree import InTree, holding
from fedrl.topologies import average
from fedrl.topologies.gossip import Rule
from fedrl.topologies.graph import Graph
from fedrl.topologies.mixing import MixingMatrix
from fedrl.topologies.trees import Tree

Opened = Literal["the sum", "sums of subsets", "each", "nothing"]
"""What the receivers of updates can read, if single updates are hidden in sums."""


@runtime_checkable
class Topology(Protocol):
    """A topology that can be bound to a federation, its messages and a number of agents."""

    @property
    def opens(self) -> Opened:
        """What the receivers can read of hidden updates: their sum, sums of some of them, or each."""
        ...

    def bind(self, setting: TopologySpec) -> Server:
        """Return the topology's part of the simulation."""
        ...


@dataclass(frozen=True)
class SingleServer:
    """One server that aggregates all updates."""

    opens: ClassVar[Opened] = "the sum"

    def bind(self, setting: TopologySpec) -> Server:
        """Return the topology's part of the simulation."""
        return Server(setting)


@dataclass(frozen=True)
class Hierarchy:
    """A tree of servers.

    Attributes:
        tree: Parents and merge periods.
        global_optimizer: Optimiser that upper servers apply to the merged change of the servers below; by default they
            add the whole change.
    """

    tree: Tree
    global_optimizer: optax.GradientTransformation | None = None

    @property
    def opens(self) -> Opened:
        """Servers with parameters of their own open the sum of their agents; relays open nothing."""
        return "the sum" if len(holding(self.tree)) == 1 else "sums of subsets"

    def bind(self, setting: TopologySpec) -> Server:
        """Return the topology's part of the simulation."""
        return InTree(setting, self.tree, self.global_optimizer)


@dataclass(frozen=True)
class GossipTopology:
    """Neighbours in a graph that average without a server.

    Attributes:
        graph: Which agents receive whose messages.
        mixing: Rule of the mixing weights.
        rule: Gossip rule: messages and how they are combined.
        consensus_steps: Messages over every edge per round; a graph that changes advances with each.
        gamma: Step size towards the copies of neighbours, for a federation with stages; by default that of
            `fedrl.engines.topologies.step_size`.
    """

    graph: Graph
    mixing: MixingMatrix
    rule: Rule
    consensus_steps: int = 1
    gamma: float | None = None
    opens: ClassVar[Opened] = "each"

    def bind(self, setting: TopologySpec) -> Server:
        """Return the topology's part of the simulation."""
        if setting.federation.stages:
            return Choco(setting, self.graph, self.mixing, self.rule, self.consensus_steps, self.gamma)
        return Gossip(setting, self.graph, self.mixing, self.rule, self.consensus_steps)


@dataclass(frozen=True)
class IsolatedTopology:
    """Isolated agents, without communication."""

    opens: ClassVar[Opened] = "nothing"

    def bind(self, setting: TopologySpec) -> Server:
        """Return the topology's part of the simulation."""
        return Isolated(setting)


def server() -> SingleServer:
    """Build the topology with one server that aggregates all updates.

    >>> server().opens
    'the sum'
    """
    return SingleServer()


def hierarchy(tree: Tree, global_optimizer: optax.GradientTransformation | None = None) -> Hierarchy:
    """Build the topology of a tree of servers; for the arguments see `Hierarchy`.

    >>> from fedrl.topologies import tree
    >>> hierarchy(tree([8], periods=[1, 5])).opens
    'sums of subsets'
    """
    return Hierarchy(tree, global_optimizer)


def gossip(
    graph: Graph,
    mixing: MixingMatrix,
    rule: Rule | None = None,
    *,
    consensus_steps: int = 1,
    gamma: float | None = None,
) -> GossipTopology:
    """Build the topology in which neighbours average without a server; for the arguments see `GossipTopology`.

        x_i <- sum_j W_ij x_j        by the default rule, `average()`

    With stages in the federation, messages are compressed (CHOCO-SGD): each agent sends the compressed difference to
    the copy that its neighbours have of it. With q_i the decoded difference,

        copy_i <- copy_i + q_i,     x_i <- x_i + gamma sum_j W_ij (copy_j - copy_i)

    The next difference includes the compression error, which makes error feedback unnecessary. The graph has to be
    constant and undirected. For gamma and its bound see `fedrl.engines.topologies.step_size`.

    Raises:
        ConfigError: `consensus_steps` is below one. When a simulation is built: `gamma` is not above zero, or the
            federation has no stages.
        UnsoundError: When a simulation is built: the graph, the weights or the rule do not fit the stages, a stage is
            no contraction, or `gamma` is above the bound.

    Reference: Koloskova, Stich & Jaggi (2019), https://arxiv.org/abs/1902.00340.

    >>> from fedrl.topologies import metropolis, ring
    >>> gossip(ring(), metropolis(), gamma=0.3).gamma
    0.3
    """
    check_positive(consensus_steps=consensus_steps)
    return GossipTopology(graph, mixing, average() if rule is None else rule, consensus_steps, gamma)


def isolated() -> IsolatedTopology:
    """Build the topology without communication: each agent trains by itself.

    >>> isolated().opens
    'nothing'
    """
    return IsolatedTopology()
