"""The compiled program of a block of agents, the same for every topology, schedule and clock.

    received[c], agents[c] --begin, work x local_steps, report--> agents[c], exact sums, or an item of each agent

Each agent of a block has its own broadcast. So one program serves a single server, trees, neighbours, isolated agents,
and clocks on which agents received different versions. It depends on the block size only: not on the number of agents,
blocks, devices or absent agents.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedrl.core.faults import rings_in, with_logs
from fedrl.core.keys import turn_below, turn_keys
from fedrl.core.replay import RingRows
from fedrl.core.types import Broadcast, Key, PyTree, Update
from fedrl.engines.aggregation import partial_sums
from fedrl.engines.inbox import ENCODED, PARAMS, SUMS
from fedrl.engines.messages import Upload, uploaded
from fedrl.engines.packing import packing
from fedrl.engines.program_cache import Shapes, Template, cached_program, numbered_programs, shapes
from fedrl.engines.state import QUICK
from fedrl.federation.federation import AgentState, Federation


class JobInputs(NamedTuple):
    """Inputs of each seat's job, `[c]` each.

    Attributes:
        keys: Key data of the job.
        cohort: Number of agents that received the same broadcast.
        steps: Local steps.
        share: Share of the agent among all agents.
        noise: Data of the noise key of the job; None where nothing adds calibrated noise.
    """

    keys: Any
    cohort: Any
    steps: Any
    share: Any
    noise: Any = None


def hand_over(federation: Federation, collects: str) -> Callable[[AgentState, Broadcast, Update, jax.Array], PyTree]:
    """Return `(agents, received, encoded updates, here) -> result of the block`, as `collects` says."""

    def handed(agents: AgentState, received: Broadcast, updates: Update, here: jax.Array) -> PyTree:
        if collects == PARAMS:
            return jax.vmap(federation.learner.params)(agents.learner)
        if collects == ENCODED:
            return updates
        # The barrier cuts the program between encoding and decoding, because in real use these are two processes:
        # fused, they might round differently, and a simulation would not give the bits of the halves.
        decoded = jax.vmap(federation.decode)(received, jax.lax.optimization_barrier(updates))
        return partial_sums(federation, decoded, here) if collects == SUMS else decoded

    return handed


@numbered_programs
def block_program(template: Template[Federation], collects: str) -> Callable[..., Any]:
    """Return the program of a block, compiled at its first call; it donates the block.

        (received, asked, communicates, alike, agents, logs, here)
            -> (agents, stage memory before, result of the block, metrics, uploads)

    `alike` is the number of local steps if all agents take equally many, or None if the numbers differ, or if all take
    one step, which needs no loop. Without `communicates` every agent trains from its own parameters, and its stages
    keep their memory.
    """

    def one(
        federation: Federation,
        received: Broadcast,
        asked: JobInputs,
        communicates: jax.Array,
        alike: jax.Array | None,
        agent: AgentState,
        logs: list[RingRows],
        here: jax.Array,
    ) -> tuple[AgentState, Update, dict[str, jax.Array], Upload]:
        agent = agent._replace(steps=asked.steps, share=asked.share)
        before, own = with_logs(agent, logs), federation.learner.params(agent.learner)
        agent = agent if alike is None else agent._replace(steps=alike)
        received = jax.lax.optimization_barrier(received)
        # A `select` would be fused with the training, and then the first seat of a block would round differently from
        # the others: agents would not be bit-identical in all seats.
        received = received._replace(params=jax.lax.cond(communicates, lambda: received.params, lambda: own))
        update, after, metrics = federation.agent(
            turn_keys(asked.keys, asked.noise), received, agent, asked.cohort, here, before
        )
        messages_sent = jax.tree.map(
            lambda new, old: jnp.where(communicates, new, old), after.stage_states, agent.stage_states
        )
        # Stages must not remember an update that was never sent.
        after = after._replace(stage_states=messages_sent)
        return after, update, jax.tree.map(lambda x: x.sum(0), metrics), uploaded(update)

    def block(
        federation: Federation,
        received: Broadcast,
        asked: JobInputs,
        communicates: jax.Array,
        alike: jax.Array | None,
        agents: AgentState,
        logs: list[RingRows],
        here: jax.Array,
    ) -> tuple[AgentState, PyTree, PyTree, jax.Array, Upload]:
        each, before = jax.vmap(partial(one, federation), (0, 0, None, None, 0, 0, 0)), agents.stage_states
        agents, updates, metrics, uploads = each(received, asked, communicates, alike, agents, logs, here)
        columns = jnp.stack([metrics[name] for name in sorted(metrics)])
        handed = hand_over(federation, collects)(agents, received, updates, here)
        return agents, before, handed, columns, uploads

    return template.jit(block, donate=4)


@cached_program
def logging(federation: Federation) -> Callable[[AgentState], list[RingRows]]:
    """Return the program that reads the rows which a round may overwrite in the replay rings of a block."""
    # A program of its own: within the program that overwrites a ring, XLA's CPU compiler copies the whole ring first.
    logs = jax.jit(jax.vmap(lambda agent: rings_in(federation.remember(agent))))
    return lambda block: logs(block) if rings_in(block) else []


@cached_program
def metric_names(federation: Federation, setting: Shapes) -> list[str]:
    """Return the names of the metric columns that a block's program returns."""

    def trained(key: Key, setting: PyTree) -> dict[str, jax.Array]:
        sent = federation.broadcast(federation.init_server(key))
        agent = federation.init_agent(key, jnp.int32(0), setting, jnp.int32(1))
        return federation.agent(turn_below(key), sent, agent, jnp.int32(1))[2]

    return sorted(jax.eval_shape(trained, jax.random.key(0), setting.tree))


class StateLayout(NamedTuple):
    """Packing of agents' states into rows of words, a block at a time; `memory` are the words of stage memory."""

    num_words: int
    pack: Callable[[AgentState], jax.Array]
    unpack: Callable[[Any], AgentState]
    memory: slice


@cached_program
def layout(federation: Federation, setting: Shapes) -> StateLayout:
    """Return the layout of the agents' states of a federation."""
    like: Any = jax.eval_shape(federation.init_agent, jax.random.key(0), jnp.int32(0), setting.tree, jnp.int32(1))
    state, first = packing(like), packing(like.learner).num_words
    memory = slice(first, first + packing(like.stage_states).num_words)
    return StateLayout(state.num_words, jax.jit(jax.vmap(state.pack)), jax.jit(jax.vmap(state.unpack)), memory)


@numbered_programs
def adoption(template: Template[Federation]) -> Callable[[AgentState, PyTree], AgentState]:
    """Return the program in which the agents of a block adopt parameters, each its own."""

    def adopt(federation: Federation, block: AgentState, params: PyTree) -> AgentState:
        return block._replace(learner=jax.vmap(federation.learner.adopt)(block.learner, params))

    return template.jit(adopt, compiler_options=QUICK)


def setting_of(fleet: PyTree) -> Shapes:
    """Return the shapes of the parameters of one environment of a fleet."""
    return shapes(fleet, skip=1)
