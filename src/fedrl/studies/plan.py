"""The plan of a study: a configuration, a grid, and the measure and target by which settings are compared.

study.toml = an experiment.toml + [study] --read--> StudyPlan --> settings, a configuration and a run folder each
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
from fedrl.config.loading import import_parts
from fedrl.config.overrides import assign, override
from fedrl.core.errors import ConfigError, UnsoundError, nearest
from fedrl.core.hyperparameters import pattern_of
from fedrl.core.measures import chosen
from fedrl.records.measured import RETURN
from fedrl.runs.starting import read_start
from fedrl.studies.grid import EXAMPLE, GRID, Grid, checked, label, product, short_names

SECTION = "study"
KEYS = ("grid", "target", "quantity")
LONGEST_NAME = 60


class StudySetting(NamedTuple):
    """One combination of the grid's values.

    Attributes:
        number: Number of the setting, from 1, in the order of the product.
        values: Value of each key of the grid.
        label: The values in words.
        folder: Name of its run folder inside the study's.
    """

    number: int
    values: dict[str, Any]
    label: str
    folder: str


@dataclass(frozen=True)
class StudyPlan:
    """The plan of a study.

    Attributes:
        base: The unchecked configuration that all settings share.
        grid: The values of each varied key.
        target: The value of `quantity` at which a setting is timed; None for no timing.
        quantity: The measure by which settings are compared; the return by default.
    """

    base: dict[str, Any]
    grid: Grid
    target: float | None
    quantity: str = RETURN

    @property
    def name(self) -> str:
        """Name of the experiment."""
        return str(self.base["name"])

    @property
    def settings(self) -> list[StudySetting]:
        """Every combination of values; the last key changes fastest."""
        names = short_names(list(self.grid))
        found = product(self.grid)
        labels = [label(values, names) for values in found]
        width = len(str(len(found)))
        return [
            # The number keeps folders distinct, since labels are shortened, and sorts them in this order.
            StudySetting(i, values, readable, f"{i:0{width}d}-{_file_name(readable)}")
            for i, (values, readable) in enumerate(zip(found, labels, strict=True), 1)
        ]

    def config(self, setting: StudySetting) -> Config:
        """Return the configuration of a setting, without a film.

        Raises:
            ConfigError: A key or a value of the setting is wrong.
        """
        data = copy.deepcopy(self.base)
        data["name"] = f"{self.name}, {setting.label}"
        for key, value in setting.values.items():
            # `assign` changes tables in place, and settings must not share them.
            assign(data, key, copy.deepcopy(value), GRID)
        if isinstance(data.setdefault("evaluation", {}), dict):
            data["evaluation"]["film"] = False  # one film of each setting would take longer than it tells
        # A study may have hundreds of settings, and few of them are ever continued.
        data.setdefault("keep_checkpoints", False)
        return parse(data)

    def dump(self) -> str:
        """Return the text of a study.toml, from which the same study can be run again."""
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
    """Return the plan of a configuration with a section `[study]`; arguments take precedence over the section.

    Raises:
        ConfigError: The file or the section is wrong, or there is no grid.
    """
    base = tables_of(source)
    # The section is not part of a run's configuration, where it would be refused as an unknown key.
    section = base.pop(SECTION, {})
    if not isinstance(section, Mapping):
        raise ConfigError(f"{SECTION} is {section!r}. It needs to be a table with a grid.")
    for key in section:
        if key not in KEYS:
            raise ConfigError(f"{SECTION}.{key} is not a key of a study. {nearest(key, KEYS)}")
    # Before the grid is applied: a value of the grid takes precedence over an override of the same key.
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
    """Build every setting before any of them runs, and return them ordered by the compiled programs they share.

    Raises:
        ConfigError: A setting is wrong, or lacks the measure that the study compares; the message names the setting.
        UnsoundError: The parts of a setting can't be combined.
    """
    return in_order(program_groups(plan))


def in_order(groups: Sequence[Sequence[StudySetting]]) -> list[StudySetting]:
    """Return the settings of all groups, one group after the other."""
    return [setting for group in groups for setting in group]


def program_groups(plan: StudyPlan) -> list[list[StudySetting]]:
    """Build every setting, and return them in groups with equal compiled programs.

    Raises:
        ConfigError: A setting is wrong, or lacks the measure that the study compares; the message names the setting.
        UnsoundError: The parts of a setting can't be combined.
    """
    import_parts(plan.base)
    groups: dict[Any, list[StudySetting]] = {}
    for setting in plan.settings:
        try:
            experiment, _ = read_start(build(plan.config(setting)))
            federation = experiment.federation
            chosen(plan.quantity, measure_names(experiment.learner, experiment.coordination), f"{SECTION}.quantity")
        except (ConfigError, UnsoundError) as fault:
            raise type(fault)(f"Setting {setting.number} ({setting.label}): {fault}") from fault
        # Equal patterns have equal hashes, so settings with the same compiled program run one after the other.
        groups.setdefault(pattern_of(federation), []).append(setting)
    return list(groups.values())


def _file_name(readable: str) -> str:
    """Return words as a part of a file name.

    >>> _file_name("agents 10, stages quantize(bits=4)")
    'agents-10-stages-quantize-bits-4'
    """
    plain = "".join(c if c.isalnum() or c in "-_.+" else "-" for c in readable)
    return "-".join(filter(None, plain.split("-")))[:LONGEST_NAME].strip("-.")
