"""A trained policy, loaded from a run folder or its params.safetensors.

    run folder --load--> TrainedPolicy --predict--> actions
                                       --evaluate-> returns and lengths
                                       --render---> a film
                                       --export---> a file for NumPy, PyTorch or ONNX

The learner is built from the catalogue, and the environment is opened only by `evaluate`, so loading a policy imports
and executes nothing that its metadata name.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np

from fedrl.config.coordination import shapes_of
from fedrl.config.loading import read
from fedrl.config.objects import Experiment
from fedrl.core.checks import check_positive
from fedrl.core.errors import ConfigError, FedrlError, RunError
from fedrl.core.imports import imported, importing
from fedrl.core.keys import Stream, keys_of, stream_key
from fedrl.core.learner import Learner
from fedrl.core.types import Params, PyTree
from fedrl.learners.parts.memory import action_in, shown
from fedrl.records import checkpoint, folder
from fedrl.runs.acting import columns, cpu, first_key, greedy, probabilities, sampling
from fedrl.runs.export import Exported, Reference, export_policy
from fedrl.runs.film import Film
from fedrl.runs.policy_evaluation import PolicyEvaluation, check_companions, given_environment, of_run, outside
from fedrl.runs.policy_file import PolicyFacts, PolicyFile, digest_of, facts_of, learner_of, open_policy, seed_in, whose
from fedrl.runs.reading import experiment_of
from fedrl.runs.rendering import Actor, render
from fedrl.runs.spaces import (
    GymAction,
    GymSpace,
    GymSpaces,
    actions_of,
    batched,
    check_alike,
    gymnasium_spaces,
    learned_spaces,
)


@dataclass(frozen=True, eq=False)
class TrainedPolicy:
    """The policy of one seed of a run, after its last round.

    Attributes:
        observation_space: The Gymnasium space of observations.
        action_space: The Gymnasium space of actions.
        seed: The seed of the run.
        agent: The agent that has this policy, or in whose environment it is evaluated; None for all agents.
        facts: The metadata of the file: its learner, the number of agents, the version of fedrl.
        learner: The learner whose `act` chooses actions.
        params: The acting parameters.
        folder: The run folder, if it is known.
        trust: Whether the environment of the run may be one that its configuration names, outside fedrl.
    """

    observation_space: GymSpace
    action_space: GymAction
    seed: int
    agent: int | None
    facts: PolicyFacts = field(repr=False)
    learner: Learner = field(repr=False)
    params: Params = field(repr=False)
    folder: Path | None = field(repr=False, default=None)
    trust: bool = field(repr=False, default=False)

    def predict(self, observation: Any, deterministic: bool = True, seed: int | None = None) -> Any:
        """Return the action for one observation, or the actions for a batch, in the form of Gymnasium.

        Discrete actions are whole numbers, an int for one observation; continuous ones are clipped to their bounds.
        Of several choices at once, the action is an element of `action_space`, such as a dictionary; for a batch, each
        array in it has the batch axis in front.
        The result is a function of the arguments, unless an action is sampled without a seed.

        Args:
            observation: An element of `observation_space`, or a batch with a leading batch axis.
            deterministic: Whether to return the greedy action; otherwise the action is sampled.
            seed: The seed of sampled actions; None for a new seed at each call.

        Raises:
            ConfigError: The observation is not in the observation space, or the players of a world have parameters of
                their own.
        """
        self._check_anyone()
        if self.learner.memory:
            raise ConfigError(
                f"This policy has a memory of {self.learner.memory} numbers, and one observation does not tell what "
                "came before. Call act = policy.episode() at the beginning of an episode and act(observation) in each "
                "step."
            )
        batch, single = batched(self.observation_space, observation)
        chosen = self._chosen(batch, deterministic, seed)
        return actions_of(self.action_space, chosen, single)

    def episode(self, deterministic: bool = True, seed: int | None = None) -> Callable[[Any], Any]:
        """Return the function that acts in one episode, step after step; a recurrent policy remembers within it.

        It takes an observation, or a batch of those of episodes side by side, and returns what `predict` would. It
        raises `ConfigError` where a batch of a recurrent policy has another number of observations than the first one.

        Args:
            deterministic: Whether actions are greedy; otherwise they are sampled.
            seed: The seed of sampled actions; None for new ones.

        Raises:
            ConfigError: The players of a world have parameters of their own.
        """
        self._check_anyone()
        seeds = np.random.default_rng(seed)
        drawn = (lambda: None) if deterministic else (lambda: int(seeds.integers(2**31)))
        if not self.learner.memory:
            return lambda observation: self.predict(observation, deterministic, drawn())
        space, size = learned_spaces(self._spaces), self.learner.memory
        kept: list[np.ndarray] = []

        def act(observation: Any) -> Any:
            batch, single = batched(self.observation_space, observation)
            memory = kept[0] if kept else np.zeros((len(batch), size), np.float32)
            if len(memory) != len(batch):
                raise ConfigError(
                    f"{len(batch)} observations came, and the policy remembers {len(memory)} episodes: each memory is "
                    "that of one of them. Give all in each step, or call policy.episode() for new ones."
                )
            seen = np.asarray(
                shown(space.observation, jnp.moveaxis(jnp.asarray(batch), 0, -1), memory.T, float(not kept))
            )
            chosen = self._chosen(seen.T, deterministic, drawn())
            kept[:] = [chosen[:, chosen.shape[1] - size :]]
            own = action_in(space.action, jnp.asarray(chosen.T))
            return actions_of(self.action_space, np.moveaxis(np.asarray(own), -1, 0), single)

        return act

    def evaluate(self, environment: Any = None, episodes: int = 100, seed: int = 0) -> PolicyEvaluation:
        """Play complete episodes with the greedy policy.

        Args:
            environment: A Gymnasium environment, its id, or a fedrl environment. By default the environments of the
                run: of the agent that was given to `load`, else of all agents in turn, episode i with agent i modulo
                their number.
            episodes: The number of episodes.
            seed: The seed of first states and of all other random numbers of the environment.

        Raises:
            ConfigError: The spaces of the environment do not fit the policy.
            RunError: No environment is given, and the run folder is not known.
        """
        check_positive(episodes=episodes)
        if environment is None:
            return of_run(self._experiment(), self.params, self.agent, episodes, seed)
        return outside(
            given_environment(environment), self.learner, self.params, self.episode, self._spaces, episodes, seed
        )

    def render(self, path: Path | str, environment: Any = None, seed: int = 0) -> Film:
        """Film one greedy episode: the first one of `evaluate` with the same seed and environment.

        Args:
            path: The path of the film, which ends with .gif (extra `render`) or .mp4 (extra `mp4`).
            environment: A Gymnasium environment with render_mode "rgb_array", its id, or a fedrl environment. By
                default the environment of the agent that was given to `load`, else of agent 0.
            seed: The seed of the first state and of all other random numbers of the environment.

        Returns:
            The path, the return and the number of steps.

        Raises:
            ConfigError: The environment does not fit the policy or can't be drawn, or a package is missing.
            RunError: No environment is given and the run folder is not known, or the film can't be written.
        """
        if environment is None:
            experiment = self._experiment()
            check_companions(experiment, self.agent)
            setting = setting_of(experiment, self.agent or 0)
            return render(self.actor, experiment.environment, setting, seed, Path(path))
        environment = given_environment(environment)
        setting = None
        if not isinstance(environment, gym.Env):
            check_alike(self._spaces, gymnasium_spaces(environment), repr(environment))
            setting = environment.params
        return render(self.actor, environment, setting, seed, Path(path))

    @property
    def actor(self) -> Actor:
        """The policy as what acts in a film."""
        return Actor(self.learner, self.params, self.predict if self.learner.acts_for else self.episode(), self._spaces)

    def export(self, path: Path | str, to: str | None = None) -> Exported:
        """Write the policy to a file that runs without fedrl, and compare it with `predict` on 1,000 observations.

        Args:
            path: The path of the file; an existing file is replaced.
            to: "numpy": one Python file that needs NumPy alone (.py). "torch": an exported program of PyTorch (.pt2).
                "onnx": an ONNX model (.onnx). By default, the suffix of the path decides.

        Returns:
            The path, and the largest difference of the file's outputs from those of fedrl.

        Raises:
            ConfigError: The form is unknown, a package is missing, or the network is user-defined and can't be
                converted: to ONNX alone (extra `jax2onnx`), and with operations that ONNX has.
            RunError: The file can't be written, or its outputs differ from those of the policy.
        """
        self._check_anyone()
        if self.learner.memory:
            raise ConfigError(
                f"This policy has a memory of {self.learner.memory} numbers, and an exported policy is a function of "
                "one observation. Act with policy.episode(), or train a network without a memory."
            )
        who = {"seed": self.seed, "agent": self.agent, "fedrl": self.facts.version}
        reference = Reference(self._spaces, self._outputs, self.predict, self._traced)
        return export_policy(self.facts.learner, self.params, reference, who, Path(path), to)

    @property
    def _spaces(self) -> GymSpaces:
        return GymSpaces(self.observation_space, self.action_space)

    def _check_anyone(self) -> None:
        """Refuse a policy that has to know whose observation it is given.

        Raises:
            ConfigError: Each player of the world has parameters of its own.
        """
        if self.learner.acts_for is not None:
            raise ConfigError(
                f"This policy has parameters for each of {self.learner.acts_for} players, and an observation does not "
                "say whose it is. Use evaluate or render, which play whole worlds."
            )

    def _chosen(self, batch: np.ndarray, deterministic: bool, seed: int | None) -> np.ndarray:
        """Return the learner's actions before they are clipped, `[batch, *features]`."""
        if deterministic:
            return columns(greedy(self.learner), first_key(), self.params, batch)
        key = stream_key(keys_of(secrets.randbits(64) if seed is None else seed), Stream.ACTING)
        return columns(sampling(self.learner), key, self.params, batch)

    def _outputs(self, batch: np.ndarray) -> np.ndarray:
        """Return the outputs by which exports are compared: probabilities of discrete actions, or unclipped actions."""
        if self.learner.probabilities is None:
            return self._chosen(batch, True, None)
        return columns(probabilities(self.learner), first_key(), self.params, batch)

    def _traced(self, batch: jax.Array) -> jax.Array:
        """Return the same outputs, of a float32 batch, as JAX traces them."""
        discrete = isinstance(self.observation_space, gym.spaces.Discrete)
        seen = jnp.moveaxis(batch.astype(jnp.int32) if discrete else batch, 0, -1)
        find = self.learner.probabilities
        found = self.learner.act(first_key(), self.params, seen, True) if find is None else find(self.params, seen)
        return jnp.moveaxis(found, -1, 0)

    def _experiment(self) -> Experiment:
        """Return the experiment of the run folder, if its configuration is that of these parameters."""
        if self.folder is None:
            raise RunError(
                "The environment of the run is not known: the policy was loaded from a file without its run folder. "
                "Give an environment, or load the run folder."
            )
        path = self.folder / folder.CONFIG
        if not _is_of(path, self.facts):
            raise RunError(
                f"{path} is not the configuration of these parameters: it was changed, or can't be read. "
                "Restore it, or give an environment."
            )
        return experiment_of(path, self.trust)


