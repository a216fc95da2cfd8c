"""Rollouts of many copies of an environment with one policy, for all players of a world too.

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
from fedrl.core.players import Seen, copies_of, everyone, mean_over_players, rows, rows_of
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
        playing: `[time, num_envs]`, whether the step belongs to the episode, in a world to the life of the player.
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
    key: Key,
    environment: AnyEnvironment,
    env_params: PyTree,
    sampler: Sampler,
    steps: int,
    position: Position,
    overview: bool = False,
) -> tuple[Trajectory, Position, Metrics]:
    """Take `steps` steps in every environment copy.

    The trajectory contains the observations before and after each step, so that the last observation of an episode is
    available for bootstrapping although the copy has already begun its next episode. With `overview` it also contains
    what an observer of the whole world saw; the sampler is not given it.

    The metrics are sums over the episodes that ended: "episodes", "episode_return" and the environment's measures. The
    return of an episode of a world is the mean over its players.
    """
    environment = compiled(environment)
    num_envs, players = position.returned.shape[-1], environment.players
    params, axis = deal(environment, env_params, num_envs)
    copies = copies_of(environment, axis, num_envs)
    how = counting(environment.measures)
    Counted = tuple[Trajectory, jax.Array, jax.Array, dict[str, jax.Array]]

    def step(position: Position, noise: tuple[Noise, Noise, Noise]) -> tuple[Position, Counted]:
        for_action, for_step, for_reset = noise
        action = sampler.choose(for_action, rows(position.observation, players))
        timestep, state = copies.step(for_step, params, position.state, position.alive, action)
        # Every copy is reset in every step, and used where an episode ends: under `vmap`, a `cond` would compute both
        # branches anyway.
        opening, fresh = copies.reset(for_reset, params)
        done = timestep.terminated | timestep.truncated
        returned = position.returned + mean_over_players(timestep.reward, players)
        running, counted = _counted(how, environment, timestep, position.measured, done)
        seen = copies.transition(Seen(position.observation, position.alive), action, timestep)
        if overview and copies.overview is not None:
            above = (copies.overview(params, at) for at in (position.state, state))
            seen = seen._replace(**dict(zip(("overview", "next_overview"), above, strict=True)))

        def renewed(opening: PyTree, here: PyTree) -> PyTree:
            return jax.tree.map(lambda new, old: jnp.where(done, new, old), opening, here)

        after = Position(
            renewed(fresh, state),
            renewed(opening.observation, timestep.observation),
            jnp.where(done, 0.0, returned),
            jnp.where(done, 0, position.length + 1),
            {name: jnp.where(done, 0.0, x) for name, x in running.items()},
            renewed(opening.alive, timestep.alive),
        )
        return after, (seen, done, jnp.where(done, returned, 0.0), counted)

    draw = _drawing(key, steps, num_envs)
    for_actions = _drawing(key, steps, rows_of(environment, num_envs))(ACT, sampler.draw)
    noise = (for_actions, draw(STEP, environment.draw_step), draw(RESET, environment.draw_reset))
    position, (trajectory, done, returns, counted) = jax.lax.scan(step, position, noise, length=steps)
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
    copies, players = copies_of(environment, axis, num_envs), environment.players
    how = counting(environment.measures)
    Carry = tuple[State, Seen, jax.Array]
    Played = tuple[Trajectory, jax.Array, jax.Array, dict[str, jax.Array]]

    def step(carry: Carry, noise: tuple[Noise, Noise]) -> tuple[Carry, Played]:
        state, shown, going = carry
        action = sampler.choose(noise[0], rows(shown.observation, players))
        timestep, after = copies.step(noise[1], params, state, shown.alive, action)
        values = _values(how, environment, timestep)
        seen = copies.transition(shown, action, timestep)
        playing = everyone(going, players) if seen.alive is None else everyone(going, players) & seen.alive
        seen = seen._replace(
            reward=jnp.where(playing, seen.reward, 0.0),
            terminated=seen.terminated & playing,
            truncated=seen.truncated & playing,
        )
        state, shown = jax.tree.map(
            lambda new, old: jnp.where(going, new, old),
            (after, Seen(timestep.observation, timestep.alive)),
            (state, shown),
        )
        return (state, shown, going & ~(timestep.terminated | timestep.truncated)), (seen, playing, going, values)

    position = start(jax.random.fold_in(key, RESET), environment, env_params, num_envs)
    opening = (position.state, Seen(position.observation, position.alive), jnp.ones(num_envs, bool))
    for_actions = _drawing(key, steps, rows_of(environment, num_envs))(ACT, sampler.draw)
    noise = (for_actions, _drawing(key, steps, num_envs)(STEP, environment.draw_step))
    (_, final, _), (trajectory, playing, going, values) = jax.lax.scan(step, opening, noise)
    counts = {"episodes": jnp.float32(num_envs), "episode_return": trajectory.reward.sum() / (players or 1)}
    # The last step that was played, whether its episode terminated, was truncated, or was cut off here.
    ends = going & ~jnp.concatenate([going[1:], jnp.zeros_like(going[:1])])
    counts |= {name: jnp.where(ends if name in how.last else going, x, 0.0).sum() for name, x in values.items()}
    counts |= {"steps": going.sum().astype(jnp.float32)} if how.steps else {}
    return Episodes(trajectory, playing, rows(final.observation, players)), counts


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
