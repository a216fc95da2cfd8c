"""Greedy evaluation in environments that are stepped on the host."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np

from fedrl.core.checks import check_positive
from fedrl.core.environment import HostEnvironment
from fedrl.core.errors import ConfigError
from fedrl.core.keys import Stream, keys_of
from fedrl.core.learner import Learner
from fedrl.core.measures import counting, step_values
from fedrl.core.types import Params, PyTree
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
) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
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

    Returns:
        The undiscounted returns, float64 `[agents, episodes]`, and the sums of the environment's measures, float64
        `[agents]` by the names of `fedrl.core.measures.Counting.parts`, with "episodes" and "steps", and the
        lengths of the episodes, int64 `[agents, episodes]`.
    """
    environment = learner.environment
    if not isinstance(environment, HostEnvironment):
        raise ConfigError(f"{environment!r} is no host environment. Evaluate it inside compiled programs.")
    check_positive(episodes=episodes)
    agents = jax.tree.leaves(fleet)[0].shape[0]
    width = min(episodes, max(learner.num_envs, 1))
    act = _greedy(learner, agents, stacked)
    run, each = keys_of(seed).run.tobytes(), -(-episodes // width) * width
    seeds = np.reshape(instance_seeds(run, Stream.EVALUATION, range(agents), each), (agents, each))
    instances = environment.open(instance_settings(environment, fleet, width), workers)
    returns, lengths, how = np.zeros(seeds.shape), np.zeros(seeds.shape, np.int64), counting(environment.measures)
    sums = {name: np.zeros(agents) for name in (*how.parts, "steps")}

    def add(name: str, values: np.ndarray, where: np.ndarray) -> None:
        sums[name] += np.where(where, values, 0.0).reshape(agents, width).sum(1)

    try:
        for first in range(0, episodes, width):
            observation = instances.reset(seeds[:, first : first + width].reshape(-1).tolist()).copy()
            going, returned = np.ones(agents * width, bool), np.zeros(agents * width)
            # The last batch may be wider than the episodes that are left.
            going.reshape(agents, width)[:, episodes - first :] = False
            while going.any():
                after = instances.step(np.asarray(act(params, observation)), going)
                returned += np.where(going, after.reward, 0.0)
                lengths[:, first : first + width] += going.reshape(agents, width)
                done = after.terminated | after.truncated
                for name, values in step_values(how.parts, after.measures, environment).items():
                    add(name, values, going & done if name in how.last else going)
                add("steps", np.ones(agents * width), going)
                going &= ~done
                observation = after.observation.copy()
            returns[:, first : first + width] = returned.reshape(agents, width)
    finally:
        instances.close()
    sums["episodes"] = np.full(agents, float(episodes))
    return returns[:, :episodes], sums, lengths[:, :episodes]


@numbered_programs
def _greedy(template: Template[Learner], agents: int, stacked: bool) -> Callable[[Params, np.ndarray], jax.Array]:
    """Return the greedy policy for the rows of all agents, compiled once."""
    key = jax.random.key(0)  # `act` takes a key, but a greedy policy does not use it

    def act(learner: Learner, params: Params, observation: jax.Array) -> jax.Array:
        def one(own: Params, seen: jax.Array) -> jax.Array:
            return learner.act(key, own, seen, True)

        return by_row(jax.vmap(one, (0 if stacked else None, 0))(params, by_agent(observation, agents)))

    return template.jit(act)
