"""Equal federations share their compiled programs, however often they are prepared for simulation.

JAX finds a compiled program again by the function that was traced, and every preparation would make new functions. So
they are made once for all federations that are equal: a study of many settings, or a run with its baselines, compiles
each program once, whatever the number of agents, their environments' parameters, rounds or seeds.
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
    """Shapes and types of a tree's leaves, and its structure: a tree without its numbers, which can be looked up."""

    leaves: tuple[jax.ShapeDtypeStruct, ...]
    structure: Any

    @property
    def tree(self) -> PyTree:
        """The tree of shapes."""
        return jax.tree.unflatten(self.structure, self.leaves)


def shapes(tree: PyTree, skip: int = 0) -> Shapes:
    """The shapes of a tree of arrays, or of shapes, without the first `skip` axes.

    >>> shapes((np.zeros((2, 3), np.float32), np.zeros(2, np.int32)), skip=1).leaves[0].shape
    (3,)
    """
    leaves, structure = jax.tree.flatten(tree)
    return Shapes(tuple(jax.ShapeDtypeStruct(x.shape[skip:], x.dtype) for x in leaves), structure)


def cached_program(make: Maker) -> Maker:
    """Keep what `make` makes, and give it to whoever asks for an equal federation (or learner) with equal arguments.

    Equality goes by constructor calls, so the constructors themselves, and functions among their arguments, have to be
    the same objects, too: a component that was redefined under its old name is another one, and what a function does
    may change with what it refers to.
    """

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
    """Let go of all that was kept."""
    for clear in FORGETTING:
        clear()


def _identities(value: object) -> Iterator[object]:
    """The objects behind a value that its digest may not tell apart; the value keeps them alive, so ids do."""
    call = call_of(value)
    if call is not None:
        yield call.component
        yield from (part for argument in call.arguments.values() for part in _identities(argument))
    elif isinstance(value, tuple | list):
        yield from (part for item in value for part in _identities(item))
    elif not isinstance(value, PLAIN):
        yield id(value)
