"""Hyperparameters: numbers of components that may be inputs of a compiled program, so that settings share it.

    ppo(environment, clip=0.1, optimizer=adam(0.01)) --numbers_of--> (0.01, ..., 0.1)
                                                     --pattern_of--> the call without these numbers
    with_numbers(learner, tracers)                                   what the same calls build from tracers

A constructor declares them beside their ranges:

    def ppo(environment, *, optimizer: Traced[optax.GradientTransformation], clip: Traced[Positive] = 0.2): ...

A number so marked may be a scalar array of float32 when the constructor is called again, inside a traced function. So
the constructor may neither branch on it nor compute with it in double precision, such as 1 - b2. A component so marked
has marked numbers of its own. Ranges were checked when the component was first built, and are not checked again.

0 is never an input, because it turns parts off: the program of a loss whose entropy coefficient is 0 computes no
entropy (`is_zero`).
"""

from __future__ import annotations

import inspect
import math
import numbers as kinds_of_number
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, TypeAlias, TypeVar, cast

import jax
import numpy as np

from fedrl.core.component import Call, call_of, remember_call

Number: TypeAlias = float | jax.Array
"""A number of a component: a Python number or, inside a compiled program, a scalar array."""
T = TypeVar("T")


def is_zero(number: Number) -> bool:
    """Whether a number is 0, and not an input of the program."""
    return not isinstance(number, jax.Array) and number == 0


def numbers_of(value: object) -> tuple[float, ...]:
    """Return the numbers of a component that may be inputs of a program, in the order of its parameters.

    >>> from fedrl.learners import chain, fedprox, sgd
    >>> numbers_of(chain(fedprox(0.1), sgd(0.05, momentum=0.9)))
    (0.1, 0.05, 0.9)
    >>> numbers_of(fedprox(0.0))
    ()
    """
    found: list[float] = []
    _rewritten(value, lambda number: found.append(float(number)))
    return tuple(found)


def pattern_of(value: object) -> Call | None:
    """Return the call that built a component with NaN for each of these numbers; None if no component built it.

    Two components are built alike, up to these numbers, if their patterns are equal.
    """
    return _rewritten(value, lambda number: math.nan)


def with_numbers(value: T, given: Iterable[Number]) -> T:
    """Return what the calls that built a component build from other numbers.

    Args:
        value: The component. Without such numbers it is returned itself.
        given: As many numbers as `numbers_of(value)` has, in its order. The result stores them in its call if they are
            Python numbers; else it keeps the call of `value`, because a call has to have a digest.

    >>> from fedrl.core.component import written
    >>> from fedrl.learners import sgd
    >>> print(written(with_numbers(sgd(0.1), [0.2])))
    sgd(0.2)
    """
    numbers = list(given)
    return cast(T, _built(value, iter(numbers), not any(isinstance(x, jax.Array) for x in numbers)))


def _built(value: Any, left: Iterator[Number], known: bool) -> Any:
    if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
        return type(value)(_built(item, left, known) for item in value)
    if _is_number(value):
        return next(left)
    call = call_of(value)
    if call is None or not numbers_of(value):
        return value
    takes = call.component.traced
    arguments = {name: _built(x, left, known) if name in takes else x for name, x in call.arguments.items()}
    bound = inspect.BoundArguments(call.component.signature, arguments)
    # Without the checks of types and ranges, which take no tracers.
    function = call.component.function
    assert function is not None
    made = function(*bound.args, **bound.kwargs)
    return remember_call(made, replace(call, arguments=arguments) if known else call)


def _rewritten(value: Any, put: Callable[[float], Any]) -> Any:
    """Return the call of a component with `put(number)` for each number; None if no component built it."""
    call = call_of(value)
    if call is None:
        return None

    def other(argument: Any) -> Any:
        if isinstance(argument, tuple | list) and not hasattr(argument, "_fields"):
            return [other(item) for item in argument]
        return put(argument) if _is_number(argument) else _rewritten(argument, put) or argument

    arguments = {name: other(x) if name in call.component.traced else x for name, x in call.arguments.items()}
    return replace(call, arguments=arguments)


def _is_number(value: object) -> bool:
    number = isinstance(value, kinds_of_number.Real | np.number) and not isinstance(value, bool | np.bool_)
    return bool(number and value != 0)
