"""Aggregation of the updates of many agents, for every executor.

compiled, per block: updates --partial_sums--> exact partial sums, or the updates themselves
                     updates --uploaded--> their sizes, if these depend on the content, and the agents' reports
on the host:         block sums --merge--> commit --> next server state, unless a number in it is not finite
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core import exact
from fedrl.core.aggregator import NOBODY, Arrivals
from fedrl.core.double import Double, split64
from fedrl.core.keys import Root, server_data, server_keys
from fedrl.core.summation import Summation
from fedrl.core.types import PyTree, Update
from fedrl.engines.inbox import Inbox
from fedrl.engines.program_cache import Shapes, cached_program, shapes
from fedrl.engines.state import Rejection
from fedrl.federation.federation import Federation, ServerState


class BlockSums(NamedTuple):
    """Partial sums over a block of agents, for a rule that needs only the sum.

    Attributes:
        updates: Exact sums of weighted values, and of the weights.
        statistics: Exact sums of the statistics.
        reach: `[agents, parts]`, the largest magnitude in each part of a weighted update, in its weight and in its
            statistics. Rows beyond the range are not in the sums.
    """

    updates: jax.Array
    statistics: jax.Array
    reach: jax.Array


def partial_sums(federation: Federation, updates: Update, here: jax.Array) -> BlockSums | Update:
    """Return a block's input of `merge_blocks`, from its decoded updates and the mask `here` of agents present."""
    return summed(federation, updates, here) if federation.aggregator.needs == "sum" else updates


def summed(federation: Federation, updates: Update, here: jax.Array) -> BlockSums:
    """Return the sums of a block, from its decoded updates and the mask `here` of agents present."""
    # An empty seat has weight 0 and is not accepted below, so whatever its row contains does not reach the sums.
    weights = jnp.where(here, updates.weight, 0.0) / weight_scale(federation)
    values = jax.lax.optimization_barrier(updates.value)
    weighted = jax.tree.map(lambda x: x * weights.reshape(-1, *[1] * (x.ndim - 1)), values)
    parts = (weighted, weights[:, None], updates.statistics)
    reach = jax.vmap(exact.largest)(parts)
    # An update beyond the range is left out whole: one of its parts alone would be a wrong update. NaN compares false.
    accepted = (reach < _limits(federation, updates)).all(axis=1) & here
    terms = jax.vmap(exact.flatten)(parts[:2])
    counted = jax.vmap(exact.flatten, axis_size=len(here))(updates.statistics)
    return BlockSums(
        federation.summation.quantize(terms, accepted),
        exact.partial_sum(counted, accepted, exact.STATISTICS),
        reach,
    )


def inside(federation: Federation, like: Update, reach: np.ndarray) -> np.ndarray:
    """Return for each row of `BlockSums.reach` whether the update is within the range of sums, bool `[agents]`."""
    return np.asarray((reach < _limits(federation, like)).all(axis=1))


def beyond_range(federation: Federation, like: Update, reach: np.ndarray) -> str:
    """Return the first part of an update, a row of `BlockSums.reach`, that is not within range, as a phrase; or ""."""
    return _beyond(like, reach, _limits(federation, like))[0]


def _limits(federation: Federation, updates: Update) -> np.ndarray:
    """Return the limit of each part in `BlockSums.reach`."""
    values, counted = len(jax.tree.leaves(updates.value)), len(jax.tree.leaves(updates.statistics))
    added = federation.summation
    of_weight = added.limit if added.weight_limit is None else added.weight_limit
    limits = np.array([added.limit, of_weight, exact.STATISTICS.limit], np.float32)
    return np.repeat(limits, [values, 1, counted])


def _beyond(like: Update, reach: np.ndarray, limits: np.ndarray) -> list[str]:
    """Return for each row of `BlockSums.reach` the first part that is not below its limit, as a phrase, or ""."""
    parts = [(f"update{name}", ", times its weight,") for name in _names(like.value)]
    parts += [("the weight of the update", ""), *((f"statistics{name}", "") for name in _names(like.statistics))]
    return [
        next((_out_of_range(*at) for at in zip(parts, row, limits.tolist(), strict=True) if not at[1] < at[2]), "")
        for row in reach.astype(float).tolist()
    ]


