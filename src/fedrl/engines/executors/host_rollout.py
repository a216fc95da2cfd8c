"""Rollouts of all environment copies of all agents on the host, with one policy call per step.

    observation --choose(step, observation)--> action --instances.step--> HostStep --> Trajectory

The arrays are `[time, rows, *features]`, in a world `[time, rows, players, *features]`. Rows are agents times copies,
in this order; further rows belong to empty seats and are never stepped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core.environment import ActionSpace, AnyEnvironment
from fedrl.core.host import Failure, HostStep, Instances
from fedrl.core.host_players import Living
from fedrl.core.keys import Root, Stream, derived
from fedrl.core.learner import Trajectory
from fedrl.core.measures import counting, step_values
from fedrl.core.players import dealt, rows
from fedrl.core.types import PyTree
from fedrl.engines.environment_failures import EnvironmentFailure, not_finite, unusable


class HostRollout:
    """Open environment copies, their current observations, and the running returns of their episodes.

    Attributes:
        failures: The first failure of each agent since `failures` was last emptied. An agent that has failed is not
            stepped.
        steps_taken: Number of times that copies were stepped.
    """

    def __init__(
        self,
        instances: Instances,
        environment: AnyEnvironment,
        count: int,
        rows: int,
        num_envs: int,
        overview: bool = False,
    ) -> None:
        self.close = instances.close
        self.failures: dict[int, EnvironmentFailure] = {}
        self.steps_taken = 0
        self._instances, self._count, self._num_envs = instances, count, num_envs
        self._steps = np.zeros(count, int)  # of the current episode of each copy
        self._spaces = environment.spaces
        self._overview = environment.overview if overview else None
        self._living = Living(environment.players, count)
        self._each = () if environment.players is None else (environment.players,)
        self._observation = _zeros((rows, *self._each), environment.spaces.observation)
        self._returned = np.zeros(count)
        self._environment, self._how = environment, counting(environment.measures)
        self._running = {name: np.zeros(count) for name in self._how.summed}

    def reset(self, seeds: Sequence[int], where: np.ndarray | None = None) -> None:
        """Begin an episode in every environment copy, or in those of the mask `where`, with these seeds."""
        here = np.ones(self._count, bool) if where is None else where
        self._observation[: self._count] = self._instances.reset(seeds, here)
        self._living.begin(here)
        for running in (self._returned, self._steps, *self._running.values()):
            running[here] = 0
        self._note()

    def collect(
        self,
        choose: Callable[[int, np.ndarray], jax.Array],
        active: np.ndarray,
        rows: np.ndarray,
        steps: int,
        seeds: Sequence[int] | None = None,
    ) -> tuple[Trajectory, dict[str, np.ndarray]]:
        """Take `steps` steps in the active copies, or play one episode of at most so many steps in each.

        Args:
            choose: `(step, observation) -> action`, for the given rows.
            active: `[rows]` bool; other copies are not stepped.
            rows: Rows passed to the policy, including all active ones.
            steps: Number of steps.
            seeds: Seeds of one new episode in each active copy, which is not stepped after its end. Without seeds,
                copies continue their current episodes, and begin the next one at an end.

        Returns:
            The trajectory `[steps, rows, *features]`, and the sums that `fedrl.learners.parts.rollout.collect` has as
            metrics, for each copy in float64: "episodes", "episode_return" and the environment's measures. With seeds,
            an episode that was cut off counts as ended.
        """
        here = self._standing(active[: self._count])
        if seeds is not None:
            self.reset(seeds, here)
            here = self._standing(here)
        taken = self._steps.copy()
        # New arrays in every call: JAX dispatches asynchronously, so a compiled program may still read the last ones.
        seen = self._blank(steps, len(active))
        sums = {name: np.zeros(self._count) for name in ("episodes", "episode_return", *self._how.parts)}
        sums |= {"steps": np.zeros(self._count)} if self._how.steps else {}
        for step in range(steps if here.any() else 0):
            shown, chosen = seen["observation"][step], seen["action"][step]
            shown[:] = self._observation
            chosen[rows] = choose(step, shown[rows])
            self._look(seen, step)
            after, earned = self._living.after(self._instances.step(chosen[: self._count], here), here)
            self.steps_taken += 1
            self._steps += here
            if self._instances.failed:
                self._note()
                here = self._standing(here)
            self._record(seen, step, after)
            self._observation[: self._count] = after.observation
            self._returned += np.where(here, earned, 0.0)
            values = step_values(self._how.parts, after.measures, self._environment)
            for name in self._how.summed:
                self._running[name] += np.where(here, values[name], 0.0)
            for name in self._how.stepped:
                sums[name] += np.where(here, values[name], 0.0)
            if self._how.steps:
                sums["steps"] += here
            done = (after.terminated | after.truncated) & here
            if done.any():
                self._end(sums, values, done)
                self._steps[done] = 0
            if seeds is not None:
                here &= ~done
            if not here.any():
                break
        if seeds is not None and here.any():
            self._end(sums, values, here)
        self._check_numbers(seen, taken)
        return Trajectory(**cast(Any, seen)), sums

    def _blank(self, steps: int, rows: int) -> dict[str, np.ndarray]:
        """Return the arrays of a trajectory."""
        time, whole = (steps, rows, *self._each), (steps, rows)
        seen: dict[str, np.ndarray] = {
            "observation": _zeros(time, self._spaces.observation),
            "action": _zeros(time, self._spaces.action),
            "reward": np.zeros(time, np.float32),
            "terminated": np.zeros(time, bool),
            "truncated": np.zeros(time, bool),
            "next_observation": _zeros(time, self._spaces.observation),
        }
        if self._each:
            seen["alive"] = np.zeros(time, bool)
        if self._overview is not None:
            seen |= {name: _zeros(whole, self._overview.space) for name in ("overview", "next_overview")}
        return seen

    def _look(self, seen: dict[str, np.ndarray], step: int) -> None:
        """Note who is alive before a step, and what an observer of the whole world sees."""
        if self._each:
            seen["alive"][step, : self._count] = self._living.alive
        if self._overview is not None:
            seen["overview"][step, : self._count] = self._instances.overview  # type: ignore[attr-defined]

    def _record(self, seen: dict[str, np.ndarray], step: int, after: HostStep) -> None:
        """Note the outcome of a step."""
        for name, array in self._living.transition(after).items():
            seen[name][step, : self._count] = array
        if self._overview is not None:
            seen["next_overview"][step, : self._count] = after.next_overview

    def _standing(self, rows: np.ndarray) -> np.ndarray:
        """Return the mask of those of these rows whose agents have not failed."""
        standing = rows.copy()
        for agent in self.failures:
            standing[agent * self._num_envs : (agent + 1) * self._num_envs] = False
        return standing

    def _note(self) -> None:
        for row, failure in sorted(self._instances.failed.items()):
            self._fail(row, failure, int(self._steps[row]))

    def _fail(self, row: int, failure: Failure, step: int) -> None:
        agent, copy = divmod(row, self._num_envs)
        self.failures.setdefault(agent, EnvironmentFailure(agent, copy, step, *failure))

    def _check_numbers(self, seen: Mapping[str, np.ndarray], taken: np.ndarray) -> None:
        """Find the agents whose environments returned a number that training can't use."""
        # Once for all steps: a check in each step would take longer than some environments.
        for name, value in unusable(seen):
            for row in dict.fromkeys(np.nonzero(value)[1].tolist()):
                time = int(np.argmax(value[:, row]))
                # An episode of a world ends in the step that ends it for all players.
                ends = (seen["terminated"] | seen["truncated"])[:time, row]
                over = np.flatnonzero(ends.reshape(len(ends), -1).all(-1))
                step = time - int(over[-1]) if len(over) else int(taken[row]) + time + 1
                wrong = seen[name][time, row]
                self._fail(row, not_finite(self._instances.name, name, wrong), step)

    def _end(self, sums: dict[str, np.ndarray], values: Mapping[str, np.ndarray], where: np.ndarray) -> None:
        """Add the episodes that end in the copies of `where`, and their measures, to the sums."""
        sums["episodes"] += where
        for name in self._how.last:
            sums[name] += np.where(where, values[name], 0.0)
        for name, running in (("episode_return", self._returned), *self._running.items()):
            sums[name] += np.where(where, running, 0.0)
            running[where] = 0.0


