"""The records that cross the boundary between an agent and the server, and nothing else.

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
    """All that ever leaves an agent.

    Attributes:
        value: What the agent learned, as the last stage of the pipeline encoded it.
            Before encoding: the change of its parameters (or its negative gradient).
        weight: Scalar; the number of samples behind the value.
        version: Scalar int32; the version of the parameters the agent started from.
        statistics: What the agent counted, by who reads it, such as moments of observations: it is added up exactly
            beside the pipeline, whatever the weight. After the sum over agents, each leaf is a `Double`.
        report: What the agent says about itself, by name, each a scalar, see `fedrl.core.reports`.
    """

    value: PyTree
    weight: jax.Array
    version: jax.Array
    statistics: dict[str, PyTree] = {}
    report: dict[str, jax.Array] = {}


class Broadcast(NamedTuple):
    """All that ever reaches an agent.

    Attributes:
        params: The global parameters.
        stage_states: The shared half of each stage's state, in pipeline order.
        version: Scalar int32; how many times the server has committed.
    """

    params: Params
    stage_states: PyTree
    version: jax.Array


class UpdateContext(NamedTuple):
    """Who encodes, and for whom.

    Attributes:
        agent: Scalar int32; the identity of the agent.
        version: Scalar int32; the version of the broadcast it answers.
        cohort: Scalar int32; how many agents were asked.
        steps: Scalar int32; the local steps behind the update.
        metrics: What the agent measured in the round, each a scalar summed over local steps. It stays on the agent
            unless a stage or a declared question (`fedrl.core.reports`) makes some of it part of the update.
        settings: Parameters of its environment that it was asked for by name, each a scalar.
        share: Scalar; p_k, its weight among those of all agents as the aggregator states it: `fedrl.federation.shares`.
            An agent by itself is all there is.
    """

    agent: jax.Array
    version: jax.Array
    cohort: jax.Array
    steps: jax.Array
    metrics: Metrics = {}
    settings: dict[str, jax.Array] = {}
    share: jax.Array | float = 1.0


class LocalContext(NamedTuple):
    """What local training may lean on.

    Attributes:
        params: The global parameters, FedProx's anchor.
        correction: Added to each local gradient by `fedrl.learners.add_correction`, SCAFFOLD's c - c_k.
    """

    params: Params
    correction: Params
