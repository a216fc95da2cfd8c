"""A federation: two pure functions cut exactly at the wire.

    agent (keys, Broadcast, AgentState)    -> (Update, AgentState, Metrics)     runs where the environment is
    server(keys, Arrivals[n], ServerState, Updates[n]) -> ServerState           runs where updates meet

Each half is three steps in a row. Engines that interleave something between them call the steps:

    agent  = begin -> work x local_steps -> report
    server = decode (per update) -> aggregate -> commit

With down stages, a commit ends with the copy of the parameters that agents hold: `fedrl.federation.downlink`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import NamedTuple

import jax
import optax

from fedrl.core.aggregator import Aggregator, Arrivals
from fedrl.core.component import Call, record
from fedrl.core.keys import ServerKeys, TurnKeys
from fedrl.core.learner import Experience, Learner
from fedrl.core.stage import Stage
from fedrl.core.summation import Summation, exact_sum
from fedrl.core.types import Broadcast, Key, LocalContext, Metrics, PyTree, Update
from fedrl.federation.downlink import ServerCopy
from fedrl.federation.parts import Part


class ServerState(NamedTuple):
    """What the server remembers between rounds. `down` is the copy that agents hold, () without down stages."""

    params: PyTree
    stage_states: PyTree
    aggregator: PyTree
    optimizer: PyTree
    version: jax.Array
    down: PyTree = ()


class AgentState(NamedTuple):
    """What an agent remembers between rounds. It never leaves the agent.

    `steps` is the agent's own number of local steps, at most the federation's; `env_params` are the parameters of its
    environment; `share` is its weight among those of all agents, see `fedrl.federation.shares`.
    """

    learner: PyTree
    stage_states: PyTree
    agent: jax.Array
    steps: jax.Array
    env_params: PyTree
    share: jax.Array


class Task(NamedTuple):
    """One round of one agent, under way."""

    keys: TurnKeys
    broadcast: Broadcast
    context: LocalContext
    cohort: jax.Array


@record
class Federation:
    """The two halves of a federated learning system, and the steps they are made of.

    Attributes:
        init_server: `key -> ServerState`.
        init_agent: `(key, agent, env_params, steps) -> AgentState`, of an agent by itself, with a key of its own: its
            share is 1, until an engine says otherwise.
        broadcast: `ServerState -> Broadcast`.
        agent: `(keys, Broadcast, AgentState, cohort, here=True, before=None) -> (Update, AgentState, Metrics)`, with
            `fedrl.core.keys.TurnKeys`, by which nothing else draws. An agent that is not here is in the end what it
            was. `before` is a snapshot of it, if one was taken: an engine that takes it in a program of its own saves a
            copy of large rings. Each metric has a leading axis of local steps. The metrics stay on the agent: a return
            curve is private data. One of them is `fedrl.core.faults.FAULT`;
            where it is not 0 the others are.
        server: `(keys, Arrivals[n], ServerState, Updates[n]) -> ServerState`, with `fedrl.core.keys.ServerKeys` of this
            version.
        begin: `(keys, Broadcast, AgentState, cohort) -> (Task, AgentState)`.
        remember: `AgentState -> before`, a snapshot (`fedrl.core.faults`) of an agent before a round.
        work: `(Task, AgentState, total, step, experience | None) -> (AgentState, total, Metrics)`, one local step.
            Without experience, the learner gathers its own. With gradients as payload, the learner takes no step, and
            the sum `total` of the negative gradients grows instead.
        report: `(Task, before, after, total, metrics) -> (Update, AgentState, fault)`, of a snapshot of the agent
            before `begin` and of the agent after its local steps, the metrics summed over them. An agent whose training
            is at fault (`fedrl.core.faults`) is what it was before, and the weight of its update is NaN. Its rings of
            experience are still to be `settled`.
        descent: `params -> total` before the first step: zeros, or nothing where agents take steps of their own.
        decode: `(Broadcast, Update) -> Update`, for one update; from here on its weight is the aggregator's.
        aggregate: `(key, Arrivals[n], ServerState, Updates[n]) -> (Update, aggregator state)`, of decoded updates;
            without statistics.
        commit: `(keys, ServerState, Update, aggregator state) -> ServerState`, with `ServerKeys`. The update has the
            sums of statistics.
        learner: The learner of every agent.
        aggregator: The rule that merges.
        local_steps: Local iterations in a round, at most.
        stages: What an update passes on its way, in order.
        parts: Parts of the parameters with a rule, a server optimiser or a period of their own.
        payload: "delta" or "gradient", what agents send.
        server_optimizer: What turns the merged update into a step of the server; None if it adds it up as it is.
        reports: What each agent says about itself in its update, whoever asked for it.
        down_stages: What the difference to the copy that agents hold passes on its way down.
        renew: `(key, version, ServerCopy, params) -> ServerCopy`, the last step of a commit if there are down stages.
        summation: How updates are added up for a rule of the sum.
    """

    init_server: Callable[[Key], ServerState]
    init_agent: Callable[[Key, jax.Array, PyTree, jax.Array], AgentState]
    broadcast: Callable[[ServerState], Broadcast]
    agent: Callable[..., tuple[Update, AgentState, Metrics]]
    server: Callable[[ServerKeys, Arrivals, ServerState, Update], ServerState]
    begin: Callable[[TurnKeys, Broadcast, AgentState, jax.Array], tuple[Task, AgentState]]
    remember: Callable[[AgentState], AgentState]
    work: Callable[[Task, AgentState, PyTree, jax.Array, Experience | None], tuple[AgentState, PyTree, Metrics]]
    report: Callable[[Task, AgentState, AgentState, PyTree, Metrics], tuple[Update, AgentState, jax.Array]]
    descent: Callable[[PyTree], PyTree]
    decode: Callable[[Broadcast, Update], Update]
    aggregate: Callable[[Key, Arrivals, ServerState, Update], tuple[Update, PyTree]]
    commit: Callable[[ServerKeys, ServerState, Update, PyTree], ServerState]
    learner: Learner
    aggregator: Aggregator
    local_steps: int
    stages: tuple[Stage, ...]
    parts: tuple[Part, ...]
    payload: str
    server_optimizer: optax.GradientTransformation | None
    reports: tuple[str, ...]
    down_stages: tuple[Stage, ...] = ()
    renew: Callable[[Key, jax.Array, ServerCopy, PyTree], ServerCopy] | None = None
    summation: Summation = field(default_factory=exact_sum)
    call: Call | None = None
