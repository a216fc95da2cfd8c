"""The compiled parts of local work, for environments that are stepped on the host.

The steps of `Federation.agent` (begin, work, report) are separate programs here, and each derives the agent's task
again from its inputs (key, context, broadcast), which do not change within a round. Each agent of a block has its own
broadcast.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedrl.core.faults import kept, rings_in, settled
from fedrl.core.keys import turn_keys
from fedrl.core.learner import Trajectory, behaviours_of, explore
from fedrl.core.types import Broadcast, Key, Metrics, Params, PyTree
from fedrl.engines.executors.host_rollout import by_agent, by_row
from fedrl.engines.executors.programs import JobInputs, hand_over
from fedrl.engines.messages import Upload, uploaded
from fedrl.engines.program_cache import Template, numbered_programs
from fedrl.federation.federation import AgentState, Federation


class Programs(NamedTuple):
    """The compiled parts of a round.

    Attributes:
        params: Parameters with which the agents of a block collect experience: `fedrl.core.learner.behaviours_of`.
        stack: Concatenates the parameters of several blocks.
        act: `(key data of the local step's actions, time, params, observation) -> action`, row by row.
        remember: Snapshots of the agents of a block.
        begin: Agents of a block adopt the broadcast; also returns the parameters they start from, and the initial sum
            of gradients, for a gradient payload. A block with replay rings is donated.
        work: One local step on collected experience.
        report: Updates of the agents, given the snapshots from before `begin`; also returns their `Upload`, the fault
            numbers, and the stage memory from before.
    """

    params: Callable[[PyTree], tuple[Params, ...]]
    stack: Callable[[list[tuple[Params, ...]]], tuple[Params, ...]]
    act: Callable[..., jax.Array]
    remember: Callable[[AgentState], AgentState]
    begin: Callable[..., tuple[AgentState, Params, PyTree]]
    work: Callable[..., tuple[AgentState, PyTree, Metrics]]
    report: Callable[..., tuple[AgentState, Any, Upload, jax.Array, PyTree]]


@numbered_programs
def host_programs(template: Template[Federation], collects: str) -> Programs:
    """Return the programs of a federation for blocks of agents with host environments; compiled at first use."""

    def stack(federation: Federation, blocks: list[tuple[Params, ...]]) -> tuple[Params, ...]:
        del federation
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *blocks)

    def remember(federation: Federation, agents: AgentState) -> AgentState:
        return jax.vmap(federation.remember)(agents)

    def begin(
        federation: Federation,
        received: Broadcast,
        asked: JobInputs,
        agents: AgentState,
        here: jax.Array,
        communicates: jax.Array,
    ) -> tuple[AgentState, Params, PyTree]:
        one = partial(begin_one, federation)
        return jax.vmap(one, (0, 0, 0, 0, None))(received, asked, agents, here, communicates)

    def work(
        federation: Federation,
        received: Broadcast,
        asked: JobInputs,
        starts: Params,
        agents: AgentState,
        totals: PyTree,
        going: jax.Array,
        step: jax.Array,
        seen: Trajectory,
    ) -> tuple[AgentState, PyTree, Metrics]:
        size = going.shape[0]
        players = federation.learner.environment.players

        def dealt(x: jax.Array | None, players: int | None) -> jax.Array | None:
            return None if x is None else jax.vmap(lambda rows: by_agent(rows, size, players), 0, 1)(x)

        # An overview is of a whole copy, not of a player.
        above = {name: dealt(getattr(seen, name), None) for name in ("overview", "next_overview")}
        own = Trajectory(*(dealt(x, players) for x in seen[:-2]), **above)  # type: ignore[arg-type]
        one = jax.vmap(partial(work_one, federation), (0, 0, 0, 0, 0, 0, None, 0))
        return one(received, asked, starts, agents, totals, going, step, own)

    def report(
        federation: Federation,
        received: Broadcast,
        asked: JobInputs,
        starts: Params,
        before: AgentState,
        agents: AgentState,
        totals: PyTree,
        here: jax.Array,
        communicates: jax.Array,
        known: Metrics,
    ) -> tuple[AgentState, Any, Upload, jax.Array, PyTree]:
        one = jax.vmap(partial(report_one, federation), (0, 0, 0, 0, 0, 0, 0, None, 0))
        made = one(received, asked, starts, before, agents, totals, here, communicates, known)
        agents, updates, uploads, faults = made
        handed = hand_over(federation, collects)(agents, received, updates, here)
        return agents, handed, uploads, faults, before.stage_states

    # Only blocks with replay rings are donated: a ring is too large to copy in every round.
    plain, in_place = template.jit(begin), template.jit(begin, donate=2)

    def begin_any(
        numbers: Any, received: Broadcast, asked: JobInputs, agents: AgentState, here: Any, communicates: Any
    ) -> Any:
        return (in_place if rings_in(agents) else plain)(numbers, received, asked, agents, here, communicates)

    return Programs(
        template.jit(acting),
        template.jit(stack),
        template.jit(act),
        template.jit(remember),
        begin_any,
        template.jit(work, donate=3),
        template.jit(report, donate=4),
    )


def acting(federation: Federation, state: PyTree) -> tuple[Params, ...]:
    """Return the parameters with which the agents of a block collect experience."""
    return jax.vmap(partial(behaviours_of, federation.learner))(state)


def act(
    federation: Federation, keys: jax.Array, time: jax.Array, params: tuple[Params, ...], observation: jax.Array
) -> jax.Array:
    """Return the actions of all environment copies, row by row."""

    def one(key: Key, params: tuple[Params, ...], observation: jax.Array) -> jax.Array:
        return explore(federation.learner, jax.random.fold_in(key, time), params, observation)

    own, players = jax.random.wrap_key_data(keys), federation.learner.environment.players
    return by_row(jax.vmap(one)(own, params, by_agent(observation, len(keys), players)), players)


def begin_one(
    federation: Federation,
    received: Broadcast,
    asked: JobInputs,
    agent: AgentState,
    here: jax.Array,
    communicates: jax.Array,
) -> tuple[AgentState, Params, PyTree]:
    """Let an agent adopt the broadcast; without communication it starts from its own parameters."""
    own = federation.learner.params(agent.learner)
    start = jax.tree.map(lambda new, old: jnp.where(communicates, new, old), received.params, own)
    working = agent._replace(steps=asked.steps, share=asked.share)
    _, after = federation.begin(
        turn_keys(asked.keys, asked.noise), received._replace(params=start), working, asked.cohort
    )
    return kept(here, after, agent), start, federation.descent(start)


def work_one(
    federation: Federation,
    received: Broadcast,
    asked: JobInputs,
    start: Params,
    agent: AgentState,
    total: PyTree,
    going: jax.Array,
    step: jax.Array,
    seen: Trajectory,
) -> tuple[AgentState, PyTree, Metrics]:
    """Take one local step of an agent on collected experience; nothing changes after its last step."""
    task, _ = federation.begin(turn_keys(asked.keys, asked.noise), received._replace(params=start), agent, asked.cohort)
    *after, metrics = federation.work(task, agent, total, step, seen)
    agent, total = kept(going, tuple(after), (agent, total))
    return agent, total, _where(going, metrics, jax.tree.map(jnp.zeros_like, metrics))


def report_one(
    federation: Federation,
    received: Broadcast,
    asked: JobInputs,
    start: Params,
    old: AgentState,
    agent: AgentState,
    total: PyTree,
    here: jax.Array,
    communicates: jax.Array,
    known: Metrics,
) -> tuple[AgentState, Any, Upload, jax.Array]:
    """Return the agent after its work, its update, the upload's size and reports, and the fault number."""
    own = received._replace(params=start)
    task, _ = federation.begin(turn_keys(asked.keys, asked.noise), own, agent, asked.cohort)
    update, after, fault = federation.report(task, old, agent, total, known)
    # Stages must not remember an update that was never sent: SCAFFOLD's sum at the server would lack it for ever.
    after = after._replace(stage_states=_where(communicates, after.stage_states, old.stage_states))
    return settled(kept(here, after, old), old), update, uploaded(update), fault


def _where(condition: jax.Array, yes: PyTree, no: PyTree) -> PyTree:
    return jax.tree.map(lambda new, old: jnp.where(condition, new, old), yes, no)
