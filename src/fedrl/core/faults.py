"""Undo the round of an agent whose training produces a number that is not finite; the run continues without it.

    snapshot --begin, work, report--> after, update      all finite: continue from `after`
       |                                                 else: continue from the snapshot, send nothing, report where
       +--- environments keep their states; an environment copy with numbers that are not finite begins a new episode

A snapshot is a copy of the state; of a replay buffer (`fedrl.core.replay`) only the rows that the round overwrites.

A number that was finite before the round and no longer is, is a fault. One that never was, such as an infinite bound in
a state, is none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fedrl.core.environment import AnyEnvironment
from fedrl.core.position import Position, mended
from fedrl.core.replay import Replay, RingRows, log, settle
from fedrl.core.types import Key, PyTree, Update

FAULT = "fault"
"""The metric of a fault: 0 for none, else 1 plus the index of the first bad leaf in `watched`."""


def watched(learner: PyTree, update: PyTree) -> list[tuple[str, Any]]:
    """Return the names and leaves that must stay finite.

    Args:
        learner: The state of a learner; its positions in environments and its replay buffers are not checked.
        update: What it sends, from `to_send`.
    """
    places = jax.tree_util.tree_leaves_with_path(learner, is_leaf=_apart)
    own = [("state" + jax.tree_util.keystr(path), leaf) for path, leaf in places if not _apart(leaf)]
    sent = [("update" + jax.tree_util.keystr(path), x) for path, x in jax.tree_util.tree_leaves_with_path(update)]
    return [(name, leaf) for name, leaf in own + sent if jnp.issubdtype(leaf.dtype, jnp.floating)]


def to_send(change: PyTree, update: Update) -> PyTree:
    """Return what must be finite in an agent's message: its change before any stage, and its update without report."""
    return {"change": change, "value": update.value, "weight": update.weight, "statistics": update.statistics}


def fault_of(before: PyTree, after: PyTree, update: PyTree) -> jax.Array:
    """Return the first leaf that is no longer finite, a scalar int32 as in `FAULT`.

    Args:
        before: A snapshot of the learner's state before the round.
        after: The learner's state after the round.
        update: What it sends, from `to_send`.
    """
    leaves = watched(after, update)
    # One flag per leaf, cheap enough for every round.
    suspect = jnp.stack([~jnp.isfinite(leaf).all() for _, leaf in leaves])

    def which(none: jax.Array) -> jax.Array:
        known = {name: jnp.isfinite(leaf) for name, leaf in watched(before, ())}
        lost = [~jnp.isfinite(leaf) & known.get(name, True) for name, leaf in leaves]
        found = jnp.stack([leaf.any() for leaf in lost])
        return jnp.where(found.any(), jnp.argmax(found).astype(jnp.int32) + 1, none)

    # The state from before is read only if something is not finite now: reading it in every round would take time.
    return only_if(suspect.any(), which, jnp.int32(0))


def undone(
    key: Key, environment: AnyEnvironment, env_params: PyTree, fault: jax.Array, before: PyTree, after: PyTree
) -> PyTree:
    """Return the state from which an agent continues: `after`, or the one `before` if there is a fault.

    Args:
        key: The key of new episodes in environment copies with numbers that are not finite.
        environment: The environment of the agent.
        env_params: Its parameters.
        fault: From `fault_of`.
        before: A snapshot of the state before the round.
        after: The state after the round.
    """
    # `only_if` in place of a select: a select of the whole state in every round would take time, and a compiler that
    # fuses it with the training may round differently for different places of an agent in its block.

    def put_back(now: PyTree) -> PyTree:
        def chosen(old: PyTree, new: PyTree) -> PyTree:
            if isinstance(old, RingRows):
                return old.written
            return mended(key, environment, env_params, new) if isinstance(old, Position) else old

        return jax.tree.map(chosen, before, now, is_leaf=_apart)

    return with_rings(only_if(fault > 0, put_back, without_rows(after)), after)


def without_rows(state: PyTree) -> PyTree:
    """Return the state with each replay buffer replaced by its counter, which is enough to undo writes."""
    return jax.tree.map(lambda x: x.written if isinstance(x, Replay) else x, state, is_leaf=_apart)


def with_rings(bare: PyTree, rings: PyTree) -> PyTree:
    """Invert `without_rows`, with the rows of another state."""

    def whole(like: PyTree, mine: PyTree) -> PyTree:
        return like._replace(written=mine) if isinstance(like, Replay) else mine

    return jax.tree.map(whole, rings, bare, is_leaf=_apart)


def only_if(flag: jax.Array, change: Callable[[PyTree], PyTree], value: PyTree) -> PyTree:
    """Return `change(value)` where the flag is set, else `value`."""
    # A loop of zero or one iterations: under `vmap` a `cond` becomes a select that computes both sides for all agents,
    # while this loop computes nothing unless the flag is set for some agent.
    done = jax.lax.while_loop(lambda at: at[0], lambda at: (jnp.zeros_like(flag), change(at[1])), (flag, value))
    return done[1]


def snapshot(state: PyTree, rows: int) -> PyTree:
    """Return a snapshot of a state: a copy, but of replay buffers only the next `rows` rows to be overwritten."""
    return jax.tree.map(lambda x: log(x, rows) if isinstance(x, Replay) else x, state, is_leaf=_apart)


def rings_in(state: PyTree) -> list[Replay | RingRows]:
    """Return the replay buffers of a state, or their copied rows in a snapshot, in order."""
    return [x for x in jax.tree.leaves(state, is_leaf=_apart) if isinstance(x, Replay | RingRows)]


def with_logs(state: PyTree, logs: Sequence[RingRows]) -> PyTree:
    """Return a snapshot with rows of replay buffers that were copied before, in the order of `rings_in`."""
    rest = iter(logs)
    return jax.tree.map(lambda x: next(rest) if isinstance(x, Replay) else x, state, is_leaf=_apart)


def kept(flag: jax.Array, after: PyTree, before: PyTree) -> PyTree:
    """Return `after` where the flag is set, else `before`; of replay buffers only the counter is set back."""

    def chosen(old: PyTree, new: PyTree) -> PyTree:
        if isinstance(new, Replay):
            return new._replace(written=jnp.where(flag, new.written, old.written))
        return jax.tree.map(lambda x, y: jnp.where(flag, x, y), new, old)

    return jax.tree.map(chosen, before, after, is_leaf=_apart)


def settled(after: PyTree, before: PyTree) -> PyTree:
    """Return the state at the end of a round, with undone writes to replay buffers restored from a snapshot."""

    def tidied(old: PyTree, new: PyTree) -> PyTree:
        return settle(new, old) if isinstance(new, Replay) else new

    return jax.tree.map(tidied, before, after, is_leaf=_apart)


def _apart(node: Any) -> bool:
    return isinstance(node, Position | Replay | RingRows)
