"""The objects of an experiment, as `build` makes them of a configuration."""

from __future__ import annotations

from dataclasses import dataclass

from fedrl.config import Config
from fedrl.config.coordination import Coordination
from fedrl.config.methods import Method
from fedrl.core.environment import AnyEnvironment
from fedrl.core.learner import Learner
from fedrl.core.types import PyTree
from fedrl.federation.federation import Federation
from fedrl.server.decisions import LocalSteps, Selection, UploadBudget


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
        coordination: Where updates meet, and who works when.
        selection: Whom the server asks, if not everybody.
        local_steps: The server's schedule of local steps, if there is one.
        upload_budget: Whose updates are sent, if there is a budget.
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

    @property
    def tuning_steps(self) -> int:
        """Environment steps of all agents together while they fine-tune, with one seed."""
        return self.config.evaluation.fine_tune * self.learner.samples * self.config.federation.agents
