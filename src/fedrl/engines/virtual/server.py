"""The server's half on a virtual clock: what it sends out, and what it makes of stale updates.

server state --envelope--> a row of words, for everyone who is sent for before the next merge
updates in the order of arrival --received--> scaled, added up exactly --merge--> the next server state
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from fedrl.core import exact
from fedrl.core.aggregator import Arrivals
from fedrl.core.federation import Federation, ServerState
from fedrl.core.types import Broadcast, Key, Params, PyTree, Update
from fedrl.engines.merging import Merged, Messages, merging, messages, outcome
from fedrl.engines.sharing import Shapes, shapes, shared
from fedrl.engines.virtual.schedules import Schedule
from fedrl.engines.virtual.words import packing


class Batch(NamedTuple):
    """Updates in the order in which they arrived, `[updates, words]`, whose they are and what those had been sent."""

    updates: np.ndarray
    arrivals: Arrivals
    sent: np.ndarray


class Office(NamedTuple):
    """The server's half.

    Attributes:
        envelope: `(server, parameters before the last merge) -> row` that agents are sent.
        merge: `(key, server, batch) -> Merged`.
    """

    envelope: Callable[[ServerState, Params], np.ndarray]
    merge: Callable[[Key, ServerState, Batch], Merged]


def office(federation: Federation, schedule: Schedule, fleet: PyTree, wire: Messages) -> Office:
    """The server of a federation under a schedule."""
    agents = jax.tree.leaves(fleet)[0].shape[0]
    mixing = 1.0 / agents if schedule.mixing is None else schedule.mixing
    envelope, received = _programs(federation, shapes(fleet, skip=1), schedule, mixing)
    merge_outcomes = merging(federation, wire.decoded)

    def merge(key: Key, server: ServerState, batch: Batch) -> Merged:
        outcomes, count = [], len(batch.updates)
        for i in range(0, count, exact.LANES):
            lanes = np.minimum(np.arange(i, i + exact.LANES), count - 1)
            here = np.arange(i, i + exact.LANES) < count
            outcomes.append((received(server, batch.updates[lanes], batch.sent[lanes], here), here))
        return merge_outcomes(key, server, outcomes, batch.arrivals)

    return Office(lambda server, before: np.asarray(envelope(server, before)), merge)


@shared
def _programs(
    federation: Federation, setting: Shapes, schedule: Schedule, mixing: float
) -> tuple[Callable[..., jax.Array], Callable[..., PyTree]]:
    """The programs that address agents, and that take in updates, `exact.LANES` at a time."""
    one_agent = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), setting.tree)
    wire = messages(federation, one_agent)
    sent_rows, update_rows = packing(wire.sent), packing(wire.decoded)
    ahead = (1.0 - schedule.momentum) / schedule.momentum

    def envelope(server: ServerState, before: Params) -> jax.Array:
        sent = federation.broadcast(server)
        if ahead > 0.0:
            sent = sent._replace(params=jax.tree.map(lambda x, old: x + ahead * (x - old), sent.params, before))
        return sent_rows.pack(sent)

    def received(server: ServerState, rows: jax.Array, sent: jax.Array, here: jax.Array) -> PyTree:
        updates: Update = jax.vmap(update_rows.unpack)(rows)
        value = updates.value
        scale = mixing * schedule.staleness.weight(server.version - updates.version)
        if schedule.toward_model:
            heard: Broadcast = jax.vmap(sent_rows.unpack)(sent)
            value = jax.tree.map(lambda v, old, now: v + (old - now), value, heard.params, server.params)
        value = jax.tree.map(lambda v: v * scale.reshape(-1, *[1] * (v.ndim - 1)), value)
        return outcome(federation, updates._replace(value=value), here)

    return jax.jit(envelope), jax.jit(received)
