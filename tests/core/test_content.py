"""What counts in a value and in a function, and what does not."""

import enum
import functools
import importlib.util
import logging
import math
import operator
import sys
import textwrap
from dataclasses import InitVar, dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrl.aggregators import mean
from fedrl.core.content import content
from fedrl.core.errors import ConfigError
from fedrl.core.stage import Stage
from fedrl.learners import adam


def scaled(factor):
    return lambda x: factor * x


def defaulted(step):
    def move(x, by=step, *, times=1):
        return x + by * times

    return move


def counted(most):
    def go(n):
        return go(n - 1) if n > most else n

    return go


class Point(NamedTuple):
    x: float
    y: float = 0.0


@dataclass(frozen=True)
class Disc:
    radius: float

    def covers(self, x):
        return abs(x) <= self.radius


class Ramp:
    def __init__(self, slope):
        self.slope = slope

    def __call__(self, x):
        return self.slope * x


class Choice(enum.Enum):
    ONE = 1
    TWO = 2


RATE = 0.5


def with_rate(x):
    return RATE * x


def even(n):
    return n == 0 or odd(n - 1)


def odd(n):
    return n != 0 and even(n - 1)


def double(x):
    return 2 * x


def twice(x):
    return 2 * x


def unset():
    def read():
        return value

    if not callable(read):
        value = 1
    return read


def at_rate(rate):
    return optax.flatten(optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate)))


def inner(a, b, y=0):
    if a:
        if b:
            y = 1
        y = 2
    return y


def outer(a, b, y=0):
    if a:  # noqa: SIM102
        if b:
            y = 1
    y = 2
    return y


def with_scale(scale):
    def scaled_by_itself(x):
        return scaled_by_itself.scale * x

    scaled_by_itself.scale = scale
    return scaled_by_itself


@dataclass
class Made:
    factor: InitVar[float]

    def __post_init__(self, factor):
        self.made = factor


class Remembering(Point):
    """A record with a place for more."""


def remembering(more):
    point = Remembering(1.0)
    point.more = more
    return point


