"""A whole federated run as one pure function, for small problems over many seeds at once."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedrl.core.aggregator import on_time
from fedrl.core.federation import AgentState, Federation, ServerState
from fedrl.core.types import Key, Params, PyTree


def fused(federation: Federation, rounds: int) -> Callable[[Key, PyTree], Params]:
    """`(key, fleet) -> params` after so many rounds; vmap it over seeds."""

    def run(key: Key, fleet: PyTree) -> Params:
        agents = jax.tree.leaves(fleet)[0].shape[0]
        start = jax.vmap(federation.init_agent, (None, 0, 0, None))
        talk = jax.vmap(federation.agent, (None, None, 0, None))

        def round(carry: tuple[ServerState, AgentState], _: None) -> tuple[tuple[ServerState, AgentState], None]:
            server, states = carry
            updates, states, _ = talk(key, federation.broadcast(server), states, jnp.int32(agents))
            return (federation.server(key, on_time(jnp.arange(agents)), server, updates), states), None

        states = start(key, jnp.arange(agents), fleet, jnp.int32(federation.local_steps))
        (server, _), _ = jax.lax.scan(round, (federation.init_server(key), states), None, rounds)
        return server.params

    return run
