"""What a study is before it runs: a configuration, a grid, and what counts as success.

study.toml = an experiment.toml + [study] --read--> Plan --> settings, a configuration and a run folder each
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import tomli_w

from fedrl.config import Config, parse, tables_of
from fedrl.config.build import build
from fedrl.config.coerce import coerce
from fedrl.config.coordination import measure_names
from fedrl.config.overrides import assign, override
from fedrl.core.errors import ConfigError, UnsoundError, nearest
from fedrl.core.measures import chosen
from fedrl.records.measured import RETURN
from fedrl.studies.grid import EXAMPLE, GRID, Grid, checked, label, product, short_names

SECTION = "study"
KEYS = ("grid", "target", "quantity")
LONGEST_NAME = 60


class StudySetting(NamedTuple):
    """One combination of the grid's values.

    Attributes:
        number: From 1, in the order of the product.
        values: Of each key of the grid.
        label: The same in words.
        folder: The name of its run folder inside the study's.
    """

    number: int
    values: dict[str, Any]
    label: str
    folder: str


@dataclass(frozen=True)
class StudyPlan:
    """A study before it runs.

    Attributes:
        base: The configuration that all settings share, not yet checked.
        grid: The values of each key that is varied.
        target: The return at which a setting is timed, or what `quantity` has to come to; None for nothing.
        quantity: The measure by which settings are compared; the return by default.
    """

    base: dict[str, Any]
    grid: Grid
    target: float | None
    quantity: str = RETURN

    @property
    def name(self) -> str:
        """Of the experiment."""
        return str(self.base["name"])

    @property
    def settings(self) -> list[StudySetting]:
        """Every combination, the last key changing fastest."""
        names = short_names(list(self.grid))
        found = product(self.grid)
        labels = [label(values, names) for values in found]
        width = len(str(len(found)))
        return [
            StudySetting(i, values, readable, f"{i:0{width}d}-{_file_name(readable)}")
            for i, (values, readable) in enumerate(zip(found, labels, strict=True), 1)
        ]

    def config(self, setting: StudySetting) -> Config:
        """The configuration of a setting.

        Raises:
            ConfigError: A key or a value of it is wrong.
        """
        data = copy.deepcopy(self.base)
        data["name"] = f"{self.name}, {setting.label}"
        for key, value in setting.values.items():
            assign(data, key, copy.deepcopy(value), GRID)
        return parse(data)

    def dump(self) -> str:
        """The text of a study.toml from which the same study can be run again."""
        section: dict[str, Any] = {} if self.target is None else {"target": self.target}
        section |= ({} if self.quantity == RETURN else {"quantity": self.quantity}) | {"grid": self.grid}
        return tomli_w.dumps({**self.base, SECTION: section})


def plan_of(
    source: Config | Mapping[str, Any] | Path | str,
    grid: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    target: float | None = None,
    quantity: str | None = None,
) -> StudyPlan:
    """Read a configuration, and what it says of a study in its section [study]; the arguments go before that.

    Raises:
        ConfigError: The file or the section is wrong, or there is no grid.
    """
    base = tables_of(source)
    section = base.pop(SECTION, {})
    if not isinstance(section, Mapping):
        raise ConfigError(f"{SECTION} is {section!r}. It needs to be a table with a grid.")
    for key in section:
        if key not in KEYS:
            raise ConfigError(f"{SECTION}.{key} is not a key of a study. {nearest(key, KEYS)}")
    for text in overrides:
        override(base, text)
    given = coerce(section.get("grid", {}), dict, f"{SECTION}.grid")
    whole = checked({**given, **(grid or {})})
    if not whole:
        raise ConfigError(f"There is no grid, so there is nothing to compare. Add, for example, {GRID} {EXAMPLE}.")
    goal = section.get("target") if target is None else target
    compared = section.get("quantity", RETURN) if quantity is None else quantity
    chosen_target = None if goal is None else coerce(goal, float, f"{SECTION}.target")
    return StudyPlan(base, whole, chosen_target, coerce(compared, str, f"{SECTION}.quantity"))


def running_order(plan: StudyPlan) -> list[StudySetting]:
    """Build every setting before any runs, and put those side by side that share their compiled programs.

    Raises:
        ConfigError: A setting is wrong, or does not measure what the study compares; it is named.
        UnsoundError: The parts of a setting do not go together.
    """
    groups: dict[Any, list[StudySetting]] = {}
    for setting in plan.settings:
        try:
            experiment = build(plan.config(setting))
            federation = experiment.federation
            chosen(plan.quantity, measure_names(experiment.learner, experiment.coordination), f"{SECTION}.quantity")
        except (ConfigError, UnsoundError) as fault:
            raise type(fault)(f"Setting {setting.number} ({setting.label}): {fault}") from fault
        groups.setdefault(federation, []).append(setting)
    return [setting for group in groups.values() for setting in group]


def _file_name(readable: str) -> str:
    """Words as part of a file name.

    >>> _file_name("agents 10, stages quantize(bits=4)")
    'agents-10-stages-quantize-bits-4'
    """
    plain = "".join(c if c.isalnum() or c in "-_.+" else "-" for c in readable)
    return "-".join(filter(None, plain.split("-")))[:LONGEST_NAME].strip("-.")
