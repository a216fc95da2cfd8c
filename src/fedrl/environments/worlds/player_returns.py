"""Measure the return of each player, where players are rewarded differently."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core.environment import Environment, HostEnvironment, Noise, Overview, Picture, Timestep
from fedrl.core.errors import ConfigError
from fedrl.core.host import Failure, HostStep, Instances
from fedrl.core.host_players import Living
from fedrl.core.measures import Measure
from fedrl.core.players import alive_after
from fedrl.core.types import PyTree
from fedrl.environments.worlds.tracked import Tracked

World = TypeVar("World", bound=Environment | HostEnvironment)


def player_returns(world: World) -> World:
    """Add the measures `player_1_return`, `player_2_return`, ... to a world: what each player earns in an episode.

    The return in records is their mean over players, which is 0 in every game that is won from each other.

    Args:
        world: A world without them, compiled or on the host.

    Raises:
        ConfigError: The environment has no players.

    >>> from fedrl.environments import matching_pennies
    >>> sorted(matching_pennies().measures)
    ['player_1_return', 'player_2_return']
    """
    if world.players is None:
        raise ConfigError(
            f"{world!r} has a single agent, whose return is in all records. Give player_returns a world of several "
            "players, such as navigation()."
        )
    names = [f"player_{number}_return" for number in range(1, world.players + 1)]

    if isinstance(world, HostEnvironment):
        return cast(World, _on_host(world, names))

    def earned(timestep: Timestep, *earning: jax.Array | None) -> Timestep:
        reward = timestep.reward
        for who in earning:
            reward = reward if who is None else jnp.where(who, reward, 0.0)
        return timestep._replace(measures={**timestep.measures, **dict(zip(names, reward, strict=True))})

    def reset(noise: Noise, params: PyTree) -> tuple[Timestep, Tracked]:
        timestep, state = world.reset(noise, params)
        return timestep, Tracked(state, timestep.alive)

    def step(noise: Noise, params: PyTree, state: Tracked, action: jax.Array) -> tuple[Timestep, Tracked]:
        before = state.alive
        timestep, after = world.step(noise, params, state.state, action)
        living = None if before is None or timestep.alive is None else alive_after(world, before, timestep.alive)
        return earned(timestep, before, state.present), Tracked(after, living, state.present)

    def attend(params: PyTree, state: Tracked, present: jax.Array) -> tuple[jax.Array, Tracked]:
        assert world.attend is not None
        observation, inner = world.attend(params, state.state, present)
        return observation, Tracked(inner, state.alive, present)

    picture, above = world.picture, world.overview
    framed = None if picture is None else Picture(lambda at, params: picture.frame(at.state, params), picture.pause_ms)
    see = None if above is None else above.see
    whole = above if above is None or see is None else Overview(above.space, lambda params, at: see(params, at.state))
    declared = {**world.measures, **_declared(names)}
    attending = None if world.attend is None else attend
    return replace(world, reset=reset, step=step, measures=declared, picture=framed, overview=whole, attend=attending)


def _on_host(world: HostEnvironment, names: list[str]) -> HostEnvironment:
    def open(params: PyTree, workers: int | None) -> Instances:
        return _Told(world.open(params, workers), names)

    return replace(world, open=open, measures={**world.measures, **_declared(names)})


class _Told:
    """Copies of a world that also say what each player earns, which is nothing after its death."""

    def __init__(self, instances: Any, names: list[str]) -> None:
        self.name, self._instances, self._names = instances.name, instances, names
        self.failed: Mapping[int, Failure] = {}
        self._living: Living | None = None

    @property
    def overview(self) -> np.ndarray:
        return self._instances.overview

    def reset(self, seeds: Sequence[int], active: np.ndarray | None = None) -> np.ndarray:
        if self._living is None:
            self._living = Living(len(self._names), len(seeds))
        self._living.begin(np.ones(len(seeds), bool) if active is None else active)
        seen = self._instances.reset(seeds, active)
        self.failed = self._instances.failed
        return seen

    def step(self, action: np.ndarray, active: np.ndarray | None = None) -> HostStep:
        assert self._living is not None
        going = np.ones(len(action), bool) if active is None else active
        after, _ = self._living.after(self._instances.step(action, active), going)
        self.failed = self._instances.failed
        return after._replace(measures={**after.measures, **dict(zip(self._names, after.reward.T, strict=True))})

    def close(self) -> None:
        self._instances.close()


def _declared(names: list[str]) -> dict[str, Measure]:
    return dict.fromkeys(names, Measure("episode", better="higher"))
