"""Trace the messages of a first round, on whose shapes both ends have to agree."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from fedrl.core.keys import turn_below
from fedrl.core.reports import nothing_measured
from fedrl.core.types import Broadcast, Key, PyTree, Update
from fedrl.federation.federation import AgentState, Federation


class Crossing(NamedTuple):
    """The messages of a first round of one agent that takes no local step.

    Attributes:
        sent: The broadcast of the server.
        update: The update of the agent.
        after: The state of the agent after the round.
    """

    sent: Broadcast
    update: Update
    after: AgentState


def crossing(federation: Federation, key: Key, env_params: PyTree) -> Crossing:
    """Run a first round without local steps, to be traced for its shapes.

    Args:
        federation: The federation.
        key: The key of the run.
        env_params: The environment parameters of one agent.

    >>> import jax
    >>> from fedrl.aggregators import mean
    >>> from fedrl.federation.federate import federate
    >>> from fedrl.environments import cartpole
    >>> from fedrl.learners import reinforce
    >>> federation = federate(reinforce(cartpole()), mean())
    >>> traced = jax.eval_shape(lambda key: crossing(federation, key, cartpole().params), jax.random.key(0))
    >>> traced.update.weight.dtype.name
    'float32'
    """
    sent = federation.broadcast(federation.init_server(key))
    agent = federation.init_agent(key, jnp.int32(0), env_params, jnp.int32(1))
    before, total = federation.remember(agent), federation.descent(sent.params)
    task, begun = federation.begin(turn_below(key), sent, agent, jnp.int32(1))
    update, after, _ = federation.report(task, before, begun, total, nothing_measured())
    return Crossing(sent, update, after)
