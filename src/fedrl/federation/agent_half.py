"""The agent's half of a federation: what runs where the environment is.

    agent = begin -> work x local_steps -> report

Every function takes the `Spec` of the federation first; `federate` binds it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp

from fedrl.core.errors import UnsoundError
from fedrl.core.faults import FAULT, fault_of, kept, settled, snapshot, to_send, undone
from fedrl.core.keys import TurnKeys
from fedrl.core.learner import Experience, differentiate, iterate
from fedrl.core.reports import requested_settings, statement
from fedrl.core.stage import Stage, zeros_like
from fedrl.core.subtrees import joined
from fedrl.core.types import Broadcast, Key, LocalContext, Metrics, PyTree, Update, UpdateContext
from fedrl.federation.federation import AgentState, Task
from fedrl.federation.parts import adopting, begun_from
from fedrl.federation.spec import Spec

Carry = TypeVar("Carry")

LEARNER = "learner"
"""The statistics of an update that its learner counted."""


def init_agent(spec: Spec, key: Key, agent: jax.Array, env_params: PyTree, steps: jax.Array) -> AgentState:
    """An agent before its first round."""
    state = spec.learner.init(key, env_params)
    _, agent_state = spec.pipe.init(spec.learner.params(state))
    return AgentState(state, agent_state, agent, steps, env_params, jnp.float32(1.0))


def begin(spec: Spec, keys: TurnKeys, sent: Broadcast, agent: AgentState, cohort: jax.Array) -> tuple[Task, AgentState]:
    """Adopt the parameters of the broadcast."""
    steering, agent_state, params = spec.pipe.correction, agent.stage_states, sent.params
    correction = None if steering is None else steering(sent.stage_states, agent_state)
    context = LocalContext(params, _whole(correction, params, spec.stages))
    if spec.in_periods:
        own = spec.learner.params(agent.learner)
        params, agent_state = adopting(spec.groups, agent_state, sent.version, params, own)
    after = agent._replace(learner=spec.learner.adopt(agent.learner, params), stage_states=agent_state)
    return Task(keys, sent, context, cohort), after


def remember(spec: Spec, agent: AgentState) -> AgentState:
    """A snapshot of an agent before a round."""
    return snapshot(agent, spec.local_steps * spec.learner.samples)


def descent(spec: Spec, params: PyTree) -> PyTree:
    """The sum of negative gradients before the first step; nothing where agents take steps of their own."""
    return zeros_like(params) if spec.payload == "gradient" else ()


def work(
    spec: Spec, task: Task, agent: AgentState, total: PyTree, step: jax.Array, experience: Experience | None = None
) -> tuple[AgentState, PyTree, Metrics]:
    """One local step."""
    key = jax.random.fold_in(task.keys.training, step)
    if spec.payload == "gradient":
        slope, state, metrics = differentiate(spec.learner, key, agent.learner, task.context, experience)
        return agent._replace(learner=state), jax.tree.map(jnp.subtract, total, slope), metrics
    state, metrics = iterate(spec.learner, key, agent.learner, task.context, experience)
    return agent._replace(learner=state), total, metrics


def report(
    spec: Spec, task: Task, before: AgentState, agent: AgentState, total: PyTree, metrics: Metrics
) -> tuple[Update, AgentState, jax.Array]:
    """Encode what the agent learned; an agent whose training is at fault is put back and sends a weight of NaN."""
    if spec.payload == "gradient":
        value = jax.tree.map(lambda s: s / jnp.maximum(agent.steps, 1), total)
    else:
        start = task.broadcast.params
        if spec.in_periods:
            start = begun_from(spec.groups, agent.stage_states, start)
        value = jax.tree.map(jnp.subtract, spec.learner.params(agent.learner), start)
    update, after = encode(spec, task, agent, value, metrics)
    fault = fault_of(before.learner, after.learner, to_send(value, update))
    own, new = (before.learner, before.stage_states), (after.learner, after.stage_states)
    state, memory = undone(task.keys.mend, spec.learner.environment, before.env_params, fault, own, new)
    weight = jnp.where(fault > 0, jnp.nan, update.weight)
    return update._replace(weight=weight), after._replace(learner=state, stage_states=memory), fault


def encode(spec: Spec, task: Task, agent: AgentState, value: PyTree, metrics: Metrics) -> tuple[Update, AgentState]:
    """Send a value through the pipeline, with the statistics and the reports of the agent."""
    sent, settings = task.broadcast, requested_settings(spec.reports, agent.env_params)
    context = UpdateContext(agent.agent, sent.version, task.cohort, agent.steps, metrics, settings, agent.share)
    weight = (agent.steps * spec.learner.samples).astype(jnp.float32)
    update = Update(value, weight, sent.version)
    update, memory = spec.pipe.encode(task.keys.encode, context, sent.stage_states, agent.stage_states, update)
    if spec.learner.statistics is not None:
        gathered = spec.learner.statistics.gathered(agent.learner)
        update = update._replace(statistics={**update.statistics, LEARNER: gathered})
    if spec.reports:
        update = update._replace(report=statement(spec.reports, context, value))
    return update, agent._replace(stage_states=memory)


def train(
    spec: Spec,
    keys: TurnKeys,
    sent: Broadcast,
    agent: AgentState,
    cohort: jax.Array,
    here: jax.Array | bool = True,
    before: AgentState | None = None,
) -> tuple[Update, AgentState, Metrics]:
    """One round of an agent: `begin`, all local steps, `report`."""
    before = remember(spec, agent) if before is None else before
    task, agent = begin(spec, keys, sent, agent, cohort)
    total = descent(spec, sent.params)

    def step(i: jax.Array, carry: tuple[AgentState, PyTree]) -> tuple[tuple[AgentState, PyTree], Metrics]:
        agent, total, metrics = work(spec, task, *carry, i)
        return (agent, total), metrics

    if spec.local_steps == 1 and spec.payload == "delta":
        agent, total, measured = work(spec, task, agent, total, jnp.int32(0))
        metrics = jax.tree.map(lambda x: x[None], measured)
    else:
        (agent, total), metrics = _repeated(step, agent.steps, spec.local_steps, (agent, total))
    update, agent, fault = report(spec, task, before, agent, total, jax.tree.map(lambda x: x.sum(0), metrics))
    if not isinstance(here, bool):
        agent = kept(here, agent, before)
    return update, settled(agent, before), _with_fault(fault, metrics)


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
        guiding = next(stage for stage in stages if stage.correction is not None)
        raise UnsoundError(
            f"{guiding!r} steers the training of parameters, and a stage before it made something else of them: "
            f"{jax.tree.structure(correction)}. Put {guiding!r} first, or after stages that only leave parts out."
        )
    return whole


def _with_fault(fault: jax.Array, metrics: Metrics) -> Metrics:
    """The metrics with the fault; those of a round that came to nothing are zero."""
    sound = jax.tree.map(lambda x: jnp.where(fault > 0, jnp.zeros_like(x), x), metrics)
    return sound | {FAULT: fault[None]}


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
