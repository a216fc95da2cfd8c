"""How updates of many agents meet, whatever stepped the agents.

compiled, per block: updates --outcome--> exact partial sums, or the updates themselves
                     updates --uploaded--> their sizes, where these depend on what is in them, and what agents tell
on the host:         outcomes --merge--> commit --> next server state, unless a number in it is not finite
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
from fedrl.core.faults import to_send, watched
from fedrl.core.keys import Root, server_data, server_keys
from fedrl.core.types import Broadcast, Key, PyTree, Update
from fedrl.engines.inbox import Inbox
from fedrl.engines.program_cache import Shapes, cached_program, shapes
from fedrl.engines.state import Rejection, Uploads, no_uploads
from fedrl.federation.federation import Federation, ServerState
from fedrl.federation.messages import crossing
from fedrl.wire.codec import codec, is_sent, size_bytes, varies


class Upload(NamedTuple):
    """What the update of one agent takes on its way, and what the agent says in it, as compiled programs tell.

    Attributes:
        size_bytes: uint32, of the encoded update; () if all updates have the same size.
        messages: int32, 1 if it was sent and 0 if a stage held it back; () if none ever is.
        report: By name what the agent reports, float32; NaN if its training came to nothing.
    """

    size_bytes: Any = ()
    messages: Any = ()
    report: dict[str, Any] = {}


class Messages(NamedTuple):
    """Shapes of what crosses the wire, and of what the server makes of it."""

    sent: Broadcast
    update: Update
    decoded: Update
    upload: Upload

    @property
    def up_bytes(self) -> int | None:
        """Size of any encoded update, or None if it depends on the update."""
        return codec(self.update).size_bytes

    @property
    def down_bytes(self) -> int:
        """Size of one broadcast."""
        return int(size_bytes(self.sent))


def messages(federation: Federation, fleet: PyTree) -> Messages:
    """The messages of the first agent, as shapes."""
    return _exchanged(federation, shapes(fleet, skip=1))


@cached_program
def _exchanged(federation: Federation, setting: Shapes) -> Messages:
    def exchange(key: Key, setting: PyTree) -> Messages:
        sent, update, _ = crossing(federation, key, setting)
        return Messages(sent, update, federation.decode(sent, update), uploaded(update))

    return jax.eval_shape(exchange, jax.random.key(0), setting.tree)


def accounting(wire: Messages, agents: int) -> Callable[[np.ndarray, Upload], Uploads]:
    """What agents sent: `(their numbers, an Upload with a row for each) -> Uploads` of so many agents."""
    known = wire.up_bytes

    def account(senders: np.ndarray, rows: Upload) -> Uploads:
        found = no_uploads(agents)
        found.size_bytes[senders] = rows.size_bytes if known is None else known
        found.messages[senders] = 1 if isinstance(rows.messages, tuple) else rows.messages
        for name, said in rows.report.items():
            found.report[name] = np.full(agents, np.nan, np.float32)
            found.report[name][senders] = said
        return found

    return account


def failures(federation: Federation, setting: Shapes) -> Callable[[np.ndarray, np.ndarray], tuple[Rejection, ...]]:
    """Whose training came to nothing: `(agents, faults) -> rejections` in the order of agents."""
    names = _watched_names(federation, setting)

    def found(agents: np.ndarray, faults: np.ndarray) -> tuple[Rejection, ...]:
        pairs = sorted((int(agent), int(fault)) for agent, fault in zip(agents, faults, strict=True) if fault > 0)
        return tuple(Rejection(agent, f"{names[fault - 1]} is not finite") for agent, fault in pairs)

    return found


@cached_program
def _watched_names(federation: Federation, setting: Shapes) -> list[str]:
    """What `FAULT` counts."""

    def names(key: Key, setting: PyTree) -> PyTree:
        _, update, after = crossing(federation, key, setting)
        return after.learner, to_send(federation.learner.params(after.learner), update)

    return [name for name, _ in watched(*jax.eval_shape(names, jax.random.key(0), setting.tree))]


def uploaded(update: Update) -> Upload:
    """Of an encoded update, inside a compiled program: what depends on what is in it."""
    void, said = jnp.isnan(update.weight), is_sent(update)  # who sends nothing tells nothing
    return Upload(
        jnp.asarray(size_bytes(update), jnp.uint32) if varies(update) else (),
        () if said is True else jnp.asarray(said, jnp.int32),
        {name: jnp.where(void, jnp.nan, jnp.asarray(x, jnp.float32)) for name, x in update.report.items()},
    )


class BlockSums(NamedTuple):
    """What a block of agents adds up for a rule of the sum.

    Attributes:
        updates: Exact sums of weighted values, and of the weights.
        statistics: Exact sums of what agents counted.
        reach: `[agents, parts]`, the largest entry of each part of a weighted update, of its weight and of what was
            counted. Rows beyond the range are not in the sums.
    """

    updates: jax.Array
    statistics: jax.Array
    reach: jax.Array


def partial_sums(federation: Federation, updates: Update, here: jax.Array) -> BlockSums | Update:
    """What a block hands to `merge_blocks`: inside a compiled program, from its decoded updates and who is present."""
    if federation.aggregator.needs != "sum":
        return updates
    weights = jnp.where(here, updates.weight, 0.0) / weight_scale(federation)
    values = jax.lax.optimization_barrier(updates.value)
    weighted = jax.tree.map(lambda x: x * weights.reshape(-1, *[1] * (x.ndim - 1)), values)
    parts = (weighted, weights[:, None], updates.statistics)
    reach = jax.vmap(exact.largest)(parts)
    accepted = (reach < _limits(federation, updates)).all(axis=1) & here  # false for NaN, too
    terms = jax.vmap(exact.flatten)(parts[:2])
    counted = jax.vmap(exact.flatten, axis_size=len(here))(updates.statistics)
    return BlockSums(
        federation.summation.quantize(terms, accepted),
        exact.partial_sum(counted, accepted, exact.STATISTICS),
        reach,
    )


def _limits(federation: Federation, updates: Update) -> np.ndarray:
    """Of each part in `BlockSums.reach`."""
    weighted, counted = len(jax.tree.leaves(updates.value)) + 1, len(jax.tree.leaves(updates.statistics))
    return np.repeat(np.array([federation.summation.limit, exact.STATISTICS.limit], np.float32), [weighted, counted])


def _beyond(like: Update, reach: np.ndarray, limits: np.ndarray) -> list[str]:
    """Of each row of `BlockSums.reach`, what is not below its limit; nothing of one that is."""
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
    """Weights are summed in units of about one agent's usual weight, a power of two so that nothing is rounded."""
    return exact.nearest_power_of_two(
        federation.aggregator.weight_scale(federation.learner.samples * federation.local_steps)
    )


