"""A Gymnasium environment of one's own in a configuration: which of its arguments differ between agents.

    environment = {name = "mysite:Building", max_steps = 96, insulated = true}
    fleet = {data = ["a.csv", "b.csv"], capacity = [3.0, 4.5]}

    --expanded-->  {name = "gymnasium", id = "mysite:Building", max_steps = 96, options = {insulated = true},
                    settings = {data = "a.csv", capacity = 3.0}}

The arguments that the fleet sets become settings, whose defaults are those of the first agent; the others are the same
for all agents. A function that returns an environment of fedrl is a component like any other.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from fedrl.config.catalogue import Table
from fedrl.core.component import CATALOGUE
from fedrl.core.environment import Environment, HostEnvironment
from fedrl.core.errors import ConfigError, FedrlError, nearest
from fedrl.core.imports import is_reference, named, own_traceback
from fedrl.environments.choices import is_choice
from fedrl.environments.settings import kind_of

WHERE = "environment"
GIVEN = ("id", "settings", "options")
TABLES: dict[str, Callable[[Any], Any]] = {
    "range": min,
    "uniform": min,
    "normal": lambda pair: pair[0],
    "grid": lambda values: values[0],
}
"""Which number of a table of the fleet serves as a default."""


def expanded(environment: Any, fleet: Mapping[str, Any]) -> Any:
    """Return the table of an environment; of one's own Gymnasium environment, the table of the adapter.

    Args:
        environment: The table, or the name, as a configuration has it.
        fleet: The settings of the fleet, by name.

    Raises:
        ConfigError: The module or the function fails, or a key is no argument of it.
    """
    table = {"name": environment} if isinstance(environment, str) else environment
    if not isinstance(table, Mapping) or not is_reference(table.get("name")):
        return environment
    reference = str(table["name"])
    build = named(reference, f"{WHERE}.name")
    if any(entry.build is build for entry in CATALOGUE.values()) or not callable(build):
        return environment
    from fedrl.environments.adapters.gymnasium import gymnasium

    adapter = set(inspect.signature(gymnasium).parameters) - {"id"}
    parameters = _parameters(reference, build)
    own, ours = _sorted(reference, table, parameters, adapter)
    for key in ("settings", "options"):
        if not isinstance(ours.get(key, {}), Mapping):
            raise ConfigError(f"{WHERE}.{key} is {ours[key]!r}. It needs to be a table.")
    settings = {**ours.pop("settings", {}), **{name: _default(name, fleet[name], own, parameters) for name in fleet}}
    options = {**ours.pop("options", {}), **{name: value for name, value in own.items() if name not in settings}}
    if not _is_gymnasium(reference, build, {**options, **settings}):
        return environment
    found: Table = {"name": "gymnasium", "id": reference, **ours}
    if "max_steps" in parameters and "max_steps" in own:
        found["max_steps"] = own["max_steps"]
    return found | ({"settings": settings} if settings else {}) | ({"options": options} if options else {})


def _sorted(
    reference: str, table: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter], adapter: set[str]
) -> tuple[Table, Table]:
    """Return the arguments of the function, and the keys of the adapter."""
    further = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    own: Table = {}
    ours: Table = {}
    for key, value in table.items():
        if key == "name":
            continue
        if key in parameters:
            own[key] = value
        elif key in adapter:
            ours[key] = value
        elif further:
            own[key] = value
        else:
            raise ConfigError(
                f"{WHERE}.{key} is {value!r}, but {reference} has no argument {key!r}. "
                f"{nearest(key, set(parameters) | adapter)}"
            )
    return own, ours


def _default(name: str, setting: Any, own: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter]) -> Any:
    """Return the default of a setting: that of the table, else a value of the fleet."""
    values = list(setting) if isinstance(setting, list | tuple) else [setting]
    if name in own:
        values.insert(0, own[name])
    elif isinstance(setting, Mapping):
        declared = parameters[name].default if name in parameters else inspect.Parameter.empty
        word = kind_of(f"fleet.{name}", setting)
        try:
            numbers = list(setting[word])
            values = [TABLES[word](numbers), *numbers]
        except (TypeError, ValueError, IndexError):
            raise ConfigError(
                f"fleet.{name} is {dict(setting)!r}. It needs a list of numbers, two unless it is a grid. Give these."
            ) from None
        if declared is not inspect.Parameter.empty and not is_choice(declared):
            values.insert(0, declared)
    if not values:
        raise ConfigError(f"fleet.{name} is an empty list. It needs a value for each agent.")
    # One fraction makes all of them fractions: an integer default would refuse it.
    fractions = not any(map(is_choice, values)) and any(isinstance(value, float) for value in values)
    return float(values[0]) if fractions else values[0]


def _parameters(reference: str, build: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(build).parameters
    except (TypeError, ValueError):
        raise ConfigError(
            f"{WHERE}.name is {reference!r}, whose arguments can't be read. Wrap it in a function of your own."
        ) from None


def _is_gymnasium(reference: str, build: Callable[..., Any], arguments: Mapping[str, Any]) -> bool:
    """Return whether a class or function makes environments of Gymnasium; a function is called to find out."""
    import gymnasium

    if inspect.isclass(build):
        return issubclass(build, gymnasium.Env)
    accepted = inspect.signature(build).parameters
    further = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values())
    try:
        made = build(**{name: value for name, value in arguments.items() if further or name in accepted})
    except FedrlError:
        raise
    except Exception as fault:
        raise ConfigError(f"{WHERE}: {reference} failed.\n{own_traceback(fault)}") from fault
    if isinstance(made, gymnasium.Env):
        made.close()
        return True
    if isinstance(made, Environment | HostEnvironment):
        return False
    raise ConfigError(
        f"{WHERE}.name is {reference!r}, which returned an object of the type {type(made).__name__}. It needs to "
        "return an environment of Gymnasium or fedrl."
    )
