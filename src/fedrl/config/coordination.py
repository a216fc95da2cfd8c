"""Build topology, scheduler and clock of a simulation from a configuration; no other module does.

federation.hierarchy       a tree of servers; without it and `topology`, one server
federation.topology        a graph of neighbours without a server
federation.schedule        when agents are dispatched, and when servers merge
federation.clock           the agents' devices, in simulated seconds
federation.delay_rounds    the age of the broadcasts that agents receive, in versions
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import jax
import numpy as np
import optax

from fedrl.clocks.devices import Clock
from fedrl.clocks.distributions import Distributed, Distribution
from fedrl.config import FederationConfig, catalogue
from fedrl.config.measures import declared
from fedrl.core.errors import ConfigError
from fedrl.core.learner import Learner, policy_of
from fedrl.core.measures import Measure
from fedrl.core.types import Key, Params
from fedrl.engines.combinations import check
from fedrl.engines.compute import COMPUTE
from fedrl.engines.round_log import TIMES
from fedrl.engines.soundness import fewest_in_a_sum
from fedrl.engines.state import chosen_size
from fedrl.engines.topologies.choices import GossipTopology, Hierarchy, SingleServer, Topology, server
from fedrl.engines.topologies.step_size import step_size
from fedrl.engines.topologies.tree import lowest
from fedrl.engines.trust_models import check_trust
from fedrl.federation.federation import Federation
from fedrl.server.decisions import LocalSteps, Selection, UploadBudget
from fedrl.server.scheduler import Scheduler
from fedrl.server.schedules import Schedule, synchronous
from fedrl.topologies import average, column_stochastic, metropolis
from fedrl.topologies.consensus import step_weights

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Coordination:
    """Topology, scheduler and clock of a federation.

    Attributes:
        topology: Where updates are aggregated.
        scheduler: Which agents work when and how much, and whose updates are merged.
        clock: The agents' devices; None if all updates arrive at once.
    """

    topology: Topology
    scheduler: Scheduler
    clock: Clock | None

    @property
    def neighbours(self) -> GossipTopology | None:
        """The topology without a server; None with one."""
        return self.topology if isinstance(self.topology, GossipTopology) else None

    @property
    def hierarchy(self) -> Hierarchy | None:
        """The tree of servers; None without one."""
        return self.topology if isinstance(self.topology, Hierarchy) else None

    @property
    def parts(self) -> list[object]:
        """The components that may have a reference, for the bibliography of a run."""
        where = self.topology
        meeting: list[object] = [where.graph, where.mixing, where.rule] if isinstance(where, GossipTopology) else []
        if isinstance(where, Hierarchy):
            meeting = [where.tree, where.global_optimizer]
        return [*meeting, self.scheduler.schedule, self.clock]


def coordination_of(
    chosen: FederationConfig,
    federation: Federation,
    selection: Selection | None = None,
    steps_rule: LocalSteps | None = None,
    upload_budget: UploadBudget | None = None,
) -> Coordination:
    """Build topology, scheduler and clock, and check that they can be combined with the federation.

    Raises:
        ConfigError: A component, a parameter or the number of agents is wrong.
        UnsoundError: The parts can't be combined.
    """
    topology, clock = _topology_of(chosen), None
    if chosen.clock is not None:
        # There is only one clock with devices, so a file does not have to name it.
        named = {"name": "clock", **chosen.clock} if isinstance(chosen.clock, Mapping) else chosen.clock
        clock = typing.cast(Clock, catalogue.build("clock", named, "federation.clock"))
    schedule = synchronous()
    if chosen.schedule is not None:
        schedule = typing.cast(
            Schedule, catalogue.build("schedule", chosen.schedule, "federation.schedule", base=schedule)
        )
    # A selection in a tree draws among the agents of each lowest server that has parameters of its own.
    group = lowest(topology.tree, chosen.agents) if isinstance(topology, Hierarchy) else None
    scheduler = Scheduler(schedule, selection, steps_rule, upload_budget, group=group, delay_rounds=_delays_of(chosen))
    check(federation, chosen.agents, topology, scheduler, clock)
    check_trust(chosen.trust_model, federation, topology, schedule)
    if isinstance(topology, GossipTopology):
        step_weights(topology.graph, topology.mixing, topology.rule, chosen.agents)
        if federation.stages:
            parts = (topology.graph, topology.mixing, topology.rule, topology.gamma, chosen.agents)
            # The step is computed once and written to config.toml, so a resumed run has the same one.
            topology = replace(topology, gamma=step_size(federation, *parts))
    chosen_size(chosen.agents, chosen.block)
    return Coordination(topology, scheduler, clock)


def cohort_facts(chosen: FederationConfig, selection: Selection | None) -> dict[str, float]:
    """Return the arguments of a mechanism that follow from the selection and the summation: how many agents there are.

    "expected" is the number of agents expected in a round, "least" the fewest of a sum that is opened, and "separation"
    the least number of rounds from one selection of an agent to its next one.
    """
    if selection is None:
        expected = float(chosen.agents)
    elif selection.sampling is not None:
        expected = float(selection.sampling * chosen.agents)
    else:
        expected = float(len(Scheduler(selection=selection, group=groups_of(chosen)).first_cohort(chosen.agents)))
    found: dict[str, float] = {"expected": expected, "separation": 1 if selection is None else selection.separation}
    given = chosen.summation.get("minimum") if isinstance(chosen.summation, Mapping) else None
    # Of a cohort whose size is drawn, nobody knows the fewest agents that come.
    if given is not None or selection is None or selection.sampling is None:
        plan = Scheduler(selection=selection)
        found["least"] = fewest_in_a_sum(chosen.agents, _topology_of(chosen), plan) if given is None else given
    return found


def groups_of(chosen: FederationConfig) -> np.ndarray | None:
    """Return for each agent the number of the server that selects it; None if there is one server, or none."""
    topology = _topology_of(chosen)
    return lowest(topology.tree, chosen.agents) if isinstance(topology, Hierarchy) else None


def _delays_of(chosen: FederationConfig) -> Distributed:
    given = chosen.delay_rounds
    if isinstance(given, int):
        return given
    if isinstance(given, tuple | list):
        return tuple(given)
    return typing.cast(Distribution, catalogue.build("distribution", given, "federation.delay_rounds"))


def _topology_of(chosen: FederationConfig) -> Topology:
    if chosen.hierarchy is not None:
        tree = catalogue.build("hierarchy", chosen.hierarchy, "federation.hierarchy")
        tree.parents(chosen.agents)
        upper = upper_optimizer_of(chosen)
        if upper is not None and max(tree.periods) == 1:
            raise ConfigError(
                f"federation.global_optimizer is {chosen.global_optimizer!r}, but in {tree!r} all servers merge in "
                "every round, so only the root has parameters to optimise. Use federation.server_optimizer, which is "
                "the root's, or give the tree periods."
            )
        return Hierarchy(tree, upper)
    if chosen.topology is None:
        return server()
    graph = catalogue.build("graph", chosen.topology, "federation.topology")
    rule = average()
    if chosen.gossip is not None:
        rule = catalogue.build("gossip", chosen.gossip, "federation.gossip", base=rule)
    # The default follows from the rule: push-sum needs columns that sum to one, averaging needs rows.
    mixing = column_stochastic() if rule.sums == "columns" else metropolis()
    if chosen.mixing is not None:
        mixing = catalogue.build("mixing", chosen.mixing, "federation.mixing", base=mixing)
    return GossipTopology(graph, mixing, rule, chosen.consensus_steps, chosen.gamma)


def upper_optimizer_of(chosen: FederationConfig) -> optax.GradientTransformation | None:
    """Build the optimiser that servers above the edges apply to the merged change of the servers below."""
    if chosen.global_optimizer is None:
        return None
    built = catalogue.build("server_optimizer", chosen.global_optimizer, "federation.global_optimizer")
    return typing.cast(optax.GradientTransformation, built)


def resolved(chosen: FederationConfig, coordination: Coordination) -> FederationConfig:
    """Return the section with the defaults of topology, schedule and clock filled in."""
    where = coordination.topology
    if isinstance(where, Hierarchy):
        upper = where.global_optimizer
        table = None if upper is None else catalogue.table_of(upper)
        chosen = replace(chosen, hierarchy=catalogue.table_of(where.tree), global_optimizer=table)
    if isinstance(where, GossipTopology):
        chosen = replace(
            chosen,
            topology=catalogue.table_of(where.graph),
            mixing=catalogue.table_of(where.mixing),
            gossip=catalogue.table_of(where.rule),
            gamma=where.gamma,
        )
    clock = None if coordination.clock is None else catalogue.table_of(coordination.clock)
    schedule = chosen.schedule
    if schedule is not None or clock is not None:
        schedule = catalogue.table_of(coordination.scheduler.schedule)
    delays = coordination.scheduler.delay_rounds
    if isinstance(delays, Distribution):
        chosen = replace(chosen, delay_rounds=catalogue.table_of(delays))
    return replace(chosen, clock=clock, schedule=schedule)


def measure_names(learner: Learner, coordination: Coordination) -> dict[str, Measure]:
    """Return all measures of a run by name, from which a user can choose.

    Raises:
        UnsoundError: Two measures have the same name.
    """
    timed = coordination.clock is not None
    return declared(learner, COMPUTE | TIMES if timed else COMPUTE).all


def all_act_alike(learner: Learner, coordination: Coordination) -> bool:
    """Return whether every agent acts with the server's parameters.

    Personalised agents do not, nor do agents without a server, nor agents of a tree whose servers have different
    parameters between two merges of the root.
    """
    where = coordination.topology
    relays = isinstance(where, Hierarchy) and set(where.tree.periods) == {1}
    return not learner.personalised and (relays or isinstance(where, SingleServer))


def has_common_policy(learner: Learner, coordination: Coordination) -> bool:
    """Return whether the server's parameters are a complete policy, with which an agent that never trained can act."""
    if coordination.neighbours is not None:
        return False
    # A personalised learner acts with more than it shares: then the server's parameters alone are no policy.
    return shapes_of(learner, acting=True) == shapes_of(learner)


def shapes_of(learner: Learner, acting: bool = False) -> Params:
    """Return the shapes of the parameters that a learner shares, or with `acting` of those with which it acts."""

    def made(key: Key) -> Params:
        state = learner.init(key, learner.environment.params)
        return policy_of(learner, state) if acting else learner.params(state)

    return jax.eval_shape(made, jax.random.key(0))
