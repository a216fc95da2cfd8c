"""Nest federations: a federation is a learner of an outer federation, which defines what a hierarchy computes.

    federate(as_learner(federate(ppo(...), mean()), agents=8), mean(), local_steps=4)

Each edge server merges its eight agents in every round; the root merges the edge servers in every fourth round.
`fedrl.engines.topologies.tree` computes the same, faster and for any tree.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedrl.core.aggregator import on_time
from fedrl.core.checks import check_positive
from fedrl.core.component import component
from fedrl.core.errors import UnsoundError
from fedrl.core.faults import FAULT
from fedrl.core.keys import server_below, turn_below
from fedrl.core.learner import Experience, Learner, nothing_gathered, same_stream
from fedrl.core.replay import Replay
from fedrl.core.types import Key, LocalContext, Metrics, Params, PyTree
from fedrl.federation.downlink import adopted
from fedrl.federation.federation import AgentState, Federation, ServerState
from fedrl.federation.private import private_parts


class Rings(NamedTuple):
    """The replay buffers of several agents, under another type than `Replay`, which stands for a single agent's."""

    rows: PyTree
    written: jax.Array


class NestedState(NamedTuple):
    """The state of the inner server, and of its agents with a leading axis and their replay buffers as `Rings`."""

    server: ServerState
    agents: AgentState


@component("nested federation")
def as_learner(federation: Federation, agents: int) -> Learner:
    """Return a federation as a learner, whose local iteration is a round and whose parameters are the server's.

    Its `init` takes the environment parameters of all agents (a leading axis on every leaf), or one setting for all.

    Args:
        federation: The inner federation.
        agents: The number of its agents.

    Raises:
        UnsoundError: The agents count statistics, which the outer federation would average; or a stage keeps a sum over
            all agents, or adds noise or hides updates, or the learner adds noise, which the outer federation would not
            know.
    """
    check_positive(agents=agents)
    learner = federation.learner
    if learner.statistics is not None:
        raise UnsoundError(
            f"{learner!r} counts statistics. They add up among the agents of one server, and the outer federation "
            "would average them. Use a learner without them, or let every agent keep its own: "
            "personal(learner, local=['moments'])."
        )
    if learner.noise is not None:
        raise UnsoundError(
            f"{learner!r} adds noise from a secret of its agent, and agents inside an outer federation have no secrets "
            "of their own. Use a topology of servers (tree) in the one federation, or a learner without noise.",
            reason="hidden",
        )
    for part in private_parts(federation.stages, federation.summation):
        raise UnsoundError(
            f"{part!r} protects the agents of the inner federation from its server, and the outer federation would "
            "neither know of it nor account for its privacy cost. Use a topology of servers (tree), with "
            f"{part!r} in the one federation.",
            reason="hidden",
        )
    for stage in federation.stages:
        if stage.sums is not None:
            raise UnsoundError(
                f"{stage!r} keeps a sum over all agents, and a nested federation knows only its own: agents would be "
                "corrected towards the optimum of one server. Use a topology of servers (tree), whose servers add up."
            )

    def init(key: Key, env_params: PyTree) -> NestedState:
        for_server, for_agents = jax.random.split(key)
        server = federation.init_server(for_server)
        like, given = jax.tree.leaves(learner.environment.params), jax.tree.leaves(env_params)
        axis = None if all(jnp.ndim(g) == jnp.ndim(d) for g, d in zip(given, like, strict=True)) else 0
        steps = jnp.full(agents, federation.local_steps, jnp.int32)
        keys = jax.random.split(for_agents, agents)
        each = jax.vmap(federation.init_agent, (0, 0, axis, 0))(keys, jnp.arange(agents), env_params, steps)
        return NestedState(server, _renamed(each, Replay, Rings))

    def learn(
        key: Key, state: NestedState, experience: Experience, context: LocalContext
    ) -> tuple[NestedState, Metrics]:
        # The agents collect their own experience, and receive only their own server's broadcast.
        del experience, context
        sent = federation.broadcast(state.server)
        for_server, for_agents = jax.random.split(key)
        turns = jax.vmap(turn_below)(jax.random.split(for_agents, agents))
        round_of = jax.vmap(federation.agent, (0, None, 0, None))
        updates, each, metrics = round_of(turns, sent, _renamed(state.agents, Rings, Replay), jnp.int32(agents))
        # An update at fault has a weight of NaN, which reaches the inner parameters: a fault of this learner in turn.
        del metrics[FAULT]
        server = federation.server(server_below(for_server), on_time(jnp.arange(agents)), state.server, updates)
        counts = {"iterations": state.agents.steps.sum().astype(jnp.float32), "rounds": jnp.float32(agents)}
        return NestedState(server, _renamed(each, Replay, Rings)), counts | jax.tree.map(jnp.sum, metrics)

    def adopt(state: NestedState, params: Params) -> NestedState:
        # Agents train from the same parameters as the server, as they would without down stages.
        down = adopted(state.server.down, params)
        return state._replace(server=state.server._replace(params=params, down=down))

    return Learner(
        init=init,
        collect=nothing_gathered,
        learn=learn,
        act=learner.act,
        params=lambda state: state.server.params,
        adopt=adopt,
        environment=learner.environment,
        samples=agents * federation.local_steps * learner.samples,
        split_key=same_stream,  # each agent derives its own
        probabilities=learner.probabilities,
        measures=learner.measures,
        gamma=learner.gamma,
        memory=learner.memory,
        with_memory=learner.with_memory,
    )


def _renamed(tree: PyTree, old: type, new: type) -> PyTree:
    """Return the tree with nodes of one record type replaced by another type with the same fields."""
    return jax.tree.map(lambda x: new(*x) if isinstance(x, old) else x, tree, is_leaf=lambda x: isinstance(x, old))  # type: ignore[misc]
