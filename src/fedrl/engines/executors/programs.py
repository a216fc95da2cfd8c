"""The agents' half of a federation for a block of agents, compiled once, whatever the topology, schedule and clock.

    heard[c], agents[c] --begin, work x local_steps, report--> agents[c], exact sums or what is collected of each

Each agent of a block hears a broadcast of its own. So one program serves a single server, trees, neighbours, agents
that hear nobody, and a clock on which agents heard different versions; it depends on the size of the block alone: not
on the number of agents, blocks, devices or absent agents.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedrl.core.faults import rings_in, with_logs
from fedrl.core.keys import turn_below, turn_keys
from fedrl.core.replay import RingRows
from fedrl.core.types import Broadcast, Key, PyTree, Update
from fedrl.engines.aggregation import Upload, partial_sums, uploaded
from fedrl.engines.inbox import ENCODED, PARAMS, SUMS
from fedrl.engines.packing import packing
from fedrl.engines.program_cache import Shapes, cached_program, shapes
from fedrl.engines.state import QUICK
from fedrl.federation.federation import AgentState, Federation


class JobInputs(NamedTuple):
    """What a seat of a block is asked for, `[c]` each.

    Key data of its turn, how many hear the same, its local steps, its weight among all agents.
    """

    keys: Any
    cohort: Any
    steps: Any
    share: Any


def hand_over(federation: Federation, collects: str) -> Callable[[AgentState, Broadcast, Update, jax.Array], PyTree]:
    """What a block hands over, from its agents, what they heard, their updates as they travel and who is here.

    Between agents that encode and a server that decodes the program is cut: they may be two processes.
    """

    def handed(agents: AgentState, received: Broadcast, updates: Update, here: jax.Array) -> PyTree:
        if collects == PARAMS:
            return jax.vmap(federation.learner.params)(agents.learner)
        if collects == ENCODED:
            return updates
        decoded = jax.vmap(federation.decode)(received, jax.lax.optimization_barrier(updates))
        return partial_sums(federation, decoded, here) if collects == SUMS else decoded

    return handed


@cached_program
def block_program(federation: Federation, collects: str) -> Callable[..., Any]:
    """The program of a block, compiled when it is first called. The block is consumed.

        (heard, asked, talk, alike, agents, logs, here)
            -> (agents, memory before, handed over, metrics, uploads)

    `alike` is the one number of local steps that all agents take, or None if they differ, or if all take one: then
    there is no loop. Without `communicates` every agent goes on from what it holds, and its stages remember what they
    did.
    """
    learner, handed = federation.learner, hand_over(federation, collects)

    def one(
        received: Broadcast,
        asked: JobInputs,
        communicates: jax.Array,
        alike: jax.Array | None,
        agent: AgentState,
        logs: list[RingRows],
        here: jax.Array,
    ) -> tuple[AgentState, Update, dict[str, jax.Array], Upload]:
        agent = agent._replace(steps=asked.steps, share=asked.share)
        before, own = with_logs(agent, logs), learner.params(agent.learner)
        agent = agent if alike is None else agent._replace(steps=alike)
        received = jax.lax.optimization_barrier(received)
        # A select would be fused with the training, and then the first slot of a block rounds otherwise than the rest.
        received = received._replace(params=jax.lax.cond(communicates, lambda: received.params, lambda: own))
        update, after, metrics = federation.agent(turn_keys(asked.keys), received, agent, asked.cohort, here, before)
        messages_sent = jax.tree.map(
            lambda new, old: jnp.where(communicates, new, old), after.stage_states, agent.stage_states
        )
        after = after._replace(stage_states=messages_sent)  # an agent that sent nothing must not believe it did
        return after, update, jax.tree.map(lambda x: x.sum(0), metrics), uploaded(update)

    def block(
        received: Broadcast,
        asked: JobInputs,
        communicates: jax.Array,
        alike: jax.Array | None,
        agents: AgentState,
        logs: list[RingRows],
        here: jax.Array,
    ) -> tuple[AgentState, PyTree, PyTree, jax.Array, Upload]:
        each, before = jax.vmap(one, (0, 0, None, None, 0, 0, 0)), agents.stage_states
        agents, updates, metrics, uploads = each(received, asked, communicates, alike, agents, logs, here)
        columns = jnp.stack([metrics[name] for name in sorted(metrics)])
        return agents, before, handed(agents, received, updates, here), columns, uploads

    return jax.jit(block, donate_argnums=4)


@cached_program
def logging(federation: Federation) -> Callable[[AgentState], list[RingRows]]:
    """What a round may overwrite of the rings in a block, in a program of its own.

    In the program that overwrites them, a compiler would rather copy a whole ring than read a few rows of it first.
    """
    logs = jax.jit(jax.vmap(lambda agent: rings_in(federation.remember(agent))))
    return lambda block: logs(block) if rings_in(block) else []


@cached_program
def metric_names(federation: Federation, setting: Shapes) -> list[str]:
    """The names of the columns that a block's program returns."""

    def trained(key: Key, setting: PyTree) -> dict[str, jax.Array]:
        sent = federation.broadcast(federation.init_server(key))
        agent = federation.init_agent(key, jnp.int32(0), setting, jnp.int32(1))
        return federation.agent(turn_below(key), sent, agent, jnp.int32(1))[2]

    return sorted(jax.eval_shape(trained, jax.random.key(0), setting.tree))


class StateLayout(NamedTuple):
    """How the states of agents become rows of words and back, a block at a time; which words are stages' memory."""

    num_words: int
    pack: Callable[[AgentState], jax.Array]
    unpack: Callable[[Any], AgentState]
    memory: slice


@cached_program
def layout(federation: Federation, setting: Shapes) -> StateLayout:
    """Of the agents of a federation."""
    like: Any = jax.eval_shape(federation.init_agent, jax.random.key(0), jnp.int32(0), setting.tree, jnp.int32(1))
    state, first = packing(like), packing(like.learner).num_words
    memory = slice(first, first + packing(like.stage_states).num_words)
    return StateLayout(state.num_words, jax.jit(jax.vmap(state.pack)), jax.jit(jax.vmap(state.unpack)), memory)


@cached_program
def adoption(federation: Federation) -> Callable[[AgentState, PyTree], AgentState]:
    """The agents of a block adopt parameters, each its own, in a compiled program."""

    def adopt(block: AgentState, params: PyTree) -> AgentState:
        return block._replace(learner=jax.vmap(federation.learner.adopt)(block.learner, params))

    return jax.jit(adopt, compiler_options=QUICK)


def setting_of(fleet: PyTree) -> Shapes:
    """The shapes of the parameters of one environment of a fleet."""
    return shapes(fleet, skip=1)
