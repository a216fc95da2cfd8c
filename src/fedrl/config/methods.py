"""The training methods of an experiment: its federation, and the baselines with as many environment steps."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax

from fedrl.aggregators import mean
from fedrl.config import Config, catalogue
from fedrl.config.catalogue import Table
from fedrl.core.environment import AnyEnvironment, common_of
from fedrl.core.errors import ConfigError
from fedrl.core.learner import Learner
from fedrl.core.types import PyTree
from fedrl.federation.federate import federate
from fedrl.federation.federation import Federation

COUNTS_OF_INSTANCES = ("num_envs", "episodes_per_step")
"""Parameters with the number of environment copies that a learner steps."""


@dataclass(frozen=True)
class Method:
    """One training method of an experiment.

    Attributes:
        name: "federated", "independent" or "centralised".
        federation: The federation to simulate.
        fleet: Environment parameters with a leading agent axis; for pooled data, of one agent with a stack of all.
        local_steps: Local steps of each agent in a round.
        communicates: Whether agents exchange updates.
    """

    name: str
    federation: Federation
    fleet: PyTree
    local_steps: tuple[int, ...]
    communicates: bool

    @property
    def steps_per_round(self) -> int:
        """Environment steps of all agents together in a round."""
        return self.federation.learner.samples * sum(self.local_steps)


def methods_of(
    config: Config,
    environment: AnyEnvironment,
    learner: Learner,
    federation: Federation,
    agents: PyTree,
    steps: tuple[int, ...],
) -> tuple[Method, ...]:
    """Return the federation, then the baselines that train in a resolved configuration.

    Raises:
        ConfigError: A baseline can't be built from these parts.
    """
    methods = [Method("federated", federation, agents, steps, True)]
    if config.baselines.independent or config.baselines.average_once or config.baselines.mixture:
        methods.append(alone("independent", config, environment, learner, federation, agents, steps))
    if config.baselines.centralised:
        methods.append(_pooled(config, environment, learner, agents, steps))
    return tuple(methods)


def alone(
    name: str,
    config: Config,
    environment: AnyEnvironment,
    learner: Learner,
    federation: Federation,
    agents: PyTree,
    steps: tuple[int, ...],
) -> Method:
    """Return the method of agents without communication; with the given federation if that makes no difference.

    The given federation's program is compiled already.
    """
    # Without `fedprox` nothing changes, and the compiled program of the federation may serve.
    free = _without_pull(config.learner)
    if free != config.learner:
        learner = _built(free, environment)
    # Isolated agents never merge. A rule of sums is kept only because `plain` may then equal the federation.
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
    """Return the centralised method: one learner with as many environment copies as all agents have together."""
    assert isinstance(config.learner, Mapping)
    if common_of(environment) is not None:
        raise ConfigError(
            f"baselines.centralised is true, and in {environment!r} each agent is one player, so a single learner that "
            "acts for all of them is no agent of it. Set baselines.centralised = false, and train that learner in a "
            "run of the world itself."
        )
    table = _without_pull(_shared(config.learner, environment))
    # A wrapper that is removed may have changed the number of samples, hence the quotient instead of `len(steps)`.
    wider = _multiplied(table, len(steps) * learner.samples // _built(table, environment).samples)
    central = None if wider is None else _built(wider, environment)
    if central is None or central.samples != learner.samples * len(steps):
        raise ConfigError(
            f"baselines.centralised is true, but {config.learner['name']} has no number of environment copies to "
            "multiply, so it can't pool the data of all agents. Set baselines.centralised = false."
        )
    # The mean number of local steps: with unequal ones the environment steps agree only nearly.
    work = max(1, round(sum(steps) / len(steps)))
    whole = jax.tree.map(lambda leaf: leaf[None], agents)
    return Method("centralised", federate(central, mean(), local_steps=work), whole, (work,), False)


def _built(table: Any, environment: AnyEnvironment) -> Learner:
    return typing.cast(Learner, catalogue.build("learner", table, "learner", {"environment": environment}))


def _without_pull(value: Any) -> Any:
    """Return the learner's table without a pull towards global parameters, which isolated agents never receive.

    `fedprox` would pull an agent to its own parameters at the start of the round; its strength becomes 0.
    `add_correction` already adds a correction of 0.
    """
    if isinstance(value, Mapping):
        free = {key: _without_pull(item) for key, item in value.items()}
        return free | {"strength": 0.0} if value.get("name") == "fedprox" else free
    return [_without_pull(item) for item in value] if isinstance(value, list | tuple) else value


def _shared(table: Table, environment: AnyEnvironment) -> Table:
    """Return the learner's table without wrappers for personalisation, since the centralised method has one agent."""
    if "learner" not in table:
        return table
    inner = _shared(table["learner"], environment)
    wrapped = {**table, "learner": inner}
    return inner if _built(wrapped, environment).personalised else wrapped


def _multiplied(table: Table, factor: int) -> Table | None:
    """Return the learner's table with its number of environment copies multiplied, also inside wrapped learners."""
    for name in COUNTS_OF_INSTANCES:
        if name in table:
            return {**table, name: table[name] * factor}
    for key, value in table.items():
        inner = _multiplied(value, factor) if isinstance(value, dict) else None
        if inner is not None:
            return {**table, key: inner}
    return None
