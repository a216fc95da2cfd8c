"""Adapter for worlds of JaxMARL, which run inside compiled programs. Needs the extra `jaxmarl`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core.component import component
from fedrl.core.environment import Box, Discrete, Environment, Overview, Space, Spaces, State, Timestep, draw_keys
from fedrl.core.errors import ConfigError, nearest
from fedrl.core.ranges import Count
from fedrl.core.types import Key, PyTree
from fedrl.environments.adapters.compiled_library import legacy, library_of
from fedrl.environments.adapters.settings import settings_record, strong
from fedrl.environments.time_limit import Timed


@component("environment", reference="Rutherford et al. (2024), https://arxiv.org/abs/2311.10090")
def jaxmarl(id: str, max_steps: Count | None = None, options: Mapping[str, Any] | None = None) -> Environment:
    """Build an environment of several players from a world of JaxMARL.

    JaxMARL has one flag for the end and for the time limit. An episode that ends at the limit was truncated, one that
    ends before has terminated; where both fall together, this is read as truncation. A player whose own flag is true
    before is dead from then on. The overview, which only training may read, is what all players observe.

    Where players have unlike spaces, observations are padded with zeros to the longest, with the one-hot of the player
    at the end, and a discrete action beyond the last one of a player is its first.

    Args:
        id: Id of the world, such as "MPE_simple_spread_v3".
        max_steps: Time limit; the world's `max_steps` by default, which it may not exceed.
        options: Keyword arguments of the world's constructor.

    Raises:
        ConfigError: JaxMARL is not installed or has no such world, the world has no time limit, or its spaces are not
            supported.
    """
    library = library_of("jaxmarl", "jaxmarl")
    if id not in library.registered_envs:
        raise ConfigError(f"{id!r} is no world of JaxMARL. {nearest(id, library.registered_envs)}")
    world = library.make(id, **(options or {}))
    own = getattr(world, "max_steps", None)
    limit = max_steps or own
    if limit is None or limit > (own or limit):
        raise ConfigError(f"max_steps is {max_steps}, and the limit of {id} is {own}. Set max_steps within it.")
    names = list(world.agents)
    spaces, sizes, counts = _spaces(id, world, names)
    alike = len(set(sizes)) == 1 and len(set(counts)) == 1
    length, players = max(sizes), len(names)

    def seen(shown: Mapping[str, Any]) -> jax.Array:
        if alike:
            return jnp.stack([jnp.asarray(shown[name], jnp.float32) for name in names], -1)
        rows = [jnp.asarray(shown[name], jnp.float32).reshape(-1) for name in names]
        padded = jnp.stack([jnp.pad(row, (0, length - row.size)) for row in rows], -1)
        return jnp.concatenate([padded, jnp.eye(players)])

    def dealt(action: jax.Array) -> dict[str, jax.Array]:
        parts = {name: action[..., i] for i, name in enumerate(names)}
        if isinstance(spaces.action, Box):
            low, high = spaces.action.low, spaces.action.high
            return {name: jnp.clip(part, low, high) for name, part in parts.items()}
        pairs = zip(parts.items(), counts, strict=True)
        return {name: jnp.where(part < count, part, 0) for (name, part), count in pairs}

    def reset(key: Key, params: PyTree) -> tuple[Timestep, State]:
        del params
        shown, state = world.reset(legacy(key))
        never = jnp.bool_(False)
        opening = Timestep(seen(shown), jnp.zeros(players), never, never, {}, jnp.ones(players, bool))
        return opening, Timed(jax.tree.map(strong, state), jnp.int32(0))

    def step(key: Key, params: PyTree, state: Timed, action: jax.Array) -> tuple[Timestep, State]:
        del params
        # Not `world.step`, which resets at the end of an episode, so that its last observation would be lost.
        shown, inner, reward, done, _ = world.step_env(legacy(key), state.state, dealt(action))
        time, over = state.steps + 1, jnp.asarray(done["__all__"], bool)
        terminated = over & (time < limit)
        earned = jnp.stack([jnp.asarray(reward[name], jnp.float32).reshape(()) for name in names])
        # At the end of an episode every flag is true, and nobody has died.
        alive = ~jnp.stack([jnp.asarray(done[name], bool).reshape(()) for name in names]) | over
        timestep = Timestep(seen(shown), earned, terminated, (time >= limit) & ~terminated, {}, alive)
        return timestep, Timed(jax.tree.map(strong, inner), time)

    def above(params: PyTree, state: Timed) -> jax.Array:
        del params
        shown = world.get_obs(state.state)
        return jnp.concatenate([jnp.asarray(shown[name], jnp.float32).reshape(-1) for name in names])

    return Environment(
        settings_record({}),
        spaces,
        draw_keys,
        draw_keys,
        reset,
        step,
        int(limit),
        players=players,
        overview=Overview(Box((sum(sizes),)), above),
        notes=() if alike else (_unlike(id),),
    )


def _unlike(id: str) -> str:
    return (
        f"The players of {id} have unlike spaces. Observations are padded with zeros to the longest, with the one-hot "
        "of the player at the end, and an action that a player does not have is its first one."
    )


def _spaces(id: str, world: Any, names: list[str]) -> tuple[Spaces, list[int], list[int]]:
    """Return the spaces of each player, and the sizes of observations and numbers of actions, by player."""
    seen, done = ([space(name) for name in names] for space in (world.observation_space, world.action_space))
    sizes = [int(np.prod(space.shape)) for space in seen]
    kinds = {type(space).__name__ for space in done}
    if kinds == {"Discrete"}:
        counts = [int(space.n) for space in done]
        action: Space = Discrete(max(counts))
    elif kinds == {"Box"} and len({tuple(space.shape) for space in done}) == 1:
        counts = [int(np.prod(done[0].shape))] * len(names)
        action = Box(tuple(done[0].shape), float(np.min(done[0].low)), float(np.max(done[0].high)))
    else:
        raise ConfigError(f"{id} has actions in {done}, and all have to be Discrete, or all Boxes of one shape.")
    alike = len(set(sizes)) == 1 and len({getattr(space, "n", 0) for space in done}) == 1
    shape = tuple(seen[0].shape) if alike else (max(sizes) + len(names),)
    return Spaces(Box(shape), action), sizes, counts
