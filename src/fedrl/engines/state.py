"""What simulators share: their records, and how agents are seated in blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType, TracebackType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core import exact
from fedrl.core.aggregator import Arrivals
from fedrl.core.checks import check_positive
from fedrl.core.errors import ConfigError
from fedrl.core.keys import Keys, Stream, derived, stream_key
from fedrl.core.measures import Measures
from fedrl.core.types import Key, Params, PyTree
from fedrl.engines.compute import COMPUTE
from fedrl.engines.program_cache import cached_program
from fedrl.federation.federation import AgentState, Federation, ServerState
from fedrl.federation.shares import shares

LARGEST_BLOCK = 5
QUICK = {"xla_backend_optimization_level": 0}


class SimulationState(NamedTuple):
    """The state of a simulated run.

    Attributes:
        server: The server's state.
        blocks: Every agent's, in blocks of equal size.
        keys: The roots of all keys of the run.
        engine_state: What else the engine keeps, such as the servers between the agents and the root.
    """

    server: ServerState
    blocks: tuple[AgentState, ...]
    keys: Keys
    engine_state: PyTree = ()


class Rejection(NamedTuple):
    """An update that was left out of a merge.

    Attributes:
        agent: Whose it was.
        reason: What was wrong with it, in a phrase that names the part: "state.params['actor'] is not finite".
    """

    agent: int
    reason: str


class ClockStats(NamedTuple):
    """What a virtual clock showed at the end of a round, and what happened in the round.

    Attributes:
        time_s: Simulated seconds since the beginning of the run.
        environment_steps: Behind all updates that arrived since then.
        arrived: Updates that arrived in the round.
        dropped: Turns of agents that came to nothing: they dropped out, left, restarted, or hung and were noticed.
        cancelled: Agents that were called back because the server had merged without them.
        staleness_mean: Versions that the merged updates were behind, on average.
        staleness_max: And at most.
        hung: Turns that hang, counted as they begin: each ends as lost or called back, or never.
        restarted: Of the turns that came to nothing, those in which an agent's process restarted.
        duplicates: Updates that arrived once more, and were ignored.
        malformed: Messages that arrived and could not be read; they are among the refused.
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
    """What agents sent in a round, `[agents]` each.

    Attributes:
        size_bytes: int64, of their encoded updates, as `fedrl.wire.codec` would send them; 0 for who sent none.
        messages: int64, how many updates each sent; what a stage holds back is none.
        report: What they say about themselves in their updates, by name (`fedrl.core.reports`), float32; NaN for those
            of whom nothing arrived.
    """

    size_bytes: np.ndarray
    messages: np.ndarray
    report: dict[str, np.ndarray]


def no_uploads(agents: int) -> Uploads:
    """Of a round in which nobody sent anything."""
    return Uploads(np.zeros(agents, np.int64), np.zeros(agents, np.int64), {})


