"""The rollout of a common world: all agents act in the same copies of it, and each gets the rows of its own player.

    keys, parameters [agents] --explore--> actions [players * num_envs] --step--> Trajectory, Position, sums

It is one compiled program, whichever agents learn from the rows. A `Position` here has the running return of each
player, `[players, num_envs]`, and in `alive` who has not died in the episode, whether it is present or not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedrl.core.environment import CommonWorld, Environment, Noise, State, Timestep, common_of
from fedrl.core.learner import Learner, Trajectory, explore
from fedrl.core.measures import Counting, counting, step_values
from fedrl.core.players import Seen, copies_of, rows
from fedrl.core.position import Position
from fedrl.core.types import Key, Params, PyTree
from fedrl.engines.packing import Packing, packing
from fedrl.engines.program_cache import Template, numbered_programs
from fedrl.environments.worlds.common_world import PRESENT
from fedrl.federation.federation import Federation

RESET, STEP, BEGIN = 0, 1, 2
"""The purposes of noise, below the key of a rollout; the first two as in `fedrl.learners.parts.rollout`."""


class CommonPrograms(NamedTuple):
    """The compiled programs of a common world.

    Attributes:
        begin: `(key data, env_params) -> packed position`, new episodes in all copies.
        collect: `(acting, noise, place, params, env_params, present, packed position) -> (trajectory, sums, packed
            position)`: `horizon` steps; see `collected`.
    """

    begin: Callable[..., jax.Array]
    collect: Callable[..., tuple[Trajectory, dict[str, jax.Array], jax.Array]]


@numbered_programs
def common_programs(template: Template[Federation]) -> CommonPrograms:
    """Return the programs of a federation whose agents share a world; compiled at first use."""

    def begin(federation: Federation, key: jax.Array, env_params: PyTree) -> jax.Array:
        learner = federation.learner
        common = _common(learner)
        position = _begun(jax.random.wrap_key_data(key), learner, common, env_params, _everyone(common))
        return _packed(learner, env_params).pack(position)

    def collect(
        federation: Federation,
        acting: jax.Array,
        noise: jax.Array,
        place: jax.Array,
        params: tuple[Params, ...],
        env_params: PyTree,
        present: jax.Array,
        row: jax.Array,
    ) -> tuple[Trajectory, dict[str, jax.Array], jax.Array]:
        learner = federation.learner
        how = _packed(learner, env_params)
        own = jax.tree.map(lambda leaf: leaf[place], params)
        keys = jax.random.wrap_key_data(acting), jax.random.wrap_key_data(noise)
        trajectory, position, sums = collected(*keys, learner, own, env_params, present, how.unpack(row))
        return jax.tree.map(lambda x: jnp.moveaxis(x, -1, 1), trajectory), sums, how.pack(position)

    return CommonPrograms(template.jit(begin), template.jit(collect))


def collected(
    acting: Key,
    noise: Key,
    learner: Learner,
    params: tuple[Params, ...],
    env_params: PyTree,
    present: jax.Array,
    position: Position,
) -> tuple[Trajectory, Position, dict[str, jax.Array]]:
    """Take `learner.horizon` steps with all agents.

    Copies with a number that is not finite begin a new episode first, for all their players; every copy does if the
    learner is episodic, and then only the first episode of each counts.

    Args:
        acting: A key of each agent's actions, `[agents]`.
        noise: The key of the world's noise.
        learner: The learner of every agent.
        params: The behaviour policies of each agent, `fedrl.core.learner.behaviours_of`, with a leading agent axis.
        env_params: The parameters of the world.
        present: `[agents]`, whose players are in the world; ignored where nobody leaves it.
        position: Where the copies are.

    Returns:
        The trajectory `[time, *features, players * num_envs]`, where the copies are after it, and the sums over the
        episodes that ended and over steps, `[agents]` each, of what each agent itself acts with.
    """
    common = _common(learner)
    players, num_envs = len(acting), learner.num_envs
    here = present[:, None] if common.leaves else jnp.ones((players, 1), bool)
    world = _attended(common, present)
    copies, how = copies_of(world, None, num_envs), counting(learner.environment.measures)
    position = _renewed(jax.random.fold_in(noise, BEGIN), learner, common, env_params, present, position)

    def choose(time: jax.Array, observation: jax.Array) -> jax.Array:
        def one(key: Key, own: tuple[Params, ...], shown: jax.Array) -> jax.Array:
            return explore(learner, jax.random.fold_in(key, time), own, shown)

        action = jax.vmap(one)(acting, params, jnp.moveaxis(observation, -2, 0))
        return rows(jnp.moveaxis(action, 0, -2), players)

    def step(carry: tuple[Position, jax.Array], at: tuple[jax.Array, Noise, Noise]) -> tuple[PyTree, PyTree]:
        (position, counting_on), (time, for_step, for_reset) = carry, at
        alive = None if position.alive is None else position.alive & here
        action = choose(time, position.observation)
        timestep, state = copies.step(for_step, env_params, position.state, alive, action)
        seen = copies.transition(Seen(position.observation, alive), action, timestep)
        opening, fresh = copies.reset(for_reset, env_params)
        done = timestep.terminated | timestep.truncated
        returned = position.returned + timestep.reward
        # A first episode that is cut off by the end of the rollout counts as ended, as everywhere.
        cut = jnp.bool_(learner.episodic) & (time == learner.horizon - 1)
        ended = (done | cut) & counting_on
        values = _values(learner, how.parts, timestep, alive)
        running, counted = _counted(how, values, position.measured, ended, counting_on)
        earned = jnp.where(ended, returned, 0.0)

        def first(new: PyTree, old: PyTree) -> PyTree:
            return jax.tree.map(lambda a, b: jnp.where(done, a, b), new, old)

        living = None
        if position.alive is not None and timestep.alive is not None:
            # Who is not there does not die; with a new episode all live.
            living = jnp.where(done, True, jnp.where(here, timestep.alive, position.alive))
        after = Position(
            first(fresh, state),
            first(opening.observation, timestep.observation),
            jnp.where(done, 0.0, returned),
            jnp.where(done, 0, position.length + 1),
            {name: jnp.where(done, 0.0, x) for name, x in running.items()},
            living,
        )
        return (after, counting_on & ~done if learner.episodic else counting_on), (seen, earned, counted)

    def draw(purpose: int, source: Callable[[Key, tuple[int, ...]], Noise]) -> Noise:
        keys = jax.random.split(jax.random.fold_in(noise, purpose), learner.horizon)
        return jax.vmap(lambda k: source(k, (num_envs,)))(keys)

    along = (jnp.arange(learner.horizon), draw(STEP, world.draw_step), draw(RESET, world.draw_reset))
    (position, _), (trajectory, earned, counted) = jax.lax.scan(step, (position, jnp.ones(num_envs, bool)), along)
    # Of several behaviours, the first is the agent's own policy, and it acts in the first copies.
    own = num_envs // len(params)
    sums = {name: jnp.broadcast_to(x[:, :own].sum(), players) for name, x in counted.items()}
    sums["episode_return"] = earned[..., :own].sum((0, 2))
    if not how.steps:
        del sums["steps"]
    return trajectory, position, sums


def _common(learner: Learner) -> CommonWorld:
    common = common_of(learner.environment)
    assert common is not None
    assert common.world.players is not None
    return common


def _everyone(common: CommonWorld) -> jax.Array:
    return jnp.ones(common.world.players or 1, bool)


def _attended(common: CommonWorld, present: jax.Array) -> Environment:
    """Return the world with these players alone, if others leave it; an absent player counts as not alive."""
    world = common.world
    if not common.leaves:
        return world

    def alive(timestep: Timestep) -> jax.Array:
        return present if timestep.alive is None else timestep.alive & present

    def reset(noise: Noise, params: PyTree) -> tuple[Timestep, State]:
        assert world.attend is not None
        timestep, state = world.reset(noise, params)
        observation, state = world.attend(params, state, present)
        return timestep._replace(observation=observation, alive=alive(timestep)), state

    def step(noise: Noise, params: PyTree, state: State, action: jax.Array) -> tuple[Timestep, State]:
        timestep, state = world.step(noise, params, state, action)
        living = alive(timestep)
        # Those who are out do not keep a world going in which nobody else is left.
        return timestep._replace(alive=living, terminated=timestep.terminated | ~living.any()), state

    return replace(world, reset=reset, step=step)


def _begun(noise: Key, learner: Learner, common: CommonWorld, env_params: PyTree, present: jax.Array) -> Position:
    """Return new episodes in all copies."""
    world, num_envs = _attended(common, present), learner.num_envs
    timestep, state = copies_of(world, None, num_envs).reset(world.draw_reset(noise, (num_envs,)), env_params)
    none = jnp.zeros(timestep.reward.shape)
    measured = {name: jnp.zeros(num_envs) for name in counting(learner.environment.measures).summed}
    living = None if timestep.alive is None else jnp.ones_like(timestep.alive)
    return Position(state, timestep.observation, none, jnp.zeros(num_envs, jnp.int32), measured, living)


def _renewed(
    noise: Key,
    learner: Learner,
    common: CommonWorld,
    env_params: PyTree,
    present: jax.Array,
    position: Position,
) -> Position:
    """Return the position at the beginning of a rollout, with these players."""
    world, fresh = common.world, _begun(noise, learner, common, env_params, present)
    sound = jnp.full(learner.num_envs, not learner.episodic)
    for leaf in jax.tree.leaves(position):
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            sound &= jnp.isfinite(leaf).reshape(-1, learner.num_envs).all(0)
    if common.leaves:
        assert world.attend is not None
        observation, state = jax.vmap(world.attend, (None, -1, None), -1)(env_params, position.state, present)
        position = position._replace(state=state, observation=observation)
    position = jax.tree.map(lambda here, anew: jnp.where(sound, here, anew), position, fresh)
    if position.alive is None or not common.leaves:
        return position
    shown = jnp.where(position.alive & present[:, None], position.observation, jnp.zeros_like(position.observation))
    return position._replace(observation=shown)


def _values(
    learner: Learner, names: tuple[str, ...], timestep: Timestep, alive: jax.Array | None
) -> dict[str, jax.Array]:
    """Return the measures of a step, `[num_envs]` each."""
    measured = dict(timestep.measures)
    if PRESENT in names and alive is not None:
        measured[PRESENT] = alive.sum(0)
    return {name: x.astype(jnp.float32) for name, x in step_values(names, measured, learner.environment).items()}


def _counted(
    how: Counting,
    values: Mapping[str, jax.Array],
    before: Mapping[str, jax.Array],
    ended: jax.Array,
    counting_on: jax.Array,
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Return the running sums of episodes after a step, and its counts; those per episode are zero before its end."""
    running = {name: before[name] + values[name] for name in how.summed}
    counted = {name: jnp.where(ended, x, 0.0) for name, x in running.items()}
    counted |= {name: jnp.where(ended, values[name], 0.0) for name in how.last}
    counted |= {name: jnp.where(counting_on, values[name], 0.0) for name in how.stepped}
    counted |= {"episodes": ended.astype(jnp.float32), "steps": counting_on.astype(jnp.float32)}
    return running, counted


def _packed(learner: Learner, env_params: PyTree) -> Packing:
    """Return how a position is stored in one row of words."""
    common = _common(learner)

    def made() -> Position:
        return _begun(jax.random.key(0), learner, common, env_params, _everyone(common))

    return packing(jax.eval_shape(made))
