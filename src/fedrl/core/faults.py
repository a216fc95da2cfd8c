"""What happens to an agent whose training ends in a number that is not finite: it loses the round, not the run.

    snapshot --begin, work, report--> after, update      all finite: go on from `after`
       |                                                 else: go on from the snapshot, send nothing, say where it was
       +--- environments stay where they are; an instance that is not finite begins a new episode

A snapshot is a copy, but of a ring of experience (`fedrl.core.replay`) it has the rows alone that a round overwrites.

What was finite before and is not any more is a fault. What never was, such as an infinite bound in a state, is none.
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
"""The metric that tells whose training came to nothing: 0, or one more than the place of a leaf in `watched`."""


def watched(learner: PyTree, update: PyTree) -> list[tuple[str, Any]]:
    """The leaves that have to stay finite, and what they are called.

    Args:
        learner: The state of a learner; its positions in environments and its rings of experience are not looked at.
        update: What it made of it, from `to_send`.
    """
    places = jax.tree_util.tree_leaves_with_path(learner, is_leaf=_apart)
    own = [("state" + jax.tree_util.keystr(path), leaf) for path, leaf in places if not _apart(leaf)]
    sent = [("update" + jax.tree_util.keystr(path), x) for path, x in jax.tree_util.tree_leaves_with_path(update)]
    return [(name, leaf) for name, leaf in own + sent if jnp.issubdtype(leaf.dtype, jnp.floating)]


def to_send(change: PyTree, update: Update) -> PyTree:
    """All that has to be finite of what an agent sends: its change before any stage, and its update without report."""
    return {"change": change, "value": update.value, "weight": update.weight, "statistics": update.statistics}


def fault_of(before: PyTree, after: PyTree, update: PyTree) -> jax.Array:
    """Which leaf is no longer finite, as `FAULT` has it: a scalar int32.

    Args:
        before: A snapshot of the learner's state before the round.
        after: And after it.
        update: From `to_send`.
    """
    leaves = watched(after, update)
    suspect = jnp.stack([~jnp.isfinite(leaf).all() for _, leaf in leaves])

    def which(none: jax.Array) -> jax.Array:
        known = {name: jnp.isfinite(leaf) for name, leaf in watched(before, ())}
        lost = [~jnp.isfinite(leaf) & known.get(name, True) for name, leaf in leaves]
        found = jnp.stack([leaf.any() for leaf in lost])
        return jnp.where(found.any(), jnp.argmax(found).astype(jnp.int32) + 1, none)

    return only_if(suspect.any(), which, jnp.int32(0))  # what was before is read only if something looks wrong


def undone(
    key: Key, environment: AnyEnvironment, env_params: PyTree, fault: jax.Array, before: PyTree, after: PyTree
) -> PyTree:
    """What an agent remembers to go on from: `after`, or what it was `before` if there is a fault.

    Nothing of it is touched if there is none: a select of all of it in every round would take time, and a compiler that
    fuses it with the training may round that by the seat of an agent in its block.

    Args:
        key: For the new episodes of broken instances.
        environment: Where the agent learns.
        env_params: Its parameters there.
        fault: From `fault_of`.
        before: A snapshot of what the agent remembered before the round.
        after: And after it.
    """

    def put_back(now: PyTree) -> PyTree:
        def chosen(old: PyTree, new: PyTree) -> PyTree:
            if isinstance(old, RingRows):
                return old.written
            return mended(key, environment, env_params, new) if isinstance(old, Position) else old

        return jax.tree.map(chosen, before, now, is_leaf=_apart)

    return with_rings(only_if(fault > 0, put_back, without_rows(after)), after)


def without_rows(state: PyTree) -> PyTree:
    """The state with the counter of a ring in its place: what can be put back without its rows."""
    return jax.tree.map(lambda x: x.written if isinstance(x, Replay) else x, state, is_leaf=_apart)


def with_rings(bare: PyTree, rings: PyTree) -> PyTree:
    """The opposite of `without_rows`, with the rows of another state."""

    def whole(like: PyTree, mine: PyTree) -> PyTree:
        return like._replace(written=mine) if isinstance(like, Replay) else mine

    return jax.tree.map(whole, rings, bare, is_leaf=_apart)


def only_if(flag: jax.Array, change: Callable[[PyTree], PyTree], value: PyTree) -> PyTree:
    """`change(value)` where the flag is set. Under `vmap` nothing is computed unless it is set for somebody.

    A `cond` would become a select, which computes both sides for everybody.
    """
    done = jax.lax.while_loop(lambda at: at[0], lambda at: (jnp.zeros_like(flag), change(at[1])), (flag, value))
    return done[1]


def snapshot(state: PyTree, rows: int) -> PyTree:
    """What is to be kept of a state for putting it back: all of it, of rings of experience a log of so many rows."""
    return jax.tree.map(lambda x: log(x, rows) if isinstance(x, Replay) else x, state, is_leaf=_apart)


def rings_in(state: PyTree) -> list[Replay | RingRows]:
    """The rings of experience in a state, or their logs in a snapshot, in order."""
    return [x for x in jax.tree.leaves(state, is_leaf=_apart) if isinstance(x, Replay | RingRows)]


def with_logs(state: PyTree, logs: Sequence[RingRows]) -> PyTree:
    """A snapshot, of logs that were taken before, in the order of `rings_in`."""
    rest = iter(logs)
    return jax.tree.map(lambda x: next(rest) if isinstance(x, Replay) else x, state, is_leaf=_apart)


def kept(flag: jax.Array, after: PyTree, before: PyTree) -> PyTree:
    """`after` where the flag is set, else what was `before`, a snapshot or a state; of rings the counter alone."""

    def chosen(old: PyTree, new: PyTree) -> PyTree:
        if isinstance(new, Replay):
            return new._replace(written=jnp.where(flag, new.written, old.written))
        return jax.tree.map(lambda x, y: jnp.where(flag, x, y), new, old)

    return jax.tree.map(chosen, before, after, is_leaf=_apart)


def settled(after: PyTree, before: PyTree) -> PyTree:
    """What an agent has at the end of a round, its rings tidied up by a snapshot of before."""

    def tidied(old: PyTree, new: PyTree) -> PyTree:
        return settle(new, old) if isinstance(new, Replay) else new

    return jax.tree.map(tidied, before, after, is_leaf=_apart)


def _apart(node: Any) -> bool:
    return isinstance(node, Position | Replay | RingRows)
