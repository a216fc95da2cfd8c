"""The fast engine: one compiled program for a fixed block of agents, a host loop over blocks and devices.

    broadcast --> [block 0 | device 0] [block 1 | device 1] [block 2 | device 0] ...     dispatched, not awaited
                        |                     |                    |
                   exact partial sums of w_k * value_k, or the updates themselves
                        +--------> merged on the host --> commit --> next broadcast

The program depends on the block size alone: not on the number of agents, blocks, devices or absent agents. Partial
sums are exact integers. So the result is bit-identical for any number of devices, any order of the agents and any
padding, and nothing is compiled after the first round.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core import exact
from fedrl.core.checks import check_positive
from fedrl.core.errors import ConfigError
from fedrl.core.federation import AgentState, Federation, ServerState
from fedrl.core.keys import Purpose, run_key
from fedrl.core.types import Broadcast, Key, Params, PyTree, Update

LARGEST_BLOCK = 5


class Population(NamedTuple):
    """The state of a simulated run: the server's, every agent's in blocks of equal size, and the key of the run."""

    server: ServerState
    blocks: tuple[AgentState, ...]
    key: Key


class Round(NamedTuple):
    """What the simulator saw of one round.

    Attributes:
        metrics: Each `[cohort]`, added up over local steps. In a real federation they stay on the agents.
        weight: Total weight of the accepted updates.
        refused: Updates with an entry that was not finite or out of range; they were left out.
        bytes_up: Size of all encoded updates.
        bytes_down: Size of all broadcasts.
    """

    metrics: dict[str, np.ndarray]
    weight: float
    refused: int
    bytes_up: int
    bytes_down: int


@dataclass(frozen=True)
class Simulation:
    """A federation in one process, every agent simulated.

    Attributes:
        init: `seed -> Population`.
        round: `(population, cohort=None, talk=True) -> (population, Round)`. `cohort` holds the ids that take part,
            all by default. Without `talk` every agent goes on from its own parameters and the server stands still.
            The population passed in is consumed.
        params_of: `population -> params` with a leading agent axis: what each agent holds.
        agents: Number of agents.
        block: Agents in a block.
    """

    init: Callable[[int], Population]
    round: Callable[..., tuple[Population, Round]]
    params_of: Callable[[Population], Params]
    agents: int
    block: int


def block_size(agents: int) -> int:
    """Agents per block: few enough for the cache, and never a function of the devices."""
    return max(1, min(LARGEST_BLOCK, -(-agents // 2)))


def simulate(
    federation: Federation,
    fleet: PyTree,
    *,
    local_steps: Sequence[int] | None = None,
    block: int | None = None,
    devices: Sequence[jax.Device] | None = None,
    order: Sequence[int] | None = None,
) -> Simulation:
    """Prepare a federation for simulation.

    Args:
        federation: What to run.
        fleet: Parameters of each agent's environment, a leading agent axis on every leaf.
        local_steps: Local iterations of each agent, at most `federation.local_steps`, which is the default.
        block: Agents per compiled block. Results agree to float tolerance between block sizes and bit for bit
            within one. `block=1` is the reference: what a single agent runs on its own.
        devices: Where to run; all local devices by default.
        order: The order in which agents are seated in blocks; of no consequence for the result.

    Raises:
        ConfigError: An argument does not fit the fleet.
    """
    agents = jax.tree.leaves(fleet)[0].shape[0]
    size = block_size(agents) if block is None else block
    check_positive(agents=agents, block=size)
    if size > exact.LANES:
        raise ConfigError(f"block is {size}. Partial sums stay exact for at most {exact.LANES} agents. Choose fewer.")
    places = list(jax.local_devices() if devices is None else devices)
    seats = _seats(np.arange(agents) if order is None else np.asarray(order), size)
    steps = _work(federation, agents, local_steps)
    run_block, (names, up, down) = _block_program(federation, fleet)
    merge = _merging(federation, fleet)
    init_block = jax.jit(jax.vmap(_newcomer(federation), (None, None, 0, 0, 0)))
    init_server = jax.jit(federation.init_server)
    compiled = threading.Event()

    def init(seed: int) -> Population:
        key = run_key(seed, Purpose.AGENTS)
        server = jax.device_put(init_server(run_key(seed, Purpose.SERVER)), places[0])
        blocks = []
        for i, ids in enumerate(seats):
            settings = jax.tree.map(lambda leaf, ids=ids: jnp.asarray(leaf)[np.maximum(ids, 0)], fleet)
            inputs = (key, server.params, jnp.asarray(ids, jnp.int32), settings, jnp.asarray(steps[ids], jnp.int32))
            blocks.append(init_block(*jax.device_put(inputs, places[i % len(places)])))
        return Population(server, tuple(blocks), run_key(seed, Purpose.TRAINING))

    def round(
        population: Population, cohort: Sequence[int] | None = None, talk: bool = True
    ) -> tuple[Population, Round]:
        asked = np.ones(agents, bool) if cohort is None else np.isin(np.arange(agents), np.asarray(cohort))
        present = [(i, asked[ids] & (ids >= 0)) for i, ids in enumerate(seats)]
        present = [(i, here) for i, here in present if here.any()]
        given = (population.key, federation.broadcast(population.server), np.int32(asked.sum()), np.bool_(talk))
        copies = {place: jax.device_put(given, place) for place in places}
        blocks = list(population.blocks)

        def dispatch(i: int, here: np.ndarray) -> tuple[Any, jax.Array, np.ndarray]:
            blocks[i], outcome, metrics = run_block(*copies[places[i % len(places)]], blocks[i], here)
            return outcome, metrics, here

        if compiled.is_set():
            results = [dispatch(*each) for each in present]
        else:  # each device compiles its own copy of the program: side by side, not in turn
            with ThreadPoolExecutor(len(places)) as pool:
                results = list(pool.map(lambda each: dispatch(*each), present))
            compiled.set()
        server, weight, refused = merge(population, results, talk)
        columns = np.concatenate([np.asarray(metrics)[:, here] for _, metrics, here in results], axis=1)
        messages = int(asked.sum()) if talk else 0
        seen = Round(dict(zip(names, columns, strict=True)), weight, refused, messages * up, messages * down)
        return Population(server, tuple(blocks), population.key), seen

    def params_of(population: Population) -> Params:
        held = [federation.learner.params(block.learner) for block in population.blocks]
        back = np.argsort(np.concatenate(seats)[np.concatenate(seats) >= 0])
        taken = np.concatenate(seats) >= 0
        return jax.tree.map(lambda *leaves: np.concatenate([np.asarray(x) for x in leaves])[taken][back], *held)

    return Simulation(init, round, params_of, agents, size)


def _seats(order: np.ndarray, size: int) -> list[np.ndarray]:
    """Agent ids of each block; the last one is padded with -1, an empty seat."""
    padded = np.concatenate([order, np.full(-len(order) % size, -1)])
    return list(padded.reshape(-1, size))


def _newcomer(federation: Federation) -> Callable[..., AgentState]:
    """An agent that has adopted the first global parameters: all start alike, also those who never talk."""

    def init(key: Key, params: Params, agent: jax.Array, env_params: PyTree, steps: jax.Array) -> AgentState:
        state = federation.init_agent(key, agent, env_params, steps)
        return state._replace(learner=federation.learner.adopt(state.learner, params))

    return init


def _work(federation: Federation, agents: int, local_steps: Sequence[int] | None) -> np.ndarray:
    """Local iterations of each agent."""
    steps = np.full(agents, federation.local_steps) if local_steps is None else np.asarray(local_steps)
    if steps.shape != (agents,) or steps.min() < 1 or steps.max() > federation.local_steps:
        raise ConfigError(
            f"local_steps is {steps.tolist()}. It needs one number per agent ({agents}), each from 1 to the "
            f"federation's local_steps ({federation.local_steps})."
        )
    return steps


def _block_program(federation: Federation, fleet: PyTree) -> tuple[Callable[..., Any], tuple[list[str], int, int]]:
    """Compile the agents' half for a block; tell the names of its metrics and the sizes of its messages in bytes."""
    learner = federation.learner
    summed = federation.aggregator.sees == "sum"
    scale = 1.0 / exact.nearest_power_of_two(learner.samples * federation.local_steps)

    def one(
        key: Key, sent: Broadcast, cohort: jax.Array, talk: jax.Array, agent: AgentState, here: jax.Array
    ) -> tuple[AgentState, Update, dict[str, jax.Array]]:
        own = learner.params(agent.learner)
        sent = sent._replace(params=jax.tree.map(lambda new, old: jnp.where(talk, new, old), sent.params, own))
        update, after, metrics = federation.agent(key, sent, agent, cohort)
        kept = jax.tree.map(lambda new, old: jnp.where(here, new, old), after, agent)
        return kept, federation.decode(sent, update), jax.tree.map(lambda x: x.sum(0), metrics)

    def block(
        key: Key, sent: Broadcast, cohort: jax.Array, talk: jax.Array, agents: AgentState, here: jax.Array
    ) -> tuple[AgentState, Any, jax.Array]:
        each = jax.vmap(one, (None, None, None, None, 0, 0))
        agents, updates, metrics = each(key, sent, cohort, talk, agents, here)
        columns = jnp.stack([metrics[name] for name in sorted(metrics)])
        if not summed:
            return agents, updates, columns
        values = jax.vmap(exact.flatten)(jax.lax.optimization_barrier(updates.value))
        return agents, exact.partial_sum(values, updates.weight * here * scale), columns

    def messages(key: Key) -> tuple[Broadcast, tuple[Update, AgentState, dict[str, jax.Array]]]:
        sent = federation.broadcast(federation.init_server(key))
        setting = jax.tree.map(lambda leaf: leaf[0], fleet)
        agent = federation.init_agent(key, jnp.int32(0), setting, jnp.int32(1))
        return sent, federation.agent(key, sent, agent, jnp.int32(1))

    sent, (update, _, metrics) = jax.eval_shape(messages, jax.random.key(0))
    return jax.jit(block, donate_argnums=4), (sorted(metrics), _size_bytes(update), _size_bytes(sent))


