"""The memory of recurrent policies as a part of the environment's state.

    observed by a learner    [what is observed, flat | memory | 1 if an episode begins]
    decided by a learner     [the action's entries | the memory after the step]

A rollout, an evaluation or a film thus needs to know nothing of memories: the environment shows to a policy what it has
noted, and forgets at the beginning of an episode. A learner with a recurrent network puts this around its environment
by itself, and its `with_memory` does it for another environment.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core.component import printed_as
from fedrl.core.environment import (
    ActionSpace,
    AnyEnvironment,
    Box,
    Discrete,
    Environment,
    HostEnvironment,
    Noise,
    Space,
    Spaces,
    State,
    Timestep,
)
from fedrl.core.host import Failure, HostStep, Instances
from fedrl.core.types import PyTree


class Remembering(NamedTuple):
    """The state of an environment, and what a policy has noted in it.

    Attributes:
        state: The state of the environment inside.
        memory: `[size]`, or `[size, players]` in a world.
        begins: 1 if an episode begins, else 0; `[players]` where players are places for others who come.
        alive: `[players]` bool, who lives, where players are such places; None in any other environment.
        present: `[players]` bool, who is in a world that players may leave; None in any other environment.
    """

    state: State
    memory: jax.Array
    begins: jax.Array
    alive: jax.Array | None
    present: jax.Array | None


def with_memory(environment: AnyEnvironment, size: int) -> AnyEnvironment:
    """Return an environment that keeps so many numbers for a policy."""
    seen, done = environment.spaces
    spaces = Spaces(Box((_width(seen) + size + 1,)), Box((math.prod(done.shape) + size,)))
    if isinstance(environment, HostEnvironment):
        return printed_as(_on_host(environment, spaces, size), environment)
    return printed_as(replace(_compiled(environment, size), spaces=spaces), environment)


def _on_host(environment: HostEnvironment, spaces: Spaces, size: int) -> HostEnvironment:
    inner, drawn, common = environment.open, environment.open_rendered, environment.common

    def open(params: PyTree, workers: int | None = None) -> Instances:
        return RememberingInstances(inner(params, workers), environment.spaces, size)

    def open_rendered(params: PyTree) -> Any:
        assert drawn is not None
        return RememberingInstances(drawn(params), environment.spaces, size)

    if common is not None:
        world = replace(_compiled(common.world, size), spaces=spaces)
        common = common._replace(world=printed_as(world, common.world))
    # A single agent's film acts as a policy does outside of fedrl, so that the memory is its own.
    if drawn is None or environment.players is None:
        return replace(environment, spaces=spaces, open=open, common=common)
    return replace(environment, spaces=spaces, open=open, common=common, open_rendered=open_rendered)


def _compiled(environment: Environment, size: int) -> Environment:
    seen, done = environment.spaces
    reset_inner, step_inner, attend_inner = environment.reset, environment.step, environment.attend
    picture, above = environment.picture, environment.overview
    players, lives = () if environment.players is None else (environment.players,), environment.revives

    def reset(noise: Noise, params: PyTree) -> tuple[Timestep, State]:
        timestep, state = reset_inner(noise, params)
        everyone = None if attend_inner is None else jnp.ones(players, bool)
        living, begins = (timestep.alive, jnp.ones(players)) if lives else (None, jnp.float32(1.0))
        after = Remembering(state, jnp.zeros((size, *players)), begins, living, everyone)
        return timestep._replace(observation=shown(seen, timestep.observation, after.memory, 1.0)), after

    def step(noise: Noise, params: PyTree, state: Remembering, action: jax.Array) -> tuple[Timestep, State]:
        own, memory = action_in(done, action), action[action.shape[0] - size :]
        timestep, inner = step_inner(noise, params, state.state, own)
        if state.present is not None:
            memory = jnp.where(state.present, memory, 0.0)
        begins = jnp.float32(0.0)
        if state.alive is not None:
            # Who comes to a place knows nothing of what the one before it has seen there.
            memory, begins = jnp.where(state.alive, memory, 0.0), 1.0 - state.alive
        after = Remembering(inner, memory, begins, timestep.alive if lives else None, state.present)
        return timestep._replace(observation=shown(seen, timestep.observation, memory, begins)), after

    def attend(params: PyTree, state: Remembering, present: jax.Array) -> tuple[jax.Array, State]:
        assert attend_inner is not None
        observation, inner = attend_inner(params, state.state, present)
        memory = jnp.where(present, state.memory, 0.0)  # who leaves a world forgets it
        after = Remembering(inner, memory, state.begins, state.alive, present)
        return shown(seen, observation, memory, state.begins), after

    def see(params: PyTree, state: Remembering) -> jax.Array:
        assert above is not None
        assert above.see is not None
        return above.see(params, state.state)

    return replace(
        environment,
        reset=reset,
        step=step,
        attend=None if attend_inner is None else attend,
        picture=None
        if picture is None
        else picture._replace(frame=lambda state, params: picture.frame(state.state, params)),
        overview=None if above is None else above._replace(see=see),
    )


def shown(space: Space, observation: Any, memory: Any, begins: Any) -> jax.Array:
    """Return what a learner observes, `[entries, *batch]`."""
    entries = flat(space, observation)
    return jnp.concatenate([entries, memory, jnp.broadcast_to(jnp.float32(begins), (1, *entries.shape[1:]))])


def flat(space: Space, observation: jax.Array) -> jax.Array:
    """Return an observation as one array of float32, `[entries, *batch]`, one-hot if it is discrete."""
    if isinstance(space, Discrete):
        return jax.nn.one_hot(observation, space.n, axis=0)
    return observation.reshape(-1, *observation.shape[len(space.shape) :])


def inside(space: Space, entries: jax.Array) -> jax.Array:
    """Return the observation of these entries, the inverse of `flat`."""
    if isinstance(space, Discrete):
        return jnp.argmax(entries, axis=0).astype(space.dtype)
    return entries.reshape(*space.shape, *entries.shape[1:])


def action_in(space: ActionSpace, action: Any) -> jax.Array:
    """Return the action of the environment inside, `[*action, *batch]`, of a learner's one."""
    entries = action[: math.prod(space.shape)]
    return entries.reshape(*space.shape, *action.shape[1:]).astype(space.dtype)


