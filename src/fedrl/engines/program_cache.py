"""Cache of compiled programs, shared by all simulations of equal federations.

JAX looks up a compiled program by the identity of the traced function, and every simulation would create new functions.
So the functions are created once for all equal federations: a study of many settings, or a run with its baselines,
compiles each program once, for any number of agents, environment parameters, rounds or seeds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar, cast

import jax
import numpy as np

from fedrl.core.component import call_of
from fedrl.core.types import PyTree

Maker = TypeVar("Maker", bound=Callable[..., Any])

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

    Federations are equal if they were built by the same constructor calls. The constructors, and functions among their
    arguments, also have to be the same objects: a component that was redefined under its old name is another one, and
    the behaviour of a function may change with the variables it refers to.
    """

    # `made_of` is part of the cache key only: two equal calls may refer to different constructors of the same name.
    @functools.lru_cache(maxsize=KEPT)
    def kept(made_of: tuple[object, ...], subject: Any, /, *rest: Any) -> Any:
        del made_of
        return make(subject, *rest)

    FORGETTING.append(kept.cache_clear)

    @functools.wraps(make)
    def made(subject: Any, *rest: Any) -> Any:
        return kept(tuple(_identities(subject)), subject, *rest)

    return cast(Maker, made)


def forget() -> None:
    """Empty all caches."""
    for clear in FORGETTING:
        clear()


def _identities(value: object) -> Iterator[object]:
    """Yield the objects behind a value that equality of calls does not distinguish."""
    # Ids suffice: the cached value keeps its objects alive, so that no id is used again.
    call = call_of(value)
    if call is not None:
        yield call.component
        yield from (part for argument in call.arguments.values() for part in _identities(argument))
    elif isinstance(value, tuple | list):
        yield from (part for item in value for part in _identities(item))
    elif not isinstance(value, PLAIN):
        yield id(value)
