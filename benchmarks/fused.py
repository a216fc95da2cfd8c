"""A whole federated run as one pure function, for small problems over many seeds at once."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedrl.core.aggregator import on_time
from fedrl.core.keys import server_below, turn_below
from fedrl.core.types import Key, Params, PyTree
from fedrl.federation.federation import AgentState, Federation, ServerState


def fused(federation: Federation, rounds: int) -> Callable[[Key, PyTree], Params]:
    """`(key, fleet) -> params` after so many rounds; vmap it over seeds."""

    def run(key: Key, fleet: PyTree) -> Params:
        agents = jax.tree.leaves(fleet)[0].shape[0]
        start = jax.vmap(federation.init_agent, (0, 0, 0, None))
        talk = jax.vmap(federation.agent, (0, None, 0, None))
        for_server, for_agents, for_rounds = jax.random.split(key, 3)

        def round(carry: tuple[ServerState, AgentState], key: Key) -> tuple[tuple[ServerState, AgentState], None]:
            (server, states), (for_server, for_turns) = carry, jax.random.split(key)
            turns = jax.vmap(turn_below)(jax.random.split(for_turns, agents))
            updates, states, _ = talk(turns, federation.broadcast(server), states, jnp.int32(agents))
            whose = on_time(jnp.arange(agents))
            return (federation.server(server_below(for_server), whose, server, updates), states), None

        keys = jax.random.split(for_agents, agents)
        states = start(keys, jnp.arange(agents), fleet, jnp.int32(federation.local_steps))
        begun = (federation.init_server(for_server), states)
        (server, _), _ = jax.lax.scan(round, begun, jax.random.split(for_rounds, rounds))
        return server.params

    return run