def _merging(federation: Federation, fleet: PyTree) -> Callable[..., tuple[ServerState, float, int]]:
    """The server's half: add up or stack what the blocks returned, and commit."""
    summed = federation.aggregator.sees == "sum"
    like = jax.eval_shape(lambda key: _decoded(federation, fleet, key), jax.random.key(0)).value
    commit = jax.jit(federation.commit)

    @jax.jit
    def commit_mean(key: Key, server: ServerState, flat: jax.Array, weight: jax.Array) -> ServerState:
        whole = Update(_unflatten(flat[None], like), weight[None], server.version[None])
        return federation.commit(key, server, *federation.aggregate(server, whole))

    def merge(population: Population, results: list[Any], talk: bool) -> tuple[ServerState, float, int]:
        key, server = population.key, population.server
        if summed:
            mean, weight = exact.mean_of(exact.total([sums for (sums, _), _, _ in results]))
            refused = int(sum(np.asarray(flags).sum() for (_, flags), _, _ in results))
            after = commit_mean(key, server, mean, np.float32(weight)) if talk and weight > 0 else None
        else:
            updates, refused = _stacked(results)
            weight = float(updates.weight.sum())
            after = commit(key, server, *federation.aggregate(server, updates)) if talk and weight > 0 else None
        return server._replace(version=server.version + 1) if after is None else after, weight, refused

    return merge


