"""Who coordinates: a server, a tree of servers, or neighbours among themselves. The one place that chooses an engine.

none of those below        agents and one server        engines.blocks, or engines.host for environments outside JAX
federation.hierarchy       a tree of servers            engines.hierarchy
federation.topology        neighbours, without server   engines.gossip
federation.clock           one server, on a clock       engines.virtual
"""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import jax
import optax

from fedrl.core.environment import HostEnvironment
from fedrl.core.errors import ConfigError
from fedrl.core.federation import Federation
from fedrl.core.learner import Learner, policy_of
from fedrl.core.measures import Measure
from fedrl.core.types import Key, Params
from fedrl.engines.admission import simulate_budget
from fedrl.engines.blocks import simulate
from fedrl.engines.compute import COMPUTE
from fedrl.engines.coordination import coordinated
from fedrl.engines.gossip import check_serverless, gossip
from fedrl.engines.hierarchy import hierarchy
from fedrl.engines.simulation import Simulation
from fedrl.engines.combinations import check_clock
from fedrl.engines.clocks.devices import Clock
from fedrl.engines.virtual.engine import simulate_clock
from fedrl.engines.virtual.log import TIMES
from fedrl.experiments import catalogue
from fedrl.experiments.config import FederationConfig
from fedrl.experiments.measuring import declared
from fedrl.topologies import average, column_stochastic, metropolis
from fedrl.topologies.consensus import weighing
from fedrl.topologies.graph import Graph
from fedrl.topologies.rules import Rule
from fedrl.topologies.trees import Tree
from fedrl.topologies.weights import Mixing

if TYPE_CHECKING:
    from fedrl.experiments.build import Experiment
    from fedrl.experiments.methods import Method


@dataclass(frozen=True)
class Neighbours:
    """Agents that meet without a server.

    Attributes:
        graph: Who hears whom.
        mixing: With what weight.
        rule: What they make of it.
        consensus_steps: How often in a round.
    """

    graph: Graph
    mixing: Mixing
    rule: Rule
    consensus_steps: int


Coordination: TypeAlias = Tree | Neighbours | Clock | None
"""None is a single server that waits for all whom it asked, a clock one whose agents take their time."""


def coordination_of(chosen: FederationConfig, federation: Federation) -> Coordination:
    """Build who coordinates, and check that it suits the federation.

    Raises:
        ConfigError: A component, a parameter or the number of agents is wrong.
        UnsoundError: The federation needs a server, or the weights do not suit the graph or the rule.
    """
    if chosen.hierarchy is not None:
        tree = catalogue.build("hierarchy", chosen.hierarchy, "federation.hierarchy")
        tree.parents(chosen.agents)
        if isinstance(federation.learner.environment, HostEnvironment):
            raise ConfigError(
                f"federation.hierarchy is {tree!r}, but {federation.learner.environment!r} is stepped on the host, and "
                "agents of a tree train in compiled programs. Use a compiled environment, or leave the hierarchy out."
            )
        assert isinstance(tree, Tree)
        if upper_optimizer_of(chosen) is not None and max(tree.periods) == 1:
            raise ConfigError(
                f"federation.upper_optimizer is {chosen.upper_optimizer!r}, and in {tree!r} every server but the root "
                "passes on what it hears. Use federation.server_optimizer, which is the root's, or give the tree "
                "periods."
            )
        return tree
    if chosen.clock is not None:
        named = {"name": "clock", **chosen.clock} if isinstance(chosen.clock, Mapping) else chosen.clock  # the only one
        clock = catalogue.build("clock", named, "federation.clock")
        check_clock(federation, clock, chosen.agents)
        assert isinstance(clock, Clock)
        if isinstance(chosen.local_steps, Mapping) and clock.schedule.restart:
            raise ConfigError(
                f"federation.local_steps is {chosen.local_steps!r}, a schedule from round to round, and under "
                f"{clock.schedule!r} there are none: every agent begins anew by itself. Give a number, or one per "
                "agent, or use synchronous."
            )
        return clock
    if chosen.topology is None:
        return None
    graph = catalogue.build("graph", chosen.topology, "federation.topology")
    rule = average() if chosen.gossip is None else catalogue.build("gossip", chosen.gossip, "federation.gossip")
    if chosen.mixing is None:
        mixing = column_stochastic() if rule.sums == "columns" else metropolis()
    else:
        mixing = catalogue.build("mixing", chosen.mixing, "federation.mixing")
    check_serverless(federation, rule)
    weighing(graph, mixing, rule, chosen.agents)
    return Neighbours(graph, mixing, rule, chosen.consensus_steps)


