"""Store experience in a replay buffer: a ring of rows, in which new rows overwrite the oldest.

A replay buffer may be by far the largest part of a learner's state, and a round changes few of its rows. So
`fedrl.core.faults`, which may have to undo a round, recognises it by its type: it copies only the rows that the round
can overwrite (`RingRows`), undoes writes by setting the counter back, and restores these rows once, at the end.

    Replay --log--> RingRows     Replay --append, ..., append, set back--> Replay --settle(RingRows)--> as before
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedrl.core.errors import ConfigError
from fedrl.core.types import Key, PyTree


class Replay(NamedTuple):
    """A replay buffer.

    Attributes:
        rows: A tree of arrays `[capacity, ...]`.
        written: Scalar int32; the number of rows written so far. The next row is written at `written % capacity`.
    """

    rows: PyTree
    written: jax.Array


class RingRows(NamedTuple):
    """A copy of the rows of a replay buffer that will be overwritten next.

    Attributes:
        rows: A tree of arrays `[count, ...]`.
        written: The counter of the buffer at the time of the copy.
    """

    rows: PyTree
    written: jax.Array


def empty(row: PyTree, capacity: int) -> Replay:
    """Return an empty replay buffer.

    Args:
        row: A row, or its shapes and dtypes.
        capacity: The largest number of rows.
    """
    return Replay(jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape), x.dtype), row), jnp.int32(0))


def capacity_of(replay: Replay) -> int:
    """Return the largest number of rows of a buffer."""
    return int(jax.tree.leaves(replay.rows)[0].shape[0])


def append(replay: Replay, rows: PyTree) -> Replay:
    """Return the buffer with further rows `[count, ...]`, at most its capacity.

    A learner may write at most `Learner.samples` rows in a local iteration: engines copy so many for undoing a round.

    Raises:
        ConfigError: There are more rows than the capacity.

    >>> ring = append(empty(jnp.zeros(()), 3), jnp.arange(1.0, 3.0))
    >>> append(ring, jnp.arange(3.0, 5.0)).rows.tolist()
    [4.0, 2.0, 3.0]
    """
    count = jax.tree.leaves(rows)[0].shape[0]
    if count > capacity_of(replay):
        raise ConfigError(
            f"{count} rows are written at once to a replay buffer of {capacity_of(replay)}. They would overwrite each "
            "other. Give the buffer a larger capacity."
        )
    places = _places(replay, count)
    return Replay(_put(replay.rows, places, rows), replay.written + count)


def sample(key: Key, replay: Replay, count: int) -> PyTree:
    """Draw `count` of the written rows uniformly with replacement, `[count, ...]`."""
    # At least 1: a buffer without rows then yields its zeros, as `randint` needs a range that is not empty.
    known = jnp.minimum(replay.written, capacity_of(replay))
    return _at(replay.rows, jax.random.randint(key, (count,), 0, jnp.maximum(known, 1)))


def log(replay: Replay, count: int) -> RingRows:
    """Return a copy of the rows that the next `count` rows will overwrite."""
    return RingRows(_at(replay.rows, _places(replay, min(count, capacity_of(replay)))), replay.written)


def settle(replay: Replay, before: RingRows) -> Replay:
    """Restore the rows that were overwritten beyond the buffer's counter.

    Args:
        replay: The buffer at the end of a round, its counter set back if the round was undone.
        before: The copy from before the round, of at least as many rows as were written.

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


# Both promises hold: the entries of `_places` are distinct and within the capacity.
def _put(rows: PyTree, places: jax.Array, new: PyTree) -> Any:
    return jax.tree.map(lambda x, y: x.at[places].set(y, unique_indices=True, mode="promise_in_bounds"), rows, new)
