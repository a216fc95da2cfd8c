"""Compute a digest of the content of a value or a function, which two processes can compare.

    content(lambda x: 2 * x) == content(lambda x: 2 * x)      != content(lambda x: 3 * x)

Numbers, arrays and records are digested by their content. A function is digested by its behaviour:

    its instructions    with their constants; not its name, docstring, file, line or the names of its variables
    its parameters      their names, kinds and defaults
    what it captures    the values of its closure, its attributes, and the object that a method is bound to
    what it refers to   globals, by the same rules, and attributes of modules, to any depth
                        (not names with two underscores at both ends, such as `__file__`)

An object that a library of `LIBRARIES` exports under a name counts by that name, whatever the version. A function that
a library created (an optimiser's `update`, `jax.vmap(f)`) has no such name: it counts by its name, its instructions and
what it captures, and what it refers to counts by name. So do modules that a function imports when it runs. Instructions
depend on the version of Python, so digests of functions agree only between processes of the same version.

Digests do not depend on addresses, hash seeds, folders or the order of a dictionary. Lists and tuples are equal, as
TOML has only lists. A value may refer to itself. A value whose content cannot be read (an open file, a random number
generator, a logger) is refused.
"""

from __future__ import annotations

import builtins
import dis
import hashlib
import inspect
import struct
import sys
import types
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core.canonical import (
    in_library,
    is_special,
    kind_of_number,
    made_by_library,
    made_of,
    name_in_library,
    unchecked,
)
from fedrl.core.errors import ConfigError

SILENT = {"CACHE", "EXTENDED_ARG", "NOP", "RESUME"}
"""Instructions without an effect."""
READS = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}
ATTRIBUTES = {"LOAD_ATTR", "LOAD_METHOD"}
FLAGS = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
FLAGS |= inspect.CO_VARARGS | inspect.CO_VARKEYWORDS
PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), type(NotImplemented))
TABLES = (dict, OrderedDict, defaultdict, types.MappingProxyType)

StandIn = Callable[[object], object]


def itself(value: object) -> object:
    """Return None: no value is represented by another one."""
    del value
    return None


def content(value: object, what: str = "the value", stand_in: StandIn = itself) -> str:
    """Return the SHA-256 of the content of a value, the same in every process.

    Args:
        value: Numbers, text, arrays, tuples, dictionaries, records, classes, functions, and combinations of these.
        what: The name of the value in error messages.
        stand_in: `value -> representative or None`, for values that are represented by something else than their
            content, such as the constructor call that built them.

    Returns:
        64 hexadecimal digits.

    Raises:
        ConfigError: The value contains an object whose content cannot be read; the message names it.

    >>> def scaled(factor):
    ...     return lambda x: factor * x
    >>> content(scaled(2.0)) == content(scaled(2.0)), content(scaled(2.0)) == content(scaled(3.0))
    (True, False)
    >>> content({"b": 1, "a": [2.0, "x"]}) == content({"a": (2.0, "x"), "b": 1})
    True
    """
    return _Walk(stand_in).whole(value, what).hex()


