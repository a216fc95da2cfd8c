"""Define components: constructors whose results store the call that made them.

The stored call determines a component's repr, equality, digest, configuration table and citation:

    @component("aggregator", reference="McMahan et al. (2017), https://arxiv.org/abs/1602.05629")
    def mean(weighting="samples"): ...

    mean() == mean(weighting="samples")      repr(mean()) == "mean()"      cite(mean()) -> ["McMahan ..."]
"""

from __future__ import annotations

import copy
import functools
import hashlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, ParamSpec, TypeVar, cast, dataclass_transform

import numpy as np
import optax

from fedrl.core.content import content
from fedrl.core.errors import ConfigError
from fedrl.core.kinds import check_types
from fedrl.core.ranges import Bounds, check_ranges, ranges_of, traced_in

Parameters = ParamSpec("Parameters")
T = TypeVar("T")


@dataclass(frozen=True)
class Component:
    """A constructor in the catalogue.

    Attributes:
        kind: The kind of object that it builds: "environment", "learner", "stage", ...
        name: Its name in configuration files, the name of the function.
        build: The constructor.
        reference: Authors, year and link of the source; "" if there is none.
        function: The decorated function, without its checks; None if the constructor was not decorated.
        source: What was adopted as the constructor, if it was not decorated: it may be loaded again with other content.
    """

    kind: str
    name: str
    build: Callable[..., Any]
    reference: str
    function: Callable[..., Any] | None = None
    source: Any = None

    @functools.cached_property
    def content(self) -> str:
        """The digest of the content of what was adopted; "" for a decorated constructor, which counts by its name."""
        return "" if self.source is None else f" {_does(self.source)}"

    @property
    def summary(self) -> str:
        """Return the first line of the constructor's docstring."""
        return (inspect.getdoc(self.build) or "").partition("\n")[0]

    @functools.cached_property
    def ranges(self) -> dict[str, Bounds]:
        """The range of each parameter that is a number, or numbers."""
        return ranges_of(inspect.unwrap(self.build))

    @functools.cached_property
    def traced(self) -> frozenset[str]:
        """The parameters whose numbers may be inputs of a compiled program: `fedrl.core.hyperparameters`."""
        return frozenset() if self.function is None else traced_in(self.function)

    @property
    def signature(self) -> inspect.Signature:
        """Return the constructor's parameters and their defaults."""
        return inspect.signature(self.build)


@dataclass(frozen=True)
class Call:
    """A recorded constructor call with all parameters bound, defaults included."""

    component: Component
    arguments: dict[str, Any]

    def __repr__(self) -> str:
        shown: list[str] = []
        for name, parameter in self.component.signature.parameters.items():
            value = self.arguments[name]
            if parameter.kind is parameter.VAR_POSITIONAL:
                shown += [written(item) for item in value]
            elif parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
                shown.append(written(value))
            elif not _same(value, parameter.default):
                shown.append(f"{name}={written(value)}")
        return f"{self.component.build.__name__}({', '.join(shown)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Call) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def digest(self) -> str:
        """Return the SHA-256 over the name and every argument, defaults included.

        A function argument counts by its content (`fedrl.core.content`), or by its name if that cannot be read.
        """
        text = ", ".join(f"{name}={_canonical(value)}" for name, value in self.arguments.items())
        which = f"{self.component.kind}:{self.component.name}{self.component.content}"
        return hashlib.sha256(f"{which}({text})".encode()).hexdigest()


CATALOGUE: dict[tuple[str, str], Component] = {}


def component(kind: str, *, reference: str = "") -> Callable[[Callable[Parameters, T]], Callable[Parameters, T]]:
    """Register a constructor in the catalogue, and store the call in what it builds.

    Args:
        kind: The kind of object, a table of configuration files.
        reference: Authors, year and link of the source.
    """

    def register(build: Callable[Parameters, T]) -> Callable[Parameters, T]:
        signature = inspect.signature(build)

        @functools.wraps(build)
        def construct(*args: Parameters.args, **kwargs: Parameters.kwargs) -> T:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            check_types(build, bound.arguments)
            check_ranges(entry.ranges, bound.arguments)
            return remember_call(build(*args, **kwargs), Call(entry, dict(bound.arguments)))

        entry = Component(kind, build.__name__, construct, reference, inspect.unwrap(build))
        CATALOGUE[kind, build.__name__] = entry
        return construct

    return register


def adopted(kind: str, name: str, build: Callable[..., Any], like: Callable[..., Any]) -> Component:
    """Register a function that is not decorated as the constructor of a component.

    Args:
        kind: The kind of object that it builds.
        name: The name in configuration files, such as "mypkg.parts:mine".
        build: The function.
        like: The function or class whose parameters and types it has.
    """
    declares = like.__init__ if inspect.isclass(like) else like

    def construct(*args: Any, **kwargs: Any) -> Any:
        bound = entry.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        check_ranges(entry.ranges, bound.arguments)
        return remember_call(build(*args, **kwargs), Call(entry, dict(bound.arguments)))

    functools.update_wrapper(construct, declares)
    construct.__signature__ = inspect.signature(like)  # type: ignore[attr-defined]  # of a class without `self`
    construct.__name__ = name.rpartition(":")[2].partition("#")[0].replace(".", "_")
    entry = CATALOGUE[kind, name] = Component(kind, name, construct, "", source=like)
    return entry


