"""Define a measure: a quantity that a component declares, and how it is computed from sums.

    Timestep.measures, a learner's metrics, an engine's sums --added up--> sums --value_of--> a number

Sums are added over steps, environment copies, agents and rounds, and the value is computed from them once, at the end.
So it does not depend on how they were grouped, as a mean of means would.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np

from fedrl.core.errors import ConfigError, UnsoundError, nearest

Value = TypeVar("Value")

COUNTS: dict[str, str] = {"step": "steps", "iteration": "iterations", "episode": "episodes", "round": "rounds"}
"""The name of the count by which a measure is divided, keyed by its `per`."""
BETTER, TAKES = ("lower", "higher"), ("sum", "last")


@dataclass(frozen=True)
class Measure:
    """A quantity that a component measures: a mean, or a function `finish` of sums.

    Without `finish`, its value is its sum divided by the number of steps, iterations, episodes or rounds.

    Attributes:
        per: "step" of the environment, local "iteration" of a learner, "episode" or "round". Like a return, a value per
            episode is counted when its episode ends. An agent counts the rounds in which it takes part.
        unit: Such as "s" or "B"; empty for a pure number.
        better: "lower" or "higher"; None if neither is better.
        parts: The names of the sums from which it is computed: entries of `Timestep.measures`, of a learner's metrics,
            of `RoundResult.sums`, or of Gymnasium's `info`. By default the sum of its own name.
        finish: `{part: sum, ..., count: number} -> value`, for a quantity that is no mean, such as a ratio, a deviation
            or explained variance. `count` is "steps", "iterations", "episodes" or "rounds", according to `per`.
        take: For a value per episode of an environment: the "sum" over the steps of the episode, or the value of its
            "last" step, for flags and running totals such as `is_success`.

    Raises:
        ConfigError: `per`, `better` or `take` is not one of these words, or several parts have no `finish`.

    >>> success = Measure("episode", better="higher")
    >>> value_of("success", success, {"success": 3.0, "episodes": 4.0})
    0.75
    >>> ratio = Measure("step", better="lower", parts=("late", "sent"), finish=lambda sums: sums["late"] / sums["sent"])
    >>> value_of("lateness", ratio, {"late": 1.0, "sent": 4.0, "steps": 9.0})
    0.25
    """

    per: str
    unit: str = ""
    better: str | None = None
    parts: Sequence[str] = ()
    finish: Callable[[Mapping[str, Any]], Any] | None = None
    take: str = "sum"

    def __post_init__(self) -> None:
        for name, words in (("per", tuple(COUNTS)), ("better", BETTER), ("take", TAKES)):
            value = getattr(self, name)
            if value not in words and (name, value) != ("better", None):
                raise ConfigError(f"{name} of a measure is {value!r}, which is not known. {nearest(str(value), words)}")
        object.__setattr__(self, "parts", tuple(self.parts))
        if len(self.parts) > 1 and self.finish is None:
            raise ConfigError(
                f"A measure has the parts {list(self.parts)} and no finish. A mean is computed from one sum. "
                "Set finish = lambda sums: ... to compute the value, or name a single part."
            )
        if self.take == "last" and self.per != "episode":
            raise ConfigError(
                f"take is 'last' and per is {self.per!r}. Only an episode has a last step. Write per = 'episode'."
            )

    @property
    def count(self) -> str:
        """Return the name of the count by which the sum is divided."""
        return COUNTS[self.per]


Measures: TypeAlias = Mapping[str, Measure]

RETURN = Measure("episode", better="higher", parts=("episode_return",))
"""The undiscounted return, a measure of every environment."""
LOSS = Measure("iteration")
"""The loss of a learner; neither direction is better, as an agent that stays where little is to be learned has a small
loss."""


def parts_of(name: str, measure: Measure) -> tuple[str, ...]:
    """Return the names of the sums from which a measure of this name is computed.

    >>> parts_of("success", Measure("episode")), parts_of("return", RETURN)
    (('success',), ('episode_return',))
    """
    return tuple(measure.parts) or (name,)


def value_of(name: str, measure: Measure, sums: Mapping[str, Any]) -> float:
    """Compute the value of a measure from sums.

    Args:
        name: The name of the measure.
        measure: The measure.
        sums: Its parts and its count, each a number; further entries are ignored.

    Returns:
        The value; NaN where the count is zero.
    """
    # NumPy's float64 divides by zero to NaN or infinity, where Python's float would raise.
    given = {part: np.float64(sums[part]) for part in (*parts_of(name, measure), measure.count)}
    with np.errstate(divide="ignore", invalid="ignore"):
        if measure.finish is not None:
            return float(measure.finish(given))
        return float(given[parts_of(name, measure)[0]] / given[measure.count])


def added(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Add the sums of several groups, name by name; return an empty dict for no group.

    >>> added([{"success": 1.0, "episodes": 2.0}, {"success": 3.0, "episodes": 4.0}])
    {'success': 4.0, 'episodes': 6.0}
    """
    return {part: float(sum(row[part] for row in rows)) for part in (rows[0] if rows else ())}


