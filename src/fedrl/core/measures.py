"""What is measured, and how it adds up: declared by who measures it, read by everything that shows it.

    Timestep.measures, a learner's metrics, an engine's sums --added up--> sums --value_of--> a number

Sums are added over steps, instances, agents and rounds, and a number is made of them once, at the end. So it does not
depend on how they were grouped: a mean of means would.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

import numpy as np

from fedrl.core.errors import ConfigError, UnsoundError, nearest

if TYPE_CHECKING:
    pass

Value = TypeVar("Value")

COUNTS: dict[str, str] = {"step": "steps", "iteration": "iterations", "episode": "episodes", "round": "rounds"}
"""The sum by which a measure is divided that is per this."""
BETTER, TAKES = ("lower", "higher"), ("sum", "last")


@dataclass(frozen=True)
class Measure:
    """A quantity that a component measures: a mean, or what `finish` makes of sums.

    Without `finish`, its value is the sum over everything divided by the number of steps, iterations, episodes or
    rounds behind it.

    Attributes:
        per: "step" of the environment, local "iteration" of a learner, "episode" or "round". Values of an environment
            that are per episode are counted when their episode ends, like returns. An agent counts a round each
            time it takes part in one.
        unit: Such as "s" or "B"; empty for a pure number.
        better: "lower" or "higher"; None if neither is.
        parts: The names of the sums it is made of: entries of `Timestep.measures`, of a learner's metrics, of
            `RoundResult.sums`, or of an `info` of Gymnasium. By default the one that has its own name.
        finish: `{part: sum, ..., count: number} -> value`, for what is no mean: ratios, deviations, explained variance.
            `count` is "steps", "iterations", "episodes" or "rounds", as `per` says.
        take: Of an environment's value per episode: the "sum" over the steps of the episode, or that of its "last"
            step, for flags and running totals such as `is_success`.

    Raises:
        ConfigError: A word is not known, or several parts have no `finish`.

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
                f"A measure has the parts {list(self.parts)} and no finish. A mean is made of one sum. "
                "Say what is made of them, finish = lambda sums: ..., or name one."
            )
        if self.take == "last" and self.per != "episode":
            raise ConfigError(
                f"take is 'last' and per is {self.per!r}. Only an episode has a last step. Write per = 'episode'."
            )

    @property
    def count(self) -> str:
        """The name of the sum that counts what it is per."""
        return COUNTS[self.per]


Measures: TypeAlias = Mapping[str, Measure]

RETURN = Measure("episode", better="higher", parts=("episode_return",))
"""Of every environment: the undiscounted return."""
LOSS = Measure("iteration")
"""Of learners: neither way is better, for who stays where little is to be learned has the smallest loss."""


def parts_of(name: str, measure: Measure) -> tuple[str, ...]:
    """The names of the sums that a measure of this name is made of.

    >>> parts_of("success", Measure("episode")), parts_of("return", RETURN)
    (('success',), ('episode_return',))
    """
    return tuple(measure.parts) or (name,)


def value_of(name: str, measure: Measure, sums: Mapping[str, Any]) -> float:
    """What a measure comes to.

    Args:
        name: Of the measure.
        measure: The measure.
        sums: Its parts and its count, each a number; more of them do no harm.

    Returns:
        The value; NaN where there is nothing to divide by.
    """
    given = {part: np.float64(sums[part]) for part in (*parts_of(name, measure), measure.count)}
    with np.errstate(divide="ignore", invalid="ignore"):
        if measure.finish is not None:
            return float(measure.finish(given))
        return float(given[parts_of(name, measure)[0]] / given[measure.count])


def added(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Sums of several groups as those of one; empty for no group.

    >>> added([{"success": 1.0, "episodes": 2.0}, {"success": 3.0, "episodes": 4.0}])
    {'success': 4.0, 'episodes': 6.0}
    """
    return {part: float(sum(row[part] for row in rows)) for part in (rows[0] if rows else ())}


def chosen(name: str, measures: Mapping[str, Value], where: str) -> Value:
    """The measure that somebody asks for by name.

    Args:
        name: Asked for.
        measures: Those that there are.
        where: What asks, for the message, such as "study.quantity".

    Raises:
        ConfigError: There is none of this name; it says which there are.
    """
    if name not in measures:
        raise ConfigError(f"{where} is {name!r}, which is not measured here. {nearest(name, measures)}")
    return measures[name]


class Counting(NamedTuple):
    """How the values of an environment's steps become sums.

    Attributes:
        summed: Parts that are added up over an episode and counted when it ends.
        last: Parts of which the value at the end of an episode counts.
        stepped: Parts that are counted step by step.
        steps: Whether steps are counted, too.
    """

    summed: tuple[str, ...]
    last: tuple[str, ...]
    stepped: tuple[str, ...]
    steps: bool

    @property
    def parts(self) -> tuple[str, ...]:
        """The values that a step has to show."""
        return self.summed + self.last + self.stepped


def counting(measures: Measures) -> Counting:
    """How the measures of an environment are counted.

    Raises:
        UnsoundError: A part is to be counted in two ways.

    >>> counting({"success": Measure("episode"), "speed": Measure("step", "m/s")})
    Counting(summed=('success',), last=(), stepped=('speed',), steps=True)
    """
    ways: dict[str, str] = {}
    for name, measure in measures.items():
        way = ("last" if measure.take == "last" else "summed") if measure.per == "episode" else "stepped"
        for part in parts_of(name, measure):
            if part in COUNTS.values() or part == "episode_return":
                continue  # counted anyway
            if ways.setdefault(part, way) != way:
                raise UnsoundError(
                    f"Two measures of an environment count {part!r}, one as it ends an episode and one otherwise. "
                    "A value is counted in one way. Show it under two names."
                )
    kinds = {kind: tuple(part for part, way in ways.items() if way == kind) for kind in ("summed", "last", "stepped")}
    requested = {part for name, measure in measures.items() for part in (*parts_of(name, measure), measure.count)}
    return Counting(**kinds, steps="steps" in requested)


def step_values(names: Sequence[str], values: Mapping[str, Value], who: object) -> dict[str, Value]:
    """The values of a step that are counted, of those that it shows.

    Raises:
        UnsoundError: One is missing; it says which there are.
    """
    for name in names:
        if name not in values:
            raise UnsoundError(
                f"{who!r} declares a measure made of {name!r}, and its steps show {sorted(values) or 'nothing'}. "
                f"Put it into Timestep.measures, or leave the measure out."
            )
    return {name: values[name] for name in names}