def policy_of(experiment: Experiment, params: Params, seed: int, agent: int) -> TrainedPolicy:
    """Return the policy of an agent of an experiment that is already built.

    Args:
        experiment: The experiment.
        params: The acting parameters, with a leading agent axis on every leaf where agents have their own.
        seed: The seed of the run.
        agent: The agent.
    """
    facts = facts_of(experiment)
    own = jax.tree.map(lambda leaf: leaf[agent], params) if facts.stacked else params
    return TrainedPolicy(*facts.spaces, seed, agent, facts, experiment.learner, jax.device_put(own, cpu()))


def setting_of(experiment: Experiment, agent: int) -> PyTree:
    """Return the parameters of the environment of one agent."""
    return jax.tree.map(lambda leaf: leaf[agent], experiment.fleet)


def load(path: Path | str, *, seed: int | None = None, agent: int | None = None, trust: bool = False) -> TrainedPolicy:
    """Load the policy of a run after its last round.

    Without `trust`, nothing that the file or its folder names is imported or called, so someone else's folder runs no
    code. Components that this process has imported, or that are plugins of installed packages, are known all the same.

    Args:
        path: The run folder, or its params.safetensors, which may be copied to another folder.
        seed: The seed of the run; by default the first one with a completed round.
        agent: The agent, if each has its own policy; by default the server's policy, if there is one.
        trust: Whether to import the components of one's own that the file names, and those of its folder.

    Raises:
        ConfigError: The seed or agent does not exist, or each agent has its own policy and none is chosen.
        RunError: The run or file does not exist, is damaged, or has no metadata and no configuration.
    """
    path = Path(path)
    place = folder.open_folder(path).path if path.is_dir() else None
    file = open_policy(path if place is None else path / folder.PARAMS)
    told, found, home = file.facts(), place or file.path.parent, place
    config = found / folder.CONFIG
    if place is None and config.is_file():
        home = found if told is None or _is_of(config, told) else None
    with importing(trust):
        facts, learner = _built(file, told, home, trust)
    chosen = seed_in(file, seed)
    prefix, row = whose(file, facts, chosen, agent)
    params = checkpoint.unnamed(file.arrays(f"{prefix}/", row), prefix, shapes_of(learner, acting=True))
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params)):
        raise RunError(
            f"The parameters of seed {chosen} in {file.path} are not finite, so nothing can act with them. Choose "
            "another seed, or make the run again."
        )
    return TrainedPolicy(*facts.spaces, chosen, agent, facts, learner, jax.device_put(params, cpu()), home, trust)


