"""Types of arguments: one sentence for a value of another type than a parameter declares.

Only records of fedrl, optax's transformations and lists are checked here: numbers have ranges (`fedrl.core.ranges`),
and words have lists of what is allowed.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from functools import cache
from typing import Any, Union

import optax

from fedrl.core.errors import ConfigError

EXAMPLES = {
    "Aggregator": "mean()",
    "Clock": "clock(step_s=1.0)",
    "Distribution": "lognormal(1.0)",
    "Environment": "cartpole()",
    "Federation": "federate(ppo(environment), mean())",
    "GradientTransformation": "adam(0.001)",
    "Graph": "ring()",
    "HostEnvironment": 'gymnasium("CartPole-v1")',
    "Learner": "ppo(environment)",
    "MixingMatrix": "metropolis()",
    "Network": "mlp()",
    "Rule": "average()",
    "Schedule": "fed_buff(10)",
    "Scheduler": "Scheduler(fed_buff(10))",
    "Stage": "clip(1.0)",
    "Staleness": "polynomial(0.5)",
    "Summation": "exact_sum()",
    "Topology": "server(), gossip(ring(), metropolis()) or isolated()",
    "Tree": "tree([4])",
}
"""For each type, a call that returns a value of it."""


@cache
def types_of(build: Callable[..., Any]) -> dict[str, Any]:
    """Return the declared type of each parameter; none where a type can't be read."""
    try:
        hints = typing.get_type_hints(build)
    except NameError:
        return {}
    return {name: hint for name, hint in hints.items() if name != "return"}


def check_types(build: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Refuse an argument of another type than a function declares.

    Raises:
        ConfigError: It names the parameter, the value, its type and the type that is needed.
    """
    signature = inspect.signature(build)
    for name, hint in types_of(build).items():
        if name not in arguments:
            continue
        many = signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL
        for value in arguments[name] if many else (arguments[name],):
            _check(name, value, hint)


def _check(name: str, value: Any, hint: Any) -> None:
    options = list(typing.get_args(hint)) if typing.get_origin(hint) in (Union, types.UnionType) else [hint]
    sequence = any(typing.get_origin(option) is Sequence for option in options)
    if sequence and isinstance(value, str) and str not in options:
        raise ConfigError(f"{name} is {value!r}, a string. It needs to be a list. Write [{value!r}].")
    classes = [option for option in options if isinstance(option, type)]
    records = [option for option in classes if option.__name__ in EXAMPLES or _is_record(option)]
    # A type that is not understood here, such as a protocol or an alias of functions, is left to the constructor.
    if not records or sequence or len(classes) < len(options) or isinstance(value, tuple(classes)):
        return
    needed = " or ".join(dict.fromkeys(option.__name__ for option in records))
    if type(value).__name__ == "HostEnvironment" and needed == "Environment":
        raise ConfigError(
            f"{name} is {_shown(value)}, which is stepped on the host, and it needs to be an Environment, which is "
            "part of a compiled program. Use one that is written in JAX, such as navigation()."
        )
    # An environment of Gymnasium is one constructor away from an environment of ours.
    near = [
        option for option in records if type(value).__module__.startswith("gymnasium") and "Host" in option.__name__
    ]
    such = next((EXAMPLES[option.__name__] for option in near + records if option.__name__ in EXAMPLES), None)
    raise ConfigError(
        f"{name} is {_shown(value)}. It needs to be of the type {needed}. "
        + (f"Pass what a constructor returns, such as {such}." if such else "Pass what a constructor returns.")
    )


def _is_record(kind: type) -> bool:
    """Whether a class is a record that a component builds, or a transformation of optax."""
    return kind is optax.GradientTransformation or (is_dataclass(kind) and "call" in kind.__dataclass_fields__)


def _shown(value: Any) -> str:
    if inspect.isfunction(value):
        return f"the function {value.__name__} itself, which was not called"
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'}, of the type {type(value).__name__}"