Judged = tuple[ServerState, jax.Array]
"""The next state, and which of its leaves is no longer finite: one more than its place, or 0."""


class Merged(NamedTuple):
    """What came of a merge.

    Attributes:
        server: The next state of the server.
        weight: Of all that was merged.
        rejected: What was left out.
        skipped: Why the server stands where it stood, if what it made was not finite.
    """

    server: ServerState
    weight: float
    rejected: tuple[Rejection, ...]
    skipped: str = ""

    def dropped(self, agents: np.ndarray) -> np.ndarray:
        """Of these agents, those whose updates the server has made nothing of."""
        everybody = bool(self.skipped) or not self.weight > 0.0
        return agents if everybody else agents[np.isin(agents, [agent for agent, _ in self.rejected])]


def releases(federation: Federation) -> bool:
    """Whether the server adds noise in every round, also in one of nobody: else its absence would say so."""
    return any(stage.noise is not None and stage.noise.at == "server" for stage in federation.stages)


def merge_program(
    federation: Federation, like: Update, mix_models: bool = False, agents: int = 0
) -> Callable[..., Merged]:
    """The server's half, from what arrived: `(secret, server, inbox) -> Merged`; `like` as of `merge_blocks`.

    Args:
        federation: Whose server.
        like: The shape of a decoded update.
        mix_models: Whether an update says where to go (to the agent's parameters), or how far (its change).
        agents: As of `merge_blocks`.
    """
    merge, scaled = merge_blocks(federation, like, agents), _receiving(federation, mix_models)

    def merge_updates(secret: Root, server: ServerState, inbox: Inbox) -> Merged:
        inbox = inbox if inbox.block_sums else inbox.of(inbox.scale > 0.0)
        arrivals = arrivals_of(server, inbox)
        if inbox.block_sums:
            return merge(secret, server, [(each.result, each.here) for each in inbox.block_sums], arrivals)
        block_sums, count = [], len(inbox.agent)
        for i in range(0, count, exact.LANES):
            lanes, here = np.minimum(np.arange(i, i + exact.LANES), count - 1), np.arange(i, i + exact.LANES) < count
            updates, base = jax.tree.map(lambda x, lanes=lanes: x[lanes], (inbox.items, inbox.received))
            block_sums.append((scaled(server.params, updates, base, inbox.scale[lanes], here), here))
        return merge(secret, server, block_sums, arrivals)

    return merge_updates


