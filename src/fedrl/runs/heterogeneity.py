"""Heterogeneity of the agents of a run: of their updates, in some rounds, and of their environments."""

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
"""Largest size of all agents' transition tables for which environments are compared; it takes about a second."""


def is_measured(number: int, rounds: int) -> bool:
    """Return whether updates are compared in a round: in ten rounds of a run, the last one included."""
    return number * TIMES // rounds > (number - 1) * TIMES // rounds


def hears_all(experiment: Experiment) -> bool:
    """Return whether every agent has an update in every round, without which they can't be compared."""
    return experiment.selection is None and experiment.coordination.clock is None


def begun(simulation: Simulation, run_state: SimulationState) -> Params:
    """Return the parameters of all agents at the start of a round, `[agents, ...]`."""
    return simulation.held(simulation.adopt(run_state))


def measured(begun: Params, ended: Params, rejected: Sequence[int] = ()) -> UpdateDissimilarity | None:
    """Return the dissimilarity of the updates of a round for its record, without rejected ones; None if undefined."""
    found = update_dissimilarity(begun, ended, rejected)
    return {"dispersion": found.dispersion, "cosine": found.cosine} if found and np.isfinite(found).all() else None


def heterogeneity_of(experiment: Experiment, records: Sequence[Mapping[str, Any]]) -> Heterogeneity:
    """Return the heterogeneity of updates over all measured rounds, and that of the environments."""
    seen = [record["heterogeneity"] for record in records if "heterogeneity" in record]
    # The median: dispersion divides by the norm of the mean update, which is close to zero in some rounds.
    found: Heterogeneity = {
        "dispersion": float(np.median([each["dispersion"] for each in seen])) if seen else None,
        "cosine": float(np.mean([each["cosine"] for each in seen])) if seen else None,
    }
    model, gamma = _model(experiment), experiment.learner.gamma
    if model is not None and gamma is not None and gamma < 1.0:  # optimal values exist only for gamma < 1
        transition, reward, value = (float(each.mean()) for each in distances_from_mean(model, float(gamma)))
        found["transition"], found["reward"], found["value"] = transition, reward, value
    return found


def _model(experiment: Experiment) -> TabularParams | None:
    """Return the exact model of the fleet, if it is finite and not too large."""
    if isinstance(experiment.environment, HostEnvironment) or experiment.environment.model is None:
        return None
    # Sizes first: a large model would not fit in memory, and its distances take long.
    whole = jax.eval_shape(lambda fleet: model_of(experiment.environment, fleet), experiment.fleet)
    return model_of(experiment.environment, experiment.fleet) if whole.transition.size <= LARGEST else None
