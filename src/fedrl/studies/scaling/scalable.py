"""Which configurations can be built with any number of agents: those without a value for each agent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedrl.config.fleet_tables import fleet_settings
from fedrl.core.errors import ConfigError

SAME = ("local_steps", "delay_rounds")
"""Keys of `[federation]` that may be lists with a number for each agent."""
UNMEASURED: dict[str, Any] = {
    "baselines": {},
    "evaluation": {"film": False},
    "seeds": 1,
    "tensorboard": False,
}
"""Sections and keys that are replaced: rounds of the federation alone are measured."""


def scalable(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration without what is not measured, if its number of agents can change.

    Args:
        tables: The tables of an experiment.

    Raises:
        ConfigError: A key has one value for each agent; the message names it.

    >>> scalable({"name": "x", "federation": {"agents": 2}, "fleet": {"slip": {"range": [0.0, 0.2]}}})["seeds"]
    1
    """
    fleet = fleet_settings(tables.get("fleet", {}))
    for name, setting in fleet.items() if isinstance(fleet, Mapping) else ():
        if isinstance(setting, list | tuple):
            raise ConfigError(
                f"fleet.{name} has {len(setting)} values, one for each agent, so the number of agents can't change. "
                f"Give a distribution: fleet.{name} = {{range = {_ends(setting)}}}, or {{uniform = [low, high]}}."
            )
        if isinstance(setting, Mapping) and "grid" in setting:
            raise ConfigError(
                f"fleet.{name} is a grid, which has one combination for each agent, so the number of agents can't "
                f"change. Give a distribution, such as fleet.{name} = {{uniform = {_ends(setting['grid'])}}}."
            )
    federation = tables.get("federation", {})
    for name in SAME:
        value = federation.get(name) if isinstance(federation, Mapping) else None
        if isinstance(value, list | tuple):
            raise ConfigError(
                f"federation.{name} has {len(value)} numbers, one for each agent, so the number of agents can't "
                "change. Give one number for all, or a schedule or distribution by its name."
            )
    # An earlier run has parameters for its own agents, and the first values don't change what a round costs.
    return {key: value for key, value in tables.items() if key != "init"} | {"fleet": fleet} | UNMEASURED


def _ends(values: Any) -> str:
    numbers = [x for x in values if isinstance(x, int | float)] if isinstance(values, list | tuple) else []
    return f"[{min(numbers)}, {max(numbers)}]" if numbers and len(numbers) == len(values) else "[low, high]"