class _Walk:
    """A traversal of everything that a value contains.

    Functions and classes that are referred to as globals may refer to each other in cycles. Each gets a number at its
    first occurrence, and is traversed after the value itself.
    """

    def __init__(self, stand_in: StandIn) -> None:
        self.stand_in = stand_in
        self.under_way: dict[int, int] = {}
        self.reached = sys.maxsize
        self.known: dict[int, tuple[bytes, object]] = {}
        self.numbers: dict[int, int] = {}
        self.waiting: list[tuple[object, str]] = []

    def whole(self, value: object, what: str) -> bytes:
        """Return the digest of a value, including everything that it refers to by name."""
        pieces = [self.of(value, what)]
        # The list grows during the loop.
        for each, name in self.waiting:
            pieces.append(self.of(each, name))
        return _hash("whole", *pieces)

    def of(self, value: object, what: str) -> bytes:
        """Return the digest of one value; a reference to an enclosing value counts as the number of levels between."""
        if type(value) in PLAIN:
            return _hash(type(value).__name__, _plain(value))
        here = id(value)
        if here in self.known:
            return self.known[here][0]
        if here in self.under_way:
            self.reached = min(self.reached, self.under_way[here])
            return _hash("up", str(len(self.under_way) - self.under_way[here]))
        depth = self.under_way[here] = len(self.under_way)
        outer, self.reached = self.reached, sys.maxsize
        known_by = self.stand_in(value)
        found = self.composed(value, what) if known_by is None else _hash("stands for", self.of(known_by, what))
        del self.under_way[here]
        # Only a value that refers to nothing above itself has the same digest everywhere, and may be stored. The value
        # is stored with it, so that its id is not reused.
        if self.reached >= depth:
            self.known[here] = (found, value)
            self.reached = sys.maxsize
        self.reached = min(self.reached, outer)
        return found

    def composed(self, value: Any, what: str) -> bytes:
        """Return the digest of a value by its kind."""
        found = self.contained(value, what)
        if found is not None:
            return found
        if isinstance(value, np.ndarray | np.generic | jax.Array) and not isinstance(value, jax.core.Tracer):
            return self.array(value, what)
        if isinstance(value, types.FunctionType):
            return self.function(value)
        made = made_of(value)
        if made is None:
            raise _unreadable(value, what)
        return _hash(made[0], *self.each(made[1], what))

    def each(self, values: Any, what: str) -> list[bytes]:
        return [self.of(value, what) for value in values]

    def contained(self, value: Any, what: str) -> bytes | None:
        kind: Any = type(value)
        if hasattr(kind, "_fields") and isinstance(value, tuple):
            # A subclass of a NamedTuple may have attributes beside its fields.
            more = getattr(value, "__dict__", {})
            return _hash("record", self.of(kind, what), *self.each(value, what), *self.table(more, what))
        if kind in (tuple, list):
            return _hash("row", *self.each(value, what))
        if kind in TABLES:
            return _hash("table", *self.table(value, what), self.of(getattr(value, "default_factory", None), what))
        # Each item in a separate walk, as the numbers of globals would depend on the set's order.
        if kind in (set, frozenset):
            return _hash("set", *sorted(self.alone(item, what) for item in value))
        return None

    def table(self, table: Mapping[Any, Any], what: str) -> list[bytes]:
        pairs = sorted(((self.alone(key, what), value) for key, value in table.items()), key=lambda pair: pair[0])
        return [piece for key, value in pairs for piece in (key, self.of(value, what))]

    def alone(self, value: object, what: str) -> bytes:
        return _Walk(self.stand_in).whole(value, what)

    def array(self, value: Any, what: str) -> bytes:
        if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            return _hash("key", str(jax.random.key_impl(value)), self.of(jax.random.key_data(value), what))
        weak, array = getattr(value, "weak_type", False), np.asarray(value)
        described: tuple[str, ...] = ("array", kind_of_number(array.dtype), str(array.shape), str(weak))
        if isinstance(value, np.ma.MaskedArray):
            described = (*described, self.array(np.ma.getmaskarray(value), what).hex())
        if array.dtype.hasobject:
            return _hash(*described, *self.each(array.ravel().tolist(), what))
        return _hash(*described, array.astype(array.dtype.newbyteorder("<")).tobytes())

    def function(self, function: types.FunctionType) -> bytes:
        function = unchecked(function)
        name = name_in_library(function)
        if name is not None:
            return _hash("library", name)
        own = not made_by_library(function)
        called = function.__qualname__
        captured = {}
        for variable, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            # `__class__`, which a method captures to call `super()`, would lead back to the class itself.
            if is_special(variable):
                continue
            try:
                value = cell.cell_contents
            except ValueError:
                captured[variable] = _hash("empty")
            else:
                captured[variable] = self.of(value, f"{variable!r}, which {called}() captures,")
        scope = function.__globals__ if own else None
        return _hash(
            "function",
            "" if own else f"{function.__globals__.get('__name__')}.{called}",
            self.code(function.__code__, scope, called),
            *(piece for variable in sorted(captured) for piece in (variable, captured[variable])),
            self.of(function.__defaults__, f"A default of {called}()"),
            self.of(function.__kwdefaults__, f"A default of {called}()"),
            self.of(_attributes(function), f"An attribute of {called}()"),
        )

    def code(self, code: types.CodeType, scope: dict[str, Any] | None, called: str) -> bytes:
        """Return the digest of instructions with their operands; `scope` has the globals that count by content."""
        # Jump targets count as the index among the instructions kept: offsets differ with caches and extended
        # arguments.
        kept: list[dis.Instruction] = []
        places: dict[int, int] = {}
        for step in dis.get_instructions(code):
            places[step.offset] = len(kept)
            if step.opname not in SILENT:
                kept.append(step)
        positional, count = code.co_posonlyargcount, code.co_argcount + code.co_kwonlyargcount
        count += bool(code.co_flags & inspect.CO_VARARGS) + bool(code.co_flags & inspect.CO_VARKEYWORDS)
        taken = [name for name in code.co_varnames[:count] if not name.startswith(".")]
        pieces = [_hash("takes", str(positional), str(code.co_argcount), str(code.co_flags & FLAGS), *taken)]
        for at, step in enumerate(kept):
            pieces.append(_hash(step.opname, self.operand(code, step, places, scope, called)))
            if scope is not None and step.opname in READS and not is_special(step.argval):
                chain = [step.argval]
                for later in kept[at + 1 :]:
                    if later.opname not in ATTRIBUTES:
                        break
                    chain.append(later.argval)
                pieces.append(self.named(chain, scope, called))
        return _hash("code", *pieces, code.co_exceptiontable)

    def operand(
        self, code: types.CodeType, step: dis.Instruction, places: dict[int, int], scope: Any, called: str
    ) -> bytes:
        if step.opcode in dis.hasconst:
            constant = code.co_consts[cast(int, step.arg)]
            if isinstance(constant, types.CodeType):
                return self.code(constant, scope, called)
            return self.of(constant, f"A constant of {called}()")
        if step.opcode in dis.hasname or step.opcode in dis.hasfree:
            return step.argrepr.encode()
        if step.opcode in dis.hasjrel or step.opcode in dis.hasjabs:
            return str(places[step.argval]).encode()
        return str(step.arg).encode()

    def named(self, chain: list[str], scope: dict[str, Any], called: str) -> bytes:
        """Return the digest of a name and its attributes, followed through the user's own modules."""
        nothing = object()
        value = scope.get(chain[0], getattr(builtins, chain[0], nothing))
        read = 1
        while isinstance(value, types.ModuleType) and not in_library(value.__name__) and read < len(chain):
            value, read = getattr(value, chain[read], nothing), read + 1
        if value is nothing:
            return _hash("undefined")
        what = f"{'.'.join(chain[:read])!r}, which {called}() refers to,"
        is_followed = isinstance(value, types.FunctionType | type) or hasattr(value, "__wrapped__")
        if not is_followed or name_in_library(value) is not None:
            return self.of(value, what)
        if id(value) not in self.numbers:
            self.numbers[id(value)] = len(self.waiting)
            self.waiting.append((value, what))
        return _hash("number", str(self.numbers[id(value)]))


