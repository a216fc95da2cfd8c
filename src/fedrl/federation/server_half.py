"""Implement the server's half of a federation, which runs where updates are aggregated.

    server = decode (per update) -> aggregate -> commit

Every function takes the `Spec` of the federation first; `federate` binds it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from fedrl.core.aggregator import Arrivals, View
from fedrl.core.double import sum_of
from fedrl.core.keys import ServerKeys
from fedrl.core.learner import restored
from fedrl.core.stage import public
from fedrl.core.types import Broadcast, Key, Params, PyTree, Update
from fedrl.federation.agent_half import LEARNER
from fedrl.federation.downlink import sent_params
from fedrl.federation.federation import ServerState
from fedrl.federation.spec import Spec


def init_server(spec: Spec, key: Key, policy: Params | None = None) -> ServerState:
    """Return the state of a server before its first round, with the parameters of a trained policy if one is given."""
    state = spec.learner.init(key, spec.learner.environment.params)
    params = spec.learner.params(state if policy is None else restored(spec.learner, state, policy))
    server_state, _ = spec.pipe.init(params)
    copy = () if spec.down is None else spec.down.init(params)
    memory, state = spec.aggregator.init(params), spec.optimizer.init(params)
    return ServerState(params, server_state, memory, state, jnp.int32(0), copy)


def broadcast(server: ServerState) -> Broadcast:
    """Return the broadcast of the server's parameters, or of the copy of them that agents store."""
    return Broadcast(sent_params(server.down, server.params), public(server.stage_states), server.version)


def decode(spec: Spec, sent: Broadcast, update: Update) -> Update:
    """Decode one update, and replace its weight by the aggregator's."""
    assert spec.pipe.decode is not None
    update = spec.pipe.decode(sent.stage_states, update)
    # Reports that only a selection or local steps requested are not for the aggregator.
    report = update.report if spec.aggregator.requested else {}
    return update._replace(weight=spec.aggregator.weigh(update), report=report)


def aggregate(spec: Spec, key: Key, arrivals: Arrivals, server: ServerState, updates: Update) -> tuple[Update, PyTree]:
    """Merge decoded updates into one, without their statistics, which are added exactly elsewhere."""
    view = View(server.params, server.version)
    return spec.aggregator.update(key, view, arrivals, server.aggregator, updates._replace(statistics={}))


def commit(spec: Spec, keys: ServerKeys, server: ServerState, merged: Update, memory: PyTree) -> ServerState:
    """Apply the merged update to the server's parameters, and with down stages update the copy that agents store."""
    # Statistics are absorbed first and outside the optimiser: it would treat counts as gradients.
    if spec.learner.statistics is not None:
        counted = spec.learner.statistics.absorb(server.params, merged.statistics[LEARNER])
        server = server._replace(params=counted)
    merged, server_state = spec.with_noise(keys.noise).finish(keys.finish, server.stage_states, merged)
    # optax descends along a gradient, and an update is a direction of ascent, so its sign is flipped.
    gradient = jax.tree.map(jnp.negative, merged.value)
    known = {"version": server.version} if spec.groups else {}
    step, state = spec.optimizer.update(gradient, server.optimizer, server.params, **known)
    params = optax.apply_updates(server.params, step)
    copy = () if spec.down is None else spec.down.send(keys.down, server.version, server.down, params)
    return ServerState(params, server_state, memory, state, server.version + 1, copy)


def serve(spec: Spec, keys: ServerKeys, arrivals: Arrivals, state: ServerState, updates: Update) -> ServerState:
    """Run one round of a server: `decode` each update, `aggregate`, `commit`."""
    sent = broadcast(state)
    decoded = jax.vmap(lambda update: decode(spec, sent, update))(updates)
    merged, memory = aggregate(spec, keys.rule, arrivals, state, decoded)
    counted = jax.tree.map(sum_of, decoded.statistics)
    return commit(spec, keys, state, merged._replace(statistics=counted), memory)