def _out_of_range(part: tuple[str, str], found: float, limit: float) -> str:
    name, weighted = part
    if not np.isfinite(found):
        return f"{name} is not finite"
    return f"{name}{weighted} reaches {found:.3g}, and sums are exact below {limit:.3g}: use smaller units"


def _names(tree: PyTree) -> list[str]:
    return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def weight_scale(federation: Federation) -> float:
    """Return the unit in which weights are summed: about one agent's usual weight."""
    # A power of two, so that the division rounds nothing.
    return exact.nearest_power_of_two(
        federation.aggregator.weight_scale(federation.learner.samples * federation.local_steps)
    )


KeyData = tuple[Any, Any]
"""The data of a server's keys for a version, and of its noise key: None where nothing adds calibrated noise."""

Judged = tuple[ServerState, jax.Array]
"""The next state, and the first of its leaves that is no longer finite, counted from 1; 0 if there is none."""


class Merged(NamedTuple):
    """Result of a merge.

    Attributes:
        server: Next state of the server.
        weight: Total weight of the merged updates.
        rejected: Updates that were rejected.
        skipped: Reason why the server kept its state, if the merge was not finite; else "".
    """

    server: ServerState
    weight: float
    rejected: tuple[Rejection, ...]
    skipped: str = ""

    def dropped(self, agents: np.ndarray) -> np.ndarray:
        """Return those of these agents whose updates had no effect on the server."""
        everybody = bool(self.skipped) or not self.weight > 0.0
        return agents if everybody else agents[np.isin(agents, [agent for agent, _ in self.rejected])]


def releases(federation: Federation) -> bool:
    """Return whether the server adds noise in every round."""
    # Also in a round without updates: a missing release of noise would reveal that no agent took part.
    return any(stage.noise is not None and stage.noise.at == "server" for stage in federation.stages)


def merge_program(
    federation: Federation, like: Update, mix_models: bool = False, agents: int = 0
) -> Callable[..., Merged]:
    """Return the server's half, `(secret, server, inbox, noise=None) -> Merged`, with the data of the noise key.

    Args:
        federation: Federation of the server.
        like: Shapes of a decoded update.
        mix_models: Whether to mix in the agents' parameters (FedAsync) instead of adding their changes.
        agents: As for `merge_blocks`.
    """
    merge, scaled = merge_blocks(federation, like, agents), _receiving(federation, mix_models)

    def merge_updates(secret: Root, server: ServerState, inbox: Inbox, noise: np.ndarray | None = None) -> Merged:
        # Block sums exist only where no update is scaled; otherwise updates of scale 0 are left out here.
        inbox = inbox if inbox.block_sums else inbox.of(inbox.scale > 0.0)
        arrivals = arrivals_of(server, inbox)
        if inbox.block_sums:
            return merge(secret, server, [(each.result, each.here) for each in inbox.block_sums], arrivals, noise)
        block_sums, count, rows = [], len(inbox.agent), federation.summation.rows
        for i in range(0, count, rows):
            # Padded with copies of the last update, which `here` masks: one program for any number of updates.
            lanes, here = np.minimum(np.arange(i, i + rows), count - 1), np.arange(i, i + rows) < count
            updates, base = jax.tree.map(lambda x, lanes=lanes: x[lanes], (inbox.items, inbox.received))
            block_sums.append((scaled(server.params, updates, base, inbox.scale[lanes], here), here))
        return merge(secret, server, block_sums, arrivals, noise)

    return merge_updates


def arrivals_of(server: ServerState, inbox: Inbox) -> Arrivals:
    """Return the senders of the updates, and the staleness of each in versions."""
    stale = np.asarray(server.version) - inbox.version
    return Arrivals(inbox.agent.astype(np.int32), stale.astype(np.int32))


