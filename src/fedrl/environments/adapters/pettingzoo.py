"""Adapter for worlds of PettingZoo, and of others with its parallel interface, which are stepped on the host."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fedrl.core.component import component
from fedrl.core.environment import HostEnvironment
from fedrl.core.errors import ConfigError
from fedrl.core.imports import imported, named, reference_to
from fedrl.core.measures import Measure
from fedrl.core.ranges import Count, Positive
from fedrl.environments.adapters.host_world import host_world
from fedrl.environments.adapters.vector import TIMEOUT_S


@component("environment", reference="Terry et al. (2021), https://arxiv.org/abs/2009.14471")
def pettingzoo(
    id: str | Callable[..., Any],
    max_steps: Count | None = None,
    settings: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    measures: Mapping[str, Measure] | None = None,
    timeout_s: Positive = TIMEOUT_S,
) -> HostEnvironment:
    """Build an environment of several players from a world of PettingZoo with the parallel interface.

    Players are the `possible_agents` of the world, in their order; all have to begin every episode. A player that
    terminates, or is cut off before the others, is dead from then on: see `docs/worlds.md`. The episode ends when all
    are gone: truncated if any of the last ones was cut off, else terminated. Where `state()` is given, it is the
    overview, which only training may read. Every episode has a seed, also those that begin after another.

    Actions may be several choices at once, as in `gymnasium`. Where players have unlike spaces, observations become
    vectors, padded with zeros to the longest, with the one-hot of the player appended; a discrete choice beyond the
    last one of a player is its first, and further entries of continuous ones are ignored (`notes` of the environment
    says so). Fields that are text are left out.

    Args:
        id: The module of the world, such as "mpe2.simple_spread_v3" or "pettingzoo.butterfly.pistonball_v6", whose
            `parallel_env` makes it; or a class or function that makes one, or its reference "module:name".
        max_steps: Time limit; the `max_cycles` of the world by default.
        settings: Names and defaults of keyword arguments of its constructor that may differ between agents: numbers,
            strings, booleans, lists or tables. They may not change the spaces or the players.
        options: More keyword arguments, the same for every agent.
        measures: Measures besides the return, read in the `infos` of the first player that has some: as in `gymnasium`.
        timeout_s: Seconds after which a step or a reset of one copy has failed.

    Raises:
        ConfigError: There is no such world, it has no time limit, or its spaces are not supported.

    >>> from fedrl.environments.adapters.pettingzoo import pettingzoo
    >>> pettingzoo("no_such_package.world_v0")
    Traceback (most recent call last):
    fedrl.core.errors.ConfigError: id names the module 'no_such_package.world_v0', and there is no module ...
    """
    title = id if isinstance(id, str) else getattr(id, "__name__", "world")
    return host_world(title, "parallel", _maker(id), max_steps, settings, options, measures, timeout_s)


def _maker(id: str | Callable[..., Any]) -> str | Callable[..., Any]:
    """Return what makes the world: a reference that other processes can follow, if there is one."""
    reference = id if isinstance(id, str) else reference_to(id)
    if ":" not in reference:
        module = imported(reference, "id")
        if not hasattr(module, "parallel_env"):
            raise ConfigError(
                f"{reference} has no parallel_env. A world is a module of PettingZoo with the parallel interface, such "
                "as 'mpe2.simple_spread_v3', or 'module:name' of what makes one. Give one of these."
            )
        return f"{reference}:parallel_env"
    made = named(reference, "id")
    return made if "#" in reference else reference
