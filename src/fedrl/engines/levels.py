"""Servers above servers: how the changes of those below rise, and what is decided above comes down.

holders of a level --(change since they last adopted, weight)--> the one above: merge, commit --params--> all below

Sums over all agents, which stages keep in their shared state (`Stage.sums`), are no part of what is merged: the changes
of those below are added up, unweighted, and the sum comes down with the parameters. So each holder knows the sum that
the one above had, and what agents below it have added since.
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
from fedrl.engines.aggregation import Merged, merging, outcome, passed_over, weight_unit
from fedrl.federation.federation import Federation, ServerState


class Holder(NamedTuple):
    """A server with parameters of its own.

    Attributes:
        server: Its state. Above the lowest level, its shared state is the sums over agents alone.
        weight: Behind the change of its parameters since it last adopted any.
        adopted: The sums over agents that it adopted with them.
    """

    server: ServerState
    weight: np.ndarray
    adopted: tuple[PyTree, ...] = ()


Ladder = list[list[Holder]]
"""The holders of each level, the root alone on the last one."""


def climbing(
    upper: Federation, like: PyTree, above: Sequence[np.ndarray], sums: Sequence[int] = ()
) -> Callable[..., tuple[Ladder, list[str]]]:
    """The way up and down: `(ladder, due, keys) -> (ladder, faults)`, the lowest level having merged already.

    A fault says what a server left out, or why it stands where it stood, because a number was not finite.

    Args:
        upper: How a server merges those below.
        like: The shapes of the parameters.
        above: Of each holder on each level, the number of the one above.
        sums: Which stages' shared states are sums over agents, in those of the lowest level.
    """
    rise = _rising(upper, like)

    def summed(level: int, holder: Holder) -> tuple[PyTree, ...]:
        return sums_of(holder.server, sums) if level == 0 else tuple(holder.server.shared)

    def adopting(level: int, server: ServerState, over: ServerState) -> Holder:
        shared = with_sums(server, sums, over.shared).shared if level == 0 else over.shared
        server = server._replace(params=over.params, shared=shared)
        return Holder(server, np.zeros((), np.float32), tuple(over.shared))

    def climb(ladder: Ladder, due: int, keys: Keys | None) -> tuple[Ladder, list[str]]:
        rungs, faults = [list(rung) for rung in ladder], []
        for i in range(1, len(rungs)):
            for n, holder in enumerate(rungs[i]):
                if i >= due or keys is None:
                    rungs[i][n] = holder._replace(server=passed_over(holder.server))
                    continue
                below = [child for child, over in zip(rungs[i - 1], above[i - 1], strict=True) if over == n]
                merged, weight = rise(holder.server, below, server_secret(keys, i + 1, n))
                changes = [(summed(i - 1, child), child.adopted) for child in below]
                server = merged.server._replace(shared=_added(tuple(holder.server.shared), changes))
                rungs[i][n] = holder._replace(server=server, weight=np.asarray(holder.weight + weight, np.float32))
                here = f"server {n} of level {i + 1}"
                faults += [f"{here} left out its child {child}: {reason}" for child, reason in merged.refused]
                faults += [f"{here}: {merged.skipped}"] if merged.skipped else []
        for i in range(min(due, len(rungs)) - 1, 0, -1):
            for n, over in enumerate(above[i - 1]):
                rungs[i - 1][n] = adopting(i - 1, rungs[i - 1][n].server, rungs[i][over].server)
        return rungs, faults

    return climb


def sums_of(server: ServerState, sums: Sequence[int]) -> tuple[PyTree, ...]:
    """The shared states of these stages."""
    return tuple(server.shared[i] for i in sums)


def with_sums(server: ServerState, sums: Sequence[int], values: Sequence[PyTree]) -> ServerState:
    """The server with other shared states of these stages."""
    shared = list(server.shared)
    for i, value in zip(sums, values, strict=True):
        shared[i] = value
    return server._replace(shared=tuple(shared))


def _added(before: tuple[PyTree, ...], changes: Sequence[tuple[PyTree, PyTree]]) -> tuple[PyTree, ...]:
    """The sums with what each pair, of a holder's sums and those it had adopted, has to add."""

    def added(total: Any, *pairs: Any) -> np.ndarray:
        wide = np.asarray(total, np.float64)
        for now, then in zip(pairs[::2], pairs[1::2], strict=True):
            wide = wide + (np.asarray(now, np.float64) - np.asarray(then, np.float64))
        return wide.astype(np.float32)

    return cast(tuple[PyTree, ...], jax.tree.map(added, before, *(side for pair in changes for side in pair)))


def _rising(upper: Federation, like: PyTree) -> Callable[[ServerState, list[Holder], Root], tuple[Merged, float]]:
    """How one server merges those below: `(server, holders below, secret) -> (Merged, weight behind it)`."""
    merge = merging(upper, Update(like, *(jax.eval_shape(lambda: (jnp.float32(0), jnp.int32(0))))))

    @jax.jit
    def handed(held: Params, own: Params, weight: jax.Array, here: jax.Array) -> Any:
        change = jax.tree.map(jnp.subtract, held, own)
        return outcome(upper, Update(change, weight, jnp.zeros(weight.shape, jnp.int32)), here)

    def rise(server: ServerState, below: list[Holder], secret: Root) -> tuple[Merged, float]:
        unit = exact.nearest_power_of_two(max(float(holder.weight) for holder in below)) / weight_unit(upper)
        outcomes = []
        for i in range(0, len(below), exact.LANES):
            some = below[i : i + exact.LANES]
            rows = [jax.tree.map(np.asarray, holder.server.params) for holder in some]
            held = jax.tree.map(lambda *leaves: np.stack(leaves), *rows, *[rows[0]] * (exact.LANES - len(rows)))
            weight = np.zeros(exact.LANES, np.float32)
            weight[: len(some)] = [holder.weight / unit for holder in some]
            outcomes.append((handed(held, server.params, weight, weight > 0), weight > 0))
        spoken = np.flatnonzero([holder.weight > 0 for holder in below])
        merged = merge(secret, server, outcomes, on_time(spoken))
        return merged, merged.weight * unit

    return rise