@cached_program
def _receiving(federation: Federation, mix_models: bool) -> Callable[..., BlockSums | Update]:
    """Return the program that scales and sums updates, `exact.LANES` at a time."""

    def received(
        params: PyTree, updates: Update, base: PyTree, scale: jax.Array, here: jax.Array
    ) -> BlockSums | Update:
        value = updates.value
        # start + delta is where the agent ended: towards it from the current parameters is delta + (start - now).
        if mix_models:
            value = jax.tree.map(lambda v, old, now: v + (old - now), value, base, params)
        value = jax.tree.map(lambda v: v * scale.reshape(-1, *[1] * (v.ndim - 1)), value)
        return partial_sums(federation, updates._replace(value=value), here)

    return jax.jit(received)


def merge_blocks(federation: Federation, like: Update, agents: int = 0) -> Callable[..., Merged]:
    """Return the server's half, `(secret, server, block_sums, arrivals, noise=None) -> Merged`.

    It takes the secret of that server, and the data of its noise key for this version if a stage adds noise.
    `block_sums` are pairs of a block's sums (or updates) and the mask of agents present; `arrivals` are their senders
    and staleness, in the same order. `like` has the shapes of a decoded update. Without updates, or if all are
    rejected, the server keeps its state; one that adds noise in every round commits a change of zero plus noise, as if
    each of its `agents` had sent zero with weight 1.
    """
    by_sum = federation.aggregator.needs == "sum"
    commit, commit_mean = commit_programs(federation, shapes(like))
    size, counts = (sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (like.value, like.statistics))

    def of_nobody(keys: KeyData, server: ServerState) -> Judged | None:
        if not releases(federation):
            return None
        return commit_mean(keys, server, np.zeros(size, np.float32), np.float32(agents), split64(np.zeros(counts)))

    def merge(
        secret: Root,
        server: ServerState,
        block_sums: Sequence[Any],
        arrivals: Arrivals,
        noise: np.ndarray | None = None,
    ) -> Merged:
        keys = server_data(secret, int(server.version)), noise
        if not block_sums:
            return settled(server, 0.0, (), of_nobody(keys, server))
        if by_sum:
            rejected = refused_rows(federation, like, block_sums, arrivals.sender)
            few = _too_few(federation.summation, len(arrivals.sender) - len(rejected))
            if few:
                return settled(server, 0.0, rejected, of_nobody(keys, server))._replace(skipped=few)
            mean, units = exact.mean_of(federation.summation.total([sums.updates for sums, _ in block_sums]))
            counted = split64(exact.total([sums.statistics for sums, _ in block_sums], exact.STATISTICS))
            weight = units * weight_scale(federation)
            if weight > 0:
                judged: Judged | None = commit_mean(keys, server, mean, np.float32(weight), counted)
            else:
                judged = of_nobody(keys, server)
        else:
            updates, whose, rejected = _stacked(like, block_sums, arrivals)
            weight = float(updates.weight.sum())
            judged = None
            if weight > 0:
                counted = jax.tree.map(lambda x: split64(np.asarray(np.sum(x, 0, np.float64))), updates.statistics)
                merged, memory = federation.aggregate(server_keys(*keys).rule, whose, server, updates)
                judged = commit(keys, server, merged._replace(statistics=counted), memory)
        return settled(server, weight, rejected, judged)

    def settled(server: ServerState, weight: float, rejected: tuple[Rejection, ...], judged: Judged | None) -> Merged:
        if judged is None:
            return Merged(skip_round(server), weight, rejected)
        after, fault = judged
        if int(fault):
            name = _names(after)[int(fault) - 1]
            return Merged(skip_round(server), 0.0, rejected, f"server{name} would not be finite")
        return Merged(after, weight, rejected)

    return merge


def _too_few(summation: Summation, count: int) -> str:
    """Return why a sum of so many updates is not opened, as a phrase; "" if it is."""
    if not 0 < count < summation.minimum:
        return ""
    return f"{count} of at least {summation.minimum} updates arrived that {summation!r} needs"


