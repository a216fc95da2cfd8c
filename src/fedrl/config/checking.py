"""What a run would refuse, found before it has a folder.

build --check_experiment--> methods, messages, names, extras      at most 0.1 s, which a run need not spend again
run --check_measures--> the numbers behind what is declared       traced once, for the programs as well
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from fedrl.config.coordination import measure_names
from fedrl.config.measures import check_shown
from fedrl.core.environment import HostEnvironment
from fedrl.core.errors import ConfigError
from fedrl.core.reports import NEEDS
from fedrl.engines.aggregation import messages
from fedrl.engines.combinations import check
from fedrl.engines.executors.programs import metric_names
from fedrl.engines.program_cache import shapes
from fedrl.engines.state import iterations
from fedrl.engines.topologies.choices import isolated
from fedrl.server.scheduler import Scheduler

if TYPE_CHECKING:
    from fedrl.config.objects import Experiment


def check_experiment(experiment: Experiment) -> None:
    """Refuse what preparing a method for simulation, or writing down what comes of it, would refuse.

    Raises:
        ConfigError: A value does not fit the others, or an extra is not installed.
        UnsoundError: The parts do not go together.
    """
    if experiment.config.tensorboard:
        check_installed()
    measure_names(experiment.learner, experiment.coordination)
    for method in experiment.methods:
        agents = len(method.local_steps)
        iterations(method.federation, agents, method.local_steps)
        if not method.communicates:  # the others were checked with who coordinates them
            check(method.federation, agents, isolated(), Scheduler(), None)
    first = experiment.methods[0].federation
    if first.stages:
        messages(first, experiment.fleet)  # which traces what they do
    asking = any(NEEDS.get(name) for name in first.reports) or any(stage.reweights for stage in first.stages)
    if asking and not isinstance(experiment.environment, HostEnvironment):
        metric_names(first, shapes(experiment.fleet, skip=1))  # which traces what agents are asked for


def check_measures(experiment: Experiment) -> None:
    """Refuse a measure of which an agent does not show the numbers; of a host environment, they are not known yet.

    Raises:
        UnsoundError: It names the measure, what is missing and what there is.
    """
    if isinstance(experiment.environment, HostEnvironment):
        return
    for method in experiment.methods:
        found = metric_names(method.federation, shapes(method.fleet, skip=1))
        check_shown(method.federation.learner, found)


def check_installed() -> None:
    """Refuse what can't be written.

    Raises:
        ConfigError: The extra is not installed.
    """
    if importlib.util.find_spec("tensorboardX") is None:
        raise ConfigError(
            "tensorboard is true, but tensorboardX is not installed. Run pip install 'fedrl[tensorboard]', or set "
            "tensorboard = false."
        )