def upper_optimizer_of(chosen: FederationConfig) -> optax.GradientTransformation | None:
    """Build what servers above servers do with the change of those below."""
    if chosen.upper_optimizer is None:
        return None
    built = catalogue.build("server_optimizer", chosen.upper_optimizer, "federation.upper_optimizer")
    return typing.cast(optax.GradientTransformation, built)


def resolved(chosen: FederationConfig, coordination: Coordination) -> FederationConfig:
    """The section with the defaults of the coordination filled in."""
    if isinstance(coordination, Tree):
        upper = upper_optimizer_of(chosen)
        table = None if upper is None else catalogue.table_of(upper)
        return replace(chosen, hierarchy=catalogue.table_of(coordination), upper_optimizer=table)
    if isinstance(coordination, Clock):
        return replace(chosen, clock=catalogue.table_of(coordination))
    if isinstance(coordination, Neighbours):
        return replace(
            chosen,
            topology=catalogue.table_of(coordination.graph),
            mixing=catalogue.table_of(coordination.mixing),
            gossip=catalogue.table_of(coordination.rule),
        )
    return chosen


def simulation_of(experiment: Experiment, method: Method, devices: Sequence[jax.Device] | None = None) -> Simulation:
    """Prepare a method on the engine that suits it, on all devices by default."""
    federation, fleet, steps = method.federation, method.fleet, method.local_steps
    where = experiment.coordination if method.talk else None  # baselines never meet
    if isinstance(where, Clock):
        clocked = simulate_clock(federation, fleet, where, local_steps=steps, devices=devices)
        return _planned(experiment, method, clocked)
    if isinstance(experiment.environment, HostEnvironment):
        from fedrl.engines.host import simulate_host

        return _planned(experiment, method, simulate_host(federation, fleet, local_steps=steps))
    if isinstance(where, Tree):
        upper = upper_optimizer_of(experiment.config.federation)
        return hierarchy(federation, fleet, where, upper_opt=upper, local_steps=steps, devices=devices)
    if isinstance(where, Neighbours):
        graph, mixing, rule, often = where.graph, where.mixing, where.rule, where.consensus_steps
        return gossip(federation, fleet, graph, mixing, rule, consensus_steps=often, local_steps=steps, devices=devices)
    if experiment.admission is not None and method.name == "federated":
        budget = simulate_budget(federation, fleet, experiment.admission, local_steps=steps, devices=devices)
        return _planned(experiment, method, budget)
    return _planned(experiment, method, simulate(federation, fleet, local_steps=steps, devices=devices))


def _planned(experiment: Experiment, method: Method, simulation: Simulation) -> Simulation:
    """The simulation with rounds as the server plans them, if it does; baselines ask nobody."""
    selection, workload = experiment.selection, experiment.workload
    if method.name != "federated" or (selection is None and workload is None):
        return simulation
    return coordinated(simulation, selection, workload)


def in_one_simulation(experiment: Experiment, one: Method, other: Method) -> bool:
    """Whether two methods run in the same simulation; agents that wait for nobody have no clock."""
    timed = isinstance(experiment.coordination, Clock) and one.talk != other.talk
    return one.federation is other.federation and not timed


def names_of(experiment: Experiment) -> dict[str, Measure]:
    """All that a run of an experiment measures, by name: what a user may ask for.

    Raises:
        UnsoundError: A name stands for two quantities.
    """
    engine = COMPUTE | TIMES if isinstance(experiment.coordination, Clock) else COMPUTE
    return declared(experiment.learner, engine).all


def all_act_alike(learner: Learner, coordination: Coordination) -> bool:
    """Whether every agent acts with the server's parameters.

    Personalised agents do not, nor do neighbours, nor agents of a tree whose servers have parameters of their own
    between two merges of the root.
    """
    relays = isinstance(coordination, Tree) and set(coordination.periods) == {1}
    one_server = coordination is None or isinstance(coordination, Clock) or relays
    return not learner.personalised and one_server


def has_common_policy(learner: Learner, coordination: Coordination) -> bool:
    """Whether the server's parameters are a policy: one that an agent which never trained can act with."""
    if isinstance(coordination, Neighbours):
        return False
    return shapes_of(learner, acting=True) == shapes_of(learner)


def shapes_of(learner: Learner, acting: bool = False) -> Params:
    """The shapes of what a federation sees of a learner's parameters, or of those that it acts with."""

    def made(key: Key) -> Params:
        state = learner.init(key, learner.environment.params)
        return policy_of(learner, state) if acting else learner.params(state)

    return jax.eval_shape(made, jax.random.key(0))