def chosen(name: str, measures: Mapping[str, Value], where: str) -> Value:
    """Return the measure of the given name.

    Args:
        name: The requested name.
        measures: All measures, keyed by name.
        where: The setting that requests it, for the error message, such as "study.quantity".

    Raises:
        ConfigError: No measure has this name; the message lists those that exist.
    """
    if name not in measures:
        raise ConfigError(f"{where} is {name!r}, which is not measured here. {nearest(name, measures)}")
    return measures[name]


class Counting(NamedTuple):
    """How the values of an environment's steps are added up.

    Attributes:
        summed: The names of parts that are added over an episode and counted when it ends.
        last: The names of parts whose value at the end of an episode is counted.
        stepped: The names of parts that are counted in every step.
        steps: Whether the number of steps is counted, too.
    """

    summed: tuple[str, ...]
    last: tuple[str, ...]
    stepped: tuple[str, ...]
    steps: bool

    @property
    def parts(self) -> tuple[str, ...]:
        """Return the names that `Timestep.measures` must contain."""
        return self.summed + self.last + self.stepped


def counting(measures: Measures) -> Counting:
    """Return how the parts of an environment's measures are counted.

    Raises:
        UnsoundError: Two measures would count the same part in different ways.

    >>> counting({"success": Measure("episode"), "speed": Measure("step", "m/s")})
    Counting(summed=('success',), last=(), stepped=('speed',), steps=True)
    """
    ways: dict[str, str] = {}
    for name, measure in measures.items():
        way = ("last" if measure.take == "last" else "summed") if measure.per == "episode" else "stepped"
        for part in parts_of(name, measure):
            if part in COUNTS.values() or part == "episode_return":
                # These are counted for every environment.
                continue
            if ways.setdefault(part, way) != way:
                raise UnsoundError(
                    f"Two measures of an environment count {part!r} in different ways. "
                    "A part is counted per step, summed per episode, or taken from the last step. "
                    "Put the value into Timestep.measures under two names."
                )
    kinds = {kind: tuple(part for part, way in ways.items() if way == kind) for kind in ("summed", "last", "stepped")}
    requested = {part for name, measure in measures.items() for part in (*parts_of(name, measure), measure.count)}
    return Counting(**kinds, steps="steps" in requested)


def step_values(names: Sequence[str], values: Mapping[str, Value], who: object) -> dict[str, Value]:
    """Return the values of a step that are counted, keyed by name.

    Args:
        names: The names to count.
        values: `Timestep.measures` of the step.
        who: The environment, for the error message.

    Raises:
        UnsoundError: A name is missing from the step's values.
    """
    for name in names:
        if name not in values:
            raise UnsoundError(
                f"{who!r} declares a measure of {name!r}, and its steps return {sorted(values) or 'none'}. "
                f"Put {name!r} into Timestep.measures, or leave the measure out."
            )
    return {name: values[name] for name in names}
