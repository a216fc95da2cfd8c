"""Build the objects of an experiment from a `Config`, and a `Config` with every default from these objects.

Config --build--> Experiment(environment, learner, federation, fleet, methods) --.config--> the resolved Config
"""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fedrl.config import Config, FederationConfig, catalogue
from fedrl.config.catalogue import UnknownNameError
from fedrl.config.checking import check_experiment
from fedrl.config.coordination import Coordination, coordination_of, has_common_policy, resolved
from fedrl.config.elsewhere import said_elsewhere
from fedrl.config.fleet_tables import fleet_settings
from fedrl.config.guarantees import Private, private_learner, private_stages
from fedrl.config.methods import methods_of
from fedrl.config.objects import Experiment
from fedrl.config.own_environments import expanded
from fedrl.config.parts import parts_of, tables_of
from fedrl.core.aggregator import Aggregator
from fedrl.core.component import CATALOGUE
from fedrl.core.environment import AnyEnvironment
from fedrl.core.errors import ConfigError
from fedrl.core.keys import Stream, keys_of, stream_key
from fedrl.core.learner import Learner
from fedrl.core.reports import DURATION
from fedrl.core.stage import Stage
from fedrl.core.summation import Summation
from fedrl.engines.executors.placement import Placement
from fedrl.engines.upload_bids import check_budget
from fedrl.environments.fleet import fleet, held_out
from fedrl.federation.federate import federate
from fedrl.federation.federation import Federation
from fedrl.server.decisions import LocalSteps, Selection, UploadBudget, requested_reports


def build(config: Config) -> Experiment:
    """Build the objects that a configuration describes, and check everything that a run would refuse.

    Args:
        config: The configuration, as from `fedrl.config.load`.

    Raises:
        ConfigError: A component, a parameter or a value is wrong.
        UnsoundError: Each part is valid, their combination is not.
    """
    try:
        return _built(config)
    except UnknownNameError as fault:
        raise ConfigError(said_elsewhere(fault)) from fault


def _built(config: Config) -> Experiment:
    chosen, settings = config.federation, fleet_settings(config.fleet)
    config = replace(config, fleet=settings)
    environment = catalogue.build("environment", expanded(config.environment, settings), "environment")
    learner = private_learner(
        chosen.privacy, config.rounds, lambda multiplier: _learner(config, environment, multiplier)
    )
    aggregator = catalogue.build("aggregator", chosen.aggregator, "federation.aggregator")
    stages, down_stages = (
        [catalogue.build("stage", s, f"federation.{name}[{i}]") for i, s in enumerate(getattr(chosen, name))]
        for name in ("stages", "down_stages")
    )
    server = None
    if chosen.server_optimizer is not None:
        server = catalogue.build("server_optimizer", chosen.server_optimizer, "federation.server_optimizer")
    # These come before the federation: what they request of agents becomes part of each update.
    selection, steps_rule = planning_of(chosen)
    upload_budget = upload_budget_of(chosen)
    steps = _steps(chosen, steps_rule)
    private = private_stages(chosen, stages, learner, selection, config.rounds)
    federation = federate(
        learner,
        aggregator,
        *private.stages,
        server_optimizer=server,
        local_steps=max(steps),
        payload=chosen.payload,
        reports=requested_reports(selection, steps_rule, upload_budget),
        parts=parts_of(chosen.parts),
        down_stages=tuple(down_stages),
        summation=_summation(chosen, private.stages),
    )
    key = stream_key(keys_of(config.fleet_seed), Stream.FLEET)
    try:
        agents = fleet(environment, chosen.agents, settings, key)
        unseen = None
        if config.evaluation.held_out:
            unseen = held_out(environment, config.evaluation.held_out, settings, key)
    # The message of `fleet` names a parameter of the environment; the section says where it was set.
    except ConfigError as fault:
        raise ConfigError(f"[fleet] {fault}") from fault
    coordination = coordination_of(chosen, federation, selection, steps_rule, upload_budget)
    bids = coordination.scheduler.most_bids(chosen.agents)
    if upload_budget is not None:
        check_budget(federation, agents, upload_budget, bids)
    if config.evaluation.held_out and not has_common_policy(learner, coordination):
        raise ConfigError(
            f"evaluation.held_out is {config.evaluation.held_out}, but every agent ends with its own policy, so there "
            "is no common policy for environments in which no agent trained. Set evaluation.held_out = 0."
        )
    # Baselines are built from the resolved configuration, because they change tables of the learner by name.
    filled = _filled(config, environment, learner, aggregator, federation, coordination, private)
    methods = methods_of(filled, environment, learner, federation, agents, steps)
    experiment = Experiment(
        filled,
        environment,
        learner,
        federation,
        agents,
        unseen,
        methods,
        coordination,
        selection,
        steps_rule,
        upload_budget,
        placement_of(config.executor),
        private.guarantee,
    )
    check_experiment(experiment)
    return experiment


def placement_of(executor: Any) -> Placement | None:
    """Return where agents train, from a name, a table or a `Placement`; None for this process.

    Raises:
        ConfigError: There is no such executor, or an argument is wrong.

    >>> placement_of("process") is None, placement_of({"name": "ray", "workers": 2})
    (True, ray(workers=2))
    """
    built = isinstance(executor, Placement)
    found: Placement = executor if built else catalogue.build("executor", executor, "executor")
    return found if found.build is not None else None


