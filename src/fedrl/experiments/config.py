"""What an experiment is, in plain values: the dataclasses mirror the sections of an `experiment.toml`.

    experiment.toml --read--> dict --override (--set)--> dict --parse--> Config

Components are still tables here, `{name = "ppo", clip = 0.2}`; `fedrl.experiments.build` makes them objects and
fills in the defaults, which live with the constructors. In Python, a `Config` takes the objects themselves, too.
"""

from __future__ import annotations

import dataclasses
import inspect
import tomllib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optax
import tomli_w

from fedrl.core.aggregator import Aggregator
from fedrl.core.component import call_of
from fedrl.core.environment import Environment
from fedrl.core.errors import ConfigError, nearest
from fedrl.core.federation import federate
from fedrl.core.learner import Learner
from fedrl.core.stage import Stage
from fedrl.engines.gossip import gossip
from fedrl.experiments.catalogue import KINDS, Table, table_of
from fedrl.experiments.overrides import override
from fedrl.experiments.values import fit
from fedrl.selection.selection import Selection, Workload
from fedrl.topologies.graph import Graph
from fedrl.topologies.rules import Rule
from fedrl.topologies.trees import Tree
from fedrl.topologies.weights import Mixing

_FEDERATE, _GOSSIP = (
    {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}
    for function in (federate, gossip)
)


def _at_least(lowest: int, name: str, value: float) -> None:
    if value < lowest:
        raise ConfigError(f"{name} is {value}. It is at least {lowest}.")


@dataclass(frozen=True, kw_only=True)
class FederationConfig:
    """How agents learn together.

    Attributes:
        agents: How many.
        local_steps: Local iterations between two exchanges: one number for all, one per agent, or a schedule such as
            `{name = "ramp", first = 8, last = 1, rounds = 50}`.
        selection: Who is asked in a round; everybody by default.
        aggregator: The rule that merges updates.
        stages: What an update passes on its way, in order.
        server_optimizer: What the server does with the merged update; FedAvg by default.
        payload: "delta" or "gradient".
        hierarchy: A tree of servers instead of a single one.
        topology: Who hears whom; agents then meet their neighbours only, and there is no server.
        mixing: How much weight an agent gives to what it hears; by default what suits the rule.
        gossip: The rule by which neighbours meet; averaging by default.
        consensus_steps: Messages over every edge in a round.
    """

    agents: int
    local_steps: int | tuple[int, ...] | Table | Workload = _FEDERATE["local_steps"]
    selection: Table | str | Selection | None = None
    aggregator: Table | str | Aggregator = "mean"
    stages: Sequence[Table | str | Stage] = ()
    server_optimizer: Table | str | optax.GradientTransformation | None = _FEDERATE["server_opt"]
    payload: str = _FEDERATE["payload"]
    hierarchy: Table | str | Tree | None = None
    topology: Table | str | Graph | None = None
    mixing: Table | str | Mixing | None = None
    gossip: Table | str | Rule | None = None
    consensus_steps: int = _GOSSIP["consensus_steps"]

    def __post_init__(self) -> None:
        _at_least(1, "federation.agents", self.agents)
        _at_least(1, "federation.consensus_steps", self.consensus_steps)
        self._check_who_coordinates()
        if isinstance(self.local_steps, int):
            _at_least(1, "federation.local_steps", self.local_steps)
        elif isinstance(self.local_steps, tuple | list) and (
            len(self.local_steps) != self.agents or min(self.local_steps) < 1
        ):
            raise ConfigError(
                f"federation.local_steps is {list(self.local_steps)}. It needs one number per agent "
                f"({self.agents}), each at least 1."
            )

    def _check_who_coordinates(self) -> None:
        """Refuse keys that have no meaning beside each other: a server's without a server, neighbours' with one."""
        planned = self.selection is not None or isinstance(self.local_steps, Mapping | Workload)
        if planned and (self.topology is not None or self.hierarchy is not None):
            raise ConfigError(
                "federation.selection, or a schedule as federation.local_steps, is decided by a single server, and "
                "there is none. Leave it out, or leave federation.topology and federation.hierarchy out."
            )
        if self.topology is None:
            misplaced, lacking = ["mixing", "gossip", "consensus_steps"], "is about neighbours, and there are none"
            cure = "Leave it out, or say who hears whom: federation.topology = 'ring'."
        else:
            misplaced, lacking = (
                ["hierarchy", "stages", "server_optimizer", "payload"],
                "needs a server, and there is none",
            )
            cure = "Leave it out, or leave federation.topology out."
        for entry in dataclasses.fields(self):
            value = getattr(self, entry.name)
            if entry.name in misplaced and value and value != entry.default:
                raise ConfigError(f"federation.{entry.name} is {value!r}. It {lacking}. {cure}")


