"""Greedy evaluation in environments that are stepped on the host."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import numpy as np

from fedrl.core.checks import check_positive
from fedrl.core.environment import HostEnvironment
from fedrl.core.errors import ConfigError
from fedrl.core.host import Failure, Instances
from fedrl.core.host_players import Living
from fedrl.core.keys import Stream, keys_of
from fedrl.core.learner import Learner
from fedrl.core.measures import counting, step_values
from fedrl.core.types import Params, PyTree
from fedrl.engines.environment_failures import EnvironmentFailure, not_finite
from fedrl.engines.executors.host_rollout import by_agent, by_row, instance_seeds, instance_settings
from fedrl.engines.program_cache import Template, numbered_programs


def greedy_returns_host(
    learner: Learner,
    fleet: PyTree,
    params: Params,
    episodes: int,
    seed: int,
    *,
    stacked: bool = False,
    workers: int | None = None,
) -> np.ndarray:
    """Return the undiscounted return of each greedy episode, float64 `[agents, episodes]`; see `played_host`."""
    return played_host(learner, fleet, params, episodes, seed, stacked=stacked, workers=workers)[0]


def played_host(
    learner: Learner,
    fleet: PyTree,
    params: Params,
    episodes: int,
    seed: int,
    *,
    stacked: bool = False,
    workers: int | None = None,
    restarts: int = 0,
) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray, tuple[EnvironmentFailure, ...]]:
    """Play `episodes` greedy episodes in each agent's environment.

    Every episode has a seed of its own, so a return does not depend on which others are measured.

    Args:
        learner: Learner whose `act` is used.
        fleet: Parameters of each environment, with a leading agent axis on every leaf.
        params: Parameters to evaluate; with `stacked`, each agent's own along a leading axis.
        episodes: Number of episodes per agent.
        seed: Seed of the episodes.
        stacked: Whether `params` has an agent axis.
        workers: As in `fedrl.engines.executors.host.Host`.
        restarts: How often an episode is repeated after its environment failed; its return is NaN after that.

    Returns:
        The undiscounted returns, float64 `[agents, episodes]`, in a world the means over its players, and the sums of
        the environment's measures, float64 `[agents]` by the names of `fedrl.core.measures.Counting.parts`, with
        "episodes" and "steps", and the lengths of the episodes, int64 `[agents, episodes]`, and the failures of
        environments, those after which an episode was repeated as well.
    """
    environment = learner.environment
    if not isinstance(environment, HostEnvironment):
        raise ConfigError(f"{environment!r} is no host environment. Evaluate it inside compiled programs.")
    check_positive(episodes=episodes)
    agents = jax.tree.leaves(fleet)[0].shape[0]
    width = min(episodes, max(learner.num_envs, 1))
    act = acting_greedily(learner, agents, stacked)
    run, each = keys_of(seed).run.tobytes(), -(-episodes // width) * width
    seeds = np.reshape(instance_seeds(run, Stream.EVALUATION, range(agents), each), (agents, each))
    instances = environment.open(instance_settings(environment, fleet, width), workers)
    returns, lengths = np.zeros(seeds.shape), np.zeros(seeds.shape, np.int64)
    sums = {name: np.zeros(agents) for name in (*counting(environment.measures).parts, "steps")}
    failures: list[EnvironmentFailure] = []
    try:
        for first in range(0, episodes, width):
            rows, batch = slice(first, first + width), _Batch(learner, agents * width)
            # The last batch may be wider than the episodes that are left.
            waiting = np.ones((agents, width), bool)
            waiting[:, episodes - first :] = False
            for attempt in range(restarts + 1):
                failed = batch.play(instances, functools.partial(act, params), seeds[:, rows], waiting.reshape(-1))
                failures += [
                    EnvironmentFailure(*divmod(row, width), step, *each, repeated=attempt < restarts)
                    for row, (step, each) in failed.items()
                ]
                waiting = np.isin(np.arange(agents * width), list(failed)).reshape(agents, width)
                if not failed:
                    break
            returns[:, rows] = np.where(waiting, np.nan, batch.returned.reshape(agents, width))
            lengths[:, rows] = batch.lengths.reshape(agents, width)
            for name, values in batch.sums.items():
                sums[name] += values.reshape(agents, width).sum(1)
    finally:
        instances.close()
    sums["episodes"] = np.full(agents, float(episodes))
    return returns[:, :episodes], sums, lengths[:, :episodes], tuple(failures)


class _Batch:
    """One episode in each environment copy."""

    def __init__(self, learner: Learner, count: int) -> None:
        self._environment, self._how = learner.environment, counting(learner.environment.measures)
        self.returned, self.lengths = np.zeros(count), np.zeros(count, np.int64)
        self.sums = {name: np.zeros(count) for name in (*self._how.parts, "steps")}
        self._living = Living(learner.environment.players, count)

    def play(
        self, instances: Instances, act: Callable[[np.ndarray], jax.Array], seeds: np.ndarray, going: np.ndarray
    ) -> dict[int, tuple[int, Failure]]:
        """Play the episodes of these copies; return those that failed, with the number of the step."""
        going, failed = going.copy(), dict[int, tuple[int, Failure]]()
        self._clear(going)
        observation = instances.reset(seeds.reshape(-1).tolist(), going).copy()
        self._living.begin(going)
        while True:
            for row in np.flatnonzero(going & _nan(observation)).tolist():
                wrong = not_finite(instances.name, "observation", observation[row])
                failed[row] = (int(self.lengths[row]), wrong)
            failed |= {row: (int(self.lengths[row]), each) for row, each in instances.failed.items()}
            going[list(failed)] = False
            if not going.any():
                break
            after, earned = self._living.after(instances.step(np.asarray(act(observation)), going), going)
            standing = going.copy()
            standing[list(instances.failed)] = False
            self.returned += np.where(standing, earned, 0.0)
            self.lengths += going
            done = after.terminated | after.truncated
            for name, values in step_values(self._how.parts, after.measures, self._environment).items():
                where = standing & done if name in self._how.last else standing
                self.sums[name] += np.where(where, values, 0.0)
            self.sums["steps"] += standing
            going &= ~(done & standing)
            observation = after.observation.copy()
        self._clear(np.isin(np.arange(len(going)), list(failed)))
        return failed

    def _clear(self, rows: np.ndarray) -> None:
        for column in (self.returned, self.lengths, *self.sums.values()):
            column[rows] = 0


def _nan(observation: np.ndarray) -> np.ndarray:
    if observation.dtype.kind != "f":
        return np.zeros(len(observation), bool)
    return np.isnan(observation).reshape(len(observation), -1).any(1)


@numbered_programs
def acting_greedily(
    template: Template[Learner], agents: int, stacked: bool
) -> Callable[[Params, np.ndarray], jax.Array]:
    """Return the greedy policy for the rows of all agents, compiled once."""
    key = jax.random.key(0)  # `act` takes a key, but a greedy policy does not use it

    def act(learner: Learner, params: Params, observation: jax.Array) -> jax.Array:
        def one(own: Params, seen: jax.Array) -> jax.Array:
            return learner.act(key, own, seen, True)

        players = learner.environment.players
        seen = by_agent(observation, agents, players)
        return by_row(jax.vmap(one, (0 if stacked else None, 0))(params, seen), players)

    return template.jit(act)
