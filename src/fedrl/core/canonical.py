"""Decompose values, classes and functions into their parts, one level deep, for `fedrl.core.content`.

    made_of(partial(f, 2))  ->  ("partial", (partial, f, (2,), {}))

An object that a library exports under a name is represented by that name.
"""

from __future__ import annotations

import enum
import functools
import inspect
import operator
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import PurePath
from typing import Any

import jax
import numpy as np

LIBRARIES = sys.stdlib_module_names | {
    *("fedrl", "jax", "jaxlib", "jaxtyping", "ml_dtypes", "numpy", "optax", "scipy", "beartype", "chex", "distrax"),
    *("einops", "equinox", "flax", "gymnasium", "gymnax", "haiku", "networkx", "pandas", "rlax", "torch", "tqdm"),
}
"""Packages whose functions and classes count by name. All other packages count as the user's own, so a user's package
must not have one of these names."""
UNTOLD = frozenset(
    {
        *("__module__", "__dict__", "__weakref__", "__doc__", "__annotations__", "__qualname__", "__orig_bases__"),
        *("__parameters__", "__abstractmethods__", "_abc_impl", "__dataclass_fields__", "__dataclass_params__"),
        *("__match_args__", "__firstlineno__", "__static_attributes__", "__annotate__", "__annotate_func__"),
        *("__annotations_cache__", "__conditional_annotations__", "__classdictcell__", "__protocol_attrs__"),
        *("__non_callable_proto_members__", "_is_protocol", "_is_runtime_protocol"),
        *("_fields", "_field_defaults", "__slots__"),
    }
)
"""Attributes of a class that do not affect its behaviour, or that are described in another way."""
WRITERS = {"collections", "dataclasses", "reprlib"}
"""Modules that generate methods of records, which follow from the fields."""

Made = tuple[str, tuple[Any, ...]]
"""The kind of a value, and its parts."""

FORMS: tuple[tuple[Any, str, Callable[[Any], tuple[Any, ...]]], ...] = (
    (types.MethodType, "method", lambda x: (x.__func__, x.__self__)),
    (functools.partial, "partial", lambda x: (type(x), x.func, x.args, x.keywords)),
    (staticmethod, "static method", lambda x: (x.__func__,)),
    (classmethod, "class method", lambda x: (x.__func__,)),
    (property, "property", lambda x: (x.fget, x.fset, x.fdel)),
    (functools.cached_property, "cached property", lambda x: (x.func,)),
    ((operator.attrgetter, operator.itemgetter, operator.methodcaller), "lookup", lambda x: x.__reduce__()),
    (
        (types.MemberDescriptorType, types.GetSetDescriptorType, types.WrapperDescriptorType),
        "slot",
        lambda x: (x.__name__,),
    ),
    (slice, "slice", lambda x: (x.start, x.stop, x.step)),
    (range, "range", lambda x: (x.start, x.stop, x.step)),
    (np.dtype, "dtype", lambda x: (kind_of_number(x),)),
    (jax.ShapeDtypeStruct, "shape", lambda x: (x.shape, x.dtype)),
    (jax.tree_util.PyTreeDef, "tree", lambda x: (x.node_data(), x.children())),
    (enum.Enum, "choice", lambda x: (type(x), x.name)),
    (re.Pattern, "pattern", lambda x: (x.pattern, x.flags)),
    (PurePath, "path", lambda x: (x.as_posix(),)),
    (type(MISSING), "missing", lambda x: ()),
    (
        inspect.Signature,
        "signature",
        lambda x: tuple((each.name, each.kind, each.default) for each in x.parameters.values()),
    ),
)
"""Types, the kind of their values, and a function that returns the parts of a value."""


def made_of(value: Any) -> Made | None:
    """Return the kind and the parts of a value; None if they cannot be read.

    Containers, arrays and Python functions are handled in `fedrl.core.content`.

    >>> made_of(slice(1, 5))
    ('slice', (1, 5, None))
    >>> made_of(len), made_of(np.tanh), made_of(object)
    (('library', ('builtins.len',)), ('library', ('numpy.tanh',)), ('library', ('builtins.object',)))
    >>> made_of(open) and made_of(iter([1]))
    """
    if isinstance(value, type):
        return _class(value)
    for kinds, kind, parts in FORMS:
        if isinstance(value, kinds):
            return kind, parts(value)
    if isinstance(value, types.ModuleType):
        return ("module", (value.__name__,)) if in_library(value.__name__) else None
    if typing.get_origin(value) is not None:
        return "type", (typing.get_origin(value), typing.get_args(value))
    if type(value).__module__ == "typing":
        return "type", (repr(value),)
    return (_called(value) if callable(value) else None) or _object(value)


def name_in_library(value: Any) -> str | None:
    """Return the name under which a library exports this very object, or None."""
    if isinstance(value, np.ufunc):
        word = str(value.__name__)
        return f"numpy.{word}" if getattr(np, word, None) is value else None
    if isinstance(value, types.FunctionType) and not made_by_library(value):
        return None
    module = getattr(value, "__module__", None) or getattr(getattr(value, "__self__", None), "__name__", None)
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
    if not (isinstance(module, str) and isinstance(name, str) and in_library(module)):
        return None
    # An object may claim a library's name and be another one, so the name is looked up and compared by identity.
    found: Any = sys.modules.get(module)
    for part in str(name).split("."):
        found = getattr(found, part, None)
    return f"{module}.{name}" if found is not None and unchecked(found) is unchecked(value) else None