def arrivals_of(server: ServerState, inbox: Inbox) -> Arrivals:
    """Whose updates arrived, and how many versions ago each agent heard what it started from."""
    stale = np.asarray(server.version) - inbox.version
    return Arrivals(inbox.agent.astype(np.int32), stale.astype(np.int32))


@cached_program
def _receiving(federation: Federation, mix_models: bool) -> Callable[..., BlockSums | Update]:
    """Takes in updates, `exact.LANES` at a time."""

    def received(
        params: PyTree, updates: Update, base: PyTree, scale: jax.Array, here: jax.Array
    ) -> BlockSums | Update:
        value = updates.value
        if mix_models:
            value = jax.tree.map(lambda v, old, now: v + (old - now), value, base, params)
        value = jax.tree.map(lambda v: v * scale.reshape(-1, *[1] * (v.ndim - 1)), value)
        return partial_sums(federation, updates._replace(value=value), here)

    return jax.jit(received)


def merge_blocks(federation: Federation, like: Update, agents: int = 0) -> Callable[..., Merged]:
    """The server's half: `(secret, server, block_sums, arrivals) -> Merged`, with the secret of that server.

    `block_sums` are pairs of a block's outcome and who was present; `arrivals` say whose those are, in the order of the
    outcomes. `like` has the shape of a decoded update. Without outcomes, or if all are left out, the server stands
    still; one that adds noise in every round commits a change of zero, with the weight of all its `agents`, counted
    once each.
    """
    summed = federation.aggregator.needs == "sum"
    commit, commit_mean = _commits(federation, shapes(like))
    size, counts = (sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (like.value, like.statistics))

    def of_nobody(secret: Root, server: ServerState) -> Judged | None:
        if not releases(federation):
            return None
        keys = server_data(secret, int(server.version))
        return commit_mean(keys, server, np.zeros(size, np.float32), np.float32(agents), split64(np.zeros(counts)))

    def merge(secret: Root, server: ServerState, block_sums: Sequence[Any], arrivals: Arrivals) -> Merged:
        if not block_sums:
            return settled(server, 0.0, (), of_nobody(secret, server))
        keys = server_data(secret, int(server.version))
        if summed:
            mean, units = exact.mean_of(federation.summation.total([sums.updates for sums, _ in block_sums]))
            counted = split64(exact.total([sums.statistics for sums, _ in block_sums], exact.STATISTICS))
            weight = units * weight_scale(federation)
            rejected = _refused_rows(federation, like, block_sums, arrivals.sender)
            if weight > 0:
                judged: Judged | None = commit_mean(keys, server, mean, np.float32(weight), counted)
            else:
                judged = of_nobody(secret, server)
        else:
            updates, whose, rejected = _stacked(like, block_sums, arrivals)
            weight = float(updates.weight.sum())
            judged = None
            if weight > 0:
                counted = jax.tree.map(lambda x: split64(np.asarray(np.sum(x, 0, np.float64))), updates.statistics)
                merged, memory = federation.aggregate(server_keys(keys).rule, whose, server, updates)
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


