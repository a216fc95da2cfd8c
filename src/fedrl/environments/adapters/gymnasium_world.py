"""Adapter for worlds in the form of Gymnasium, with an entry per player in tuples, which are stepped on the host."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fedrl.core.component import component
from fedrl.core.environment import HostEnvironment
from fedrl.core.imports import imported, is_reference, named, reference_to
from fedrl.core.measures import Measure
from fedrl.core.ranges import Count, Positive
from fedrl.environments.adapters.host_world import host_world
from fedrl.environments.adapters.vector import TIMEOUT_S


@component("environment", reference="Towers et al. (2024), https://arxiv.org/abs/2407.17032")
def gymnasium_world(
    id: str | Callable[..., Any],
    max_steps: Count | None = None,
    settings: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    measures: Mapping[str, Measure] | None = None,
    timeout_s: Positive = TIMEOUT_S,
) -> HostEnvironment:
    """Build an environment of several players from one of Gymnasium whose spaces are tuples with an entry per player.

    Rewards are a list with an entry per player, or one number that all of them earn. `terminated` is one flag for all,
    or a list: a player whose flag is true is dead from then on, and the episode terminates when all are. Where both are
    single, `agents_rewards` and `agents_terminated` in `info` take their place, as highway-env has them. A list of
    flags is never read as one flag: it would be true whenever it is not empty. Unlike spaces and text are treated as in
    `pettingzoo`.

    Args:
        id: Id of the environment, such as "rware:rware-tiny-2ag-v2", which imports the module that registers it; or a
            class or function that makes one, or its reference "module:name".
        max_steps: Time limit; the registered one by default.
        settings: Names and defaults of keyword arguments of its constructor that may differ between agents.
        options: More keyword arguments, the same for every agent.
        measures: Measures besides the return, read in `info`: as in `gymnasium`.
        timeout_s: Seconds after which a step or a reset of one copy has failed.

    Raises:
        ConfigError: There is no such environment, it has no time limit, or its spaces are not supported.
    """
    title = id if isinstance(id, str) else getattr(id, "__name__", "world")
    reference = id if isinstance(id, str) else reference_to(id)
    if not is_reference(reference):
        module, _, name = reference.rpartition(":")
        if module:
            imported(module, "id")
        options = {"id": name, "module": module, **(options or {})}
        build: str | Callable[..., Any] = "fedrl.environments.adapters.packed_world:made"
    else:
        found = named(reference, "id")
        build = found if "#" in reference else reference
    return host_world(title, "tuples", build, max_steps, settings, options, measures, timeout_s)
