"""The metadata of params.safetensors, with which a policy can be loaded from the file alone.

    metadata {"fedrl": JSON of the fields below}    arrays seed0/..., and common/seed0/... beside agents of their own

All metadata are one entry, because safetensors does not keep the order of several entries, and equal runs write equal
bytes. Files of earlier versions have no metadata; they are read with the configuration of their run folder.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors

from fedrl.config import catalogue
from fedrl.config.coordination import all_act_alike
from fedrl.config.loading import as_dict
from fedrl.config.objects import Experiment
from fedrl.core.component import CATALOGUE
from fedrl.core.environment import AnyEnvironment, Box, Environment, Overview, draw_nothing, first
from fedrl.core.errors import ConfigError, RunError
from fedrl.core.learner import Learner
from fedrl.core.players import players_of
from fedrl.core.types import PyTree
from fedrl.core.versions import __version__
from fedrl.records import folder
from fedrl.records.files import reading
from fedrl.runs.spaces import GymSpaces, gymnasium_spaces, learned_spaces, space_of, space_table

KEY, FORMAT, COMMON = "fedrl", 1, "common/"
APART = ("name", "seeds", "checkpoint_s", "keep_checkpoints", "tensorboard", "baselines", "evaluation")
"""Keys of a configuration on which the parameters of a seed do not depend."""


class PolicyFacts(NamedTuple):
    """The metadata of a file of parameters.

    Attributes:
        spaces: The Gymnasium spaces of observations and actions.
        learner: The table of the learner, with all parameters.
        agents: The number of agents.
        stacked: Whether each agent has its own parameters.
        max_steps: The largest number of steps of an episode.
        version: The version of fedrl that wrote the file.
        config_sha256: The digest of the part of the configuration on which training depends.
        imports: Modules that define components of the learner.
        players: The number of players of the world, all of whom the policy acts for; None for a single agent.
        overview: The shape of the world's overview, which a centralised critic reads; None if it has none.
    """

    spaces: GymSpaces
    learner: Mapping[str, Any]
    agents: int
    stacked: bool
    max_steps: int
    version: str = __version__
    config_sha256: str = ""
    imports: Sequence[str] = ()
    players: int | None = None
    overview: Sequence[int] | None = None


def facts_of(experiment: Experiment) -> PolicyFacts:
    """Return the metadata of the parameters of an experiment."""
    table = experiment.config.learner
    assert isinstance(table, Mapping)
    return PolicyFacts(
        gymnasium_spaces(experiment.environment),
        table,
        experiment.config.federation.agents,
        not all_act_alike(experiment.learner, experiment.coordination),
        experiment.environment.max_steps,
        __version__,
        digest_of(as_dict(experiment.config)),
        list(experiment.config.imports),
        players_of(experiment.environment),
        _overview_shape(experiment.environment),
    )


def _overview_shape(environment: AnyEnvironment) -> Sequence[int] | None:
    if environment.overview is None:
        return None
    return list(environment.overview.space.shape)


def digest_of(config: Mapping[str, Any]) -> str:
    """Return the SHA-256, in hexadecimal, of the part of a configuration on which training depends.

    Equal runs write equal files, with any name and any frequency of checkpoints and evaluations.
    """
    trained = {name: value for name, value in config.items() if name not in APART}
    return hashlib.sha256(json.dumps(trained, sort_keys=True).encode()).hexdigest()


def metadata_of(facts: PolicyFacts) -> dict[str, str]:
    """Return the facts as metadata of a safetensors file."""
    observation, action = map(space_table, facts.spaces)
    of_worlds = {name for name in ("players", "overview") if getattr(facts, name) is None}
    rest = {name: value for name, value in facts._asdict().items() if name not in {"spaces", *of_worlds}}
    text = {"format": FORMAT, "observation": observation, "action": action, **rest}
    return {KEY: json.dumps(text, sort_keys=True)}


class PolicyFile:
    """A file of parameters, from which single arrays are read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._reading(), safetensors.safe_open(path, "numpy") as file:
            self.names: Sequence[str] = sorted(file.keys())
            self.metadata: Mapping[str, str] = file.metadata() or {}

    @property
    def seeds(self) -> list[int]:
        """The seeds whose parameters it contains."""
        found = (re.match(r"seed(\d+)/", name) for name in self.names)
        return sorted({int(match[1]) for match in found if match})

    def has_common(self, seed: int) -> bool:
        """Return whether it contains the policy of the server beside those of the agents."""
        return any(name.startswith(f"{COMMON}seed{seed}/") for name in self.names)

    def arrays(self, prefix: str, agent: int | None = None) -> dict[str, np.ndarray]:
        """Return the arrays whose names begin with a prefix; the row of one agent, if they have an agent axis.

        Raises:
            RunError: The file is damaged.
        """
        with self._reading(), safetensors.safe_open(self.path, "numpy") as file:
            chosen = [name for name in self.names if name.startswith(prefix)]
            if agent is None:
                return {name: file.get_tensor(name) for name in chosen}
            return {name: file.get_slice(name)[agent : agent + 1][0] for name in chosen}

    def facts(self) -> PolicyFacts | None:
        """Return the metadata; None for a file of an earlier version, which has none.

        Raises:
            RunError: The metadata can't be read, or have the format of a later version.
        """
        if KEY not in self.metadata:
            return None
        with self._reading():
            told = json.loads(self.metadata[KEY])
            form = told["format"]
        if form != FORMAT:
            raise RunError(
                f"{self.path} is of format {form}, and this fedrl reads format {FORMAT}: it was written by fedrl "
                f"{told.get('version')}. Install that version."
            )
        with self._reading():
            spaces = GymSpaces(space_of(told["observation"]), space_of(told["action"]))
            rest = {"imports": [], "players": None, "overview": None, **told}
            return PolicyFacts(spaces, *(rest[name] for name in PolicyFacts._fields[1:]))

    def _reading(self) -> Any:
        return reading(self.path, "Copy it again, or repeat the run.")


