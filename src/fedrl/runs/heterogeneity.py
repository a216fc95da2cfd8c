"""How different the agents of a run are: by their updates, measured now and then, and by their environments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from fedrl.config.objects import Experiment
from fedrl.core.environment import HostEnvironment
from fedrl.core.types import Params
from fedrl.engines.dissimilarity import update_dissimilarity
from fedrl.engines.state import Simulation, SimulationState
from fedrl.environments import TabularParams, distances_from_mean, model_of
from fedrl.records import Heterogeneity, UpdateDissimilarity

TIMES = 10
LARGEST = 2_000_000
"""Entries of all agents' transitions up to which their environments are compared, in a second or so."""


def is_measured(number: int, rounds: int) -> bool:
    """Whether updates are compared in a round: ten times in a run, and in its last round."""
    return number * TIMES // rounds > (number - 1) * TIMES // rounds


def hears_all(experiment: Experiment) -> bool:
    """Whether every agent has an update to compare in every round."""
    return experiment.selection is None and experiment.coordination.clock is None


def begun(simulation: Simulation, run_state: SimulationState) -> Params:
    """Where agents begin a round, to be kept until it is over."""
    return simulation.held(simulation.adopt(run_state))


def measured(begun: Params, ended: Params, rejected: Sequence[int] = ()) -> UpdateDissimilarity | None:
    """How much the updates of a round differ, for its record; those that were refused are none."""
    found = update_dissimilarity(begun, ended, rejected)
    return {"dispersion": found.dispersion, "cosine": found.cosine} if found and np.isfinite(found).all() else None


def heterogeneity_of(experiment: Experiment, records: Sequence[Mapping[str, Any]]) -> Heterogeneity:
    """The summary of all rounds in which it was measured, and of the environments."""
    seen = [record["heterogeneity"] for record in records if "heterogeneity" in record]
    found: Heterogeneity = {
        "dispersion": float(np.median([each["dispersion"] for each in seen])) if seen else None,
        "cosine": float(np.mean([each["cosine"] for each in seen])) if seen else None,
    }
    model, gamma = _model(experiment), experiment.learner.gamma
    if model is not None and gamma is not None and gamma < 1.0:  # values need it
        transition, reward, value = (float(each.mean()) for each in distances_from_mean(model, gamma))
        found["transition"], found["reward"], found["value"] = transition, reward, value
    return found


def _model(experiment: Experiment) -> TabularParams | None:
    """The exact model of the fleet, if it is finite and not too large."""
    if isinstance(experiment.environment, HostEnvironment) or experiment.environment.model is None:
        return None
    whole = jax.eval_shape(lambda fleet: model_of(experiment.environment, fleet), experiment.fleet)
    return model_of(experiment.environment, experiment.fleet) if whole.transition.size <= LARGEST else None
