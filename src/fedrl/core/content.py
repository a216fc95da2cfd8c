"""What a value or a function is, as a digest that two processes can compare.

    content(lambda x: 2 * x) == content(lambda x: 2 * x)      != content(lambda x: 3 * x)

Numbers, arrays and records count by what is in them. A function counts by what it does:

    its instructions    with their constants; not its name, docstring, file, line or the names of its variables
    its parameters      their names, kinds and defaults
    what it captures    the values of its closure, its attributes, and what a method is bound to
    what it refers to   globals, by the same rules, and attributes of modules, to any depth
                        (not names with two underscores at both ends, such as `__file__`)

Here it ends: what is found under its own name in a library of `LIBRARIES` counts by that name, whatever the version. A
function that a library made (an optimiser's `update`, `jax.vmap(f)`) is found under no name: it counts by its name, its
instructions and what it captures, and what it refers to counts by name. So do modules that a function imports when it
runs. Instructions are those of one version of Python, and functions agree between processes of one version.

Nothing of it depends on addresses, hash seeds, folders or the order of a dictionary. Lists and tuples count alike, as
TOML has only lists. A value that refers to itself ends where it does so. A value whose content can't be read (an open
file, a generator of random numbers, a logger) is refused.
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
"""Instructions that do nothing."""
READS = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}
ATTRIBUTES = {"LOAD_ATTR", "LOAD_METHOD"}
FLAGS = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
FLAGS |= inspect.CO_VARARGS | inspect.CO_VARKEYWORDS
PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), type(NotImplemented))
TABLES = (dict, OrderedDict, defaultdict, types.MappingProxyType)

StandIn = Callable[[object], object]


def itself(value: object) -> object:
    """No value counts by anything else than its content."""
    del value
    return None


def content(value: object, what: str = "the value", stand_in: StandIn = itself) -> str:
    """The SHA-256 of what a value is and does, the same in every process.

    Args:
        value: Numbers, text, arrays, tuples, dictionaries, records, classes, functions, and what is made of them.
        what: What it is called in messages.
        stand_in: `value -> what it counts by, or None`, for values that are known by something else than their content,
            such as the constructor call that built them.

    Returns:
        64 hexadecimal digits.

    Raises:
        ConfigError: The value holds something whose content can't be read. It names that.

    >>> def scaled(factor):
    ...     return lambda x: factor * x
    >>> content(scaled(2.0)) == content(scaled(2.0)), content(scaled(2.0)) == content(scaled(3.0))
    (True, False)
    >>> content({"b": 1, "a": [2.0, "x"]}) == content({"a": (2.0, "x"), "b": 1})
    True
    """
    return _Walk(stand_in).whole(value, what).hex()


class _Walk:
    """A walk through everything a value is made of.

    Functions and classes that are found as globals may refer to each other in circles. Each gets a number when it is
    met for the first time, and is gone through when the value itself is done.
    """

    def __init__(self, stand_in: StandIn) -> None:
        self.stand_in = stand_in
        self.under_way: dict[int, int] = {}
        self.reached = sys.maxsize
        self.known: dict[int, tuple[bytes, object]] = {}
        self.numbers: dict[int, int] = {}
        self.waiting: list[tuple[object, str]] = []

    def whole(self, value: object, what: str) -> bytes:
        """The digest of a value with all that is reached from it by name."""
        pieces = [self.of(value, what)]
        for each, name in self.waiting:  # grows on the way
            pieces.append(self.of(each, name))
        return _hash("whole", *pieces)

    def of(self, value: object, what: str) -> bytes:
        """The digest of one value; where it holds itself, how many values up it is."""
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
        if self.reached >= depth:  # it refers to nothing above itself, so it is the same wherever it is met
            self.known[here] = (found, value)
            self.reached = sys.maxsize
        self.reached = min(self.reached, outer)
        return found

    def composed(self, value: Any, what: str) -> bytes:
        """By what kind of value it is."""
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
            more = getattr(value, "__dict__", {})  # of a subclass that remembers more than its fields
            return _hash("record", self.of(kind, what), *self.each(value, what), *self.table(more, what))
        if kind in (tuple, list):
            return _hash("row", *self.each(value, what))
        if kind in TABLES:
            return _hash("table", *self.table(value, what), self.of(getattr(value, "default_factory", None), what))
        if kind in (set, frozenset):  # each by itself: numbers of globals would follow the order of the set
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
            if is_special(variable):  # `__class__`: where the method is
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
        """Instructions, each with what it is about; `scope` are the globals that count by their content."""
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
        """What a name and the attributes behind it stand for, as far as these lead through the user's own modules."""
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
    """A SHA-256 of a kind and its pieces, each with its length, so that no two lists of pieces are alike."""
    digest = hashlib.sha256()
    for piece in (kind, *pieces):
        data = piece.encode("utf-8", "surrogatepass") if isinstance(piece, str) else piece
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.digest()


def _attributes(function: types.FunctionType) -> dict[str, Any]:
    """What a user has hung on a function, which it may read; not what `functools.wraps` and checks of types do."""
    if made_by_library(function):
        return {}
    return {name: value for name, value in vars(function).items() if not is_special(name)}


def _plain(value: Any) -> bytes | str:
    if isinstance(value, float):
        return "nan" if value != value else struct.pack("<d", value)  # noqa: PLR0124
    if isinstance(value, complex):
        return _hash("complex", _plain(value.real), _plain(value.imag))
    if isinstance(value, int):
        return hex(value)
    return value if isinstance(value, str | bytes) else repr(value)


def _unreadable(value: object, what: str) -> ConfigError:
    kind = type(value)
    return ConfigError(
        f"{what} holds a {kind.__module__}.{kind.__qualname__}, and what that is can't be told to another process. "
        "Digests are made of numbers, text, arrays, records and functions. Capture those instead, or build it by a "
        "constructor under @component."
    )