DIFFERENT = {
    "numbers": [1, 2, 1.0, True, None, 1 + 0j, -0.0, 0.0, 0, math.inf, 2**70, 1.0 + 1e-15],
    "text": ["a", b"a", "", "ab", ("a", "b"), ("ab",), "1", 1],
    "containers": [(), {}, set(), (1,), {1}, {1: 2}, {2: 1}, ((1,), 2), (1, (2,)), slice(1), range(1)],
    "arrays": [np.float32([1, 2]), np.float64([1, 2]), np.float32([[1], [2]]), np.float32([1, 2.5]), (1.0, 2.0)],
    "types of numbers": [np.zeros(2, kind) for kind in ("float32", "int32", "uint32", "float64", "int64", "S4")],
    "scalars": [np.float32(1), np.float64(1), 1.0, np.int32(1), jnp.asarray(1.0)],
    "types": [np.float32, np.float64, np.dtype("float32"), jnp.float32, jnp.bfloat16, int],
    "keys": [jax.random.key(0), jax.random.key(1), jax.random.key_data(jax.random.key(0))],
    "structures": [jax.tree.structure(x) for x in ({"a": 1}, {"b": 1}, (1,), [1], 1, None, {"a": None}, Point(1, 2))],
    "records": [Point(1.0), Point(1.0, 2.0), (1.0, 0.0), Disc(1.0), Disc(2.0), Ramp(1.0), Ramp(2.0)],
    "choices": [Choice.ONE, Choice.TWO, Choice, 1, "ONE"],
    "methods": [Disc(1.0).covers, Disc(2.0).covers, Disc.covers, Ramp(1.0).__call__, "ab".join, "ac".join],
    "code": [lambda x: x, lambda x: -x, lambda x: x + 1, lambda x: x + 2, lambda x: x + 1.0, lambda x, y: x, abs],
    "nested code": [lambda xs: [x + 1 for x in xs], lambda xs: [x + 2 for x in xs], lambda xs: {x + 1 for x in xs}],
    "jumps": [lambda x: 1 if x else 2, lambda x: 2 if x else 1, lambda x: x and 1, lambda x: x or 1],
    "where a jump leads": [inner, outer],
    "parameters": [lambda x: 0, lambda y: 0, lambda *x: 0, lambda **x: 0, lambda *, x: 0, lambda x, /: 0],
    "names of parameters": [lambda ab, c: 0, lambda a, bc: 0, lambda abc: 0],
    "given parameters": [lambda x: 0, lambda x=1: 0, lambda x=2: 0, lambda *, x=1: 0, lambda *, x=2: 0],
    "kinds": [lambda: 1, lambda: (yield 1)],
    "captured": [scaled(x) for x in (1.0, 2.0, 1, np.float32([1.0]), scaled(1.0), scaled(2.0), mean(), adam(0.1))],
    "defaults": [defaulted(1), defaulted(2), functools.partial(defaulted(1), by=1)],
    "recursion": [counted(1), counted(2), even, odd, lambda n: even(n + 1)],
    "attributes": [lambda x: x.real, lambda x: x.imag, operator.attrgetter("real"), operator.attrgetter("imag")],
    "modules": [lambda x: np.sin(-x), lambda x: jnp.sin(-x), lambda x: math.sin(-x), np.sin, jnp.sin, math.sin],
    "partials": [functools.partial(max, 1), functools.partial(max, 2), functools.partial(min, 1), max],
    "words of partials": [functools.partial(max, default=1), functools.partial(max, default=2)],
    "wrappers": [double, jax.jit(double), functools.lru_cache(double)],
    "called like a library's": [optax.sgd, functools.lru_cache(optax.sgd), jax.jit(optax.sgd)],
    "transformed": [
        t(scaled(f)) for t in (jax.jit, jax.vmap, jax.grad, jax.checkpoint, jax.custom_jvp) for f in (1.0, 2.0)
    ],
    "optimisers": [
        *(optax.adam(0.01), optax.adam(0.001), optax.sgd(0.01), optax.sgd(0.01, momentum=0.9), at_rate(0.01)),
        *(at_rate(0.02), optax.sgd(0.01, momentum=0.9, nesterov=True), optax.adam(optax.linear_schedule(0.1, 0.0, 9))),
        *(optax.adam(optax.linear_schedule(0.1, 0.0, 8)), optax.inject_hyperparams(optax.adam)(learning_rate=0.1)),
    ],
    "hung on a function": [with_scale(x) for x in (1.0, 2.0, "1.0")],
    "made of no field": [Made(1.0), Made(2.0), remembering(1), remembering(2)],
    "masks": [np.ma.array([1.0, 2.0], mask=mask) for mask in ([0, 0], [0, 1], [1, 0])],
    "altered records": [replace(mean(), needs="each"), replace(mean("uniform"), needs="each")],
}


@pytest.mark.parametrize("values", DIFFERENT.values(), ids=DIFFERENT)
def test_what_differs_has_another_digest(values):
    digests = [content(value) for value in values]
    assert len(set(digests)) == len(values)


def two(make):
    return make(), make()


SAME = {
    "a lambda": two(lambda: lambda x: 2 * x),
    "a closure": two(lambda: scaled(2.0)),
    "an array captured": two(lambda: scaled(np.float32([1.0, 2.0]))),
    "defaults": two(lambda: defaulted(3)),
    "a function that calls itself": two(lambda: counted(3)),
    "a method": two(lambda: Disc(1.0).covers),
    "an object": two(lambda: Ramp(2.0)),
    "an optimiser": two(lambda: at_rate(0.01)),
    "a schedule": two(lambda: optax.adam(optax.linear_schedule(0.1, 0.0, 9))),
    "a compiled function": two(lambda: jax.jit(scaled(2.0))),
    "names of variables": (lambda x: [a + 1 for a in x], lambda x: [b + 1 for b in x]),
    "the order of a dictionary": ({"a": 1, "b": (2,)}, {"b": (2,), "a": 1}),
    "lists and tuples": ([1, [2]], (1, (2,))),
    "where an array is": (np.float32([1, 2]), jnp.float32([1, 2])),
    "byte order": (np.array([1, 2], "<i4"), np.array([1, 2], ">i4")),
    "rows or columns first": (np.ones((2, 3)).T.copy(), np.ones((3, 2), order="F")),
    "one object twice or two": ((scaled(1.0),) * 2, (scaled(1.0), scaled(1.0))),
    "a variable without a value": two(unset),
    "the name of a function": (double, twice),
    "written twice": (lambda x: 2 * x, lambda x: 2 * x),
    "what is hung on a function": two(lambda: with_scale(1.0)),
    "not a number": (float("nan"), -float("nan")),
}


