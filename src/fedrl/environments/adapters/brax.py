"""Adapter for environments of brax, which run inside compiled programs. Needs the extra `brax`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fedrl.core.component import component
from fedrl.core.environment import Environment
from fedrl.core.errors import ConfigError, nearest
from fedrl.core.ranges import Count
from fedrl.environments.adapters.compiled_library import library_of, physics

UNMAINTAINED = "brax's own environments are no longer maintained: its authors point to MuJoCo Playground."


@component("environment", reference="Freeman et al. (2021), https://arxiv.org/abs/2106.13281")
def brax(id: str, max_steps: Count = 1000, options: Mapping[str, Any] | None = None) -> Environment:
    """Build an environment of brax from its name.

    Actions are in [-1, 1], and clipped to it. `done` is a termination; the time limit is that of fedrl, which
    truncates.

    Args:
        id: Name of the environment, such as "ant" or "inverted_pendulum".
        max_steps: Time limit.
        options: Keyword arguments of the environment's constructor, such as {"backend": "spring"}.

    Raises:
        ConfigError: brax is not installed, or has no such environment.
    """
    library = library_of("brax.envs", "brax")
    if id not in library._envs:
        raise ConfigError(f"{id!r} is no environment of brax. {nearest(id, library._envs)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it is no longer maintained: `UNMAINTAINED` says so
        inner = library.get_environment(id, **(options or {}))
    return replace(physics(inner, max_steps), notes=(UNMAINTAINED,))
