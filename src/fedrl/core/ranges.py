"""Ranges of numbers, declared beside the parameters of constructors and checked by `component`.

    def ppo(environment, *, gamma: Fraction = 0.99, num_envs: Count = 8): ...
        --component--> every call is checked: one sentence with the parameter, the value, the cause and the remedy

To a type checker a range is `int` or `float`. NumPy's numbers are numbers, too.

`Traced[Fraction]` is a fraction that may also be an input of a compiled program: `fedrl.core.hyperparameters`.
"""

from __future__ import annotations

import math
import numbers
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias, TypeVar

import numpy as np

from fedrl.core.errors import ConfigError


@dataclass(frozen=True)
class Bounds:
    """The numbers from `low` to `high`.

    Attributes:
        low: The least number.
        high: The largest number.
        above: Whether `low` itself is excluded.
        below: Whether `high` itself is excluded.
        whole: Whether the numbers are whole.
    """

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False
    whole: bool = False

    def holds(self, value: float) -> bool:
        """Whether a number is in the range; NaN never is."""
        low = value > self.low if self.above else value >= self.low
        high = value < self.high if self.below else value <= self.high
        return bool(low and high)

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        low, high = f"{self.low:g}", f"{self.high:g}"
        if self.low == -math.inf and self.high == math.inf:
            return kind if self.whole or not (self.above or self.below) else "a finite number"
        if self.high == math.inf:
            finite = "" if self.whole or not self.below else ", finite"
            return f"{kind} above {low}{finite}" if self.above else f"{kind}, {low} or more{finite}"
        first = f"above {low}" if self.above else f"from {low}"
        return f"{kind} {first} {'and below' if self.below else 'to'} {high}"


ABOVE_ZERO, ZERO_OR_MORE = Bounds(0, above=True, below=True), Bounds(0, below=True)
UP_TO_ONE = Bounds(0, 1)
COUNT, WHOLE = Bounds(1, whole=True), Bounds(0, whole=True)

Count: TypeAlias = Annotated[int, COUNT]
Whole: TypeAlias = Annotated[int, WHOLE]
Finite: TypeAlias = Annotated[float, Bounds(above=True, below=True)]
Positive: TypeAlias = Annotated[float, ABOVE_ZERO]
NonNegative: TypeAlias = Annotated[float, ZERO_OR_MORE]
Fraction: TypeAlias = Annotated[float, UP_TO_ONE]
"""From 0 to 1, both included."""
FractionAboveZero: TypeAlias = Annotated[float, Bounds(0, 1, above=True)]
FractionBelowOne: TypeAlias = Annotated[float, Bounds(0, 1, below=True)]
FractionBetween: TypeAlias = Annotated[float, Bounds(0, 1, above=True, below=True)]
Duration: TypeAlias = Annotated[float, Bounds(0)]
"""Seconds; infinity is never."""
PositiveDuration: TypeAlias = Annotated[float, Bounds(0, above=True)]
Rate: TypeAlias = Annotated[float, Bounds(0, above=True)]
"""Bytes per second; infinity takes no time."""


T = TypeVar("T")


class Tracing:
    """The mark of a parameter whose numbers may be tracers: `fedrl.core.hyperparameters`."""


TRACED = Tracing()
Traced = Annotated[T, TRACED]
"""A number that may be a tracer, or a component whose own numbers may be."""


def ranges_of(build: Callable[..., Any]) -> dict[str, Bounds]:
    """Return the declared range of each parameter that has one; of the entries, if it is a sequence."""
    found = {name: _marked(hint, Bounds) for name, hint in _hints(build).items()}
    return {name: each for name, each in found.items() if each is not None}


def traced_in(build: Callable[..., Any]) -> frozenset[str]:
    """Return the parameters that are declared as `Traced`."""
    return frozenset(name for name, hint in _hints(build).items() if _marked(hint, Tracing) is not None)


def check_ranges(ranges: Mapping[str, Bounds], arguments: Mapping[str, Any], where: str = "") -> None:
    """Refuse a number outside the range of its parameter, and what is no number at all.

    Args:
        ranges: The range of each parameter that has one.
        arguments: The values, keyed by parameter.
        where: The table of a configuration to which the parameters belong, for the message.

    Raises:
        ConfigError: It names the parameter, the value and the range.
    """
    for name, allowed in ranges.items():
        value = arguments.get(name)
        if value is None or isinstance(value, dict):
            continue
        if isinstance(value, np.ndarray) and value.ndim == 0:
            value = value.item()
        several = isinstance(value, Sequence | np.ndarray) and not isinstance(value, str)
        for entry in _flat(value) if several else [value]:
            _check(f"{where}.{name}" if where else name, entry, value if several else None, allowed)


def _check(name: str, value: Any, within: Any, allowed: Bounds) -> None:
    where = name if within is None else f"an entry of {name}"
    if isinstance(value, str):
        raise ConfigError(f"{where} is {value!r}, a string. It needs to be {allowed}. Write it without quotes.")
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real | np.number):
        if within is None and not isinstance(value, bool | np.bool_):
            return  # another kind of value that the parameter takes besides numbers, such as a distribution
        raise ConfigError(f"{where} is {value!r}. It needs to be {allowed}. Give a number.")
    if allowed.whole and not (isinstance(value, numbers.Integral) or float(value).is_integer()):
        raise ConfigError(f"{where} is {value}. It needs to be {allowed}. Round it.")
    if not allowed.holds(float(value)):
        raise ConfigError(f"{where} is {value}. It needs to be {allowed}. Choose one in this range.")


def _flat(value: Any) -> list[Any]:
    if isinstance(value, Sequence | np.ndarray) and not isinstance(value, str):
        return [entry for item in value for entry in _flat(item)]
    return [value]


def _hints(build: Callable[..., Any]) -> dict[str, Any]:
    try:
        hints = typing.get_type_hints(build, include_extras=True)
    except NameError:
        return {}
    return {name: hint for name, hint in hints.items() if name != "return"}


def _marked(hint: Any, kind: type[T]) -> T | None:
    """The mark of a kind in a type, however deep: `Count | None`, `Sequence[Positive]`."""
    for extra in getattr(hint, "__metadata__", ()):
        if isinstance(extra, kind):
            return extra
    return next((found for inner in typing.get_args(hint) if (found := _marked(inner, kind)) is not None), None)
