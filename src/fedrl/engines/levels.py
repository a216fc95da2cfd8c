"""Merges between the servers of a tree: changes go up level by level, and merged parameters come down.

servers of a level --(change since they last adopted, weight)--> server above: merge, commit --params--> all below

Sums over all agents, which stages keep in their shared state (`Stage.sums`), are not averaged: the changes of the
servers below are added, unweighted, and the sum comes down with the parameters. So each server has the sum of the
server above at the last adoption, plus what agents below it have added since.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core import exact
from fedrl.core.aggregator import on_time
from fedrl.core.keys import Keys, Root, server_secret
from fedrl.core.types import Params, PyTree, Update
from fedrl.engines.aggregation import Merged, merge_blocks, partial_sums, skip_round, weight_scale
from fedrl.federation.federation import Federation, ServerState


class StatefulServer(NamedTuple):
    """A server with parameters of its own.

    Attributes:
        server: State of the server. Above the lowest level, its stage states are only the sums over agents.
        weight: Total weight behind the change of its parameters since it last adopted any.
        adopted: Sums over agents that it adopted with those parameters.
    """

    server: ServerState
    weight: np.ndarray
    adopted: tuple[PyTree, ...] = ()


Levels = list[list[StatefulServer]]
"""The servers of each level, the root alone on the last one."""


def propagating(
    upper: Federation, like: PyTree, above: Sequence[np.ndarray], sums: Sequence[int] = ()
) -> Callable[..., tuple[Levels, list[str]]]:
    """Return `(ladder, due, keys) -> (ladder, faults)`: merges up and adoptions down, after the lowest level's merge.

    A fault is a phrase: a server rejected a child's change, or kept its state, because a number was not finite.

    Args:
        upper: Federation by which a server merges the servers below.
        like: Shapes of the parameters.
        above: For each server on each level, the number of the server above.
        sums: Positions of the lowest level's stage states that are sums over agents.
    """
    rise = _rising(upper, like)

    def summed(level: int, holder: StatefulServer) -> tuple[PyTree, ...]:
        return sums_of(holder.server, sums) if level == 0 else tuple(holder.server.stage_states)

    def adopting(level: int, server: ServerState, over: ServerState) -> StatefulServer:
        stage_states = with_sums(server, sums, over.stage_states).stage_states if level == 0 else over.stage_states
        server = server._replace(params=over.params, stage_states=stage_states)
        return StatefulServer(server, np.zeros((), np.float32), tuple(over.stage_states))

    # All merges go up before anything is adopted: a server that adopted first would have no change left to send.
    def propagate(ladder: Levels, due: int, keys: Keys | None) -> tuple[Levels, list[str]]:
        levels, faults = [list(level) for level in ladder], []
        for i in range(1, len(levels)):
            for n, holder in enumerate(levels[i]):
                # Servers that are not due advance their version as well, because keys are derived from it.
                if i >= due or keys is None:
                    levels[i][n] = holder._replace(server=skip_round(holder.server))
                    continue
                below = [child for child, over in zip(levels[i - 1], above[i - 1], strict=True) if over == n]
                merged, weight = rise(holder.server, below, server_secret(keys, i + 1, n))
                changes = [(summed(i - 1, child), child.adopted) for child in below]
                server = merged.server._replace(stage_states=_added(tuple(holder.server.stage_states), changes))
                levels[i][n] = holder._replace(server=server, weight=np.asarray(holder.weight + weight, np.float32))
                here = f"server {n} of level {i + 1}"
                faults += [f"{here} rejected its child {child}: {reason}" for child, reason in merged.rejected]
                faults += [f"{here}: {merged.skipped}"] if merged.skipped else []
        for i in range(min(due, len(levels)) - 1, 0, -1):
            for n, over in enumerate(above[i - 1]):
                levels[i - 1][n] = adopting(i - 1, levels[i - 1][n].server, levels[i][over].server)
        return levels, faults

    return propagate


def sums_of(server: ServerState, sums: Sequence[int]) -> tuple[PyTree, ...]:
    """Return the states of these stages at the server."""
    return tuple(server.stage_states[i] for i in sums)


def with_sums(server: ServerState, sums: Sequence[int], values: Sequence[PyTree]) -> ServerState:
    """Return the server with other states of these stages."""
    stage_states = list(server.stage_states)
    for i, value in zip(sums, values, strict=True):
        stage_states[i] = value
    return server._replace(stage_states=tuple(stage_states))


def _added(before: tuple[PyTree, ...], changes: Sequence[tuple[PyTree, PyTree]]) -> tuple[PyTree, ...]:
    """Return the sums plus the change of each pair of a server's current and adopted sums."""

    # In float64, rounded once, so that small changes of many servers are not lost one by one.
    def added(total: Any, *pairs: Any) -> np.ndarray:
        wide = np.asarray(total, np.float64)
        for now, then in zip(pairs[::2], pairs[1::2], strict=True):
            wide = wide + (np.asarray(now, np.float64) - np.asarray(then, np.float64))
        return wide.astype(np.float32)

    return cast(tuple[PyTree, ...], jax.tree.map(added, before, *(side for pair in changes for side in pair)))


def _rising(
    upper: Federation, like: PyTree
) -> Callable[[ServerState, list[StatefulServer], Root], tuple[Merged, float]]:
    """Return one server's merge, `(server, servers below, secret) -> (Merged, total weight)`."""
    merge = merge_blocks(upper, Update(like, *(jax.eval_shape(lambda: (jnp.float32(0), jnp.int32(0))))))

    @jax.jit
    def handed(held: Params, own: Params, weight: jax.Array, here: jax.Array) -> Any:
        change = jax.tree.map(jnp.subtract, held, own)
        return partial_sums(upper, Update(change, weight, jnp.zeros(weight.shape, jnp.int32)), here)

    def rise(server: ServerState, below: list[StatefulServer], secret: Root) -> tuple[Merged, float]:
        # Weights of servers are sums over many agents: in these units they are in the range of exact sums.
        unit = exact.nearest_power_of_two(max(float(holder.weight) for holder in below)) / weight_scale(upper)
        block_sums = []
        for i in range(0, len(below), exact.LANES):
            some = below[i : i + exact.LANES]
            rows = [jax.tree.map(np.asarray, holder.server.params) for holder in some]
            held = jax.tree.map(lambda *leaves: np.stack(leaves), *rows, *[rows[0]] * (exact.LANES - len(rows)))
            weight = np.zeros(exact.LANES, np.float32)
            weight[: len(some)] = [holder.weight / unit for holder in some]
            block_sums.append((handed(held, server.params, weight, weight > 0), weight > 0))
        messages_sent = np.flatnonzero([holder.weight > 0 for holder in below])
        merged = merge(secret, server, block_sums, on_time(messages_sent))
        return merged, merged.weight * unit

    return rise