def open_policy(path: Path) -> PolicyFile:
    """Open a file of parameters.

    Raises:
        RunError: It does not exist, or is damaged.
    """
    try:
        return PolicyFile(path)
    except FileNotFoundError:
        raise RunError(
            f"{path} does not exist. Give the folder that fedrl run printed, or the {folder.PARAMS} in it; a run that "
            "was interrupted has one when it is resumed: fedrl run --resume."
        ) from None


def seed_in(file: PolicyFile, seed: int | None) -> int:
    """Return the seed, or the first one of the file.

    Raises:
        ConfigError: The file has no such seed.
        RunError: It has none at all.
    """
    if not file.seeds:
        raise RunError(
            f"{file.path} holds no parameters: no seed got through a round. Continue it with fedrl run --resume."
        )
    if seed is not None and seed not in file.seeds:
        raise ConfigError(
            f"seed is {seed}, and {file.path} holds seeds {', '.join(map(str, file.seeds))}. Choose one of them."
        )
    return file.seeds[0] if seed is None else seed


def whose(file: PolicyFile, facts: PolicyFacts, seed: int, agent: int | None) -> tuple[str, int | None]:
    """Return the prefix of the names of the parameters, and the row of the agent.

    Raises:
        ConfigError: There is no such agent, or each has its own policy and none is chosen.
    """
    agents = f"agents 0 to {facts.agents - 1}"
    if agent is not None and not 0 <= agent < facts.agents:
        raise ConfigError(f"agent is {agent}, and the run has {agents}. Choose one of them.")
    if not facts.stacked:
        return f"seed{seed}", None
    if agent is not None:
        return f"seed{seed}", agent
    if file.has_common(seed):
        return f"{COMMON}seed{seed}", None
    raise ConfigError(
        f"agent is not given, and {agents} of {file.path} have a policy each, with none for all of them. Choose one "
        "with agent."
    )


class _Unknown(NamedTuple):
    """Parameters of an environment that is not opened, for learners that check whether it has tables."""

    transition: Any = np.zeros(1, np.float32)
    reward: Any = np.zeros(1, np.float32)


def learner_of(facts: PolicyFacts) -> Learner:
    """Build the acting learner in an environment that has only spaces; none is opened.

    An optimiser of one's own is not needed to act, so an unknown one is left out.

    Raises:
        ConfigError: Its table has an unknown name or key.
    """
    spaces, players = learned_spaces(facts.spaces), facts.players

    def reset(noise: PyTree, params: PyTree) -> tuple[Any, PyTree]:
        del noise, params
        shape = spaces.observation.shape if players is None else (*spaces.observation.shape, players)
        return first(jnp.zeros(shape, spaces.observation.dtype), players), ()

    def step(noise: PyTree, params: PyTree, state: PyTree, action: Any) -> tuple[Any, PyTree]:
        raise RunError(
            "This policy was loaded without the environment of its run, which can't be stepped. Load the run folder, "
            "or give an environment."
        )

    # Acting needs no overview, but the parameters of a critic have its shape.
    shape = None if facts.overview is None else tuple(facts.overview)
    above = None if shape is None else Overview(Box(shape), lambda params, state: jnp.zeros(shape))
    environment = Environment(
        _Unknown(), spaces, draw_nothing, draw_nothing, reset, step, facts.max_steps, players=players, overview=above
    )
    catalogue.fill()
    table = _without_unknown_optimizers(facts.learner)
    built = catalogue.build("learner", table, "learner", {"environment": environment})
    assert isinstance(built, Learner)
    return replace(built)  # without its call, by which learners in environments of other spaces would be equal


def _without_unknown_optimizers(table: Any) -> Any:
    if isinstance(table, list):
        return [_without_unknown_optimizers(entry) for entry in table]
    if not isinstance(table, Mapping):
        return table
    kept = {key: value for key, value in table.items() if key != "optimizer" or _is_known_optimizer(value)}
    return {key: _without_unknown_optimizers(value) for key, value in kept.items()}


def _is_known_optimizer(table: Any) -> bool:
    if isinstance(table, list):
        return all(map(_is_known_optimizer, table))
    if not isinstance(table, Mapping):
        return ("optimizer", table) in CATALOGUE
    return ("optimizer", table.get("name")) in CATALOGUE and _is_known_optimizer(table.get("optimizers", []))
