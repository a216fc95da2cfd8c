"""Define the records that cross the boundary between an agent and the server.

    server --- Broadcast ---> agent --- Update ---> server

Records of arrays are NamedTuples: they are pytrees, so they cross `jit`, `vmap` and the wire.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import jax

PyTree: TypeAlias = Any
Params: TypeAlias = PyTree
Key: TypeAlias = jax.Array
Metrics: TypeAlias = dict[str, jax.Array]


class Update(NamedTuple):
    """The only message that an agent sends.

    Attributes:
        value: PyTree of arrays: the change of the agent's parameters (`payload="delta"`) or its negative gradient
            (`payload="gradient"`), as the last stage of the pipeline encoded it.
        weight: Scalar float32; the number of environment steps that produced the value, unless a stage changed it.
        version: Scalar int32; the version of the parameters that the agent started from.
        statistics: Sums that the agent counted, such as moments of observations, keyed by their consumer (the learner
            or a stage). The server adds them exactly and unweighted, and no stage of the pipeline changes them. After
            the sum over agents, each leaf is a `Double`.
        report: Scalars that the agent reports beside its update, keyed by name: see `fedrl.core.reports`.
    """

    value: PyTree
    weight: jax.Array
    version: jax.Array
    statistics: dict[str, PyTree] = {}
    report: dict[str, jax.Array] = {}


class Broadcast(NamedTuple):
    """The only message that an agent receives.

    Attributes:
        params: The global parameters.
        stage_states: The server state of each stage, in pipeline order.
        version: Scalar int32; the number of times that the server has committed.
    """

    params: Params
    stage_states: PyTree
    version: jax.Array


class UpdateContext(NamedTuple):
    """The facts about an agent and its round that `Stage.encode` may use.

    Attributes:
        agent: Scalar int32; the number of the agent.
        version: Scalar int32; the version of the broadcast that the agent trained from.
        cohort: Scalar int32; the number of agents selected in the round.
        steps: Scalar int32; the number of local steps that produced the update.
        metrics: Scalars that the agent measured in the round, each summed over local steps. They stay on the agent
            unless a stage or a requested report (`fedrl.core.reports`) puts some of them into the update.
        settings: The requested parameters of the agent's environment, keyed by name, each a scalar.
        share: Scalar; p_k, the agent's weight divided by the weights of all agents: `fedrl.federation.shares`. It is 1
            for an agent without a federation around it.
    """

    agent: jax.Array
    version: jax.Array
    cohort: jax.Array
    steps: jax.Array
    metrics: Metrics = {}
    settings: dict[str, jax.Array] = {}
    share: jax.Array | float = 1.0


class LocalContext(NamedTuple):
    """The server's contribution to local training.

    Attributes:
        params: The global parameters, the anchor of FedProx.
        correction: What `fedrl.learners.add_correction` adds to each local gradient, SCAFFOLD's c - c_k; it has the
            shapes of the parameters.
        noise: The key of the noise that a learner adds to its gradients, from a secret of the agent: of the whole round
            where the agent's half makes the context, of one local step where a learner gets it. None: it adds none.
    """

    params: Params
    correction: Params
    noise: Key | None = None