def _filled(
    config: Config,
    environment: AnyEnvironment,
    learner: Learner,
    aggregator: Aggregator,
    federation: Federation,
    coordination: Coordination,
    private: Private,
) -> Config:
    """Return the configuration with every default, which builds equal objects."""
    plan = coordination.scheduler
    section = replace(
        resolved(config.federation, coordination),
        aggregator=catalogue.table_of(aggregator),
        stages=tuple(catalogue.table_of(stage) for stage in private.own()),
        privacy=private.section(config.federation.privacy),
        down_stages=tuple(catalogue.table_of(stage) for stage in federation.down_stages),
        server_optimizer=_table(federation.server_optimizer),
        summation=None if config.federation.summation is None else catalogue.table_of(federation.summation),
        parts=tables_of(federation.parts),
        selection=_table(plan.selection),
        upload_budget=_table(plan.upload_budget),
        local_steps=config.federation.local_steps if plan.local_steps is None else _table(plan.local_steps),
    )
    return replace(
        config,
        # A folder may be someone else's: whatever reads it must not connect to a cluster that it names.
        executor=Config.executor,
        environment=catalogue.table_of(environment),
        learner=catalogue.table_of(learner, [environment]),
        federation=section,
        seeds=tuple(config.seed_list),
        keep_checkpoints=True if config.keep_checkpoints is None else config.keep_checkpoints,
    )


def _summation(chosen: FederationConfig, stages: Sequence[Stage]) -> Summation | None:
    """Return the summation; None for the default one."""
    given = chosen.summation
    if given is None:
        return None
    table = {"name": given} if isinstance(given, str) else given
    if isinstance(table, Mapping) and table.get("name") == "ring_sum":
        grids = [stage.noise.grid for stage in stages if stage.noise is not None and stage.noise.grid is not None]
        # What agents add on a grid says how large its entries are, and of how many a sum may be opened.
        follows = {"largest": grids[0].largest(), "minimum": max(grids[0].least, 2)} if grids else {}
        table = {"agents": chosen.agents, **follows, **table}  # at most all agents are in one sum
    return catalogue.build("summation", table, "federation.summation")


def _table(component: object) -> Any:
    """Return the table of a component; None for None."""
    return None if component is None else catalogue.table_of(component)


def planning_of(chosen: FederationConfig) -> tuple[Selection | None, LocalSteps | None]:
    """Build the client selection and the schedule of local steps.

    Raises:
        ConfigError: A component or a parameter is wrong.
    """
    selection, steps_rule = None, None
    if chosen.selection is not None:
        selection = catalogue.build("selection", chosen.selection, "federation.selection")
        if DURATION in selection.requested and chosen.clock is None:
            raise ConfigError(
                f"federation.selection is {selection!r}, which measures the duration of agents' jobs, and a simulation "
                "without a clock has no time. Add a clock, federation.clock = {step_s = ...}, or give it the capacity "
                "of each agent."
            )
    if isinstance(chosen.local_steps, Mapping):
        steps_rule = catalogue.build("local_steps", chosen.local_steps, "federation.local_steps")
        # Plan the first round now: a schedule for another number of agents is refused before the run has a folder.
        steps_rule.plan(chosen.agents, 1, steps_rule.init(chosen.agents))
        # Durations are reported by the clock; without one the schedule would have no numbers to plan by.
        if DURATION in steps_rule.requested and chosen.clock is None:
            raise ConfigError(
                f"federation.local_steps is {steps_rule!r}, which needs the duration of agents' jobs, and a simulation "
                "without a clock has no time. Add a clock, federation.clock = {step_s = ...}, or use "
                "proportional_to_speed."
            )
    return selection, steps_rule


def upload_budget_of(chosen: FederationConfig) -> UploadBudget | None:
    """Build the upload budget, which selects the updates to send; None without one.

    Raises:
        ConfigError: A component or a parameter is wrong.
    """
    if chosen.upload_budget is None:
        return None
    upload_budget: UploadBudget = catalogue.build("upload_budget", chosen.upload_budget, "federation.upload_budget")
    return upload_budget


def _steps(chosen: FederationConfig, steps_rule: LocalSteps | None) -> tuple[int, ...]:
    """Return the largest number of local steps of each agent in a round."""
    if steps_rule is not None:
        return (steps_rule.most,) * chosen.agents
    given = chosen.local_steps
    return (given,) * chosen.agents if isinstance(given, int) else typing.cast(tuple[int, ...], given)


def _learner(config: Config, environment: AnyEnvironment, noise_multiplier: float | None = None) -> Learner:
    """Build the learner; with another noise in its local steps if that is given."""
    table = config.learner
    if noise_multiplier is not None:
        table = _with_noise({"name": table} if isinstance(table, str) else table, noise_multiplier)
    built = catalogue.build("learner", table, "learner", {"environment": environment})
    assert isinstance(built, Learner)
    return built


def _with_noise(table: Any, noise_multiplier: float) -> Any:
    """Return the table of a learner with this noise, also of one inside of wrappers; unchanged if it adds none."""
    if isinstance(table.get("learner"), Mapping | str):
        inner = table["learner"]
        inner = {"name": inner} if isinstance(inner, str) else inner
        return {**table, "learner": _with_noise(inner, noise_multiplier)}
    catalogue.fill()
    known = CATALOGUE.get(("learner", str(table.get("name"))))
    if known is not None and "noise_multiplier" not in known.signature.parameters:
        return table
    return {**table, "noise_multiplier": noise_multiplier}