def noted(action: jax.Array, space: ActionSpace, *memory: jax.Array) -> jax.Array:
    """Return a learner's action, of one in the environment inside and the memory after it."""
    entries = action.reshape(math.prod(space.shape), *action.shape[len(space.shape) :])
    return jnp.concatenate([entries.astype(jnp.float32), *memory])


class RememberingInstances:
    """Copies of a host environment, with what the policy has noted of each, as `fedrl.core.host.Instances`.

    The arrays are those of the copies inside, in a world with the players on the second axis.
    """

    def __init__(self, inner: Any, spaces: Spaces, size: int) -> None:
        self.name = getattr(inner, "name", "")
        self.failed: Mapping[int, Failure] = getattr(inner, "failed", {})
        self._inner, self._spaces, self._size = inner, spaces, size
        self._memory, self._begins = np.zeros(0, np.float32), np.zeros(0, np.float32)

    def __getattr__(self, name: str) -> Any:
        # What some copies have besides: `overview`, and of those that draw themselves `render` and `metadata`.
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._inner, name)

    def reset(self, seeds: Sequence[int] | int, active: np.ndarray | None = None) -> np.ndarray:
        """Begin an episode in the active copies, where everything is forgotten."""
        seen = self._flat(self._inner.reset(seeds) if active is None else self._inner.reset(seeds, active))
        self.failed = getattr(self._inner, "failed", {})
        if not len(self._memory):
            self._memory = np.zeros((*seen.shape[:-1], self._size), np.float32)
            self._begins = np.ones((*seen.shape[:-1], 1), np.float32)
        here = slice(None) if active is None else active
        self._memory[here], self._begins[here] = 0.0, 1.0
        return np.concatenate([seen, self._memory, self._begins], -1)

    def step(self, action: np.ndarray, active: np.ndarray | None = None) -> HostStep:
        """Step the active copies, and keep what the policy has noted."""
        space = self._spaces.action
        entries, memory = action[..., : -self._size], action[..., -self._size :]
        own = entries.reshape(*action.shape[:-1], *space.shape).astype(space.dtype)
        after = self._inner.step(own) if active is None else self._inner.step(own, active)
        self.failed = getattr(self._inner, "failed", {})
        # Parameters that are not finite make memories like them, which is for the learner to find: training computes
        # these memories again. In an observation they would be counted as a failure of the environment.
        memory = np.where(np.isfinite(memory), memory, 0.0)
        reached = np.concatenate([self._flat(after.next_observation), memory, np.zeros_like(self._begins)], -1)
        apart = (len(action), *[1] * (action.ndim - 1))
        here = np.ones(apart, bool) if active is None else np.asarray(active).reshape(apart)
        done = (after.terminated | after.truncated).reshape(apart) & here
        self._memory = np.where(here, np.where(done, 0.0, memory), self._memory).astype(np.float32)
        self._begins = np.where(here, done, self._begins).astype(np.float32)
        now = np.concatenate([self._flat(after.observation), self._memory, self._begins], -1)
        return after._replace(observation=now, next_observation=reached)

    def close(self) -> None:
        """Release all resources."""
        self._inner.close()

    def _flat(self, seen: np.ndarray) -> np.ndarray:
        """`[*batch, entries]` float32 of observations; a discrete one is one-hot."""
        space = self._spaces.observation
        if isinstance(space, Discrete):
            return np.eye(space.n, dtype=np.float32)[seen]
        return seen.reshape(*seen.shape[: seen.ndim - len(space.shape)], -1).astype(np.float32)


def _width(space: Space) -> int:
    return space.n if isinstance(space, Discrete) else math.prod(space.shape)
