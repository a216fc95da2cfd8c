"""Define a federation: two pure functions, one for the agent and one for the server.

    agent (keys, Broadcast, AgentState, cohort) -> (Update, AgentState, Metrics)    runs where the environment is
    server(keys, Arrivals[n], ServerState, Updates[n]) -> ServerState               runs where updates are aggregated

Each half has three steps. An engine that has to do something between them calls the steps instead:

    agent  = begin -> work x local_steps -> report
    server = decode (per update) -> aggregate -> commit

With down stages, a commit ends by updating the copy of the parameters that agents store: `fedrl.federation.downlink`.
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
from fedrl.federation.downlink import Downlink
from fedrl.federation.parts import Part


class ServerState(NamedTuple):
    """The state of the server between rounds.

    Attributes:
        params: The global parameters.
        stage_states: The server state of each stage, in order.
        aggregator: The state of the aggregator.
        optimizer: The state of the server's optimiser.
        version: Scalar int32; the number of commits.
        down: The `ServerCopy` of what agents store, with down stages; else ().
    """

    params: PyTree
    stage_states: PyTree
    aggregator: PyTree
    optimizer: PyTree
    version: jax.Array
    down: PyTree = ()


class AgentState(NamedTuple):
    """The state of an agent between rounds, which never leaves the agent.

    Attributes:
        learner: The state of the learner.
        stage_states: The agent state of each stage, in order.
        agent: Scalar int32; the number of the agent.
        steps: Scalar int32; its number of local steps in a round, at most the federation's.
        env_params: The parameters of its environment.
        share: Scalar; its weight divided by the weights of all agents: `fedrl.federation.shares`.
    """

    learner: PyTree
    stage_states: PyTree
    agent: jax.Array
    steps: jax.Array
    env_params: PyTree
    share: jax.Array


class AgentTask(NamedTuple):
    """The round of one agent between `begin` and `report`: its keys, its broadcast, and what training may read."""

    keys: TurnKeys
    broadcast: Broadcast
    context: LocalContext
    cohort: jax.Array


@record
class Federation:
    """The two halves of a federated learning system, and the steps of each half.

    Attributes:
        init_server: `(key, policy=None) -> ServerState`, with the parameters of a trained policy if one is given.
        init_agent: `(key, agent, env_params, steps) -> AgentState`, of a single agent with its own key; its share is 1
            until an engine sets it.
        broadcast: `ServerState -> Broadcast`.
        agent: `(keys, Broadcast, AgentState, cohort, here=True, before=None) -> (Update, AgentState, Metrics)`, with
            `fedrl.core.keys.TurnKeys` that nothing else uses. With `here` False, the agent returns to its previous
            state. `before` is a snapshot of the agent, if one was taken: an engine that takes it in a separate program
            saves a copy of large replay buffers. Each metric has a leading axis of local steps. Metrics stay on the
            agent, since a return curve is private data. One of them is `fedrl.core.faults.FAULT`; where it is not 0,
            all others are 0.
        server: `(keys, Arrivals[n], ServerState, Updates[n]) -> ServerState`, with the `fedrl.core.keys.ServerKeys` of
            this version.
        begin: `(keys, Broadcast, AgentState, cohort) -> (AgentTask, AgentState)`: adopt the broadcast.
        remember: `AgentState -> before`, a snapshot (`fedrl.core.faults`) of an agent before a round.
        work: `(AgentTask, AgentState, total, step, experience | None) -> (AgentState, total, Metrics)`, one local step.
            Without experience, the learner collects its own. With payload "gradient", the learner takes no step and
            the negative gradient is added to `total`.
        report: `(AgentTask, before, after, total, metrics) -> (Update, AgentState, fault)`, from a snapshot of the
            agent before `begin` and the agent after its local steps, with the metrics summed over them. If training is
            at fault (`fedrl.core.faults`), the agent returns to its previous state and the weight of its update is NaN.
            The caller must then apply `settled` to its replay buffers.
        descent: `params -> total` before the first step: zeros for payload "gradient", else ().
        decode: `(Broadcast, Update) -> Update`, for one update, whose weight becomes the one of `Aggregator.weigh`.
        aggregate: `(key, Arrivals[n], ServerState, Updates[n]) -> (Update, aggregator state)`, of decoded updates;
            without statistics.
        commit: `(keys, ServerState, Update, aggregator state) -> ServerState`, with `ServerKeys`, of a merged update
            that contains the sums of statistics.
        learner: The learner of every agent.
        aggregator: The rule that merges updates.
        local_steps: The largest number of local iterations in a round.
        stages: The stages that an update passes, in order.
        parts: Parts of the parameters with their own rule, server optimiser or period.
        payload: "delta" or "gradient".
        server_optimizer: The optax transformation of the merged update; None if the server adds the update unchanged.
        reports: The names of all scalars that each agent reports, whatever requested them.
        down_stages: The stages that compress what the server sends.
        downlink: The compression of the broadcast, whose `send` is the last step of a commit; None without down stages.
        summation: How updates are added for a rule with `needs="sum"`.
        with_learner: `Learner -> Federation`, the same with a learner that differs in numbers only; nothing is checked.
        call: The constructor call that made the federation.
    """

    init_server: Callable[..., ServerState]
    init_agent: Callable[[Key, jax.Array, PyTree, jax.Array], AgentState]
    broadcast: Callable[[ServerState], Broadcast]
    agent: Callable[..., tuple[Update, AgentState, Metrics]]
    server: Callable[[ServerKeys, Arrivals, ServerState, Update], ServerState]
    begin: Callable[[TurnKeys, Broadcast, AgentState, jax.Array], tuple[AgentTask, AgentState]]
    remember: Callable[[AgentState], AgentState]
    work: Callable[[AgentTask, AgentState, PyTree, jax.Array, Experience | None], tuple[AgentState, PyTree, Metrics]]
    report: Callable[[AgentTask, AgentState, AgentState, PyTree, Metrics], tuple[Update, AgentState, jax.Array]]
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
    downlink: Downlink | None = None
    summation: Summation = field(default_factory=exact_sum)
    with_learner: Callable[[Learner], Federation] = field(kw_only=True)
    call: Call | None = None