def _built(file: PolicyFile, told: PolicyFacts | None, home: Path | None, trust: bool) -> tuple[PolicyFacts, Learner]:
    """Return metadata and learner: from the file, else from the configuration beside it."""
    if told is None and home is None:
        raise RunError(
            f"{file.path} has no description of its parameters: it was written by an earlier version. Load its run "
            f"folder, which has the {folder.CONFIG}."
        )
    if told is not None:
        try:
            for module in told.imports if trust else ():
                imported(module, "imports")
            return told, learner_of(told)
        except FedrlError as fault:
            cure = (
                " A component of your own is known once the module that defines it is imported. Import it first, or "
                "add trust=True (--trust) if you trust the file: nothing that a file names is imported without."
            )
            unknown = type(fault)(f"{file.path}: {fault}{'' if trust or '--trust' in str(fault) else cure}")
            if home is None:
                raise unknown from None
        except Exception as fault:  # a learner of one's own that needs more of its environment than the spaces
            if home is None:
                raise RunError(
                    f"{file.path}: its learner needs its environment ({fault}). Load the run folder instead."
                ) from fault
    assert home is not None
    experiment = experiment_of(home / folder.CONFIG, trust)
    return told or facts_of(experiment), experiment.learner


def _is_of(config: Path, facts: PolicyFacts) -> bool:
    """Return whether a config.toml is the configuration of these parameters."""
    try:
        return digest_of(read(config)) == facts.config_sha256
    except ConfigError:
        return False