@cached_program
def commit_programs(federation: Federation, like: Shapes) -> tuple[Callable[..., Judged], Callable[..., Judged]]:
    """Return the programs of the next server state: from an aggregator's result, or from an exact mean."""
    value, statistics = shapes(like.tree.value), shapes(like.tree.statistics)

    def commit(keys: KeyData, server: ServerState, merged: Update, memory: PyTree) -> Judged:
        after = federation.commit(server_keys(*keys), server, merged, memory)
        # Only numbers that were finite before: a state may contain infinities on purpose.
        pairs = zip(jax.tree.leaves(server), jax.tree.leaves(after), strict=True)
        dropped = jnp.stack([(jnp.isfinite(old) & ~jnp.isfinite(new)).any() for old, new in pairs])
        return after, jnp.where(dropped.any(), jnp.argmax(dropped) + 1, 0)

    def commit_mean(keys: KeyData, server: ServerState, flat: jax.Array, weight: jax.Array, counted: Double) -> Judged:
        # A rule of the sum gets the exact mean as if it were a single update, of no particular sender.
        whole = Update(unflatten(flat[None], value), weight[None], server.version[None])
        alone = Arrivals(jnp.full(1, NOBODY), jnp.zeros(1, jnp.int32))
        merged, memory = federation.aggregate(server_keys(*keys).rule, alone, server, whole)
        sums, rests = (unflatten(x, statistics) for x in counted)
        merged = merged._replace(statistics=jax.tree.map(Double, sums, rests))
        return commit(keys, server, merged, memory)

    return jax.jit(commit), jax.jit(commit_mean)


def skip_round(server: ServerState) -> ServerState:
    """Return the server after a round without a merge: only the version, and with it the next keys, changes."""
    return server._replace(version=jax.device_put(np.int32(int(server.version) + 1), server.version.sharding))


def refused_rows(
    federation: Federation, like: Update, block_sums: Sequence[Any], agents: np.ndarray
) -> tuple[Rejection, ...]:
    """Return the rejections of rows beyond the range of exact sums, in the order of agents."""
    reach = np.concatenate([np.asarray(sums.reach)[here] for sums, here in block_sums])
    within = inside(federation, like, reach)
    if within.all():
        return ()
    found = zip(agents[~within].tolist(), _beyond(like, reach[~within], _limits(federation, like)), strict=True)
    return tuple(Rejection(agent, reason) for agent, reason in sorted(found))


def _stacked(
    like: Update, block_sums: Sequence[Any], arrivals: Arrivals
) -> tuple[Update, Arrivals, tuple[Rejection, ...]]:
    """Return the updates of a round as NumPy arrays with a leading agent axis, their senders, and the rejected ones.

    A report may be NaN, if the agent has no such number; that is no reason for a rejection.
    """
    # In the order of agents and not of seats: floating-point sums of a rule depend on the order.
    columns = [jax.tree.map(lambda x, here=here: np.asarray(x)[here], updates) for updates, here in block_sums]
    updates = jax.tree.map(lambda *leaves: np.concatenate(leaves), *columns)
    order = np.argsort(arrivals.sender, kind="stable")
    updates = jax.tree.map(lambda x: x[order], updates)
    parts = jax.tree.leaves((updates.value, updates.weight, updates.statistics))
    reach = np.stack([np.abs(x.reshape(len(x), math.prod(x.shape[1:]))).max(axis=1, initial=0.0) for x in parts], 1)
    limits = np.full(len(parts), np.inf)
    inside = (reach < limits).all(axis=1)  # false for NaN, too
    whose = Arrivals(*(np.asarray(x)[order] for x in arrivals))
    found = zip(whose.sender[~inside].tolist(), _beyond(like, reach[~inside], limits), strict=True)
    updates, whose = jax.tree.map(lambda x: x[inside], (updates, whose))
    return updates, whose, tuple(Rejection(*each) for each in found)


def unflatten(flat: jax.Array | np.ndarray, like: Shapes) -> PyTree:
    """Return the tree that `exact.flatten` laid out, with the leading axes of `flat` on every leaf."""
    leaves, structure = like
    ends = np.cumsum([leaf.size for leaf in leaves])
    parts = [
        flat[..., end - leaf.size : end].reshape(*flat.shape[:-1], *leaf.shape)
        for leaf, end in zip(leaves, ends, strict=True)
    ]
    return jax.tree.unflatten(structure, parts)