def _decoded(federation: Federation, fleet: PyTree, key: Key) -> Update:
    """One decoded update of the first agent."""
    sent = federation.broadcast(federation.init_server(key))
    setting = jax.tree.map(lambda leaf: leaf[0], fleet)
    agent = federation.init_agent(key, jnp.int32(0), setting, jnp.int32(1))
    return federation.decode(sent, federation.agent(key, sent, agent, jnp.int32(1))[0])


def _stacked(results: list[Any]) -> tuple[Update, int]:
    """Every update of the round as NumPy arrays with a leading axis; those that are not finite are left out."""
    columns = [jax.tree.map(lambda x, here=here: np.asarray(x)[here], updates) for updates, _, here in results]
    updates = jax.tree.map(lambda *leaves: np.concatenate(leaves), *columns)
    flat = [leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(updates.value)]
    finite = np.all([np.isfinite(leaf).all(axis=1) for leaf in flat], axis=0)
    return jax.tree.map(lambda x: x[finite], updates), int((~finite).sum())


def _unflatten(flat: jax.Array, like: PyTree) -> PyTree:
    """The tree that `exact.flatten` laid out, with the leading axis of `flat` on every leaf."""
    leaves, structure = jax.tree.flatten(like)
    ends = np.cumsum([leaf.size for leaf in leaves])
    parts = [flat[:, end - leaf.size : end].reshape(-1, *leaf.shape) for leaf, end in zip(leaves, ends, strict=True)]
    return jax.tree.unflatten(structure, parts)


def _size_bytes(tree: PyTree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
