"""A memory of what an agent went through: a ring of rows, of which the newest overwrite the oldest.

A ring may be the largest part of a learner's state by far, and a round changes a few rows of it. So whoever may have to
put an agent back to where it stood (`fedrl.core.faults`) knows a ring by its type: it keeps no copy but a `RingRows` of
the rows that the round can overwrite, undoes what was written by setting the counter back, and tidies up once, at the
end.

    Replay --log--> Log          Replay --append, ..., append, set back--> Replay --settle(Log)--> as if never written
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedrl.core.errors import ConfigError
from fedrl.core.types import Key, PyTree


class Replay(NamedTuple):
    """A ring of rows.

    Attributes:
        rows: A tree of arrays `[capacity, ...]`.
        written: Scalar int32; how many rows were ever written, the next one goes to that place modulo the capacity.
    """

    rows: PyTree
    written: jax.Array


class RingRows(NamedTuple):
    """The rows of a ring that come to be overwritten next, and where they begin.

    Attributes:
        rows: A tree of arrays `[count, ...]`.
        written: As of the ring.
    """

    rows: PyTree
    written: jax.Array


def empty(row: PyTree, capacity: int) -> Replay:
    """A ring without rows.

    Args:
        row: A row, or the shapes of one.
        capacity: How many rows it holds.
    """
    return Replay(jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape), x.dtype), row), jnp.int32(0))


def capacity_of(replay: Replay) -> int:
    """How many rows it holds."""
    return int(jax.tree.leaves(replay.rows)[0].shape[0])


def append(replay: Replay, rows: PyTree) -> Replay:
    """The ring with further rows `[count, ...]`, at most as many as it holds.

    A learner writes at most `Learner.samples` rows in a local iteration: engines keep a log of so many.

    Raises:
        ConfigError: There are more rows than the ring holds.

    >>> ring = append(empty(jnp.zeros(()), 3), jnp.arange(1.0, 3.0))
    >>> append(ring, jnp.arange(3.0, 5.0)).rows.tolist()
    [4.0, 2.0, 3.0]
    """
    count = jax.tree.leaves(rows)[0].shape[0]
    if count > capacity_of(replay):
        raise ConfigError(
            f"{count} rows are written at once to a ring of {capacity_of(replay)}. They would overwrite each other. "
            "Give the ring a larger capacity."
        )
    places = _places(replay, count)
    return Replay(_put(replay.rows, places, rows), replay.written + count)


def sample(key: Key, replay: Replay, count: int) -> PyTree:
    """So many rows drawn uniformly with replacement, of those written: `[count, ...]`."""
    known = jnp.minimum(replay.written, capacity_of(replay))
    return _at(replay.rows, jax.random.randint(key, (count,), 0, jnp.maximum(known, 1)))


def log(replay: Replay, count: int) -> RingRows:
    """What the next `count` rows will overwrite."""
    return RingRows(_at(replay.rows, _places(replay, min(count, capacity_of(replay)))), replay.written)


def settle(replay: Replay, before: RingRows) -> Replay:
    """The ring with the rows of before wherever nothing counts as written since.

    Args:
        replay: The ring at the end of a round, its counter set back to where the rows that count end.
        before: Its log of before the round, of at least as many rows as were written.

    >>> ring = append(empty(jnp.zeros(()), 3), jnp.arange(1.0, 4.0))
    >>> later = append(ring, jnp.array([8.0, 9.0]))
    >>> settle(later._replace(written=later.written - 1), log(ring, 2)).rows.tolist()
    [8.0, 2.0, 3.0]
    """
    count = jax.tree.leaves(before.rows)[0].shape[0]
    places = (before.written + jnp.arange(count)) % capacity_of(replay)
    valid = jnp.arange(count) < replay.written - before.written
    now = _at(replay.rows, places)

    def chosen(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(valid.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return Replay(_put(replay.rows, places, jax.tree.map(chosen, now, before.rows)), replay.written)


def _places(replay: Replay, count: int) -> jax.Array:
    return (replay.written + jnp.arange(count)) % capacity_of(replay)


def _at(rows: PyTree, places: jax.Array) -> Any:
    return jax.tree.map(lambda x: x[places], rows)


def _put(rows: PyTree, places: jax.Array, new: PyTree) -> Any:
    return jax.tree.map(lambda x, y: x.at[places].set(y, unique_indices=True, mode="promise_in_bounds"), rows, new)
