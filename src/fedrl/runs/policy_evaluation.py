"""Greedy episodes of one policy: in the environments of its run, or in another one.

the run's, fedrl's, an id of Gymnasium's --> played, side by side --+
an environment of Gymnasium's that is open --> one by one ----------+--> returns and lengths
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np

from fedrl.config.coordination import all_act_alike
from fedrl.config.objects import Experiment
from fedrl.core.environment import AnyEnvironment, Environment, HostEnvironment, common_of
from fedrl.core.errors import ConfigError
from fedrl.core.learner import Learner, moved
from fedrl.core.types import Params
from fedrl.environments.adapters import gymnasium
from fedrl.environments.adapters.observations import flat_observations
from fedrl.runs.environment_failures import fault_of
from fedrl.runs.evaluate import Played, played
from fedrl.runs.spaces import GymSpaces, check_alike, gymnasium_spaces


class PolicyEvaluation(NamedTuple):
    """Returns and lengths of greedy episodes.

    Attributes:
        returns: The undiscounted return of each episode, float64 `[episodes]`.
        lengths: The number of steps of each episode, int64 `[episodes]`.
    """

    returns: np.ndarray
    lengths: np.ndarray


def of_run(experiment: Experiment, params: Params, agent: int | None, episodes: int, seed: int) -> PolicyEvaluation:
    """Play episodes in the environment of one agent of a run, or in those of all agents in turn.

    In a world that the agents have in common, this one policy acts for all of them.

    Raises:
        ConfigError: As of `check_companions`.
    """
    agents = experiment.config.federation.agents
    if common_of(experiment.environment) is not None:
        check_companions(experiment, agent)
        found = played(experiment.learner, experiment.fleet, params, episodes, seed)
        players = np.arange(agents) if agent is None else np.array([agent])
        return _in_turn(found._replace(returns=found.returns[players], lengths=found.lengths[players]), episodes)
    chosen = np.arange(min(agents, episodes)) if agent is None else np.array([agent])
    each = -(-episodes // len(chosen))
    fleet = jax.tree.map(lambda leaf: jnp.asarray(leaf)[chosen], experiment.fleet)
    return _in_turn(played(experiment.learner, fleet, params, each, seed), episodes)


def check_companions(experiment: Experiment, agent: int | None) -> None:
    """Refuse the policy of one agent in a world where others act beside it by policies of their own.

    Raises:
        ConfigError: The agents share a world and do not act alike.
    """
    learner = experiment.learner
    if common_of(learner.environment) is not None and not all_act_alike(learner, experiment.coordination):
        raise ConfigError(
            f"This is the policy of agent {agent}, and in {learner.environment!r} the other players act by policies of "
            "their own, which are not in it. The run's summary has the returns of all of them together. Give an "
            "environment, such as the world itself, where this policy acts for every player."
        )


def given_environment(environment: Any) -> AnyEnvironment | gym.Env:
    """Return an environment that is given as an object or as an id of Gymnasium.

    Raises:
        ConfigError: It is none.
    """
    if isinstance(environment, str):
        return gymnasium(environment)
    if not isinstance(environment, Environment | HostEnvironment | gym.Env):
        raise ConfigError(
            f"environment is {environment!r}, which is not an environment. Give a Gymnasium environment, its id, or "
            "an environment of fedrl, such as fedrl.environments.cartpole()."
        )
    return environment


def outside(
    environment: AnyEnvironment | gym.Env,
    learner: Learner,
    params: Params,
    begin: Callable[[], Callable[[Any], Any]],
    spaces: GymSpaces,
    episodes: int,
    seed: int,
) -> PolicyEvaluation:
    """Play episodes in a given environment.

    Raises:
        ConfigError: It does not fit the policy.
    """
    if isinstance(environment, gym.Env):
        return _one_by_one(environment, begin, spaces, episodes, seed)
    check_alike(spaces, gymnasium_spaces(environment), repr(environment))
    alone = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], environment.params)
    there = moved(learner, environment)
    return _in_turn(played(there, alone, params, episodes, seed), episodes)


def _in_turn(found: Played, episodes: int) -> PolicyEvaluation:
    """Return the episodes in order: episode i of each agent before episode i + 1 of any agent.

    Raises:
        FailedEnvironmentError: An environment failed.
    """
    if found.failures:
        raise fault_of(found.failures[0])
    returns, lengths = (np.asarray(table).T.reshape(-1)[:episodes] for table in (found.returns, found.lengths))
    return PolicyEvaluation(returns.astype(np.float64), lengths.astype(np.int64))


def _one_by_one(
    environment: gym.Env, begin: Callable[[], Callable[[Any], Any]], spaces: GymSpaces, episodes: int, seed: int
) -> PolicyEvaluation:
    """Play episodes in an open Gymnasium environment, which stays open and is not reset at the end."""
    environment = flat_observations(environment)
    seen, space = cast(GymSpaces, (environment.observation_space, environment.action_space))
    check_alike(spaces, GymSpaces(seen, space), str(environment))
    returns, lengths = np.zeros(episodes), np.zeros(episodes, np.int64)
    for i in range(episodes):
        observation, _ = environment.reset(seed=seed if i == 0 else None)
        predict = begin()
        over = False
        while not over:
            action = predict(observation)
            if isinstance(space, gym.spaces.Box):
                action = np.clip(action, space.low, space.high).astype(space.dtype)
            observation, reward, terminated, truncated, _ = environment.step(action)
            over = bool(terminated or truncated)
            returns[i] += float(reward)
            lengths[i] += 1
    return PolicyEvaluation(returns, lengths)
