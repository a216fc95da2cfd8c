"""The topologies that a caller chooses from.

server()                            all updates meet at one server
tree([8, 16], ...)                  agents meet at edges, edges further up (`fedrl.topologies`)
gossip(ring(), metropolis())        agents meet their neighbours, without a server
isolated()                          nobody meets anybody
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
"""What those who receive updates can read of them, where single ones are hidden."""


@runtime_checkable
class Topology(Protocol):
    """Where updates meet: whatever can be bound to a federation, its messages and a number of agents."""

    @property
    def opens(self) -> Opened:
        """What is read of hidden updates: their sum, sums of some of them, or each."""
        ...

    def bind(self, setting: TopologySpec) -> Server:
        """What the simulation asks."""
        ...


@dataclass(frozen=True)
class SingleServer:
    """All updates meet at one server."""

    opens: ClassVar[Opened] = "the sum"

    def bind(self, setting: TopologySpec) -> Server:
        """What the simulation asks."""
        return Server(setting)


@dataclass(frozen=True)
class Hierarchy:
    """A tree of servers.

    Attributes:
        tree: Who reports to whom, and how often.
        global_optimizer: What servers above others do with the merged change of those below; they adopt all of it by
            default.
    """

    tree: Tree
    global_optimizer: optax.GradientTransformation | None = None

    @property
    def opens(self) -> Opened:
        """Servers with parameters of their own open the sum of their agents; relays open nothing."""
        return "the sum" if len(holding(self.tree)) == 1 else "sums of subsets"

    def bind(self, setting: TopologySpec) -> Server:
        """What the simulation asks."""
        return InTree(setting, self.tree, self.global_optimizer)


@dataclass(frozen=True)
class GossipTopology:
    """Agents that meet without a server.

    Attributes:
        graph: Who hears whom.
        mixing: With what weight.
        rule: What they make of it.
        consensus_steps: Messages over every edge in a round; of a graph that changes, each takes the next step.
        gamma: How far agents go towards copies of each other, of a federation with stages; by default as far as
            `fedrl.engines.topologies.step_size` says.
    """

    graph: Graph
    mixing: MixingMatrix
    rule: Rule
    consensus_steps: int = 1
    gamma: float | None = None
    opens: ClassVar[Opened] = "each"

    def bind(self, setting: TopologySpec) -> Server:
        """What the simulation asks."""
        if setting.federation.stages:
            return Choco(setting, self.graph, self.mixing, self.rule, self.consensus_steps, self.gamma)
        return Gossip(setting, self.graph, self.mixing, self.rule, self.consensus_steps)


@dataclass(frozen=True)
class IsolatedTopology:
    """Agents that hear nobody."""

    opens: ClassVar[Opened] = "nothing"

    def bind(self, setting: TopologySpec) -> Server:
        """What the simulation asks."""
        return Isolated(setting)


def server() -> SingleServer:
    """All updates meet at one server."""
    return SingleServer()


def hierarchy(tree: Tree, global_optimizer: optax.GradientTransformation | None = None) -> Hierarchy:
    """A tree of servers; see `Hierarchy`."""
    return Hierarchy(tree, global_optimizer)


def gossip(
    graph: Graph,
    mixing: MixingMatrix,
    rule: Rule | None = None,
    *,
    consensus_steps: int = 1,
    gamma: float | None = None,
) -> GossipTopology:
    """Agents that meet their neighbours; see `GossipTopology`. They average by default.

        x_i <- sum_j W_ij x_j

    The stages of a federation compress what they send (CHOCO-SGD): each sends the difference to the copy that its
    neighbours hold of it, and with q_i what they read of it,

        copy_i <- copy_i + q_i,     x_i <- x_i + gamma sum_j W_ij (copy_j - copy_i)

    What a stage loses comes with the next difference, which takes the place of error feedback. The graph stays as it
    is and goes both ways. What gamma is and may be is said in `fedrl.engines.topologies.step_size`.

    Raises:
        ConfigError: `consensus_steps` is no count. When it is simulated: `gamma` is not above zero, or nothing is
            compressed.
        UnsoundError: When it is simulated: the graph, the weights or the rule do not suit the stages, a stage is no
            contraction, or `gamma` is above the bound.

    Reference: Koloskova, Stich & Jaggi (2019), https://arxiv.org/abs/1902.00340.

    >>> from fedrl.topologies import metropolis, ring
    >>> gossip(ring(), metropolis(), gamma=0.3).gamma
    0.3
    """
    check_positive(consensus_steps=consensus_steps)
    return GossipTopology(graph, mixing, average() if rule is None else rule, consensus_steps, gamma)


def isolated() -> IsolatedTopology:
    """Agents that hear nobody: what each learns by itself."""
    return IsolatedTopology()
