"""Records of a simulation, its initial state, and the assignment of agents to blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType, TracebackType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core import exact
from fedrl.core.aggregator import Arrivals
from fedrl.core.checks import check_positive
from fedrl.core.errors import ConfigError
from fedrl.core.keys import Keys, Root, Stream, derived, stream_key
from fedrl.core.learner import restored
from fedrl.core.measures import Measures
from fedrl.core.types import Key, Params, PyTree
from fedrl.engines.compute import COMPUTE
from fedrl.engines.environment_failures import EnvironmentFailure
from fedrl.engines.program_cache import Template, numbered_programs
from fedrl.federation.federation import AgentState, Federation, ServerState

LARGEST_BLOCK = 5
QUICK = {"xla_backend_optimization_level": 0}


class SimulationState(NamedTuple):
    """The state of a simulated run.

    Attributes:
        server: State of the server.
        blocks: States of all agents, in blocks of equal size.
        keys: Roots of all keys of the run, without a noise root.
        engine_state: Further state of the engine, such as the servers between the agents and the root.
        policy: Parameters of the trained policy from which the run started, for agents that restart; None without one.
    """

    server: ServerState
    blocks: tuple[AgentState, ...]
    keys: Keys
    engine_state: PyTree = ()
    policy: Params | None = None


class Rejection(NamedTuple):
    """An update that was rejected by a merge.

    Attributes:
        agent: Number of the agent that sent it.
        reason: Reason, a phrase that names the part: "state.params['actor'] is not finite".
    """

    agent: int
    reason: str


class WorkerDeath(NamedTuple):
    """The end of a worker process that had agents; it was started again, and they continued from the last merge.

    Attributes:
        worker: Number of the worker.
        host: Name of its machine.
        agents: Number of its agents.
        reason: What is known of its end.
    """

    worker: int
    host: str
    agents: int
    reason: str


class ClockStats(NamedTuple):
    """Time of a virtual clock at the end of a round, and the events of the round.

    Attributes:
        time_s: Simulated seconds since the beginning of the run.
        environment_steps: Environment steps behind all updates that arrived since the beginning of the run.
        arrived: Number of updates that arrived in the round.
        dropped: Number of jobs without an update: the agent dropped out, left, restarted, or hung until a timeout.
        cancelled: Number of jobs that were cancelled because the server had merged without them.
        staleness_mean: Mean staleness of the merged updates, in versions.
        staleness_max: Largest staleness of the merged updates, in versions.
        hung: Number of jobs that hang, counted when they begin: each ends as dropped or cancelled, or never.
        restarted: Number of those dropped jobs in which the agent's process restarted.
        duplicates: Number of updates that arrived a second time and were ignored.
        malformed: Number of messages that could not be read; they are among the rejected.
    """

    time_s: float
    environment_steps: int
    arrived: int
    dropped: int
    cancelled: int
    staleness_mean: float
    staleness_max: int
    hung: int = 0
    restarted: int = 0
    duplicates: int = 0
    malformed: int = 0


class Uploads(NamedTuple):
    """Uploads of all agents in a round, `[agents]` each.

    Attributes:
        size_bytes: int64, bytes of the encoded updates, as `fedrl.wire.codec` would send them; 0 if none was sent.
        messages: int64, number of uploads; an update that a stage withholds is not counted.
        report: float32 by name, the scalars that agents report beside their update (`fedrl.core.reports`); NaN for
            agents whose update did not arrive.
    """

    size_bytes: np.ndarray
    messages: np.ndarray
    report: dict[str, np.ndarray]


def no_uploads(agents: int) -> Uploads:
    """Return the uploads of a round without any."""
    return Uploads(np.zeros(agents, np.int64), np.zeros(agents, np.int64), {})


class RoundResult(NamedTuple):
    """Observations of the simulator in one round. Arrays have an entry for every agent, in every engine.

    Attributes:
        metrics: `[agents]` each, summed over local steps; zero for agents that did not take part. In a real federation
            they stay on the agents. With down stages, or among neighbours that compress their messages, it includes
            `whole_copies`, the number of uncompressed copies sent to each agent, or by it.
        weight: Total weight of the accepted updates.
        rejected: Rejected updates, in the order of agents. An agent whose training ends in a number that is not finite
            is restored to its state before the round, sends nothing, and has zero metrics; the server rejects updates
            beyond the range of exact sums.
        bytes_up: Bytes of all messages to a server or to neighbours: encoded updates, as `fedrl.wire.codec` would send
            them, bids, and messages between servers of a tree.
        bytes_down: Bytes of all messages from servers.
        messages_up: Number of messages to a server or to neighbours; a withheld update is not counted.
        messages_down: Number of messages from servers.
        uploads: Uploads of each agent.
        arrivals: Agents whose updates, or bids for sending one, arrived at a server, and their staleness.
        levels: In a hierarchy, bytes up and down between each level and the one above, from the agents up.
        latency_s: Seconds that the messages of the round take, if the links are known.
        steps: `[agents]`, local steps in the round; 0 for agents that were not selected or whose update did not arrive.
        iterations: Local steps of all agents together since the run began.
        clock_stats: Statistics of the virtual clock, if there is one.
        selected: Numbers of the agents whose updates were sent, if there is an upload budget.
        skipped: Reason why the server kept its state although updates arrived: the merge was not finite. Else "".
        sums: Measurements of the engine itself, by the names of the parts of `Simulation.measures`.
        turns: `[agents]`, number of updates of the round behind the metrics of each agent; None if each has one.
        failures: Failures of environments outside compiled programs. Agents that were left out for one are in
            `rejected`, too.
        deaths: Worker processes that ended in the round and were started again.
    """

    metrics: dict[str, np.ndarray]
    weight: float
    rejected: tuple[Rejection, ...]
    bytes_up: int
    bytes_down: int
    messages_up: int
    messages_down: int
    uploads: Uploads
    arrivals: Arrivals
    levels: tuple[tuple[int, int], ...] = ()
    latency_s: float = 0.0
    steps: np.ndarray | None = None
    iterations: int | None = None
    clock_stats: ClockStats | None = None
    selected: np.ndarray | None = None
    skipped: str = ""
    sums: Mapping[str, float] = MappingProxyType({})
    turns: np.ndarray | None = None
    failures: tuple[EnvironmentFailure, ...] = ()
    deaths: tuple[WorkerDeath, ...] = ()


@dataclass(frozen=True)
class Simulation:
    """A simulated federation. Used in a `with` statement it closes itself.

    Attributes:
        init: `(seed, params=None, earlier=None) -> SimulationState`. `params` are the acting parameters of a trained
            policy, such as `fedrl.load(...).params`, from which servers and all agents start. `earlier` is a state of a
            simulation of the same parts, agents and blocks, such as one with another fleet or other numbers: its
            learning is continued, see `fedrl.engines.continuing`.
        round: `(run_state, cohort=None, without=()) -> (run_state, RoundResult)`. `cohort` are the agents that may be
            selected, whatever the selection says; agents of `without` take no part, whoever is selected. The simulation
            state passed in is consumed (its buffers are donated).
        params_of: `run_state -> params` with a leading agent axis: the parameters each agent acts with.
        agents: Number of agents.
        block: Number of agents in a block.
        close: Release resources outside this process, such as workers. Closing twice is fine.
        adopt: `run_state -> run_state` in which every agent has adopted the server's current parameters, as at the
            beginning of a round. Its `params_of` are the policies of personalised agents.
        held: `run_state -> params` with a leading agent axis: the shared part of each agent's parameters.
        states_of: `run_state -> states` with a leading agent axis: the whole state of each agent's learner.
        with_states: `(run_state, states) -> run_state` whose agents continue from these learner states.
        measures: Measures of the engine itself, computed from `RoundResult.sums`: see `fedrl.core.measures`.
        whole: `run_state -> run_state` with all arrays in this process, as a checkpoint needs them. Its arrays are the
            same whichever executor the agents have.
        placed: The inverse of `whole`, for the arrays of a checkpoint.
        elsewhere: Whether agents are in other processes, which do not keep the state that a failed round began with.
        silent: Whether agents keep their metrics and states to themselves, since they are at other sites.
        reproducible_noise: Whether calibrated noise and Poisson sampling follow from the seed, with which they can be
            computed and subtracted; else they are drawn from the operating system, if there are any.
    """

    init: Callable[..., SimulationState]
    round: Callable[..., tuple[SimulationState, RoundResult]]
    params_of: Callable[[SimulationState], Params]
    agents: int
    block: int
    close: Callable[[], None] = lambda: None
    adopt: Callable[[SimulationState], SimulationState] = lambda run_state: run_state
    held: Callable[[SimulationState], Params] = field(kw_only=True)
    states_of: Callable[[SimulationState], PyTree] = field(kw_only=True)
    with_states: Callable[[SimulationState, PyTree], SimulationState] = field(kw_only=True)
    measures: Measures = field(default_factory=lambda: COMPUTE)
    whole: Callable[[SimulationState], SimulationState] = lambda run_state: run_state
    placed: Callable[[SimulationState], SimulationState] = lambda run_state: run_state
    elsewhere: bool = False
    silent: bool = False
    reproducible_noise: bool = False

    def __enter__(self) -> Simulation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def block_size(agents: int) -> int:
    """Return the default number of agents per block."""
    # Few enough for the weights of a block to stay in the cache, and never a function of the devices: results are
    # bit-identical for one block size only.
    return max(1, min(LARGEST_BLOCK, -(-agents // 2)))


def chosen_size(agents: int, block: int | None) -> int:
    """Return the requested block size, or the default.

    Raises:
        ConfigError: It is below one, or too large for exact sums.
    """
    size = block_size(agents) if block is None else block
    check_positive(agents=agents, block=size)
    if size > exact.LANES:
        raise ConfigError(f"block is {size}. Partial sums stay exact for at most {exact.LANES} agents. Choose fewer.")
    return size


def in_slots(order: np.ndarray, size: int) -> list[np.ndarray]:
    """Return the agent numbers of each block; the last block is padded with -1, an empty seat."""
    padded = np.concatenate([order, np.full(-len(order) % size, -1)])
    return list(padded.reshape(-1, size))


def iterations(federation: Federation, agents: int, local_steps: Sequence[int] | np.ndarray | None) -> np.ndarray:
    """Return the local iterations of each agent, `[agents]`.

    Raises:
        ConfigError: There are too few or too many.
    """
    steps = np.full(agents, federation.local_steps) if local_steps is None else np.asarray(local_steps)
    if steps.shape != (agents,) or steps.min() < 1 or steps.max() > federation.local_steps:
        raise ConfigError(
            f"local_steps is {steps.tolist()}. It needs one number per agent ({agents}), each from 1 to the "
            f"federation's local_steps ({federation.local_steps})."
        )
    return steps


def starting(
    federation: Federation,
    fleet: PyTree,
    slots: list[np.ndarray],
    steps: np.ndarray,
    devices: Sequence[jax.Device],
    numbers: np.ndarray,
    share: np.ndarray,
) -> Callable[[Keys, Params | None], tuple[ServerState, Iterator[AgentState]]]:
    """Return `(keys, policy) -> server, blocks`, the initial states; blocks are dealt out to the devices.

    With a trained policy, all agents start from its parameters instead of random ones. Blocks are made one by one, as
    their reader takes them: of a hundred thousand agents, all at once would be as many arrays.
    """
    begin = start_programs(federation)

    def init(keys: Keys, policy: Params | None) -> tuple[ServerState, Iterator[AgentState]]:
        server = jax.device_put(begin.server(stream_key(keys, Stream.SERVER), policy), devices[0])
        return server, made(keys.run.tobytes(), server, policy)

    def made(root: Root, server: ServerState, policy: Params | None) -> Iterator[AgentState]:
        for i, ids in enumerate(slots):
            # An empty seat gets the environment of agent 0 and never takes part, so that all blocks have one shape.
            settings = jax.tree.map(lambda leaf, ids=ids: np.asarray(leaf)[np.maximum(ids, 0)], fleet)
            known = np.where(ids < 0, -1, numbers[ids])
            work = (jnp.asarray(known, jnp.int32), settings, jnp.asarray(steps[ids], jnp.int32), share[ids])
            own = np.concatenate([derived(root, Stream.AGENTS, max(k, 0), 0) for k in known.tolist()])
            block = begin.block(*jax.device_put((own, server.params, *work, policy), devices[0]))
            yield jax.device_put(block, devices[i % len(devices)])

    return init


class Beginnings(NamedTuple):
    """Programs that initialise a server, a block of agents, and a single agent."""

    server: Callable[..., ServerState]
    block: Callable[..., AgentState]
    agent: Callable[..., AgentState]


@numbered_programs
def start_programs(template: Template[Federation]) -> Beginnings:
    """Return the programs that initialise a run, or an agent."""

    def init_server(federation: Federation, key: Key, policy: Params | None = None) -> ServerState:
        return federation.init_server(key, policy)

    def init(federation: Federation, *rows: Any) -> AgentState:
        return jax.vmap(partial(_init_agent, federation), (0, None, 0, 0, 0, 0, None))(*rows)

    # They run once, so they are compiled for one device and hardly optimised, in a tenth of the time.
    return Beginnings(*(template.jit(begin, compiler_options=QUICK) for begin in (init_server, init, _init_agent)))


def _init_agent(
    federation: Federation,
    key: jax.Array,
    params: Params,
    agent: jax.Array,
    env_params: PyTree,
    steps: jax.Array,
    share: jax.Array,
    policy: Params | None,
) -> AgentState:
    """Return the initial state of an agent that has adopted the first global parameters, after those of a policy.

    So all agents start equal, also isolated ones: an average over them at the end is then one of related parameters.
    """
    state = federation.init_agent(jax.random.wrap_key_data(key), agent, env_params, steps)
    own = state.learner if policy is None else restored(federation.learner, state.learner, policy)
    return state._replace(learner=federation.learner.adopt(own, params), share=share)