def instance_settings(environment: AnyEnvironment, fleet: PyTree, num_envs: int) -> PyTree:
    """Return the parameters of each row; an agent with a stack of parameters deals them out to its copies in turn."""

    def rows(leaf: jax.Array | np.ndarray, like: jax.Array) -> np.ndarray:
        settings = np.asarray(leaf)
        if settings.ndim == jnp.ndim(like) + 1:
            settings = settings[:, None]
        dealt = settings[:, np.arange(num_envs) % settings.shape[1]]
        return dealt.reshape(-1, *dealt.shape[2:])

    return jax.tree.map(rows, fleet, environment.params)


def instance_seeds(run: Root, stream: Stream, agents: Iterable[int], num_envs: int, *numbers: int) -> list[int]:
    """Return a seed for each row, derived from the numbers of the agents."""
    return [seed_of(run, stream, *numbers, int(agent), i) for agent in agents for i in range(num_envs)]


def seed_of(run: Root, stream: Stream, *numbers: int) -> int:
    """Return the seed of one episode, from 0 to 2^31 - 1."""
    return int(derived(run, stream, *numbers)[0, 0] >> 1)


def by_agent(copies: jax.Array, agents: int, players: int | None = None) -> jax.Array:
    """`[agents * num_envs, *features]` as `[agents, *features, num_envs]`.

    In a world, `[agents * num_envs, players, *features]` as `[agents, *features, players * num_envs]`.
    """
    apart = copies.reshape(agents, -1, *copies.shape[1:])
    return jnp.moveaxis(apart, 1, -1) if players is None else rows(jnp.moveaxis(apart, (1, 2), (-1, -2)), players)


def by_row(values: jax.Array, players: int | None = None) -> jax.Array:
    """Return the inverse of `by_agent`."""
    apart = dealt(values, players)
    moved = jnp.moveaxis(apart, -1, 1) if players is None else jnp.moveaxis(apart, (-1, -2), (1, 2))
    return moved.reshape(-1, *moved.shape[2:])


def _zeros(batch: tuple[int, ...], space: ActionSpace) -> np.ndarray:
    return np.zeros((*batch, *space.shape), space.dtype)
