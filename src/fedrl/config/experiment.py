"""A whole experiment: the top of an `experiment.toml`, and what its run is compared with and measured by."""

from __future__ import annotations

from dataclasses import dataclass, field

from fedrl.config.catalogue import Table
from fedrl.config.coerce import at_least
from fedrl.config.federation import FederationConfig
from fedrl.core.environment import Environment
from fedrl.core.errors import ConfigError
from fedrl.core.learner import Learner


@dataclass(frozen=True, kw_only=True)
class BaselinesConfig:
    """What the federation is compared with, at the same number of environment steps.

    Attributes:
        independent: Every agent alone, nothing exchanged.
        average_once: The parameters of the independent agents, averaged once, at the end.
        mixture: The policies of the independent agents, all acting together at the end: pi = (1/K) sum pi_k.
        centralised: One learner with the data of all agents.
    """

    independent: bool = False
    average_once: bool = False
    mixture: bool = False
    centralised: bool = False


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Greedy returns, the measure of the outcome.

    Attributes:
        episodes: Per agent.
        every: Rounds between evaluations while training; 0 for none but the one at the end.
        held_out: How many environments no agent trained in are evaluated, drawn as the fleet is.
        fine_tune: Local iterations that every agent goes on alone after the last round, to be evaluated once more.
    """

    episodes: int = 20
    every: int = 0
    held_out: int = 0
    fine_tune: int = 0

    def __post_init__(self) -> None:
        at_least(1, "evaluation.episodes", self.episodes)
        at_least(0, "evaluation.every", self.every)
        at_least(0, "evaluation.held_out", self.held_out)
        at_least(0, "evaluation.fine_tune", self.fine_tune)


@dataclass(frozen=True, kw_only=True)
class Config:
    """One experiment.

    Attributes:
        name: Of the experiment.
        environment: Where agents learn.
        learner: What every agent runs.
        federation: How they learn together.
        fleet: How agents' environments differ: for each parameter a number, a list with one entry per agent,
            `{range = [low, high]}`, `{uniform = [low, high]}` or `{grid = [...]}`.
        baselines: What to compare with.
        evaluation: How to measure.
        rounds: Of training.
        seeds: How many, or which.
        fleet_seed: Draws the random parameters of the fleet.
        checkpoint_s: Seconds between two checkpoints of a run; 0 writes one every round.
        tensorboard: Whether to write TensorBoard events (needs the extra).
    """

    name: str
    environment: Table | str | Environment
    learner: Table | str | Learner
    federation: FederationConfig
    fleet: Table = field(default_factory=dict)
    baselines: BaselinesConfig = BaselinesConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    rounds: int = 100
    seeds: int | tuple[int, ...] = 5
    fleet_seed: int = 0
    checkpoint_s: float = 10.0
    tensorboard: bool = False

    def __post_init__(self) -> None:
        at_least(1, "rounds", self.rounds)
        at_least(0, "fleet_seed", self.fleet_seed)
        at_least(0, "checkpoint_s", self.checkpoint_s)
        if isinstance(self.seeds, int):
            at_least(1, "seeds", self.seeds)
        elif not self.seeds or min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"seeds is {list(self.seeds)}. It needs at least one seed, none negative, none twice.")

    @property
    def seed_list(self) -> list[int]:
        """The seeds themselves."""
        return list(range(self.seeds)) if isinstance(self.seeds, int) else list(self.seeds)
