"""Implement the agent's half of a federation, which runs where the environment is.

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
from fedrl.federation.federation import AgentState, AgentTask
from fedrl.federation.parts import adopting, begun_from
from fedrl.federation.spec import Spec

Carry = TypeVar("Carry")

LEARNER = "learner"
"""The key under which an update has the statistics of its learner."""

IN_STAGES, IN_STEPS = 0, 1
"""Below the noise key of an agent: the keys of its stages, and that of its local steps."""


def init_agent(spec: Spec, key: Key, agent: jax.Array, env_params: PyTree, steps: jax.Array) -> AgentState:
    """Return the state of an agent before its first round."""
    state = spec.learner.init(key, env_params)
    _, agent_state = spec.pipe.init(spec.learner.params(state))
    return AgentState(state, agent_state, agent, steps, env_params, jnp.float32(1.0))


def begin(
    spec: Spec, keys: TurnKeys, sent: Broadcast, agent: AgentState, cohort: jax.Array
) -> tuple[AgentTask, AgentState]:
    """Adopt the parameters of the broadcast, and fix what local training may read of the server."""
    steering, agent_state, params = spec.pipe.correction, agent.stage_states, sent.params
    correction = None if steering is None else steering(sent.stage_states, agent_state)
    context = LocalContext(params, _whole(correction, params, spec.stages), _noise_in_steps(spec, keys))
    # A part that was not merged since the agent last adopted it is left alone: the agent would lose its own work on it.
    if spec.in_periods:
        own = spec.learner.params(agent.learner)
        params, agent_state = adopting(spec.groups, agent_state, sent.version, params, own)
    after = agent._replace(learner=spec.learner.adopt(agent.learner, params), stage_states=agent_state)
    return AgentTask(keys, sent, context, cohort), after


def remember(spec: Spec, agent: AgentState) -> AgentState:
    """Return a snapshot of an agent before a round, by which the round can be undone."""
    return snapshot(agent, spec.local_steps * spec.learner.samples)


def descent(spec: Spec, params: PyTree) -> PyTree:
    """Return zeros to which `work` adds negative gradients; () for payload "delta"."""
    return zeros_like(params) if spec.payload == "gradient" else ()


def work(
    spec: Spec, task: AgentTask, agent: AgentState, total: PyTree, step: jax.Array, experience: Experience | None = None
) -> tuple[AgentState, PyTree, Metrics]:
    """Run one local step: an iteration of the learner, or the gradient of one."""
    key, context = jax.random.fold_in(task.keys.training, step), task.context
    if context.noise is not None:
        context = context._replace(noise=jax.random.fold_in(context.noise, step))
    if spec.payload == "gradient":
        slope, state, metrics = differentiate(spec.learner, key, agent.learner, context, experience)
        return agent._replace(learner=state), jax.tree.map(jnp.subtract, total, slope), metrics
    state, metrics = iterate(spec.learner, key, agent.learner, context, experience)
    return agent._replace(learner=state), total, metrics


def report(
    spec: Spec, task: AgentTask, before: AgentState, agent: AgentState, total: PyTree, metrics: Metrics
) -> tuple[Update, AgentState, jax.Array]:
    """Encode the update of an agent; undo the round of an agent whose training is at fault."""
    if spec.payload == "gradient":
        value = jax.tree.map(lambda s: s / jnp.maximum(agent.steps, 1), total)
    else:
        start = task.broadcast.params
        if spec.in_periods:
            start = begun_from(spec.groups, agent.stage_states, start)
        value = jax.tree.map(jnp.subtract, spec.learner.params(agent.learner), start)
    # The fault is judged after encoding, as a stage may make a number that is not finite of finite ones. A weight of
    # NaN marks the update for every server; the memory of the stages goes back as well, since nothing of it was sent.
    update, after = encode(spec, task, agent, value, metrics)
    fault = fault_of(before.learner, after.learner, to_send(value, update))
    own, new = (before.learner, before.stage_states), (after.learner, after.stage_states)
    state, memory = undone(task.keys.mend, spec.learner.environment, before.env_params, fault, own, new)
    weight = jnp.where(fault > 0, jnp.nan, update.weight)
    return update._replace(weight=weight), after._replace(learner=state, stage_states=memory), fault


def encode(
    spec: Spec, task: AgentTask, agent: AgentState, value: PyTree, metrics: Metrics
) -> tuple[Update, AgentState]:
    """Encode a value by the pipeline, and add the agent's statistics and reports."""
    sent, settings = task.broadcast, requested_settings(spec.reports, agent.env_params)
    context = UpdateContext(agent.agent, sent.version, task.cohort, agent.steps, metrics, settings, agent.share)
    weight = (agent.steps * spec.learner.samples).astype(jnp.float32)
    update = Update(value, weight, sent.version)
    pipe = spec.with_noise(None if task.keys.noise is None else jax.random.fold_in(task.keys.noise, IN_STAGES))
    update, memory = pipe.encode(task.keys.encode, context, sent.stage_states, agent.stage_states, update)
    # Statistics and reports are added after the pipeline: no stage may clip, compress or add noise to them.
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
    """Run one round of an agent: `begin`, all local steps, `report`."""
    before = remember(spec, agent) if before is None else before
    task, agent = begin(spec, keys, sent, agent, cohort)
    total = descent(spec, sent.params)

    def step(i: jax.Array, carry: tuple[AgentState, PyTree]) -> tuple[tuple[AgentState, PyTree], Metrics]:
        agent, total, metrics = work(spec, task, *carry, i)
        return (agent, total), metrics

    # One step needs no loop: only its metrics get the leading axis that a loop would give them.
    if spec.local_steps == 1 and spec.payload == "delta":
        agent, total, measured = work(spec, task, agent, total, jnp.int32(0))
        metrics = jax.tree.map(lambda x: x[None], measured)
    else:
        (agent, total), metrics = _repeated(step, agent.steps, spec.local_steps, (agent, total))
    update, agent, fault = report(spec, task, before, agent, total, jax.tree.map(lambda x: x.sum(0), metrics))
    if not isinstance(here, bool):
        agent = kept(here, agent, before)
    return update, settled(agent, before), _with_fault(fault, metrics)


