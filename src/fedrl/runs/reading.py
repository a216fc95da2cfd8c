"""Read a trained run from its folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import jax

from fedrl.config import load
from fedrl.config.build import build
from fedrl.config.coordination import all_act_alike, shapes_of
from fedrl.config.objects import Experiment
from fedrl.core.errors import RunError
from fedrl.core.imports import importing
from fedrl.core.types import Params
from fedrl.records import checkpoint, folder


def experiment_of(config: Path, trust: bool = False) -> Experiment:
    """Build the experiment of the configuration in a run folder; without trust, nothing that it names is imported.

    Raises:
        ConfigError: The configuration is wrong, or names code outside fedrl and is not trusted.
    """
    with importing(trust):
        return build(load(config))


@dataclass(frozen=True)
class Trained:
    """The experiment of a run folder and the final parameters of its agents.

    Attributes:
        experiment: The experiment, built from `config.toml`.
        params: By seed, parameters of one policy for all agents, or of one per agent.
        stacked: Whether every leaf has a leading agent axis.
    """

    experiment: Experiment
    params: dict[int, Params]
    stacked: bool = False


def trained(path: Path, trust: bool = False) -> Trained:
    """Return the experiment and the parameters of a run folder.

    Args:
        path: The run folder.
        trust: Whether to import what its configuration names.

    Raises:
        RunError: It is no run folder, it has no parameters, or they do not fit the experiment.
        ConfigError: Its configuration names code outside fedrl, and it is not trusted.
    """
    place = folder.open_folder(path)
    experiment = experiment_of(place.path / folder.CONFIG, trust)
    arrays = place.params()
    stacked = not all_act_alike(experiment.learner, experiment.coordination)
    like = shapes_of(experiment.learner, acting=True)
    if stacked:
        agents = experiment.config.federation.agents
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((agents, *leaf.shape), leaf.dtype), like)
    # An interrupted run has the parameters of some seeds only.
    seeds = [s for s in experiment.config.seed_list if any(name.startswith(f"seed{s}/") for name in arrays)]
    if not seeds:
        raise RunError(f"{path} has no parameters: no seed completed a round. Continue it with fedrl run --resume.")
    return Trained(experiment, {seed: checkpoint.unnamed(arrays, f"seed{seed}", like) for seed in seeds}, stacked)
