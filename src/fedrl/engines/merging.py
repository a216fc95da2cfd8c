"""How updates of many agents meet, whatever stepped the agents.

compiled, per block: updates --outcome--> exact partial sums, or the updates themselves
                     updates --measured--> their sizes, where these depend on what is in them, and what agents tell
on the host:         outcomes --merge--> commit --> next server state
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core import exact
from fedrl.core.codec import codec, size_bytes, speaks, varies
from fedrl.core.federation import Federation, ServerState
from fedrl.core.told import Enclosed, nothing_measured
from fedrl.core.types import Broadcast, Key, Metrics, PyTree, Update
from fedrl.engines.sharing import Shapes, shapes, shared
from fedrl.engines.simulation import Population

SIZE, SPOKEN = "bytes_up", "messages_up"
"""The metrics that tell the size of an agent's encoded update, and whether it had anything to say."""
TOLD = "told/"
"""What the metrics begin with that hold what an agent tells in its update."""


class Messages(NamedTuple):
    """Shapes of what crosses the wire, and of what the server makes of it."""

    sent: Broadcast
    update: Update
    decoded: Update

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


@shared
def _exchanged(federation: Federation, setting: Shapes) -> Messages:
    def exchange(key: Key, setting: PyTree) -> Messages:
        sent = federation.broadcast(federation.init_server(key))
        agent = federation.init_agent(key, jnp.int32(0), setting, jnp.int32(1))
        update, _ = federation.report(*federation.begin(key, sent, agent, jnp.int32(1)), nothing_measured())
        return Messages(sent, update, federation.decode(sent, update))

    return jax.eval_shape(exchange, jax.random.key(0), setting.tree)


def weighing(wire: Messages) -> Callable[[int, dict[str, np.ndarray]], np.ndarray]:
    """How large the updates of a round are: `(senders, metrics) -> bytes of each`, int64 `[senders]`."""
    known = wire.up_bytes

    def sizes(senders: int, metrics: dict[str, np.ndarray]) -> np.ndarray:
        return np.full(senders, known) if known is not None else metrics[SIZE][:senders].astype(np.int64)

    return sizes


def spoken(senders: int, metrics: Mapping[str, np.ndarray]) -> np.ndarray:
    """How many messages each sent in a round: one, or none if a stage held its update back; int64 `[senders]`."""
    return metrics[SPOKEN][:senders].astype(np.int64) if SPOKEN in metrics else np.ones(senders, np.int64)


def measured(federation: Federation, update: Update) -> Metrics:
    """What an encoded update adds to the metrics of its agent: what it tells, and what depends on what is in it.

    That is its size in bytes, and whether it speaks. A metric is a float32, so a size is exact up to 16 MiB.
    """
    size = {SIZE: jnp.asarray(size_bytes(update), jnp.float32)} if varies(update) else {}
    said = speaks(update)
    if said is not True:
        size[SPOKEN] = jnp.asarray(said, jnp.float32)
    return size | {TOLD + name: jnp.asarray(x, jnp.float32) for name, x in federation.told(update).items()}


def told_in(metrics: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What agents tell in their updates, of what `measured` found in them."""
    return {name.removeprefix(TOLD): x for name, x in metrics.items() if name.startswith(TOLD)}


def outcome(federation: Federation, updates: Update, here: jax.Array) -> Any:
    """What a block hands to `merging`: inside a compiled program, from its decoded updates and who is present."""
    if federation.aggregator.sees != "sum":
        return updates
    values = jax.vmap(exact.flatten)(jax.lax.optimization_barrier(updates.value))
    return exact.partial_sum(values, updates.weight * here / weight_unit(federation))


def weight_unit(federation: Federation) -> float:
    """Weights are summed in units of about one agent's usual weight, a power of two so that nothing is rounded."""
    return exact.nearest_power_of_two(federation.aggregator.unit(federation.learner.samples * federation.local_steps))


def merging(federation: Federation, like: PyTree) -> Callable[..., tuple[ServerState, float, int]]:
    """The server's half: `(population, outcomes, talk, agents) -> (ServerState, weight, refused)`.

    `outcomes` are pairs of a block's outcome and who was present; `agents` are their numbers, if the outcomes are not
    in that order. `like` has the shape of a decoded value.
    """
    summed = federation.aggregator.sees == "sum"
    commit, commit_mean = _commits(federation, shapes(like))

    def merge(
        population: Population, outcomes: list[Any], talk: bool, agents: np.ndarray | None = None
    ) -> tuple[ServerState, float, int]:
        key, server = population.key, population.server
        if not talk:
            return passed_over(server), 0.0, 0
        if summed:
            mean, units = exact.mean_of(exact.total([sums for (sums, _), _ in outcomes]))
            weight = units * weight_unit(federation)
            refused = int(sum(np.asarray(flags).sum() for (_, flags), _ in outcomes))
            after = commit_mean(key, server, mean, np.float32(weight)) if weight > 0 else None
        else:
            updates, refused = _stacked(outcomes, agents)
            weight = float(updates.weight.sum())
            after = commit(key, server, *federation.aggregate(server, updates)) if weight > 0 else None
        return passed_over(server) if after is None else after, weight, refused

    return merge


@shared
def _commits(federation: Federation, like: Shapes) -> tuple[Callable[..., ServerState], Callable[..., ServerState]]:
    """The programs that make the next server state: of what an aggregator returned, or of an exact mean."""

    def commit_mean(key: Key, server: ServerState, flat: jax.Array, weight: jax.Array) -> ServerState:
        whole = Update(_unflatten(flat[None], like), weight[None], server.version[None])
        return federation.commit(key, server, *federation.aggregate(server, whole))

    return jax.jit(federation.commit), jax.jit(commit_mean)


def passed_over(server: ServerState) -> ServerState:
    """A round went by that changes nothing but the version, on which the keys of the next one depend."""
    return server._replace(version=jax.device_put(np.int32(int(server.version) + 1), server.version.sharding))


def _stacked(outcomes: list[Any], agents: np.ndarray | None) -> tuple[Update, int]:
    """Every update of the round as NumPy arrays with a leading axis; those that are not finite are left out.

    They are in the order of agents, wherever those were seated: what a rule adds up depends on the order. What an agent
    can't tell is NaN, which is no fault.
    """
    columns = [jax.tree.map(lambda x, here=here: np.asarray(x)[here], updates) for updates, here in outcomes]
    updates = jax.tree.map(lambda *leaves: np.concatenate(leaves), *columns)
    if agents is not None:
        updates = jax.tree.map(lambda x: x[np.argsort(agents)], updates)
    value = updates.value
    judged = value._replace(told=None) if isinstance(value, Enclosed) else value
    flat = [leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(judged)]
    finite = np.all([np.isfinite(leaf).all(axis=1) for leaf in flat], axis=0)
    return jax.tree.map(lambda x: x[finite], updates), int((~finite).sum())


def _unflatten(flat: jax.Array, like: Shapes) -> PyTree:
    """The tree that `exact.flatten` laid out, with the leading axis of `flat` on every leaf."""
    leaves, structure = like
    ends = np.cumsum([leaf.size for leaf in leaves])
    parts = [flat[:, end - leaf.size : end].reshape(-1, *leaf.shape) for leaf, end in zip(leaves, ends, strict=True)]
    return jax.tree.unflatten(structure, parts)
