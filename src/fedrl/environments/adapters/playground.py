"""Adapter for environments of MuJoCo Playground, which run inside compiled programs. Needs the extra `playground`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedrl.core.component import component
from fedrl.core.environment import Environment
from fedrl.core.errors import ConfigError, nearest
from fedrl.core.ranges import Count
from fedrl.environments.adapters.compiled_library import library_of, physics


@component("environment", reference="Zakka et al. (2025), https://arxiv.org/abs/2502.08844")
def playground(id: str, max_steps: Count | None = None, options: Mapping[str, Any] | None = None) -> Environment:
    """Build an environment of MuJoCo Playground from its name.

    Actions are in [-1, 1], and clipped to it. `done` is a termination; the time limit is that of fedrl, which
    truncates.
    Observations in several parts, such as those of a privileged critic, become one vector that policies read.

    Args:
        id: Name of the environment, such as "CartpoleBalance".
        max_steps: Time limit; `episode_length` of the environment's configuration by default.
        options: Changes of the environment's configuration, `config_overrides` of the library.

    Raises:
        ConfigError: MuJoCo Playground is not installed, or has no such environment.
    """
    registry = library_of("mujoco_playground", "playground").registry
    if id not in registry.ALL_ENVS:
        raise ConfigError(f"{id!r} is no environment of MuJoCo Playground. {nearest(id, registry.ALL_ENVS)}")
    limit = registry.get_default_config(id).episode_length if max_steps is None else max_steps
    # The physics in JAX: by default the library takes the one for NVIDIA's GPUs.
    overrides = {"impl": "jax"} if "impl" in registry.get_default_config(id) else {}
    return physics(registry.load(id, config_overrides={**overrides, **(options or {})}), int(limit))
