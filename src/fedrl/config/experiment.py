"""The configuration of a whole experiment: the top level of an `experiment.toml`, its baselines and its evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fedrl.config.catalogue import Table
from fedrl.config.federation import FederationConfig
from fedrl.core.environment import AnyEnvironment
from fedrl.core.errors import ConfigError
from fedrl.core.learner import Learner
from fedrl.core.ranges import COUNT, WHOLE, Count, NonNegative, Whole, check_ranges, ranges_of
from fedrl.engines.executors.placement import Placement

RESTARTS = 3
"""How often the round of an agent is repeated with `on_environment_error = "restart"`."""


@dataclass(frozen=True, kw_only=True)
class BaselinesConfig:
    """The baselines, each with the same number of environment steps as the federation.

    Attributes:
        independent: Every agent trains alone, without communication.
        average_once: The parameters of the independent agents, averaged once at the end.
        mixture: The mean policy of the independent agents at the end: pi = (1/K) sum pi_k.
        centralised: One learner on the pooled data of all agents.
    """

    independent: bool = False
    average_once: bool = False
    mixture: bool = False
    centralised: bool = False


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How greedy returns are evaluated.

    Attributes:
        episodes: Greedy episodes per agent.
        every: Rounds between two evaluations during training; with 0, only the final policy is evaluated.
        held_out: Number of further environments, drawn like the fleet, in which no agent trains.
        fine_tune: Local iterations of every agent alone after the last round, before another evaluation; 0 for none.
        film: Whether to film one greedy episode for the report, where the environment can be drawn (needs the extra
            `render`). The runs of a study have no films.
    """

    episodes: Count = 20
    every: Whole = 0
    held_out: Whole = 0
    fine_tune: Whole = 0
    film: bool = True

    def __post_init__(self) -> None:
        check_ranges(ranges_of(EvaluationConfig), vars(self), "evaluation")


@dataclass(frozen=True, kw_only=True)
class InitConfig:
    """What a run starts from instead of random parameters: an earlier run.

    Attributes:
        run: Its run folder, or a `params.safetensors` of one.
        seed: The seed of the earlier run from which all seeds start; by default each starts from the seed of its
            number, or from the first one if there is none.
        agent: The agent of the earlier run whose parameters all agents start from; by default those of the server.
        state: "parameters", or "all": also the memory of optimisers, stages and rules, and every agent's learner.
        sha256: SHA-256 of each file that was read, by its name in the run folder. It is written by the run; files of
            other content are refused.
    """

    run: str
    seed: Whole | None = None
    agent: Whole | None = None
    state: Literal["parameters", "all"] = "parameters"
    sha256: Table = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_ranges(ranges_of(InitConfig), vars(self), "init")
        if self.state == "all" and self.agent is not None:
            raise ConfigError(
                f"init.agent is {self.agent}, and with init.state = 'all' every agent continues from its own state. "
                "Leave init.agent out, or use init.state = 'parameters'."
            )


@dataclass(frozen=True, kw_only=True)
class Config:
    """The configuration of one experiment.

    Attributes:
        name: Name of the experiment.
        environment: The environment, as a table, a name or an object.
        learner: The learning algorithm of every agent, likewise.
        federation: Aggregation, communication and number of agents.
        fleet: How agents' environments differ: for each parameter a number, a list with one entry per agent,
            `{range = [low, high]}`, `{uniform = [low, high]}` or `{grid = [...]}`. Or a list with a table for each
            agent, or a CSV or TOML file: `fedrl.config.fleet_tables`.
        baselines: Methods to compare the federation with.
        evaluation: Greedy evaluation.
        init: An earlier run from which this one starts: a run folder, a file of parameters, or a table such as
            `{run = "runs/x", seed = 0, agent = 2}`.
        rounds: Number of training rounds.
        seeds: Number of seeds (0 to seeds - 1), or the seeds themselves.
        fleet_seed: Seed of the random parameters of the fleet.
        checkpoint_s: Seconds between two checkpoints of a run; 0 writes one every round.
        keep_checkpoints: Whether a complete run keeps its last checkpoints, with which it can be continued for more
            rounds; by default it does, except in a study.
        imports: Modules to import first, whose components a configuration can then name.
        on_environment_error: What a run does if an environment of Gymnasium fails: it raises, hangs, ends its process,
            or returns what it may not. "leave-out": its agent loses the round, as if it had not been selected, and its
            environments are opened anew for the next one. "restart": they are opened anew and the agent's round is
            repeated, at most three times. "stop": the run ends after the round, with a complete folder and the error. A
            run in which the environments of all agents fail in two rounds in a row ends in any case.
        tensorboard: Whether to write TensorBoard events (needs the extra `tensorboard`).
        executor: Where agents train: "process", this one, or "ray", worker processes on one or more machines. Results
            do not depend on it, so a run folder does not have it.
    """

    name: str
    environment: Table | str | AnyEnvironment
    learner: Table | str | Learner
    federation: FederationConfig
    fleet: Table | list[Table] | str = field(default_factory=dict)
    baselines: BaselinesConfig = BaselinesConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    init: str | InitConfig | None = None
    rounds: Count = 100
    seeds: Count | tuple[Whole, ...] = 5
    fleet_seed: Whole = 0
    checkpoint_s: NonNegative = 10.0
    keep_checkpoints: bool | None = None
    imports: tuple[str, ...] = ()
    on_environment_error: Literal["leave-out", "restart", "stop"] = "leave-out"
    tensorboard: bool = False
    executor: Table | str | Placement = "process"

    def __post_init__(self) -> None:
        listed = list(self.seeds) if isinstance(self.seeds, Sequence) and not isinstance(self.seeds, str) else None
        if isinstance(self.init, str | Path):
            object.__setattr__(self, "init", InitConfig(run=str(self.init)))
        check_ranges(ranges_of(Config) | {"seeds": COUNT if listed is None else WHOLE}, vars(self))
        # Results are stored by seed, so a repeated one would overwrite its twin.
        if listed is not None and (not listed or len(set(listed)) < len(listed)):
            raise ConfigError(f"seeds is {listed}. It needs at least one seed, none twice.")

    @property
    def restarts(self) -> int:
        """How often a round or an episode is repeated after a failure of its environment."""
        return RESTARTS if self.on_environment_error == "restart" else 0

    @property
    def seed_list(self) -> list[int]:
        """The seeds themselves."""
        return list(self.seeds) if isinstance(self.seeds, Sequence) else list(range(self.seeds))
