"""The agent's half of a federation: it takes a broadcast and an order, and returns an update, as bytes.

    train(run, broadcast, order) -> TrainedUpdate(update, run)    run.pending: the agent's state if its update is merged
                                                 (vector, run)    where updates are hidden in secure sums
    settle(run, verdict)         -> run                           MERGED    the pending state
                                                                  REJECTED  the pending state, with old stage memory
                                                                  DROPPED   the state before the job

The agent knows its number, its environment, the root of the run's keys and its own secret; about the server it knows
only the bytes it receives. Local work runs in an executor with one seat, bit-identical to a simulation with `block=1`.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.clocks.events import Jobs
from fedrl.core.errors import ConfigError, WireError
from fedrl.core.keys import Keys, Root, Stream, check_roots, stream_key
from fedrl.core.summation import check_open
from fedrl.core.types import Broadcast, Params, PyTree, Update
from fedrl.engines.aggregation import beyond_range
from fedrl.engines.bidding import Bidding
from fedrl.engines.common_worlds import check_together
from fedrl.engines.executors.placement import executor_of
from fedrl.engines.executors.records import Agents, ExecutorPlan
from fedrl.engines.halves.adding import rounding
from fedrl.engines.halves.orders import Order, Verdict, check_setting
from fedrl.engines.inbox import ENCODED, Table
from fedrl.engines.messages import messages
from fedrl.engines.noise_source import of_half
from fedrl.engines.state import start_programs
from fedrl.federation.federation import Federation
from fedrl.federation.shares import shares
from fedrl.secure.vector import vector_of
from fedrl.wire.codec import codec

ALONE = np.zeros(1, int)
"""The number of the only seat."""
LARGEST = 2**31 - 1
"""The largest number of an agent, a version or a cohort: they are sent as int32."""


class AgentRun(NamedTuple):
    """State of an agent in a run.

    Attributes:
        agents: The agent after its last verdict.
        pending: The agent if the update of its current job is merged; () if no job is pending.
    """

    agents: Agents
    pending: Agents | tuple[()] = ()


class TrainedUpdate(NamedTuple):
    """Result of a job.

    Attributes:
        update: Encoded update; empty if the training failed.
        run: State of the agent, with the job pending.
        metrics: Metrics of the training, by name. They stay with the agent.
        failed: Reason why the training failed, or "".
        bid: Encoded bid, under an upload budget; else empty.
        vector: The update, its weight and its statistics on the grid of the summation, int32 `[size]`, in place of the
            update where it is hidden in a secure sum; else None.
        beyond: Why there is no vector although the job succeeded: a number is not finite or beyond the grid; else "".
    """

    update: bytes
    run: AgentRun
    metrics: dict[str, float]
    failed: str = ""
    bid: bytes = b""
    vector: np.ndarray | None = None
    beyond: str = ""


class AgentHalf:
    """One agent of a federation, in a process of its own.

    Args:
        federation: Federation that the agent takes part in.
        number: Number of the agent, from 0 on.
        setting: Parameters of its environment.
        run: Root of the run's keys, 32 bytes, which all parties have.
        secret: Secret of the agent, 32 bytes: by `os.urandom`, or `fedrl.core.keys.agent_secret` to replay a run.
        noise: To replay a run, the root of its noise, 32 bytes: `fedrl.core.keys.noise_of_seed`. By default the
            operating system draws a root for each job, which is kept nowhere.
        steps: Usual number of local steps.
        bids: Reports that it says in a bid before its update, under an upload budget; None for no bids.
        vectors: Whether the caller carries out secure sums: jobs then give the vector of an update, never the update.
        **options: Options of the executor, such as `workers` for the host.

    Raises:
        ConfigError: A number is out of range, a root does not have 32 bytes, both roots are the same, or `setting` is
            not the parameters of this environment.
        UnsoundError: The federation hides updates in sums, and the caller carries out none.

    >>> import numpy as np
    >>> from fedrl.aggregators import mean
    >>> from fedrl.federation.federate import federate
    >>> from fedrl.core.keys import agent_secret, keys_of
    >>> from fedrl.environments import gridworld
    >>> from fedrl.learners import q_table
    >>> world, keys = gridworld(), keys_of(0)
    >>> half = AgentHalf(federate(q_table(world), mean()), 0, world.params, keys.run.tobytes(), agent_secret(keys, 0))
    >>> half.start().pending
    ()
    """

    def __init__(
        self,
        federation: Federation,
        number: int,
        setting: PyTree,
        run: Root,
        secret: Root,
        steps: int | None = None,
        bids: tuple[str, ...] | None = None,
        noise: Root | None = None,
        vectors: bool = False,
        **options: Any,
    ) -> None:
        check_roots(run=run, secret=secret)
        if not vectors:
            check_open(federation.summation)
        check_together(federation, "in processes of their own")
        check_setting(federation, setting)
        usual = federation.local_steps if steps is None else steps
        if not (_whole(number, 0, LARGEST) and _whole(usual, 1, federation.local_steps)):
            raise ConfigError(
                f"The agent has the number {number!r} and takes {usual!r} local steps. Agents are numbered from 0 on, "
                f"and local steps are from 1 to {federation.local_steps} here. Give whole numbers within that."
            )
        self.federation = federation
        fleet = jax.tree.map(lambda x: jnp.asarray(x)[None], setting)
        plan = ExecutorPlan(collects=ENCODED, group=ALONE, sparse=False, mixed=False, ahead=False, varied=True)
        self.executor = executor_of(None, federation)(
            federation, fleet, plan, 1, jax.local_devices()[:1], None, **options
        )
        self.executor.numbers = np.array([number])
        self.executor.secret_of = lambda keys, agent: secret
        # The second root, of all secrets, is not known here; `secret_of` above takes its place.
        self.keys = Keys(np.frombuffer(run, np.uint32), np.zeros(8, np.uint32))
        self._noise = of_half(federation, run, secret, noise)
        wire = messages(federation, fleet)
        self._broadcasts, self._sent = codec(wire.sent), codec(wire.update)
        self._bidding = None if bids is None else Bidding(bids, wire.update)
        self.vectors, self._rounded = vectors, rounding(federation)
        self._decoded = wire.decoded
        self.steps = int(usual)

    def start(self, params: Params | None = None) -> AgentRun:
        """Return the agent before its first job; `params` are those of a trained policy to start from."""
        _, agents = self.executor.start(self.keys, np.array([self.steps]), params)
        return AgentRun(agents)

    def train(self, run: AgentRun, broadcast: bytes | Broadcast, order: Order) -> TrainedUpdate:
        """Train from a broadcast, as the order says.

        Save `TrainedUpdate.run` before you send the update. An agent that continues from its state before the job would
        draw noise with the same keys again; an agent that has lost its file has to start with another secret.

        Args:
            run: State of the agent. A job that is still pending counts as dropped.
            broadcast: The server's broadcast, as bytes or decoded.
            order: Order of the server.

        Raises:
            WireError: The broadcast can't be read, or has another version than the order; the order's version is
                older than the last one this agent received, or its values are out of range.
        """
        # Before anything is decoded or drawn: a wrong order must not use up a key.
        self._check_order(order, int(run.agents.team.version[0]))
        received = self._broadcasts.decode(broadcast) if isinstance(broadcast, bytes) else broadcast
        if int(received.version) != order.version:
            raise WireError(
                f"The broadcast has version {int(received.version)}, and the order version {order.version}. One of "
                "them is late. Request both again."
            )
        table = Table(jax.tree.map(lambda x: np.asarray(x)[None], received), np.zeros(1, np.int32))
        # Copied, because training donates the blocks and updates the team in place, and the state before the job is
        # needed if its update is dropped.
        agents = _copied(run.agents)
        steps, cohort = (np.array([n], np.int32) for n in (order.steps, order.cohort))
        jobs = Jobs(ALONE, np.zeros(1, np.int32), steps, cohort, np.array([order.share], np.float32))
        agents = self.executor.assign(agents, jobs, table)
        run = run._replace(agents=_sent_for(run.agents, agents))
        keys = self.keys._replace(noise=self._noise(self.keys))
        agents, found = self.executor.train(keys, agents, ALONE, table)
        if found.failed:
            return TrainedUpdate(b"", AgentRun(agents), {}, found.failed[0].reason)
        update = jax.tree.map(lambda x: np.asarray(x)[0], found.items)
        metrics = {name: float(x[0]) for name, x in found.metrics.items()}
        run = run._replace(pending=agents)
        if self.vectors:
            return self._on_grid(received, found.items, run, metrics)
        bid, sent = (b"", self._sent.encode(update)) if self._bidding is None else self._bidding.apart(update)
        return TrainedUpdate(sent, run, metrics, bid=bid)

    def _on_grid(self, received: Broadcast, updates: Update, run: AgentRun, metrics: dict[str, float]) -> TrainedUpdate:
        """Return the vector of an update, unless a number in it is not finite or beyond the grid.

        Behind a mask nobody else can check that.
        """
        found = jax.tree.map(np.asarray, self._rounded(received, updates))
        why = beyond_range(self.federation, self._decoded, found.reach)
        if why:
            return TrainedUpdate(b"", run, metrics, beyond=why)
        return TrainedUpdate(b"", run, metrics, vector=vector_of(found.updates, found.statistics[None])[0])

    def _check_order(self, order: Order, heard: int) -> None:
        most = self.federation.local_steps
        if not _whole(order.steps, 1, most):
            raise WireError(
                f"The order has {order.steps!r} local steps, and this federation takes from 1 to {most}. Compare the "
                "configurations of server and agent."
            )
        counted, share = _whole(order.version, 0, LARGEST) and _whole(order.cohort, 1, LARGEST), _number(order.share)
        if not (counted and 0.0 <= share <= 1.0):
            raise WireError(
                f"The order is {order!r}. A version is an integer from 0 on, a cohort one from 1 on, and a share is in "
                "[0, 1]. Compare the configurations of server and agent."
            )
        if order.version < heard:
            raise WireError(
                f"The order has version {order.version}, and this agent has received version {heard} before. It draws "
                "noise with keys of the version and uses none twice, so it accepts no older version. Continue the "
                "server from its last state, or start this agent again with another secret."
            )

    def digest_of(self, broadcast: bytes | Broadcast) -> bytes:
        """Return the SHA-256 of a broadcast in its bytes, 32 bytes: the same for all agents that received the same."""
        content = broadcast if isinstance(broadcast, bytes) else self._broadcasts.encode(broadcast)
        return hashlib.sha256(content).digest()

    def first_job(self, steps: int) -> tuple[bytes, Order]:
        """Return the broadcast of a server before its first merge, and an order of so many local steps."""
        server = start_programs(self.federation).server(stream_key(self.keys, Stream.SERVER), None)
        sent = jax.tree.map(np.asarray, self.federation.broadcast(server))
        share = float(shares(self.federation, np.array([self.federation.local_steps]))[0])
        return self._broadcasts.encode(sent), Order(int(sent.version), 1, steps, share)

    def settle(self, run: AgentRun, verdict: Verdict) -> AgentRun:
        """Return the agent after the verdict on its update."""
        if not isinstance(run.pending, Agents) or verdict is Verdict.DROPPED:
            return AgentRun(run.agents)
        before = [(0, ALONE, block.stage_states) for block in run.agents.blocks]
        rejected = verdict is Verdict.REJECTED
        return AgentRun(self.executor.give_back(run.pending, before, ALONE) if rejected else run.pending)

    def progress(self) -> int:
        """Return a number that grows while it trains: `fedrl.engines.executors.executor.Executor.progress`."""
        return self.executor.progress()

    def close(self) -> None:
        """Release resources outside this process, such as workers."""
        self.executor.close()


def _whole(value: Any, least: int, most: int) -> bool:
    """Return whether a value is an integer within bounds, and neither a bool nor a float."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and least <= int(value) <= most


def _number(value: Any) -> float:
    """Return a number unchanged, and NaN for anything else."""
    return value if isinstance(value, float | int) else math.nan


def _copied(agents: Agents) -> Agents:
    """Copy everything that a job changes in place or consumes."""
    return Agents(_copies(agents.blocks), jax.tree.map(np.array, agents.team))


@jax.jit
def _copies(blocks: PyTree) -> PyTree:
    """Copy arrays in one program: one by one, each shape would be a program of its own."""
    return jax.tree.map(jnp.copy, blocks)


def _sent_for(before: Agents, after: Agents) -> Agents:
    """Return the agent before its job, but with the job's version and count."""
    # Even if this job is dropped, the next one of the same version then has other keys: no key is used twice.
    kept = {name: getattr(after.team, name).copy() for name in ("version", "again", "cohort", "steps", "row", "share")}
    return before._replace(team=before.team._replace(**kept))
