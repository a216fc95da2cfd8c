"""Cache of compiled programs, shared by all simulations of federations that are built alike.

JAX looks up a compiled program by the identity of the traced function, and every simulation would create new functions.
So the functions are created once for all equal federations: a study of many settings, or a run with its baselines,
compiles each program once, for any number of agents, environment parameters, rounds or seeds.

Learning rates, discounts and other numbers of a learner (`fedrl.core.hyperparameters`) are inputs of the programs:

    federation --numbers_of--> numbers ---------------------------------------+
        +--template--> NaN in their place --> compiled program (numbers, ...) <-+

Inside a program, `with_numbers` builds the learner from the inputs. What was computed from the template's own numbers
instead would be NaN, and could not go unnoticed as the number of another setting would.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Concatenate, Generic, NamedTuple, ParamSpec, TypeVar, cast

import jax
import numpy as np

from fedrl.core.component import call_of, remember_call
from fedrl.core.hyperparameters import Number, numbers_of, pattern_of, with_numbers
from fedrl.core.learner import Learner
from fedrl.core.types import PyTree
from fedrl.federation.federation import Federation

Maker = TypeVar("Maker", bound=Callable[..., Any])
Subject = TypeVar("Subject", bound=Federation | Learner)
Rest = ParamSpec("Rest")
Result = TypeVar("Result")

KEPT = 8
FORGETTING: list[Callable[[], None]] = []
PLAIN = (str, int, float, bool, type(None), np.ndarray, np.generic, jax.Array, Mapping)


class Shapes(NamedTuple):
    """Shapes and dtypes of a tree's leaves, and its structure: a hashable description of a tree of arrays."""

    leaves: tuple[jax.ShapeDtypeStruct, ...]
    structure: Any

    @property
    def tree(self) -> PyTree:
        """The tree with `jax.ShapeDtypeStruct` leaves."""
        return jax.tree.unflatten(self.structure, self.leaves)


def shapes(tree: PyTree, skip: int = 0) -> Shapes:
    """Return the shapes of a tree of arrays, or of shapes, without the first `skip` axes.

    >>> shapes((np.zeros((2, 3), np.float32), np.zeros(2, np.int32)), skip=1).leaves[0].shape
    (3,)
    """
    leaves, structure = jax.tree.flatten(tree)
    return Shapes(tuple(jax.ShapeDtypeStruct(x.shape[skip:], x.dtype) for x in leaves), structure)


def cached_program(make: Maker) -> Maker:
    """Cache the results of `make` by federation (or learner) and arguments, for the `KEPT` most recent of them.

    Federations are built alike if they were built by the same constructor calls, up to numbers that may be inputs of
    programs. The constructors, and functions among their arguments, also have to be the same objects: a component that
    was redefined under its old name is another one, and the behaviour of a function may change with the variables it
    refers to.

    `make` gets a federation with NaN for these numbers, so its result must not depend on them, as shapes do not. For
    programs that depend on them see `numbered_programs`.
    """

    @functools.lru_cache(maxsize=KEPT)
    def kept(wanted: _Wanted, /, *rest: Any) -> Any:
        return make(_given(wanted.subject, [math.nan] * len(numbers_of(wanted.subject))), *rest)

    FORGETTING.append(kept.cache_clear)

    @functools.wraps(make)
    def made(subject: Any, *rest: Any) -> Any:
        return kept(_Wanted((pattern_of(subject) or subject, *_identities(subject)), subject), *rest)

    return cast(Maker, made)


class Template(Generic[Subject]):
    """A federation or a learner whose numbers are inputs of its programs.

    Attributes:
        like: It, with NaN for these numbers: for shapes, and for what does not depend on them.
    """

    def __init__(self, like: Subject) -> None:
        self.like = like

    def jit(self, function: Callable[..., Any], donate: int | None = None, **options: Any) -> Callable[..., Any]:
        """Return the compiled program `(numbers, *arguments)` of a function `(federation, *arguments)`.

        Args:
            function: It gets the federation with these numbers. The program has its name.
            donate: The argument whose buffers the program may overwrite, counted without the first.
            **options: Options of `jax.jit`.
        """
        count = len(numbers_of(self.like))

        def program(numbers: jax.Array, *arguments: Any) -> Any:
            return function(_given(self.like, [numbers[i] for i in range(count)]), *arguments)

        program.__name__ = function.__name__
        return jax.jit(program, donate_argnums=() if donate is None else donate + 1, **options)


def numbered_programs(
    make: Callable[Concatenate[Template[Subject], Rest], Result],
) -> Callable[Concatenate[Subject, Rest], Result]:
    """Cache programs as `cached_program` does, for federations that are built alike, whatever their numbers.

    `make` gets a `Template` in place of the federation, and returns a program of `Template.jit`, another function whose
    first argument is the numbers, or a NamedTuple of these. The caller gets them without this argument: the numbers of
    its own federation are bound to it.
    """

    @cached_program
    def shared(like: Any, *rest: Any) -> Any:
        return cast(Any, make)(Template(like), *rest)

    @functools.wraps(make)
    def made(subject: Any, *rest: Any) -> Any:
        with np.errstate(over="ignore"):  # a number beyond float32 is infinite, as it would be as a constant
            numbers = np.asarray(numbers_of(subject), np.float32)
        programs = shared(subject, *rest)
        if isinstance(programs, tuple) and hasattr(programs, "_make"):
            return programs._make(functools.partial(each, numbers) for each in programs)
        return functools.partial(programs, numbers)

    return cast(Callable[Concatenate[Subject, Rest], Result], made)


def forget() -> None:
    """Empty all caches."""
    for clear in FORGETTING:
        clear()


@dataclass(frozen=True)
class _Wanted:
    """A key of the cache, and a federation that has it; it keeps alive the objects whose ids are in the key."""

    key: tuple[object, ...]
    subject: Any = field(compare=False)


def _given(subject: Any, numbers: Iterable[Number]) -> Any:
    """Return a federation or a learner with other numbers, without checking a federation again."""
    call = call_of(subject)
    if call is None or not isinstance(subject, Federation):
        return with_numbers(subject, numbers)
    learner = with_numbers(subject.learner, numbers)
    if learner is subject.learner:
        return subject
    arguments = call.arguments | {"learner": learner}
    return remember_call(subject.with_learner(learner), replace(call, arguments=arguments))


def _identities(value: object) -> Iterator[object]:
    """Yield the objects behind a value that equality of calls does not distinguish."""
    # Ids suffice: `_Wanted` keeps its objects alive, so that no id is used again.
    call = call_of(value)
    if call is not None:
        yield call.component
        yield from (part for argument in call.arguments.values() for part in _identities(argument))
    elif isinstance(value, tuple | list):
        yield from (part for item in value for part in _identities(item))
    elif not isinstance(value, PLAIN):
        yield id(value)