def _noise_in_steps(spec: Spec, keys: TurnKeys) -> Key | None:
    """Return the key of calibrated noise in local steps; None if the learner adds none.

    Raises:
        UnsoundError: It adds some, and there is no key for it.
    """
    if spec.learner.noise is None:
        return None
    if keys.noise is None:
        raise UnsoundError(
            f"{spec.learner!r} adds calibrated noise, and it was run with ordinary keys, which can be searched. Run it "
            "with TurnKeys that have a noise key: fedrl.core.keys."
        )
    return jax.random.fold_in(keys.noise, IN_STEPS)


def _whole(correction: PyTree, params: PyTree, stages: Sequence[Stage]) -> PyTree:
    """Return the correction of every parameter, zero where no stage corrects it or it is not sent.

    Raises:
        UnsoundError: A stage changed the structure or shapes of the parameters before one with a correction.
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
            f"{guiding!r} corrects the training of parameters, and a stage before it changed their structure: "
            f"{jax.tree.structure(correction)}. Put {guiding!r} first, or after stages that only leave parts out."
        )
    return whole


def _with_fault(fault: jax.Array, metrics: Metrics) -> Metrics:
    """Return the metrics with the fault added; all others are set to zero if there is one."""
    sound = jax.tree.map(lambda x: jnp.where(fault > 0, jnp.zeros_like(x), x), metrics)
    return sound | {FAULT: fault[None]}


def _repeated(
    step: Callable[[jax.Array, Carry], tuple[Carry, Metrics]], steps: jax.Array, most: int, carry: Carry
) -> tuple[Carry, Metrics]:
    """Run `steps` local steps; each metric has a leading axis of length `most`, zero after the last step."""
    # A `while_loop` rather than a `scan`: one program then serves any number of steps. Under `vmap` it runs until the
    # agent with the most steps is done, and `vmap` selects the old state for the others. If `steps` is the same number
    # for the whole block (not batched), `vmap` adds no selection.
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