def checked(function: Callable[Parameters, T]) -> Callable[Parameters, T]:
    """Check types and ranges of the arguments of a function, as `component` does for constructors."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> T:
        bound = signature.bind(*args, **kwargs)
        check_types(function, bound.arguments)
        check_ranges(ranges_of(function), bound.arguments)
        return function(*args, **kwargs)

    return call


def call_of(value: object) -> Call | None:
    """Return the call that built `value`; None if no component did, or if `value` was changed since."""
    # An optax transformation is a tuple of functions without room for a call, so its `init` carries it. The stored
    # `update` tells whether someone has replaced that function since.
    call = getattr(value, "call", None)
    if call is None and isinstance(value, optax.GradientTransformation):
        call, built = getattr(value.init, "call", None), getattr(value.init, "update", None)
        call = call if built is value.update else None
    return call if isinstance(call, Call) else None


def calls_in(value: object) -> Iterator[Call]:
    """Yield the calls that built `value` and all its constructor's arguments, outermost first."""
    call = call_of(value)
    if call is not None:
        yield call
        for argument in call.arguments.values():
            yield from calls_in(argument)
    elif isinstance(value, tuple | list) and not hasattr(value, "_fields"):
        for item in value:
            yield from calls_in(item)


def cite(value: object) -> list[str]:
    """Return the references of all components in `value`, each once, in the order of use.

    >>> from fedrl.aggregators import mean
    >>> cite(mean())
    ['McMahan et al. (2017), https://arxiv.org/abs/1602.05629']
    """
    return list(dict.fromkeys(call.component.reference for call in calls_in(value) if call.component.reference))


@dataclass_transform(frozen_default=True, eq_default=False)
def record(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass of functions that prints and compares as the call that built it.

    The class declares a field `call: Call | None = None`. Only `component` sets it: no constructor takes it, so the
    result of `dataclasses.replace` has none, and is equal only to itself.
    """

    def show(self: Any) -> str:
        altered = vars(self).get("printed", f"<{type(self).__name__} without a constructor call>")
        return repr(self.call) if self.call else altered

    def equal(self: Any, other: object) -> bool:
        return self is other or (
            type(self) is type(other) and call_of(self) is not None and call_of(self) == call_of(other)
        )

    def hashed(self: Any) -> int:
        return hash(self.call) if self.call else id(self)

    cls.call = field(default=None, init=False)  # type: ignore[attr-defined]
    cls.__repr__ = show  # type: ignore[method-assign]
    cls.__eq__ = equal  # type: ignore[method-assign]
    cls.__hash__ = hashed  # type: ignore[method-assign]
    return dataclass(frozen=True, eq=False, repr=False)(cls)


def printed_as(altered: T, original: object) -> T:
    """Return an altered record that prints as the original in messages. It has no call, and equals only itself."""
    printing = copy.copy(altered)
    object.__setattr__(printing, "printed", repr(original))
    return printing


def remember_call(built: T, call: Call) -> T:
    """Return what a constructor built with its call stored in it."""
    if is_dataclass(built) and any(entry.name == "call" for entry in fields(built)):
        # A copy, as `built` may be another constructor's result, which has to keep its own call.
        remembering = copy.copy(built)
        object.__setattr__(remembering, "call", call)
        return remembering
    # A tuple of functions has no room for a call, so `init` carries it, with the `update` that it was built with.
    if isinstance(built, optax.GradientTransformation):
        init = functools.partial(built.init)
        vars(init).update(call=call, update=built.update)
        return cast(T, built._replace(init=init))
    raise TypeError(
        f"{call.component.name} built a {type(built).__name__}, which has no place for its constructor call"
    )


def written(value: object) -> str:
    """Return the text of a value for messages: the call that built it, or its repr.

    >>> from fedrl.learners import sgd
    >>> written(sgd(0.1))
    'sgd(0.1)'
    """
    call = call_of(value)
    if call is not None:
        return repr(call)
    return getattr(value, "__name__", None) or repr(value) if callable(value) else repr(value)


def _canonical(value: object) -> str:
    call = value if isinstance(value, Call) else call_of(value)
    if call is not None:
        return call.digest
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return "(" + ", ".join(_canonical(item) for item in value) + ")"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_canonical(item) for item in value) + "]"
    if isinstance(value, np.ndarray) or hasattr(value, "__array__"):
        array = np.asarray(value)
        return f"{array.dtype}{array.shape}{hashlib.sha256(array.tobytes()).hexdigest()}"
    return _does(value) if callable(value) else repr(value)


def _does(function: object) -> str:
    """Return the content digest of a function, or its name if the content cannot be read."""
    try:
        return content(function, stand_in=_as_called)
    except ConfigError:
        return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', repr(function))}"


def _as_called(value: object) -> object:
    """Return by what a component counts that a function captures."""
    # Not by its digest: the component may contain this very function, and the digests would not end.
    call = call_of(value)
    return None if call is None else (call.component.kind, call.component.name, call.arguments)


def _same(value: object, default: object) -> bool:
    return value is default or _canonical(value) == _canonical(default)