@cached_program
def _commits(federation: Federation, like: Shapes) -> tuple[Callable[..., Judged], Callable[..., Judged]]:
    """The programs that make the next server state: of what an aggregator returned, or of an exact mean."""
    value, statistics = shapes(like.tree.value), shapes(like.tree.statistics)

    def commit(keys: jax.Array, server: ServerState, merged: Update, memory: PyTree) -> Judged:
        after = federation.commit(server_keys(keys), server, merged, memory)
        pairs = zip(jax.tree.leaves(server), jax.tree.leaves(after), strict=True)
        dropped = jnp.stack([(jnp.isfinite(old) & ~jnp.isfinite(new)).any() for old, new in pairs])
        return after, jnp.where(dropped.any(), jnp.argmax(dropped) + 1, 0)

    def commit_mean(
        keys: jax.Array, server: ServerState, flat: jax.Array, weight: jax.Array, counted: Double
    ) -> Judged:
        whole = Update(_unflatten(flat[None], value), weight[None], server.version[None])
        alone = Arrivals(jnp.full(1, NOBODY), jnp.zeros(1, jnp.int32))
        merged, memory = federation.aggregate(server_keys(keys).rule, alone, server, whole)
        sums, rests = (_unflatten(x, statistics) for x in counted)
        merged = merged._replace(statistics=jax.tree.map(Double, sums, rests))
        return commit(keys, server, merged, memory)

    return jax.jit(commit), jax.jit(commit_mean)


def skip_round(server: ServerState) -> ServerState:
    """A round went by that changes nothing but the version, on which the keys of the next one depend."""
    return server._replace(version=jax.device_put(np.int32(int(server.version) + 1), server.version.sharding))


def _refused_rows(
    federation: Federation, like: Update, block_sums: Sequence[Any], agents: np.ndarray
) -> tuple[Rejection, ...]:
    """Whose rows are beyond the range of exact sums, in the order of agents."""
    reach = np.concatenate([np.asarray(sums.reach)[here] for sums, here in block_sums])
    limits = _limits(federation, like)
    inside = (reach < limits).all(axis=1)
    if inside.all():
        return ()
    found = zip(agents[~inside].tolist(), _beyond(like, reach[~inside], limits), strict=True)
    return tuple(Rejection(agent, reason) for agent, reason in sorted(found))


def _stacked(
    like: Update, block_sums: Sequence[Any], arrivals: Arrivals
) -> tuple[Update, Arrivals, tuple[Rejection, ...]]:
    """Every update of the round as NumPy arrays with a leading axis, whose they are, and what was left out.

    They are in the order of agents, wherever those were seated: what a rule adds up depends on the order. What an agent
    can't tell is NaN, which is no fault.
    """
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


def _unflatten(flat: jax.Array, like: Shapes) -> PyTree:
    """The tree that `exact.flatten` laid out, with the leading axes of `flat` on every leaf."""
    leaves, structure = like
    ends = np.cumsum([leaf.size for leaf in leaves])
    parts = [
        flat[..., end - leaf.size : end].reshape(*flat.shape[:-1], *leaf.shape)
        for leaf, end in zip(leaves, ends, strict=True)
    ]
    return jax.tree.unflatten(structure, parts)
