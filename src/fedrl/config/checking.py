"""Checks of an experiment before it has a run folder.

build --check_experiment--> methods, messages, names, extras      at most 0.1 s
run --check_measures--> metrics of every declared measure         one trace, which the compiled programs use again
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from fedrl.config.coordination import measure_names
from fedrl.config.measures import check_shown
from fedrl.core.environment import HostEnvironment, may_fail
from fedrl.core.errors import ConfigError
from fedrl.core.reports import NEEDS
from fedrl.engines.combinations import check
from fedrl.engines.common_worlds import check_together
from fedrl.engines.executors.programs import metric_names
from fedrl.engines.messages import messages
from fedrl.engines.program_cache import shapes
from fedrl.engines.state import iterations
from fedrl.engines.topologies.choices import isolated
from fedrl.learners.parts.actors import check_forgets
from fedrl.server.scheduler import Scheduler

if TYPE_CHECKING:
    from fedrl.config.objects import Experiment


def check_experiment(experiment: Experiment) -> None:
    """Refuse whatever simulating a method, or writing its results, would refuse.

    Raises:
        ConfigError: A value does not fit the others, or an extra is not installed.
        UnsoundError: Parts can't be combined.
    """
    if experiment.config.tensorboard:
        check_installed()
    chosen, environment = experiment.config.on_environment_error, experiment.environment
    if chosen != "leave-out" and not may_fail(environment):
        raise ConfigError(
            f"on_environment_error is {chosen!r}, and {environment!r} runs inside compiled programs, where no "
            "environment can raise or hang. Leave it out; it is for environments of Gymnasium."
        )
    if experiment.executor is not None:
        check_together(experiment.methods[0].federation, "in worker processes")
    if experiment.config.baselines.mixture:
        check_forgets(experiment.learner, "the baseline mixture")
    measure_names(experiment.learner, experiment.coordination)
    for method in experiment.methods:
        agents = len(method.local_steps)
        iterations(method.federation, agents, method.local_steps)
        if not method.communicates:  # `coordination_of` has checked the others
            check(method.federation, agents, isolated(), Scheduler(), None)
    first = experiment.methods[0].federation
    if first.stages:
        messages(first, experiment.fleet)  # traces every stage, so a stage that does not fit the parameters fails here
    asking = any(NEEDS.get(name) for name in first.reports) or any(stage.reweights for stage in first.stages)
    if asking and not isinstance(experiment.environment, HostEnvironment):
        # Traces the reports, so a requested metric that the learner does not return fails here.
        metric_names(first, shapes(experiment.fleet, skip=1))


def check_measures(experiment: Experiment) -> None:
    """Refuse a measure whose numbers agents do not return.

    Host environments are not checked: their metrics are unknown before the first step.

    Raises:
        UnsoundError: It names the measure, the missing number and the existing ones.
    """
    if isinstance(experiment.environment, HostEnvironment):
        return
    for method in experiment.methods:
        found = metric_names(method.federation, shapes(method.fleet, skip=1))
        check_shown(method.federation.learner, found)


def check_installed() -> None:
    """Refuse TensorBoard events without the extra that writes them.

    Raises:
        ConfigError: The extra is not installed.
    """
    if importlib.util.find_spec("tensorboardX") is None:
        raise ConfigError(
            "tensorboard is true, but tensorboardX is not installed. Run pip install 'fedrl[tensorboard]', or set "
            "tensorboard = false."
        )