class RoundResult(NamedTuple):
    """What the simulator saw of one round. Arrays have an entry for every agent, in every engine.

    Attributes:
        metrics: Each `[agents]`, added up over local steps; zero for who did not take part. In a real federation they
            stay on the agents. With down stages or among neighbours who compress what they send, one is
            `whole_copies`, how many copies were sent whole to each agent, or by it.
        weight: Total weight of the accepted updates.
        rejected: Updates that were left out, in the order of agents. An agent whose training ends in a number that is
            not finite is as it was before the round, has sent nothing, and its metrics are zero; the server leaves out
            updates beyond the range of exact sums.
        bytes_up: Size of all messages to a server or to neighbours: encoded updates, as `fedrl.wire.codec` would send
            them, bids, and what servers of a tree pass on.
        bytes_down: Size of all messages from servers.
        messages_up: Messages to a server or to neighbours; what a stage holds back is none.
        messages_down: Messages from servers.
        uploads: What each agent sent.
        arrivals: Whose updates arrived at a server, or bids for sending one, and how stale they were, as the engine
            knows.
        levels: Of a hierarchy, the bytes up and down between each level and the one above, from the agents on.
        latency_s: How long the messages of the round take, if the links are known.
        steps: Local steps of every agent in the round, 0 for who was not asked or did not arrive; None if all did as
            they always do.
        iterations: Local steps of all agents together since the run began, if not all do as they always do.
        clock_stats: Of the virtual clock, if there is one.
        selected: Ids of those whose updates were sent, if a budget does not let all of them.
        skipped: Why the server stands where it stood although updates arrived: what it made of them was not finite.
        sums: What the engine itself measured, by the names of the parts of `Simulation.measures`.
        turns: Of every agent, how many updates of the round are behind its metrics; None if each has one.
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


@dataclass(frozen=True)
class Simulation:
    """A federation in one process, every agent simulated. Used in a `with` statement it closes itself.

    Attributes:
        init: `seed -> SimulationState`.
        round: `(run_state, cohort=None) -> (run_state, RoundResult)`. `cohort` holds the ids that may be sent for,
            whatever the selection says. The population passed in is consumed.
        params_of: `run_state -> params` with a leading agent axis: what each agent holds and acts with.
        agents: Number of agents.
        block: Agents in a block.
        close: Let go of what is held outside this process, if anything. Closing twice is fine.
        adopt: `run_state -> run_state` in which every agent has adopted what the server holds now, as at the
            beginning of a round. `params_of` it are the policies of personalised agents.
        held: `run_state -> params` with a leading agent axis: what a federation sees of each agent's parameters.
        states_of: `run_state -> states` with a leading agent axis: all that each agent's learner remembers.
        with_states: `(run_state, states) -> run_state` whose agents go on from what the learners of others remember.
        measures: What the engine measures beside its agents, made of `RoundResult.sums`: see `fedrl.core.measures`.
    """

    init: Callable[[int], SimulationState]
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

    def __enter__(self) -> Simulation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def block_size(agents: int) -> int:
    """Agents per block: few enough for the cache, and never a function of the devices."""
    return max(1, min(LARGEST_BLOCK, -(-agents // 2)))


def chosen_size(agents: int, block: int | None) -> int:
    """The block size asked for, or the usual one.

    Raises:
        ConfigError: It is no count, or too large for exact sums.
    """
    size = block_size(agents) if block is None else block
    check_positive(agents=agents, block=size)
    if size > exact.LANES:
        raise ConfigError(f"block is {size}. Partial sums stay exact for at most {exact.LANES} agents. Choose fewer.")
    return size


def in_slots(order: np.ndarray, size: int) -> list[np.ndarray]:
    """Agent ids of each block; the last one is padded with -1, an empty seat."""
    padded = np.concatenate([order, np.full(-len(order) % size, -1)])
    return list(padded.reshape(-1, size))


def iterations(federation: Federation, agents: int, local_steps: Sequence[int] | np.ndarray | None) -> np.ndarray:
    """Local iterations of each agent.

    Raises:
        ConfigError: They are too few or too many.
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
) -> Callable[[Keys], SimulationState]:
    """How a run begins: `keys -> SimulationState`, its blocks dealt out to the devices; agents have these numbers."""
    begin = start_programs(federation)
    counts = shares(federation, steps)

    def init(keys: Keys) -> SimulationState:
        server = jax.device_put(begin.server(stream_key(keys, Stream.SERVER)), devices[0])
        blocks, root = [], keys.run.tobytes()
        for i, ids in enumerate(slots):
            settings = jax.tree.map(lambda leaf, ids=ids: jnp.asarray(leaf)[np.maximum(ids, 0)], fleet)
            known = np.where(ids < 0, -1, numbers[ids])
            work = (jnp.asarray(known, jnp.int32), settings, jnp.asarray(steps[ids], jnp.int32), counts[ids])
            own = np.concatenate([derived(root, Stream.AGENTS, max(k, 0), 0) for k in known.tolist()])
            block = begin.block(*jax.device_put((own, server.params, *work), devices[0]))
            blocks.append(jax.device_put(block, devices[i % len(devices)]))
        return SimulationState(server, tuple(blocks), keys)

    return init


class Beginnings(NamedTuple):
    """The programs that make a server, a block of agents, and an agent by itself."""

    server: Callable[[Key], ServerState]
    block: Callable[..., AgentState]
    agent: Callable[..., AgentState]


@cached_program
def start_programs(federation: Federation) -> Beginnings:
    """The programs by which a run, or an agent, begins.

    What runs once is compiled for one device and hardly optimised: that takes a tenth of the time.
    """
    one = _init_agent(federation)
    each = jax.vmap(one, (0, None, 0, 0, 0, 0))
    return Beginnings(*(jax.jit(begin, compiler_options=QUICK) for begin in (federation.init_server, each, one)))


def _init_agent(federation: Federation) -> Callable[..., AgentState]:
    """An agent that has adopted the first global parameters: all start alike, also those who never talk."""

    def init(
        key: jax.Array, params: Params, agent: jax.Array, env_params: PyTree, steps: jax.Array, share: jax.Array
    ) -> AgentState:
        state = federation.init_agent(jax.random.wrap_key_data(key), agent, env_params, steps)
        return state._replace(learner=federation.learner.adopt(state.learner, params), share=share)

    return init
