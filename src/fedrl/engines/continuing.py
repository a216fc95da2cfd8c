"""Start a run from what another run has learned: from the parameters of a policy, or from the whole state of learning.

    policy   the acting parameters, `fedrl.load(...).params`: all agents and servers start from them
    earlier  a SimulationState: parameters of servers, memory of optimisers, rules and stages, every agent's learner

The run itself is new: versions, keys, selections, jobs and time begin anew, and the parameters of the agents'
environments stay those of this run, also where a learner's state contains them.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core.errors import ConfigError, UnsoundError
from fedrl.core.keys import Keys
from fedrl.core.learner import Learner, environment_in, policy_shapes
from fedrl.core.types import Params, PyTree
from fedrl.engines.executors.executor import Executor
from fedrl.engines.executors.records import Agents
from fedrl.engines.topologies.server import Server
from fedrl.federation.federation import AgentState, Federation, ServerState

VERSION = "version"
CURE = "Use the network, the learner and the spaces with which it was trained, or start without it."


class Learning(NamedTuple):
    """What a run has learned: the state of the server, that of the topology, and the agents in blocks."""

    server: ServerState
    memory: PyTree
    blocks: tuple[AgentState, ...]


def begun(
    executor: Executor, topology: Server, keys: Keys, steps: np.ndarray, params: Params | None, earlier: Any
) -> tuple[ServerState, PyTree, Agents, Params | None]:
    """Return the first states of server, topology and agents, and the parameters from which agents start.

    Args:
        executor: Executor of the simulation.
        topology: Its topology.
        keys: Keys of the run.
        steps: `[agents]`, local steps.
        params: Acting parameters of a trained policy, from which all agents start; None for random ones.
        earlier: A `SimulationState` whose learning is continued; None without one.

    Raises:
        ConfigError, UnsoundError: As for `check_policy` and `continued`.
    """
    federation = executor.federation
    if params is not None:
        check_policy(federation.learner, params)
        params = jax.tree.map(np.asarray, params)
    first, agents = executor.start(keys, steps, params)
    server, memory = topology.start(keys, first)
    if earlier is not None:
        own = Learning(server, memory, tuple(executor.blocks(agents)))
        theirs = tuple(executor.blocks(Agents(earlier.blocks, earlier.engine_state.team)))
        learned = Learning(earlier.server, earlier.engine_state.topology, theirs)
        server, memory, blocks = continued(federation, own, learned, topology.periods)
        agents = executor.with_blocks(agents, blocks)
    return server, memory, agents, params


def check_policy(learner: Learner, params: Params, what: str = "params") -> None:
    """Refuse parameters with which agents of this learner can't act.

    Args:
        learner: The learner of the agents.
        params: Acting parameters, as `Simulation.params_of` returns them for one agent.
        what: What has these parameters, for the message.

    Raises:
        ConfigError: An array is missing, is one too many, or has another shape or type.
    """
    found = difference(named(params), named(policy_shapes(learner)))
    if found:
        raise ConfigError(f"{what} {found} {CURE}")


def named(tree: PyTree) -> dict[str, Any]:
    """Return the leaves of a tree by their paths, such as "actor/0/weight"."""
    paths = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/") or "value": leaf for path, leaf in paths}


def difference(given: dict[str, Any], needed: dict[str, Any]) -> str:
    """Return the first difference of named arrays as a sentence that begins with a verb; "" if there is none."""
    for name, leaf in needed.items():
        if name not in given:
            return f"has no array {name}, which this run needs {_form(leaf)}."
        if _form(given[name]) != _form(leaf):
            return f"has the array {name} {_form(given[name])}, and this run needs it {_form(leaf)}."
    surplus = next((name for name in given if name not in needed), None)
    return "" if surplus is None else f"has an array {surplus} {_form(given[surplus])}, and this run has none."


def continued(federation: Federation, own: Learning, earlier: Learning, periods: tuple[int, ...] = ()) -> Learning:
    """Return the initial state of a run with what an earlier run has learned.

    Args:
        federation: Federation of the run.
        own: Its initial state.
        earlier: The state after a round of a run with the same parts, agents and blocks.
        periods: Periods in which servers of a tree merge.

    Raises:
        ConfigError: An array of the earlier state has another shape or type.
        UnsoundError: A part is merged in a period, and the earlier run ended in the middle of one.
    """
    if any(part.every > 1 for part in federation.parts):
        raise UnsoundError(
            "The whole state of another run is given, and a part of the parameters is merged in a period: agents "
            "remember the version in which they received it, and versions begin anew. Start from parameters, or let "
            "every part have the period 1."
        )
    found = difference(named(earlier), named(own))
    if found:
        raise ConfigError(
            f"The state of the earlier run {found} A whole state needs the same learner, federation and number of "
            "agents. Start from parameters only, or use the same parts."
        )
    version, longest = int(earlier.server.version), math.lcm(*periods) if periods else 1
    if version % longest:
        raise UnsoundError(
            f"The earlier run ended in version {version}, in the middle of a period of {longest} versions after which "
            "all servers of the tree have merged. Start from its parameters only, or run it for whole periods."
        )
    kept = environment_in(federation.learner)
    blocks = tuple(_learned(mine, theirs, kept) for mine, theirs in zip(own.blocks, earlier.blocks, strict=True))
    server, memory = (
        jax.tree_util.tree_map_with_path(_begun, mine, theirs)
        for mine, theirs in zip(own[:2], earlier[:2], strict=True)
    )
    return Learning(server, memory, blocks)


def _learned(own: AgentState, earlier: AgentState, kept: list[bool]) -> AgentState:
    """Return a block of agents with the learners and the stage memory of an earlier run, in their own environments."""
    leaves, structure = jax.tree.flatten(own.learner)
    theirs = jax.tree.leaves(earlier.learner)
    mixed = [x if stays else _copy(x, y) for x, y, stays in zip(leaves, theirs, kept, strict=True)]
    memory = jax.tree.map(_copy, own.stage_states, earlier.stage_states)
    return own._replace(learner=jax.tree.unflatten(structure, mixed), stage_states=memory)


def _begun(path: Any, own: Any, earlier: Any) -> Any:
    """Return an array of the earlier state; versions begin anew."""
    counts_versions = bool(path) and getattr(path[-1], "name", None) == VERSION
    return own if counts_versions else _copy(own, earlier)


def _copy(own: Any, earlier: Any) -> Any:
    """Return a copy of `earlier` in the place of `own`: training reuses the memory of its states."""
    if not isinstance(own, jax.Array):
        return np.array(earlier)
    return jax.device_put(jnp.array(earlier, copy=True), own.sharding)


def _form(leaf: Any) -> str:
    return f"as {leaf.dtype}{list(np.shape(leaf))}"