def made_by_library(function: object) -> bool:
    """Return whether the code of a function belongs to a library, whatever its name."""
    if isinstance(function, types.FunctionType):
        return in_library(unchecked(function).__globals__.get("__name__"))
    return in_library(getattr(function, "__module__", None))


def in_library(module: object) -> bool:
    """Return whether a module of this name belongs to a library."""
    return isinstance(module, str) and module.partition(".")[0] in LIBRARIES


def unchecked(function: Any) -> Any:
    """Return the function without the type-checking wrappers that tests add to it."""
    while isinstance(function, types.FunctionType) and hasattr(function, "__wrapped__"):
        module = str(function.__globals__.get("__name__"))
        if module.partition(".")[0] != "jaxtyping" and not function.__code__.co_filename.startswith("<@beartype"):
            break
        function = function.__wrapped__
    return function


def is_special(name: str) -> bool:
    """Return whether a name is a special name of Python, such as `__file__`."""
    return name.startswith("__") and name.endswith("__")


def kind_of_number(dtype: np.dtype) -> str:
    """Return the name of a dtype, the same on machines of either byte order."""
    return dtype.name if dtype.fields is None else str(dtype.newbyteorder("<").descr)


def _class(kind: type) -> Made:
    """Return the parts of a class: its name in a library; else its name, bases, fields and methods."""
    if in_library(kind.__module__) and "<locals>" not in kind.__qualname__:
        return "library", (f"{kind.__module__}.{kind.__qualname__}",)
    entries: dict[str, Any] = dict(vars(kind))
    bases = [base for base in kind.__bases__ if base is not object]
    if issubclass(kind, enum.Enum):
        own = {
            name: x
            for name, x in entries.items()
            if isinstance(x, types.FunctionType | property | classmethod | staticmethod)
            and not made_by_library(getattr(x, "__func__", x))
        }
        return "choices", (kind.__name__, bases, {x.name: x.value for x in kind}, own)
    described: list[Any] = []
    if "_fields" in entries:
        described = [(name, entries["_field_defaults"].get(name, MISSING)) for name in entries["_fields"]]
    elif "__dataclass_fields__" in entries:
        described = [(x.name, x.default, x.default_factory, x.kw_only) for x in fields(typing.cast(Any, kind))]
    passed_over = UNTOLD | {each[0] for each in described}
    own = {name: x for name, x in entries.items() if name not in passed_over and not _is_written(kind, x)}
    return "class", (kind.__name__, bases, type(kind), described, own)


def _is_written(kind: type, entry: Any) -> bool:
    """Return whether an entry of a class was generated by `dataclass` or `NamedTuple`."""
    if not (is_dataclass(kind) or hasattr(kind, "_fields")):
        return False
    function = getattr(entry, "__func__", entry)
    if not isinstance(function, types.FunctionType):
        return entry is None  # `__hash__` of a record that has none
    writer = str(function.__globals__.get("__name__"))
    made = writer in WRITERS or writer.startswith("namedtuple_")
    return made or function.__code__.co_qualname.startswith("__create_fn__")


def _called(value: Any) -> Made | None:
    """Return the parts of a callable that is no Python function: exported by a library, or a library's wrapper."""
    name = name_in_library(value)
    if name is not None:
        return "library", (name,)
    owner = getattr(value, "__self__", None)
    if isinstance(value, types.BuiltinMethodType | types.MethodWrapperType) and owner is not None:
        return "method", (value.__name__, owner)
    if hasattr(value, "__wrapped__") and in_library(type(value).__module__):
        described = {name: x for name, x in getattr(value, "__dict__", {}).items() if not name.startswith("_")}
        return "wrapped", (type(value), value.__wrapped__, described)
    return None


def _object(value: Any) -> Made | None:
    """Return the parts of an object of a dataclass or of a user's own class: its fields or attributes."""
    kind: Any = type(value)
    if is_dataclass(kind):
        # `__post_init__` of a user's dataclass may add attributes that are no fields.
        more = {} if in_library(kind.__module__) else getattr(value, "__dict__", {})
        return "record", (kind, more | {x.name: getattr(value, x.name) for x in fields(kind)})
    foreign = [base for base in kind.__mro__ if base is not object and in_library(base.__module__)]
    # An object that inherits from a library's class may have state that no attribute shows, such as an open file.
    if any(base.__module__ not in ("abc", "typing") for base in foreign):
        return None
    slots = {name: getattr(value, name) for name in _slots(kind) if hasattr(value, name)}
    return "object", (kind, slots | getattr(value, "__dict__", {}))


def _slots(kind: type) -> Iterator[str]:
    for base in kind.__mro__:
        names = vars(base).get("__slots__", ())
        yield from (name for name in ((names,) if isinstance(names, str) else names) if not is_special(name))