def _hash(kind: str, *pieces: bytes | str) -> bytes:
    """Return the SHA-256 of a kind and its pieces, each with its length, so that no two lists give the same bytes."""
    digest = hashlib.sha256()
    for piece in (kind, *pieces):
        data = piece.encode("utf-8", "surrogatepass") if isinstance(piece, str) else piece
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.digest()


def _attributes(function: types.FunctionType) -> dict[str, Any]:
    """Return the attributes that a user has set on a function, without those of `functools.wraps` and type checks."""
    if made_by_library(function):
        return {}
    return {name: value for name, value in vars(function).items() if not is_special(name)}


def _plain(value: Any) -> bytes | str:
    if isinstance(value, float):
        # All NaN count alike; their payloads may differ between machines.
        return "nan" if value != value else struct.pack("<d", value)  # noqa: PLR0124
    if isinstance(value, complex):
        return _hash("complex", _plain(value.real), _plain(value.imag))
    if isinstance(value, int):
        return hex(value)
    return value if isinstance(value, str | bytes) else repr(value)


def _unreadable(value: object, what: str) -> ConfigError:
    kind = type(value)
    return ConfigError(
        f"{what} holds a {kind.__module__}.{kind.__qualname__}, whose content can't be compared by another process. "
        "Digests are computed of numbers, text, arrays, records and functions. Capture those instead, or build it by "
        "a constructor under @component."
    )
