"""From a `Config` to the objects of an experiment, and back to a `Config` with every default filled in.

Config --build--> Experiment(environment, learner, federation, fleet, methods) --.config--> the resolved Config
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fedrl.core.environment import Environment
from fedrl.core.errors import ConfigError
from fedrl.core.federation import Federation, federate
from fedrl.core.keys import Purpose, run_key
from fedrl.core.learner import Learner
from fedrl.core.types import PyTree
from fedrl.environments.fleet import fleet, held_out
from fedrl.experiments import catalogue
from fedrl.experiments.config import Config
from fedrl.experiments.coordination import Coordination, coordination_of, has_common_policy, resolved
from fedrl.experiments.methods import Method, methods_of


@dataclass(frozen=True)
class Experiment:
    """The objects of an experiment.

    Attributes:
        config: With every default filled in: it reproduces the run.
        environment: Where agents learn.
        learner: What every agent runs.
        federation: How they learn together.
        fleet: The parameters of each agent's environment, a leading agent axis on every leaf.
        held_out: The same for environments that no agent trains in, or None.
        methods: The federation itself, then the baselines that train.
        coordination: Who coordinates the federation: a tree of servers, neighbours, or None for a single server.
    """

    config: Config
    environment: Environment
    learner: Learner
    federation: Federation
    fleet: PyTree
    held_out: PyTree | None
    methods: tuple[Method, ...]
    coordination: Coordination = None


def build(config: Config) -> Experiment:
    """Make the objects that a configuration describes.

    Raises:
        ConfigError: A component, a parameter or a value is wrong.
        UnsoundError: The parts are right, their combination is not.
    """
    chosen = config.federation
    environment = catalogue.build("environment", config.environment, "environment")
    learner = _learner(config, environment)
    aggregator = catalogue.build("aggregator", chosen.aggregator, "federation.aggregator")
    stages = [catalogue.build("stage", s, f"federation.stages[{i}]") for i, s in enumerate(chosen.stages)]
    server = None
    if chosen.server_optimizer is not None:
        server = catalogue.build("server_optimizer", chosen.server_optimizer, "federation.server_optimizer")
    steps = (chosen.local_steps,) * chosen.agents if isinstance(chosen.local_steps, int) else chosen.local_steps
    federation = federate(
        learner,
        aggregator,
        *stages,
        server_opt=server,
        local_steps=max(steps),
        payload=chosen.payload,
    )
    settings, key = config.fleet, run_key(config.fleet_seed, Purpose.FLEET)
    try:
        agents = fleet(environment, chosen.agents, settings, key)
        unseen = None
        if config.evaluation.held_out:
            unseen = held_out(environment, config.evaluation.held_out, settings, key)
    except ConfigError as fault:
        raise ConfigError(f"[fleet] {fault}") from fault
    coordination = coordination_of(chosen, federation)
    if config.evaluation.held_out and not has_common_policy(learner, coordination):
        raise ConfigError(
            f"evaluation.held_out is {config.evaluation.held_out}, but every agent ends with a policy of its own, and "
            "none is meant for environments in which no agent trained. Set evaluation.held_out = 0."
        )
    filled = replace(
        config,
        environment=catalogue.table_of(environment),
        learner=catalogue.table_of(learner, [environment]),
        federation=replace(
            resolved(chosen, coordination),
            aggregator=catalogue.table_of(aggregator),
            stages=tuple(catalogue.table_of(stage) for stage in stages),
            server_optimizer=None if server is None else catalogue.table_of(server),
        ),
        seeds=tuple(config.seed_list),
    )
    methods = methods_of(filled, environment, learner, federation, agents, steps)
    return Experiment(filled, environment, learner, federation, agents, unseen, methods, coordination)


def _learner(config: Config, environment: Environment) -> Learner:
    built = catalogue.build("learner", config.learner, "learner", {"environment": environment})
    assert isinstance(built, Learner)
    return built
