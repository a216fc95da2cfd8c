"""The ways to spend the environment steps of an experiment: its federation, and the baselines that train."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax

from fedrl.aggregators import mean
from fedrl.config import Config, catalogue
from fedrl.config.catalogue import Table
from fedrl.core.environment import AnyEnvironment
from fedrl.core.errors import ConfigError
from fedrl.core.learner import Learner
from fedrl.core.types import PyTree
from fedrl.federation.federate import federate
from fedrl.federation.federation import Federation

COUNTS_OF_INSTANCES = ("num_envs", "episodes_per_step")
"""The parameters that say how many copies of the environment a learner steps."""


@dataclass(frozen=True)
class Method:
    """One way to spend the environment steps of an experiment.

    Attributes:
        name: "federated", "independent" or "centralised".
        federation: What to simulate.
        fleet: For which agents; a single agent with a stack of settings if the data are pooled.
        local_steps: Of each agent.
        communicates: Whether anything is exchanged.
    """

    name: str
    federation: Federation
    fleet: PyTree
    local_steps: tuple[int, ...]
    communicates: bool

    @property
    def steps_per_round(self) -> int:
        """Environment steps of all agents together."""
        return self.federation.learner.samples * sum(self.local_steps)


def methods_of(
    config: Config,
    environment: AnyEnvironment,
    learner: Learner,
    federation: Federation,
    agents: PyTree,
    steps: tuple[int, ...],
) -> tuple[Method, ...]:
    """The federation, then the baselines that a resolved configuration asks for.

    Raises:
        ConfigError: A baseline can't be made of these parts.
    """
    methods = [Method("federated", federation, agents, steps, True)]
    if config.baselines.independent or config.baselines.average_once or config.baselines.mixture:
        methods.append(alone("independent", config, learner, federation, agents, steps))
    if config.baselines.centralised:
        methods.append(_pooled(config, environment, learner, agents, steps))
    return tuple(methods)


def alone(
    name: str, config: Config, learner: Learner, federation: Federation, agents: PyTree, steps: tuple[int, ...]
) -> Method:
    """Agents that exchange nothing; in the given federation if that makes no difference: it is compiled."""
    free = _without_pull(config.learner)
    if free != config.learner:
        learner = _built(free, learner.environment)
    summed = federation.aggregator.needs == "sum"
    plain = federate(
        learner,
        federation.aggregator if summed else mean(),
        server_optimizer=federation.server_optimizer,
        local_steps=federation.local_steps,
    )
    return Method(name, federation if plain == federation else plain, agents, steps, False)


def _pooled(
    config: Config, environment: AnyEnvironment, learner: Learner, agents: PyTree, steps: tuple[int, ...]
) -> Method:
    """One learner with as many instances as all agents together have, dealt out over their environments."""
    assert isinstance(config.learner, Mapping)
    table = _without_pull(_shared(config.learner, environment))
    wider = _multiplied(table, len(steps) * learner.samples // _built(table, environment).samples)
    central = None if wider is None else _built(wider, environment)
    if central is None or central.samples != learner.samples * len(steps):
        raise ConfigError(
            f"baselines.centralised is true, but {config.learner['name']} has no number of instances to multiply, so "
            "it can't pool the data of all agents. Set baselines.centralised = false."
        )
    work = max(1, round(sum(steps) / len(steps)))
    whole = jax.tree.map(lambda leaf: leaf[None], agents)
    return Method("centralised", federate(central, mean(), local_steps=work), whole, (work,), False)


def _built(table: Any, environment: AnyEnvironment) -> Learner:
    return typing.cast(Learner, catalogue.build("learner", table, "learner", {"environment": environment}))


def _without_pull(value: Any) -> Any:
    """The learner's table with nothing that pulls it to parameters which nobody sends.

    `fedprox` would hold on to where the agent stood when the round began; its strength becomes 0. `add_correction` adds
    a correction of 0 by itself.
    """
    if isinstance(value, Mapping):
        free = {key: _without_pull(item) for key, item in value.items()}
        return free | {"strength": 0.0} if value.get("name") == "fedprox" else free
    return [_without_pull(item) for item in value] if isinstance(value, list | tuple) else value


def _shared(table: Table, environment: AnyEnvironment) -> Table:
    """The learner's table without the wrappers that set agents apart: there is one agent."""
    if "learner" not in table:
        return table
    inner = _shared(table["learner"], environment)
    wrapped = {**table, "learner": inner}
    return inner if _built(wrapped, environment).personalised else wrapped


def _multiplied(table: Table, factor: int) -> Table | None:
    """The learner's table with its count of instances multiplied, in itself or in a learner that it wraps."""
    for name in COUNTS_OF_INSTANCES:
        if name in table:
            return {**table, name: table[name] * factor}
    for key, value in table.items():
        inner = _multiplied(value, factor) if isinstance(value, dict) else None
        if inner is not None:
            return {**table, key: inner}
    return None