@pytest.mark.parametrize(("one", "other"), SAME.values(), ids=SAME)
def test_what_is_the_same_has_the_same_digest(one, other):
    assert content(one) == content(other)


plain = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3) | st.binary(max_size=3)
)
nested = st.recursive(
    plain, lambda x: st.tuples(x, x) | st.dictionaries(st.text(max_size=2), x, max_size=3), max_leaves=6
)


def typed(value):
    """Told apart as `==` does not: 1, 1.0 and True; 0.0 and -0.0."""
    if isinstance(value, tuple):
        return "row", tuple(typed(x) for x in value)
    if isinstance(value, dict):
        return "table", frozenset((k, typed(v)) for k, v in value.items())
    return type(value).__name__, repr(value)


@given(nested, nested)
def test_values_agree_in_their_digest_exactly_if_they_are_equal(one, other):
    assert (content(one) == content(other)) == (typed(one) == typed(other))


def loaded(source: str, path, name: str = "mine"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(source))
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SOURCE = '''
import numpy as np
from typing import NamedTuple
from dataclasses import dataclass

LIMIT = 3
TABLE = {"a": np.arange(3.0), "b": (1, 2)}
NAMES = frozenset({"one", "two", "three", "four"})

class State(NamedTuple):
    """What is kept."""
    count: int
    def more(self):
        return self._replace(count=self.count + 1)

@dataclass(frozen=True)
class Box:
    size: int = 2
    def __eq__(self, other):
        return helper(self.size) == helper(other.size)

def helper(x):
    """Helps."""
    return min(x, LIMIT) if x not in NAMES else deeper(x)

def deeper(x):
    if x > 3:
        return helper(x - 1)
    return TABLE["a"][x]

def make(factor):
    def act(x, state=State(1)):
        """Acts."""
        try:
            return factor * helper(x) + state.more().count + Box().size
        except (ValueError, KeyError):
            return [y for y in TABLE["b"] if y in {1, 2}]
    return act
'''


def test_neither_folder_nor_module_nor_line_nor_docstring_counts(tmp_path):
    one = loaded(SOURCE, tmp_path / "a" / "mine.py").make(2.0)
    moved = "\n\n# a comment\n\n" + SOURCE.replace('"""Acts."""', "").replace("Helps.", "Helps a lot.")
    other = loaded(moved, tmp_path / "b" / "c" / "yours.py", "yours").make(2.0)
    assert one.__code__.co_filename != other.__code__.co_filename
    assert one.__code__.co_firstlineno != other.__code__.co_firstlineno
    assert content(one) == content(other)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("LIMIT = 3", "LIMIT = 4"),
        ("np.arange(3.0)", "np.arange(4.0)"),
        ('"three", ', ""),
        ('TABLE["a"][x]', 'TABLE["a"][-x]'),
        ("helper(x - 1)", "helper(x - 2)"),
        ("self.count + 1", "self.count + 2"),
        ("count: int\n", "count: int = 7\n"),
        ("size: int = 2", "size: int = 3"),
        ("== helper", "!= helper"),
        ("State(1)", "State(2)"),
        ("KeyError", "TypeError"),
        ("in {1, 2}", "in {1, 3}"),
        ("import numpy as np", "import jax.numpy as np"),
        ("min(x, LIMIT)", "max(x, LIMIT)"),
        ("except (ValueError", "except (UnknownError"),
    ],
)
def test_whatever_a_function_reaches_counts(old, new, tmp_path):
    assert old in SOURCE
    whole = loaded(SOURCE, tmp_path / "mine.py").make(2.0)
    changed = loaded(SOURCE.replace(old, new), tmp_path / "mine_too.py").make(2.0)
    assert content(whole) != content(changed)


