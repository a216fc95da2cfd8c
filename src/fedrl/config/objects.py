"""The objects of an experiment, as `build` makes them from a configuration."""

from __future__ import annotations

from dataclasses import dataclass

from fedrl.config import Config
from fedrl.config.coordination import Coordination
from fedrl.config.methods import Method
from fedrl.core.environment import AnyEnvironment
from fedrl.core.learner import Learner
from fedrl.core.types import PyTree
from fedrl.engines.executors.placement import Placement
from fedrl.federation.federation import Federation
from fedrl.privacy.guarantee import Guarantee
from fedrl.server.decisions import LocalSteps, Selection, UploadBudget


@dataclass(frozen=True)
class Experiment:
    """The objects of an experiment.

    Attributes:
        config: The configuration with every default filled in; it reproduces the run.
        environment: The environment.
        learner: The learning algorithm of every agent.
        federation: The two functions of agents and server.
        fleet: Parameters of each agent's environment, a leading agent axis on every leaf.
        held_out: The same for environments in which no agent trains; None without any.
        methods: The federation itself, then the baselines that train.
        coordination: Topology, scheduler and clock.
        selection: Client selection; None if all agents work in every round.
        local_steps: The server's schedule of local steps; None if their numbers are fixed.
        upload_budget: The budget that selects the updates to send; None if all are sent.
        executor: Where agents train; None for this process.
        guarantee: The privacy of the federated method; None without a budget.
    """

    config: Config
    environment: AnyEnvironment
    learner: Learner
    federation: Federation
    fleet: PyTree
    held_out: PyTree | None
    methods: tuple[Method, ...]
    coordination: Coordination
    selection: Selection | None = None
    local_steps: LocalSteps | None = None
    upload_budget: UploadBudget | None = None
    executor: Placement | None = None
    guarantee: Guarantee | None = None

    @property
    def in_real_time(self) -> bool:
        """Whether the agents are at other sites, so that time is real."""
        return self.executor is not None and self.executor.live

    @property
    def tuning_steps(self) -> int:
        """Environment steps of all agents together during fine-tuning, with one seed."""
        return self.config.evaluation.fine_tune * self.learner.samples * self.config.federation.agents
