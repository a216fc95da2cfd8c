"""An agent's half by itself: broadcast and order in, update out, as bytes.

    turn(run, broadcast, order) -> Turn(update, run)        run.pending: what the agent is if its update is merged
    settle(run, verdict)        -> run                      MERGED   it goes on from its work
                                                            REFUSED  it has learned, and its stages remember no update
                                                            LOST     it is what it was before

It knows its number, its environment, the root of the run and its own secret; nothing of the server but its bytes. The
work itself is an executor's, of one seat: what a simulation with `block=1` computes, to the same bits.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.clocks.events import Jobs
from fedrl.core.errors import ConfigError, WireError
from fedrl.core.keys import Keys, Root, check_roots
from fedrl.core.summation import check_open
from fedrl.core.types import PyTree
from fedrl.engines.aggregation import messages
from fedrl.engines.executors.executor import Agents, ExecutorPlan
from fedrl.engines.halves.orders import Order, Verdict, check_setting
from fedrl.engines.inbox import ENCODED, Table
from fedrl.engines.simulate import executor_of
from fedrl.federation.federation import Federation
from fedrl.wire.codec import codec

ALONE = np.zeros(1, int)
"""The one seat."""
LARGEST = 2**31 - 1
"""The largest number of an agent, a version or a cohort: they travel as int32."""


class AgentRun(NamedTuple):
    """What an agent remembers of a run.

    Attributes:
        agents: What it is, by the verdicts that it knows.
        pending: What it is if the update of a turn without a verdict is merged; () if there is no such turn.
    """

    agents: Agents
    pending: Agents | tuple[()] = ()


class TrainedUpdate(NamedTuple):
    """What came of a turn.

    Attributes:
        update: Bytes; empty if the training came to nothing.
        run: With the turn pending.
        metrics: What the agent measured, by name. It stays here.
        failed: Why the training came to nothing, if it did.
    """

    update: bytes
    run: AgentRun
    metrics: dict[str, float]
    failed: str = ""


class AgentHalf:
    """One agent of a federation, in a process of its own.

    Args:
        federation: What it runs.
        number: Its number, from 0 on.
        setting: The parameters of its environment.
        run: The root of the run's keys, 32 bytes, which all parties have.
        secret: Its own secret, 32 bytes: by `os.urandom`, or `fedrl.core.keys.agent_secret` in a run to be replayed.
        steps: Local steps that it is usually asked for.
        **options: For the executor, such as `workers` of one for the host.

    Raises:
        ConfigError: A number is out of range, a root is not of 32 bytes or both are one, or the setting is not one of
            this environment.
        UnsoundError: The federation hides updates in sums, which takes messages of their own.

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
        **options: Any,
    ) -> None:
        check_roots(run=run, secret=secret)
        check_open(federation.summation)
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
        self.keys = Keys(np.frombuffer(run, np.uint32), np.zeros(8, np.uint32))
        wire = messages(federation, fleet)
        self._broadcasts, self._sent = codec(wire.sent), codec(wire.update)
        self.steps = int(usual)

    def start(self) -> AgentRun:
        """The agent before its first turn."""
        _, agents = self.executor.start(self.keys, np.array([self.steps]))
        return AgentRun(agents)

    def train(self, run: AgentRun, broadcast: bytes, order: Order) -> TrainedUpdate:
        """Learn from a broadcast, as it was ordered.

        Save `Turn.run` before the update is sent. An agent that goes on from what it was before would draw noise by
        the keys of this turn again; one that has lost its file begins anew with another secret.

        Args:
            run: What the agent is. A turn that is still pending is taken for lost.
            broadcast: As the server sent it.
            order: What the server asks.

        Raises:
            WireError: The broadcast can't be read, or is of another version than the order; the order is of a version
                before the last that this agent has heard, or says what no server of this federation would.
        """
        self._check_order(order, int(run.agents.team.version[0]))
        received = self._broadcasts.decode(broadcast)
        if int(received.version) != order.version:
            raise WireError(
                f"The broadcast has version {int(received.version)}, and version {order.version} was ordered. One of "
                "them is late. Ask for both again."
            )
        table = Table(jax.tree.map(lambda x: np.asarray(x)[None], received), np.zeros(1, np.int32))
        agents = _copied(run.agents)
        steps, cohort = (np.array([n], np.int32) for n in (order.steps, order.cohort))
        jobs = Jobs(ALONE, np.zeros(1, np.int32), steps, cohort, np.array([order.share], np.float32))
        agents = self.executor.assign(agents, jobs, table)
        run = run._replace(agents=_sent_for(run.agents, agents))
        agents, found = self.executor.train(self.keys, agents, ALONE, table)
        if found.failed:
            return TrainedUpdate(b"", AgentRun(agents), {}, found.failed[0].reason)
        update = jax.tree.map(lambda x: np.asarray(x)[0], found.items)
        metrics = {name: float(x[0]) for name, x in found.metrics.items()}
        return TrainedUpdate(self._sent.encode(update), run._replace(pending=agents), metrics)

    def _check_order(self, order: Order, heard: int) -> None:
        most = self.federation.local_steps
        if not _whole(order.steps, 1, most):
            raise WireError(
                f"{order.steps!r} local steps are ordered, and this federation takes from 1 to {most}. Compare what "
                "both ends run."
            )
        counted, share = _whole(order.version, 0, LARGEST) and _whole(order.cohort, 1, LARGEST), _number(order.share)
        if not (counted and 0.0 <= share <= 1.0):
            raise WireError(
                f"{order!r} came. Versions and cohorts are whole numbers from 0 and 1 on, and a share is from 0 to 1. "
                "Compare what both ends run."
            )
        if order.version < heard:
            raise WireError(
                f"Version {order.version} is ordered, and this agent has heard version {heard} before. It draws noise "
                "by keys of the version, each once, so it goes back to none. Let the server go on from its last "
                "state, or begin this agent anew, with another secret."
            )

    def settle(self, run: AgentRun, verdict: Verdict) -> AgentRun:
        """The agent after it has heard what became of its update."""
        if not isinstance(run.pending, Agents) or verdict is Verdict.DROPPED:
            return AgentRun(run.agents)
        before = [(0, ALONE, block.stage_states) for block in run.agents.blocks]
        rejected = verdict is Verdict.REJECTED
        return AgentRun(self.executor.give_back(run.pending, before, ALONE) if rejected else run.pending)

    def close(self) -> None:
        """Let go of what is held outside this process."""
        self.executor.close()


def _whole(value: Any, least: int, most: int) -> bool:
    """Whether a value is a whole number within bounds, and neither a bool nor a float."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and least <= int(value) <= most


def _number(value: Any) -> float:
    """A number as it is, and anything else as none."""
    return value if isinstance(value, float | int) else math.nan


def _copied(agents: Agents) -> Agents:
    """Another copy of all that a turn changes in place or consumes."""
    blocks = jax.tree.map(jnp.array, agents.blocks)
    return Agents(blocks, jax.tree.map(np.array, agents.team))


def _sent_for(before: Agents, after: Agents) -> Agents:
    """What the agent was, and that it has been sent for: it never draws by one key twice."""
    kept = {name: getattr(after.team, name).copy() for name in ("version", "again", "cohort", "steps", "row", "share")}
    return before._replace(team=before.team._replace(**kept))
