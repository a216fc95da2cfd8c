"""A federation is a learner, so federations nest: this is what a hierarchy means.

    federate(as_learner(federate(ppo(...), mean()), agents=8), mean(), local_steps=4)

Eight agents under each edge server, which merge in every round; the edges under a root, which merges every fourth.
`fedrl.engines.topologies.tree` gives the same, faster and for any tree.
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
    """Rings of experience of several agents: no `Replay` to the outer federation, which knows those of one agent."""

    rows: PyTree
    written: jax.Array


class NestedState(NamedTuple):
    """The server of the inner federation, and its agents with a leading axis, their rings of experience as `Rings`."""

    server: ServerState
    agents: AgentState


@component("nested federation")
def as_learner(federation: Federation, agents: int) -> Learner:
    """Take a whole federation for one learner: its local iteration is a round, its parameters are the server's.

    Its environment's parameters are those of a stack of agents (a leading axis on every leaf), or one setting for all.

    Args:
        federation: The inner federation.
        agents: How many it has.

    Raises:
        UnsoundError: Its agents count statistics, which would be averaged by the outer one; a stage keeps a sum over
            all agents, of which there are more than those of one server; or one adds noise or hides updates.
    """
    check_positive(agents=agents)
    learner = federation.learner
    if learner.statistics is not None:
        raise UnsoundError(
            f"{learner!r} counts statistics. They add up among the agents of one server, and the outer federation "
            "would average them. Use a learner without them, or let every agent keep its own: "
            "personal(learner, local=['moments'])."
        )
    for part in private_parts(federation.stages, federation.summation):
        raise UnsoundError(
            f"{part!r} protects the agents of the inner federation from its server, and the outer one, which sees a "
            "learner, would neither know of it nor count what it costs. Use a topology of servers (tree), with "
            f"{part!r} in the one federation.",
            reason="hidden",
        )
    for stage in federation.stages:
        if stage.sums is not None:
            raise UnsoundError(
                f"{stage!r} keeps a sum over all agents, and a federation that is a learner knows its own alone: each "
                "would be steered to the optimum of one server. Use a topology of servers (tree), whose servers add up."
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
        del experience, context  # the agents gather their own, and hear their own server only
        sent = federation.broadcast(state.server)
        for_server, for_agents = jax.random.split(key)
        turns = jax.vmap(turn_below)(jax.random.split(for_agents, agents))
        round_of = jax.vmap(federation.agent, (0, None, 0, None))
        updates, each, metrics = round_of(turns, sent, _renamed(state.agents, Rings, Replay), jnp.int32(agents))
        del metrics[FAULT]  # an update at fault has a weight of NaN, which makes it a fault of this learner
        server = federation.server(server_below(for_server), on_time(jnp.arange(agents)), state.server, updates)
        counts = {"iterations": state.agents.steps.sum().astype(jnp.float32), "rounds": jnp.float32(agents)}
        return NestedState(server, _renamed(each, Replay, Rings)), counts | jax.tree.map(jnp.sum, metrics)

    def adopt(state: NestedState, params: Params) -> NestedState:
        down = adopted(state.server.down, params)  # agents start from it, too, as without down stages
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
    )


def _renamed(tree: PyTree, old: type, new: type) -> PyTree:
    """The tree with nodes of one record type as nodes of another of the same fields."""
    return jax.tree.map(lambda x: new(*x) if isinstance(x, old) else x, tree, is_leaf=lambda x: isinstance(x, old))  # type: ignore[misc]
