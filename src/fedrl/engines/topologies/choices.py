"""The topologies that a caller chooses from.

server()                            all updates meet at one server
tree([8, 16], ...)                  agents meet at edges, edges further up (`fedrl.topologies`)
gossip(ring(), metropolis())        agents meet their neighbours, without a server
isolated()                          nobody meets anybody
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import optax

from fedrl.core.checks import check_positive
from fedrl.core.federation import Federation
from fedrl.core.types import PyTree
from fedrl.engines.merging import Messages
from fedrl.engines.schedules import Schedule
from fedrl.engines.topologies.gossip import Gossip
from fedrl.engines.topologies.isolated import Isolated
from fedrl.engines.topologies.server import Server
from fedrl.engines.topologies.tree import InTree
from fedrl.topologies import average
from fedrl.topologies.graph import Graph
from fedrl.topologies.rules import Rule
from fedrl.topologies.trees import Tree
from fedrl.topologies.weights import Mixing


@dataclass(frozen=True)
class OneServer:
    """All updates meet at one server."""


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


@dataclass(frozen=True)
class Alone:
    """Agents that hear nobody."""


Topology: TypeAlias = OneServer | Hierarchy | Neighbours | Alone


def server() -> Topology:
    """All updates meet at one server."""
    return OneServer()


def hierarchy(tree: Tree, upper_optimizer: optax.GradientTransformation | None = None) -> Topology:
    """A tree of servers; see `Hierarchy`."""
    return Hierarchy(tree, upper_optimizer)


def gossip(graph: Graph, mixing: Mixing, rule: Rule | None = None, *, consensus_steps: int = 1) -> Topology:
    """Agents that meet their neighbours; see `Neighbours`. They average by default.

    Raises:
        ConfigError: `consensus_steps` is no count.
    """
    check_positive(consensus_steps=consensus_steps)
    return Neighbours(graph, mixing, average() if rule is None else rule, consensus_steps)


def isolated() -> Topology:
    """Agents that hear nobody: what each learns by itself."""
    return Alone()


def bound(
    topology: Topology | Tree | None,
    federation: Federation,
    fleet: PyTree,
    wire: Messages,
    agents: int,
    schedule: Schedule,
    scaled: bool,
) -> Server:
    """A topology for a federation and a fleet; `scaled` says whether updates may be scaled before they are merged."""
    if isinstance(topology, Tree):
        topology = Hierarchy(topology)
    if isinstance(topology, Hierarchy):
        return InTree(federation, wire, agents, schedule, scaled, topology.tree, topology.upper_optimizer)
    if isinstance(topology, Neighbours):
        graph, mixing, rule = topology.graph, topology.mixing, topology.rule
        return Gossip(federation, fleet, agents, graph, mixing, rule, topology.consensus_steps)
    kind = Isolated if isinstance(topology, Alone) else Server
    return kind(federation, wire, agents, schedule, scaled)
