"""Rollouts of many copies of an environment with one policy.

Position --collect--> Trajectory `[time, *features, num_envs]`, Position, Metrics     continues the current episodes
          episodes --> Episodes, Metrics                                               one whole episode per copy
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedrl.core.environment import AnyEnvironment, Environment, Noise, State, Timestep, compiled
from fedrl.core.learner import Trajectory
from fedrl.core.measures import Counting, counting, step_values
from fedrl.core.position import Position, deal, start
from fedrl.core.types import Key, Metrics, PyTree

__all__ = [
    "Episodes",
    "Position",
    "Sampler",
    "collect",
    "deal",
    "episodes",
    "first_episodes",
    "nothing_counted",
    "start",
]

RESET, STEP, ACT = 0, 1, 2


class Episodes(NamedTuple):
    """One episode per environment copy.

    Attributes:
        trajectory: Trajectory; after the end of an episode, rewards are zero and both end flags false.
        playing: `[time, num_envs]`, whether the step belongs to the episode.
        final: `[*features, num_envs]`, last observation of each episode.
    """

    trajectory: Trajectory
    playing: jax.Array
    final: jax.Array


class Sampler(NamedTuple):
    """A policy for rollouts: `draw(key, batch)` draws noise ahead, `choose(noise, observation)` returns actions."""

    draw: Callable[[Key, tuple[int, ...]], Noise]
    choose: Callable[[Noise, jax.Array], jax.Array]


def collect(
    key: Key, environment: AnyEnvironment, env_params: PyTree, sampler: Sampler, steps: int, position: Position
) -> tuple[Trajectory, Position, Metrics]:
    """Take `steps` steps in every environment copy.

    The trajectory contains the observations before and after each step, so that the last observation of an episode is
    available for bootstrapping although the copy has already begun its next episode.

    The metrics are sums over the episodes that ended: "episodes", "episode_return" and the environment's measures.
    """
    environment = compiled(environment)
    num_envs = position.returned.shape[-1]
    params, axis = deal(environment, env_params, num_envs)
    reset = jax.vmap(environment.reset, (-1, axis), -1, axis_size=num_envs)  # there may be no noise
    move = jax.vmap(environment.step, (-1, axis, -1, -1), -1)
    how = counting(environment.measures)
    Seen = tuple[Trajectory, jax.Array, dict[str, jax.Array]]

    def step(position: Position, noise: tuple[Noise, Noise, Noise]) -> tuple[Position, Seen]:
        for_action, for_step, for_reset = noise
        action = sampler.choose(for_action, position.observation)
        timestep, state = move(for_step, params, position.state, action)
        # Every copy is reset in every step, and used where an episode ends: under `vmap`, a `cond` would compute both
        # branches anyway.
        opening, fresh = reset(for_reset, params)
        done = timestep.terminated | timestep.truncated
        returned = position.returned + timestep.reward
        running, counted = _counted(how, environment, timestep, position.measured, done)
        seen = Trajectory(
            position.observation,
            action,
            timestep.reward,
            timestep.terminated,
            timestep.truncated,
            timestep.observation,
        )
        after = Position(
            jax.tree.map(lambda new, old: jnp.where(done, new, old), fresh, state),
            jnp.where(done, opening.observation, timestep.observation),
            jnp.where(done, 0.0, returned),
            jnp.where(done, 0, position.length + 1),
            {name: jnp.where(done, 0.0, x) for name, x in running.items()},
        )
        return after, (seen, jnp.where(done, returned, 0.0), counted)

    draw = _drawing(key, steps, num_envs)
    noise = (draw(ACT, sampler.draw), draw(STEP, environment.draw_step), draw(RESET, environment.draw_reset))
    position, (trajectory, returns, counted) = jax.lax.scan(step, position, noise, length=steps)
    done = trajectory.terminated | trajectory.truncated
    counts = {"episodes": done.sum().astype(jnp.float32), "episode_return": returns.sum()}
    counts |= {name: x.sum() for name, x in counted.items()}
    return trajectory, position, counts | ({"steps": jnp.float32(steps * num_envs)} if how.steps else {})


def nothing_counted(environment: AnyEnvironment) -> Metrics:
    """Return the metrics of `collect` for a learner that steps no environment: zeros."""
    how = counting(environment.measures)
    names = ("episodes", "episode_return", *how.parts, *(("steps",) if how.steps else ()))
    return {name: jnp.zeros(()) for name in names}


def episodes(
    key: Key, environment: AnyEnvironment, env_params: PyTree, sampler: Sampler, num_envs: int, steps: int
) -> tuple[Episodes, Metrics]:
    """Play one episode in every environment copy, cut off after `steps` steps; a copy idles after its episode."""
    environment = compiled(environment)
    params, axis = deal(environment, env_params, num_envs)
    move = jax.vmap(environment.step, (-1, axis, -1, -1), -1)
    how = counting(environment.measures)
    Carry = tuple[State, jax.Array, jax.Array]
    Seen = tuple[Trajectory, jax.Array, dict[str, jax.Array]]

    def step(carry: Carry, noise: tuple[Noise, Noise]) -> tuple[Carry, Seen]:
        state, observation, playing = carry
        action = sampler.choose(noise[0], observation)
        timestep, after = move(noise[1], params, state, action)
        values = _values(how, environment, timestep)
        seen = Trajectory(
            observation,
            action,
            jnp.where(playing, timestep.reward, 0.0),
            timestep.terminated & playing,
            timestep.truncated & playing,
            timestep.observation,
        )
        state, observation = jax.tree.map(
            lambda new, old: jnp.where(playing, new, old), (after, timestep.observation), (state, observation)
        )
        going = playing & ~(timestep.terminated | timestep.truncated)
        return (state, observation, going), (seen, playing, values)

    position = start(jax.random.fold_in(key, RESET), environment, env_params, num_envs)
    draw = _drawing(key, steps, num_envs)
    opening = (position.state, position.observation, jnp.ones(num_envs, bool))
    noise = (draw(ACT, sampler.draw), draw(STEP, environment.draw_step))
    (_, final, _), (trajectory, playing, values) = jax.lax.scan(step, opening, noise)
    counts = {"episodes": jnp.float32(num_envs), "episode_return": trajectory.reward.sum()}
    # The last step that was played, whether its episode terminated, was truncated, or was cut off here.
    ends = playing & ~jnp.concatenate([playing[1:], jnp.zeros_like(playing[:1])])
    counts |= {name: jnp.where(ends if name in how.last else playing, x, 0.0).sum() for name, x in values.items()}
    counts |= {"steps": playing.sum().astype(jnp.float32)} if how.steps else {}
    return Episodes(trajectory, playing, final), counts


def first_episodes(seen: Trajectory) -> Episodes:
    """Return the first episode of each environment copy in a trajectory, with the steps after its end masked out."""
    done = seen.terminated | seen.truncated
    # The step that ends the episode still belongs to it: count the ends before a step, not up to it.
    playing = jnp.cumsum(done, axis=0) - done == 0
    last = (playing.sum(0) - 1).reshape(1, *[1] * (seen.next_observation.ndim - 2), -1)
    final = jnp.take_along_axis(seen.next_observation, last, axis=0)[0]
    trajectory = seen._replace(
        reward=jnp.where(playing, seen.reward, 0.0),
        terminated=seen.terminated & playing,
        truncated=seen.truncated & playing,
    )
    return Episodes(trajectory, playing, final)


def _values(how: Counting, environment: Environment, timestep: Timestep) -> dict[str, jax.Array]:
    """Return the measures of a step, `[num_envs]` each."""
    return {name: x.astype(jnp.float32) for name, x in step_values(how.parts, timestep.measures, environment).items()}


def _counted(
    how: Counting, environment: Environment, timestep: Timestep, before: Mapping[str, jax.Array], done: jax.Array
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Return the running sums of episodes after a step, and its counts; counts per episode are zero before its end."""
    values = _values(how, environment, timestep)
    running = {name: before[name] + values[name] for name in how.summed}
    ended = running | {name: values[name] for name in how.last}
    counted = {name: jnp.where(done, x, 0.0) for name, x in ended.items()}
    return running, counted | {name: values[name] for name in how.stepped}


def _drawing(key: Key, steps: int, num_envs: int) -> Callable[[int, Callable[[Key, tuple[int, ...]], Noise]], Noise]:
    """Return the function that draws the noise of all steps of a rollout, with a stream of keys for each purpose."""
    # In one call per kind of noise: splitting a key in every step costs more than the physics of CartPole.

    def draw(purpose: int, source: Callable[[Key, tuple[int, ...]], Noise]) -> Noise:
        keys = jax.random.split(jax.random.fold_in(key, purpose), steps)
        return jax.vmap(lambda k: source(k, (num_envs,)))(keys)

    return draw