@dataclass(frozen=True, kw_only=True)
class BaselinesConfig:
    """What the federation is compared with, at the same number of environment steps.

    Attributes:
        independent: Every agent alone, nothing exchanged.
        average_once: The parameters of the independent agents, averaged once, at the end.
        centralised: One learner with the data of all agents.
    """

    independent: bool = False
    average_once: bool = False
    centralised: bool = False


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Greedy returns, the measure of the outcome.

    Attributes:
        episodes: Per agent.
        every: Rounds between evaluations while training; 0 for none but the one at the end.
        held_out: How many environments no agent trained in are evaluated, drawn as the fleet is.
    """

    episodes: int = 20
    every: int = 0
    held_out: int = 0

    def __post_init__(self) -> None:
        _at_least(1, "evaluation.episodes", self.episodes)
        _at_least(0, "evaluation.every", self.every)
        _at_least(0, "evaluation.held_out", self.held_out)


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
        _at_least(1, "rounds", self.rounds)
        _at_least(0, "fleet_seed", self.fleet_seed)
        _at_least(0, "checkpoint_s", self.checkpoint_s)
        if isinstance(self.seeds, int):
            _at_least(1, "seeds", self.seeds)
        elif not self.seeds or min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"seeds is {list(self.seeds)}. It needs at least one seed, none negative, none twice.")

    @property
    def seed_list(self) -> list[int]:
        """The seeds themselves."""
        return list(range(self.seeds)) if isinstance(self.seeds, int) else list(self.seeds)


def load(source: Path | str | Mapping[str, Any] | Config, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration from a file, a dictionary or as it is, then apply overrides such as "learner.clip=0.1".

    Raises:
        ConfigError: Something is wrong; it names the key, the value and what is allowed.
    """
    data = tables_of(source)
    for text in overrides:
        override(data, text)
    return parse(data)


def tables_of(source: Path | str | Mapping[str, Any] | Config) -> dict[str, Any]:
    """A configuration before it is checked: tables and plain values of its own.

    Raises:
        ConfigError: The file does not exist, or is no TOML.
    """
    if isinstance(source, Config):
        return as_dict(source)
    if isinstance(source, Mapping):
        return typing.cast(dict[str, Any], _tables(source))
    return read(Path(source))


def read(path: Path) -> dict[str, Any]:
    """Read a TOML file; its name is the experiment's if it has none."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = nearest(path.name, (p.name for p in path.parent.glob("*.toml"))) if path.parent.is_dir() else ""
        raise ConfigError(f"{path} does not exist. {near}".rstrip()) from None
    except (OSError, UnicodeDecodeError) as fault:
        raise ConfigError(f"{path} can't be read ({fault}). It needs to be a TOML file.") from None
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as fault:
        raise ConfigError(f"{path} is not valid TOML: {fault}.") from None
    return {"name": path.stem, **data}


def parse(data: Mapping[str, Any]) -> Config:
    """Check the keys and the types of a dictionary and make a `Config` of it.

    Raises:
        ConfigError: A key is unknown or missing, or a value is of the wrong type or out of range.
    """
    return typing.cast(Config, _section(Config, data, ""))


def as_dict(config: Config) -> dict[str, Any]:
    """The configuration as TOML has it: no None, lists for tuples."""
    return typing.cast(dict[str, Any], _tables(config))


def dump(config: Config) -> str:
    """The configuration as the text of a TOML file."""
    return tomli_w.dumps(as_dict(config))


def _section(kind: type, data: Any, where: str) -> Any:
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where} is {data!r}. It needs to be a table.")
    known = {entry.name: entry for entry in dataclasses.fields(kind)}
    types = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for key, value in data.items():
        full = f"{where}.{key}" if where else key
        if key not in known:
            place = f"the section [{where}]" if where else "an experiment"
            shown = "" if isinstance(value, Mapping) else f" is {value!r}, but it"
            raise ConfigError(f"{full}{shown} is not a key of {place}. {nearest(key, known)}")
        section = dataclasses.is_dataclass(types[key])
        values[key] = _section(types[key], value, full) if section else fit(value, types[key], full, _no_object)
    for name, entry in known.items():
        if name not in values and entry.default is entry.default_factory is dataclasses.MISSING:
            full = f"{where}.{name}" if where else name
            raise ConfigError(f"{full} is missing. Every experiment needs it.")
    return kind(**values)


def _no_object(value: Any, annotation: Any, where: str) -> Any:
    """Objects have become tables before they are checked, so none fits the type of a component."""
    if isinstance(annotation, type) and annotation in KINDS:
        raise ConfigError(f"{where} is {value!r}. It needs to be a table.")
    return NotImplemented


def _tables(value: Any) -> Any:
    """Plain TOML values: components become tables, tuples lists, and None disappears."""
    if call_of(value) is not None:
        return table_of(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _tables({entry.name: getattr(value, entry.name) for entry in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        return {str(key): _tables(item) for key, item in value.items() if item is not None}
    if isinstance(value, tuple | list):
        return [_tables(item) for item in value]
    return value
