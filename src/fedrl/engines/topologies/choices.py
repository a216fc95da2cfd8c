"""The topologies that a caller chooses from.

server()                            all updates meet at one server
tree([8, 16], ...)                  agents meet at edges, edges further up (`fedrl.topologies`)
gossip(ring(), metropolis())        agents meet their neighbours, without a server
isolated()                          nobody meets anybody
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import optax

from fedrl.core.checks import check_positive
from fedrl.engines.topologies.gossip import Gossip
from fedrl.engines.topologies.isolated import Isolated
from fedrl.engines.topologies.server import Server, Setting
from fedrl.engines.topologies.tree import InTree
from fedrl.topologies import average
from fedrl.topologies.graph import Graph
from fedrl.topologies.rules import Rule
from fedrl.topologies.trees import Tree
from fedrl.topologies.weights import Mixing


@runtime_checkable
class Topology(Protocol):
    """Where updates meet: whatever can be bound to a federation, its messages and a number of agents."""

    def bind(self, setting: Setting) -> Server:
        """What the simulation asks."""
        ...


@dataclass(frozen=True)
class OneServer:
    """All updates meet at one server."""

    def bind(self, setting: Setting) -> Server:
        """What the simulation asks."""
        return Server(setting)


@dataclass(frozen=True)
class Hierarchy:
    """A tree of servers.

    Attributes:
        tree: Who reports to whom, and how often.
        upper_optimizer: What servers above others do with the merged change of those below; they adopt all of it by
            default.
    """

    tree: Tree
    upper_optimizer: optax.GradientTransformation | None = None

    def bind(self, setting: Setting) -> Server:
        """What the simulation asks."""
        return InTree(setting, self.tree, self.upper_optimizer)


@dataclass(frozen=True)
class Neighbours:
    """Agents that meet without a server.

    Attributes:
        graph: Who hears whom.
        mixing: With what weight.
        rule: What they make of it.
        consensus_steps: Messages over every edge in a round; of a graph that changes, each takes the next step.
    """

    graph: Graph
    mixing: Mixing
    rule: Rule
    consensus_steps: int = 1

    def bind(self, setting: Setting) -> Server:
        """What the simulation asks."""
        return Gossip(setting, self.graph, self.mixing, self.rule, self.consensus_steps)


@dataclass(frozen=True)
class Alone:
    """Agents that hear nobody."""

    def bind(self, setting: Setting) -> Server:
        """What the simulation asks."""
        return Isolated(setting)


def server() -> OneServer:
    """All updates meet at one server."""
    return OneServer()


def hierarchy(tree: Tree, upper_optimizer: optax.GradientTransformation | None = None) -> Hierarchy:
    """A tree of servers; see `Hierarchy`."""
    return Hierarchy(tree, upper_optimizer)


def gossip(graph: Graph, mixing: Mixing, rule: Rule | None = None, *, consensus_steps: int = 1) -> Neighbours:
    """Agents that meet their neighbours; see `Neighbours`. They average by default.

    Raises:
        ConfigError: `consensus_steps` is no count.
    """
    check_positive(consensus_steps=consensus_steps)
    return Neighbours(graph, mixing, average() if rule is None else rule, consensus_steps)


def isolated() -> Alone:
    """Agents that hear nobody: what each learns by itself."""
    return Alone()
