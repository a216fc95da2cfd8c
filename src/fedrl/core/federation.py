"""A federation: two pure functions cut exactly at the wire.

    agent (keys, Broadcast, AgentState)    -> (Update, AgentState, Metrics)     runs where the environment is
    server(keys, Arrivals[n], ServerState, Updates[n]) -> ServerState           runs where updates meet

Each half is three steps in a row. Engines that interleave something between them call the steps:

    agent  = begin -> work x local_steps -> report
    server = decode (per update) -> aggregate -> commit

With down stages, a commit ends with the copy of the parameters that agents hold: `fedrl.core.downlink`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import field
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax

from fedrl.core.aggregator import Aggregator, Arrivals, View
from fedrl.core.checks import check_one_of, check_positive
from fedrl.core.claims import check_claims, check_words
from fedrl.core.component import Call, component, record
from fedrl.core.composition import check_composition, check_kinds
from fedrl.core.divided import Part, adopting, begun_from, divided_optimizer, divided_rule, grouped, periodic
from fedrl.core.double import sum_of
from fedrl.core.downlink import Copy, downlink, heard
from fedrl.core.errors import UnsoundError
from fedrl.core.faults import FAULT, fault_of, kept, settled, snapshot, to_send, undone
from fedrl.core.keys import ServerKeys, TurnKeys
from fedrl.core.learner import Experience, Learner, differentiate, iterate
from fedrl.core.parts import joined
from fedrl.core.private import check_private
from fedrl.core.stage import Stage, pipeline, zeros_like
from fedrl.core.summation import Summation, exact_sum
from fedrl.core.told import check_told, settings_told, statement
from fedrl.core.types import Broadcast, Context, Hint, Key, Metrics, PyTree, Update

Carry = TypeVar("Carry")

LEARNER = "learner"
"""The statistics of an update that its learner counted."""


class ServerState(NamedTuple):
    """What the server remembers between rounds. `down` is what agents hold of it, () without down stages: a `Copy`."""

    params: PyTree
    shared: PyTree
    aggregator: PyTree
    optimizer: PyTree
    version: jax.Array
    down: PyTree = ()


class AgentState(NamedTuple):
    """What an agent remembers between rounds. It never leaves the agent.

    `steps` is the agent's own number of local steps, at most the federation's; `env_params` are the parameters of its
    environment; `share` is its weight among those of all agents, see `fedrl.core.shares`.
    """

    learner: PyTree
    local: PyTree
    agent: jax.Array
    steps: jax.Array
    env_params: PyTree
    share: jax.Array


class Task(NamedTuple):
    """One round of one agent, under way."""

    keys: TurnKeys
    broadcast: Broadcast
    hint: Hint
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
        renew: `(key, version, Copy, params) -> Copy`, the last step of a commit if there are down stages.
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
    renew: Callable[[Key, jax.Array, Copy, PyTree], Copy] | None = None
    summation: Summation = field(default_factory=exact_sum)
    call: Call | None = None


@component("federation")
def federate(
    learner: Learner,
    aggregator: Aggregator,
    *stages: Stage,
    server_opt: optax.GradientTransformation | None = None,
    local_steps: int = 1,
    payload: str = "delta",
    tells: Sequence[str] = (),
    parts: Sequence[Part] = (),
    down_stages: Sequence[Stage] = (),
    summation: Summation | None = None,
) -> Federation:
    """Put a learner, an aggregator and the stages of the pipeline together.

    With `payload="delta"`, agents train and send how their parameters changed; the server's optimiser takes the
    negative mean change for a gradient, so `optax.sgd(1.0)` is FedAvg and `optax.adam(0.01)` is FedAdam.
    With `payload="gradient"`, agents send the mean gradient of `local_steps` batches at the global parameters and
    take no step; the server's optimiser does: FedSGD, federated policy gradient.

    With `down_stages`, agents hold a copy c of the parameters x, c <- c + D(C(x - c)) after each commit, and train from
    c; the server applies their change to x. What C lost is part of the next difference: `fedrl.core.downlink`.

    Args:
        learner: What every agent runs.
        aggregator: How updates are merged.
        *stages: What an update passes on its way, in order.
        server_opt: An optax transformation of the merged update; `optax.sgd(1.0)` by default.
        local_steps: Local iterations of an agent in a round; an agent may do fewer.
        payload: "delta" or "gradient".
        tells: What each agent says about itself in its update, beside what the aggregator asks: see `fedrl.core.told`.
        parts: Parts of the parameters that are merged by a rule, with a server optimiser or in a period of their own:
            `parts=[part("critic", median()), part("actor", every=5)]`. What is in none of them is merged as said above.
        down_stages: What the difference to the copy that agents hold passes on its way down, in order: contractions
            such as `sign()`, `top_k(0.1)` or `quantize(8)`, without error feedback.
        summation: How updates are added up for a rule of the sum; exactly, in the open, by default.

    Returns:
        The federation, to be run by an engine.

    Raises:
        UnsoundError: The parts do not go together.
        ConfigError: An argument is out of range.

    Reference: McMahan et al. (2017), https://arxiv.org/abs/1602.05629; server optimisers by Reddi et al. (2021),
        https://arxiv.org/abs/2003.00295; down stages by Tang et al. (2019), https://arxiv.org/abs/1905.05957, and
        Gruntkowska et al. (2022), https://arxiv.org/abs/2209.15218.
    """
    check_kinds(learner, aggregator, (*stages, *down_stages), summation, local_steps)
    check_positive(local_steps=local_steps)
    check_one_of(payload, ("delta", "gradient"), "payload")
    optimizer = optax.sgd(1.0) if server_opt is None else server_opt
    groups = grouped(learner, parts, aggregator, optimizer, payload)
    rules = [group.rule for group in groups] or [aggregator]
    for rule in rules:
        check_composition(learner, rule, stages, payload, summation)
    if groups:
        aggregator, optimizer = divided_rule(groups), divided_optimizer(groups)
    in_periods = any(group.every > 1 for group in groups)
    questions = tuple(dict.fromkeys((*aggregator.asks, *tells)))
    check_told(questions)
    check_words(stages, summation)
    for rule in rules:
        check_private(learner, rule, stages, payload, questions, summation)
    settings_told(questions, learner.environment.params)
    check_claims(learner, rules, stages, summation)
    pipe = periodic(groups, stages, summation) if in_periods else pipeline(stages)
    guide = _no_guide if pipe.guide is None else pipe.guide
    assert pipe.decode is not None
    undo, counts = pipe.decode, learner.statistics
    down = downlink(learner, down_stages) if down_stages else None

    def init_server(key: Key) -> ServerState:
        params = learner.params(learner.init(key, learner.environment.params))
        shared, _ = pipe.init(params)
        copy = () if down is None else down.init(params)
        return ServerState(params, shared, aggregator.init(params), optimizer.init(params), jnp.int32(0), copy)

    def init_agent(key: Key, agent: jax.Array, env_params: PyTree, steps: jax.Array) -> AgentState:
        state = learner.init(key, env_params)
        _, local = pipe.init(learner.params(state))
        return AgentState(state, local, agent, steps, env_params, jnp.float32(1.0))

    def broadcast(server: ServerState) -> Broadcast:
        return Broadcast(heard(server.down, server.params), server.shared, server.version)

    def begin(keys: TurnKeys, sent: Broadcast, agent: AgentState, cohort: jax.Array) -> tuple[Task, AgentState]:
        hint = Hint(sent.params, _whole(guide(sent.shared, agent.local), sent.params, stages))
        task = Task(keys, sent, hint, cohort)
        params, local = sent.params, agent.local
        if in_periods:
            params, local = adopting(groups, local, sent.version, params, learner.params(agent.learner))
        return task, agent._replace(learner=learner.adopt(agent.learner, params), local=local)

    def remember(agent: AgentState) -> AgentState:
        return snapshot(agent, local_steps * learner.samples)

    def descent(params: PyTree) -> PyTree:
        return zeros_like(params) if payload == "gradient" else ()

    def work(
        task: Task, agent: AgentState, total: PyTree, step: jax.Array, experience: Experience | None = None
    ) -> tuple[AgentState, PyTree, Metrics]:
        key = jax.random.fold_in(task.keys.training, step)
        if payload == "gradient":
            slope, state, metrics = differentiate(learner, key, agent.learner, task.hint, experience)
            return agent._replace(learner=state), jax.tree.map(jnp.subtract, total, slope), metrics
        state, metrics = iterate(learner, key, agent.learner, task.hint, experience)
        return agent._replace(learner=state), total, metrics

    def report(
        task: Task, before: AgentState, agent: AgentState, total: PyTree, metrics: Metrics
    ) -> tuple[Update, AgentState, jax.Array]:
        if payload == "gradient":
            value = jax.tree.map(lambda s: s / jnp.maximum(agent.steps, 1), total)
        else:
            start = begun_from(groups, agent.local, task.broadcast.params) if in_periods else task.broadcast.params
            value = jax.tree.map(jnp.subtract, learner.params(agent.learner), start)
        return judged(task, before, value, *encode(task, agent, value, metrics))

    def judged(
        task: Task, before: AgentState, value: PyTree, update: Update, after: AgentState
    ) -> tuple[Update, AgentState, jax.Array]:
        fault = fault_of(before.learner, after.learner, to_send(value, update))
        own, kept = (before.learner, before.local), (after.learner, after.local)
        state, local = undone(task.keys.mend, learner.environment, before.env_params, fault, own, kept)
        weight = jnp.where(fault > 0, jnp.nan, update.weight)
        return update._replace(weight=weight), after._replace(learner=state, local=local), fault

    def encode(task: Task, agent: AgentState, value: PyTree, metrics: Metrics) -> tuple[Update, AgentState]:
        version, settings = task.broadcast.version, settings_told(questions, agent.env_params)
        context = Context(agent.agent, version, task.cohort, agent.steps, metrics, settings, agent.share)
        weight = (agent.steps * learner.samples).astype(jnp.float32)
        update = Update(value, weight, version)
        update, local = pipe.encode(task.keys.encode, context, task.broadcast.shared, agent.local, update)
        if counts is not None:
            update = update._replace(statistics={**update.statistics, LEARNER: counts.gathered(agent.learner)})
        if questions:
            update = update._replace(report=statement(questions, context, value))
        return update, agent._replace(local=local)

    def train(
        keys: TurnKeys,
        sent: Broadcast,
        agent: AgentState,
        cohort: jax.Array,
        here: jax.Array | bool = True,
        before: AgentState | None = None,
    ) -> tuple[Update, AgentState, Metrics]:
        before = remember(agent) if before is None else before
        task, agent = begin(keys, sent, agent, cohort)
        total = descent(sent.params)

        def step(i: jax.Array, carry: tuple[AgentState, PyTree]) -> tuple[tuple[AgentState, PyTree], Metrics]:
            agent, total, metrics = work(task, *carry, i)
            return (agent, total), metrics

        if local_steps == 1 and payload == "delta":
            agent, total, measured = work(task, agent, total, jnp.int32(0))
            metrics = jax.tree.map(lambda x: x[None], measured)
        else:
            (agent, total), metrics = _repeated(step, agent.steps, local_steps, (agent, total))
        update, agent, fault = report(task, before, agent, total, _summed(metrics))
        if not isinstance(here, bool):
            agent = kept(here, agent, before)
        return update, settled(agent, before), _told_of(fault, metrics)

    def decode(sent: Broadcast, update: Update) -> Update:
        update = undo(sent.shared, update)
        return update._replace(weight=aggregator.weigh(update), report=update.report if aggregator.asks else {})

    def aggregate(key: Key, arrivals: Arrivals, server: ServerState, updates: Update) -> tuple[Update, PyTree]:
        view = View(server.params, server.version)
        return aggregator.update(key, view, arrivals, server.aggregator, updates._replace(statistics={}))

    def commit(keys: ServerKeys, server: ServerState, merged: Update, memory: PyTree) -> ServerState:
        if counts is not None:
            server = server._replace(params=counts.absorb(server.params, merged.statistics[LEARNER]))
        merged, shared = pipe.finish(keys.finish, server.shared, merged)
        gradient = jax.tree.map(jnp.negative, merged.value)
        known = {"version": server.version} if groups else {}
        step, state = optimizer.update(gradient, server.optimizer, server.params, **known)
        params = optax.apply_updates(server.params, step)
        copy = () if down is None else down.send(keys.down, server.version, server.down, params)
        return ServerState(params, shared, memory, state, server.version + 1, copy)

    def server(keys: ServerKeys, arrivals: Arrivals, state: ServerState, updates: Update) -> ServerState:
        decoded = jax.vmap(decode, (None, 0))(broadcast(state), updates)
        merged, memory = aggregate(keys.rule, arrivals, state, decoded)
        counted = jax.tree.map(sum_of, decoded.statistics)
        return commit(keys, state, merged._replace(statistics=counted), memory)

    return Federation(
        init_server=init_server,
        init_agent=init_agent,
        broadcast=broadcast,
        agent=train,
        server=server,
        begin=begin,
        remember=remember,
        work=work,
        report=report,
        descent=descent,
        decode=decode,
        aggregate=aggregate,
        commit=commit,
        learner=learner,
        aggregator=aggregator,
        local_steps=local_steps,
        stages=stages,
        parts=tuple(parts),
        payload=payload,
        server_optimizer=server_opt,
        reports=questions,
        down_stages=tuple(down_stages),
        renew=None if down is None else down.send,
        summation=exact_sum() if summation is None else summation,
    )


def _no_guide(shared: PyTree, local: PyTree) -> PyTree:
    """Of a pipeline that steers nothing."""
    del shared, local


def _whole(correction: PyTree, params: PyTree, stages: Sequence[Stage]) -> PyTree:
    """The correction of every parameter: zero where a stage steers none, or not those that are not sent.

    Raises:
        UnsoundError: A stage made something else than parameters before another one steers by what it sees of them.
    """
    nothing = zeros_like(params)
    if correction is None:
        return nothing
    try:
        whole = joined(correction, nothing)
        fits = jax.tree.map(jnp.shape, whole) == jax.tree.map(jnp.shape, nothing)
    except ValueError:
        fits = False
    if not fits:
        guiding = next(stage for stage in stages if stage.guide is not None)
        raise UnsoundError(
            f"{guiding!r} steers the training of parameters, and a stage before it made something else of them: "
            f"{jax.tree.structure(correction)}. Put {guiding!r} first, or after stages that only leave parts out."
        )
    return whole


def _told_of(fault: jax.Array, metrics: Metrics) -> Metrics:
    """The metrics with the fault; those of a round that came to nothing are zero."""
    sound = jax.tree.map(lambda x: jnp.where(fault > 0, jnp.zeros_like(x), x), metrics)
    return sound | {FAULT: fault[None]}


def _summed(metrics: Metrics) -> Metrics:
    """Over local steps."""
    return jax.tree.map(lambda x: x.sum(0), metrics)


def _repeated(
    step: Callable[[jax.Array, Carry], tuple[Carry, Metrics]], steps: jax.Array, most: int, carry: Carry
) -> tuple[Carry, Metrics]:
    """So many local steps in a row; each metric has a leading axis of `most`, zero from the last step on.

    Over a block of agents the loop ends with whoever has most to do, and the others stand still from their own last
    step on. So one program serves rounds of any length, and a short one is short. If `steps` is one number for all of
    the block (no batched axis under `vmap`), nobody stands still, and nothing is selected.
    """
    measured = jax.eval_shape(step, jnp.int32(0), carry)[1]
    nothing = jax.tree.map(lambda x: jnp.zeros((most, *x.shape), x.dtype), measured)

    def proceed(under_way: tuple[jax.Array, Carry, Metrics]) -> tuple[jax.Array, Carry, Metrics]:
        i, carry, rows = under_way
        carry, metrics = step(i, carry)
        return i + 1, carry, jax.tree.map(lambda row, x: row.at[i].set(x), rows, metrics)

    _, carry, metrics = jax.lax.while_loop(
        lambda under_way: under_way[0] < steps, proceed, (jnp.int32(0), carry, nothing)
    )
    return carry, metrics