def test_which_global_is_meant_counts(tmp_path):
    source = """
        def f(x):
            return x + 1

        def g(x):
            return x + 2

        a, b, c = f, g, {}

        def use(x):
            return a(x), b(x), c(x)
    """
    once, again, other = (loaded(source.format(x), tmp_path / "mine.py").use for x in ("f", "f", "g"))
    assert content(once) == content(again) != content(other)


def test_attributes_of_a_users_module_are_followed(tmp_path):
    first, second = (loaded(f"def f(x):\n    return {n} * x\n", tmp_path / f"m{n}.py") for n in (1, 2))

    digests = []
    for module in (first, second, first):
        used = loaded("def g(x):\n    return tools.f(x)\n", tmp_path / "g.py")
        used.tools = module
        digests.append(content(used.g))
    assert digests[0] == digests[2] != digests[1]


def test_a_function_put_in_the_place_of_a_librarys_is_the_users(monkeypatch):
    @functools.wraps(optax.global_norm)
    def mine(updates):
        return 2 * updates

    before = content(optax.global_norm)
    monkeypatch.setattr(sys.modules[optax.global_norm.__module__], "global_norm", mine)
    assert content(mine) != before


def test_globals_that_refer_to_each_other_come_to_an_end():
    assert content(even) == content(even)
    assert content(lambda: (even, odd)) != content(lambda: (odd, even))


def test_a_value_that_holds_itself_comes_to_an_end():
    def endless():
        row = [1]
        row.append(row)
        return row

    assert content(endless()) == content(endless()) != content([1, [1]])


def test_where_a_value_holds_itself_counts():
    def row():
        found = [[[]], 1]
        found[0][0].append(found)
        return found

    inside = row()
    first, second = [inside, inside[0]], [row(), [[]]]
    second[1][0].append(second)
    assert content(first) != content(second)


def test_what_a_global_is_counts_not_what_it_is_called():
    digest = content(with_rate)
    try:
        globals()["RATE"] = 0.25
        assert content(with_rate) != digest
    finally:
        globals()["RATE"] = 0.5
    assert content(with_rate) == digest


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (logging.getLogger("x"), "the value holds a logging.Logger"),
        (np.random.default_rng(0), "the value holds a numpy.random._generator.Generator"),
        (iter([1]), "the value holds a builtins.list_iterator"),
        (
            scaled(logging.getLogger("x")),
            r"'factor', which scaled.<locals>.<lambda>\(\) captures, holds a logging.Logger",
        ),
        (defaulted(iter([1])), r"A default of defaulted.<locals>.move\(\) holds a builtins.list_iterator"),
        (lambda: sys.stdout, None),
        (lambda: UNREADABLE, r"'UNREADABLE', which <lambda>\(\) refers to, holds a builtins.list_iterator"),
        (Stage(scaled(iter([1]))), "'factor', which"),
        (scaled(scaled(iter([1]))), "'factor', which"),
    ],
)
def test_what_has_no_content_to_be_told_is_refused_by_name(value, names):
    if names is None:
        assert content(value)  # an attribute of a library's module counts by name
        return
    with pytest.raises(ConfigError, match=names):
        content(value)


UNREADABLE = iter([1])


def test_a_traced_array_is_refused():
    def trace(x):
        with pytest.raises(ConfigError, match="Tracer"):
            content(scaled(x))
        return x

    jax.jit(trace)(1.0)


def test_a_stand_in_takes_the_place_of_a_value_wherever_it_is():
    def known(value):
        return ("linear", value.slope > 0) if isinstance(value, Ramp) else None

    assert content(scaled(Ramp(1.0)), stand_in=known) == content(scaled(Ramp(2.0)), stand_in=known)
    assert content(scaled(Ramp(1.0)), stand_in=known) != content(scaled(Ramp(-2.0)), stand_in=known)


def test_many_functions_that_all_refer_to_each_other_take_no_longer_than_there_are_of_them(tmp_path):
    names = [f"f{i}" for i in range(40)]
    source = "".join(f"def {name}(x):\n    return {' + '.join(f'{x}(x)' for x in names)}\n" for name in names)
    assert content(loaded(source, tmp_path / "many.py").f0)
