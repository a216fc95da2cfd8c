"""The server's half of a federation: it opens a version, takes one update at a time, and closes the version.

    open(run, ordered) -> Version             its broadcast as bytes, and an order for each agent
    version.take(agent, update) -> reason     "" if accepted, or the reason of the rejection; in any order
    version.close() -> Closed                 the next state, and a verdict on each update

The server knows the senders, its orders, and bytes; it computes every number that it can know itself instead of
trusting the update (`fedrl.federation.trust`). For a rule that needs only the sum, updates are summed exactly as they
arrive: memory is that of the model for any number of agents, and the result does not depend on the order of arrival.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core.aggregator import Arrivals
from fedrl.core.errors import ConfigError, WireError
from fedrl.core.keys import Keys, Root, Stream, check_roots, derived, server_noise
from fedrl.core.summation import check_open
from fedrl.core.types import Broadcast, Params, PyTree
from fedrl.engines.aggregation import Merged, merge_blocks
from fedrl.engines.halves.adding import Adding, lanes, reading
from fedrl.engines.halves.orders import Order, Verdict, check_setting
from fedrl.engines.messages import messages
from fedrl.engines.noise_source import of_half
from fedrl.engines.state import start_programs
from fedrl.federation.federation import Federation, ServerState
from fedrl.federation.shares import shares
from fedrl.federation.trust import lie, weight_of
from fedrl.wire.codec import codec

LARGEST = 64
"""Bytes by which a message may exceed the largest valid update before it is rejected unread."""
NAMED = 1000
"""Number of rejected messages that a version lists. Further ones are only counted, so that they take no memory."""
NOBODY = -1
"""Sender of a message that came without the number of an agent."""


class ServerRun(NamedTuple):
    """State of a server between versions."""

    server: ServerState


class Closed(NamedTuple):
    """Result of a version.

    Attributes:
        run: Next state of the server.
        verdicts: Verdict on the job of each selected agent, by number.
        rejected: Senders of rejected messages and the reasons, in the order of agents; -1 for an unknown sender.
        weight: Total weight of the merged updates.
        skipped: Reason why the server kept its state, if the merge was not finite; else "".
        unnamed: Number of rejected messages beyond those listed.
    """

    run: ServerRun
    verdicts: dict[int, Verdict]
    rejected: list[tuple[int, str]]
    weight: float
    skipped: str = ""
    unnamed: int = 0


class Version:
    """An open version, which takes updates.

    Attributes:
        broadcast: Bytes of the broadcast to all selected agents.
        orders: Order for each of them, by number.
        rejected: Senders of rejected messages so far and the reasons; the first 1,000.
        unnamed: Number of further rejected messages.
    """

    def __init__(self, half: ServerHalf, run: ServerRun, orders: Mapping[int, Order]) -> None:
        self._half, self.run, self.orders = half, run, dict(orders)
        self.sent: Broadcast = half.federation.broadcast(run.server)
        self.broadcast = half.broadcasts.encode(jax.tree.map(np.asarray, self.sent))
        self.rejected: list[tuple[int, str]] = []
        self.unnamed = 0
        self._closed: Closed | None = None
        self._mistaken: set[int] = set()  # selected agents with a rejected message: their verdict is not "dropped"
        self._taken: dict[int, None] = {}  # in the order in which the updates were added
        self._adding = Adding(half.read, self.sent, half.together)

    @property
    def taken(self) -> list[int]:
        """Senders of the accepted updates, in the order of arrival."""
        return list(self._taken)

    def take(self, agent: int, update: bytes) -> str:
        """Take the update of an agent.

        Args:
            agent: Number of the sender, as authenticated by the transport; the update does not contain it.
            update: Bytes of the encoded update.

        Returns:
            The reason of the rejection; "" if the update is accepted. A rejected update changes nothing, and no
            exception is raised.
        """
        number = _number(agent)
        who = NOBODY if number is None else number
        why = "no number of an agent came with it" if number is None else self._why_not(number, update)
        if why and len(self.rejected) < NAMED:
            self.rejected.append((who, why))
        elif why:
            self.unnamed += 1
        if why and who in self.orders:
            self._mistaken.add(who)
        return why

    def _why_not(self, agent: int, data: object) -> str:
        order, half = self.orders.get(agent), self._half
        if self._closed is not None:
            return f"version {int(self.run.server.version)} is closed"
        if order is None:
            return f"agent {agent} was not asked for version {int(self.run.server.version)}"
        if agent in self._taken:
            return f"agent {agent} has sent its update before"
        if not isinstance(data, bytes | bytearray):
            return f"a {type(data).__name__} came, and a message is bytes"
        if len(data) > half.largest:
            return f"the message has {len(data)} bytes, and no update has more than {half.largest}"
        return self._take(agent, order, bytes(data))

    def _take(self, agent: int, order: Order, data: bytes) -> str:
        half = self._half
        try:
            update = half.sent.decode(data)
        except WireError as fault:
            return f"it can't be read: {fault}"
        why = lie(half.federation, update, order.version, order.steps)
        if not why:
            self._taken[agent] = None
            # The weight follows from the ordered steps; the agent's own counts only where a stage may change it.
            if not any(stage.reweights for stage in half.federation.stages):
                update = update._replace(weight=np.float32(weight_of(half.federation, order.steps)))
            self._adding.add(update)
        return why

    def add_up(self) -> None:
        """Sum the updates that were accepted since the last call."""
        self._adding.add_up()

    def close(self) -> Closed:
        """Merge the accepted updates and return the next state; a second call returns the same result."""
        if self._closed is None:
            self._closed = self._merged()
        return self._closed

    def _merged(self) -> Closed:
        half, run, block_sums = self._half, self.run, self._adding.results()
        whose = np.array(list(self._taken), np.int32)
        arrivals = Arrivals(whose, np.zeros(len(whose), np.int32))
        merged: Merged = half.merge(half.secret, run.server, block_sums, arrivals, half.noise_for(run.server))
        dropped = set(merged.dropped(whose).tolist())
        verdicts = dict.fromkeys(self.orders, Verdict.DROPPED)
        verdicts |= {agent: Verdict.REJECTED if agent in dropped else Verdict.MERGED for agent in self._taken}
        # An agent whose message was rejected has trained: it keeps that, so its job was not dropped.
        verdicts |= {agent: Verdict.REJECTED for agent in self._mistaken if verdicts[agent] is Verdict.DROPPED}
        rejected = sorted([*self.rejected, *((agent, reason) for agent, reason in merged.rejected)])
        return Closed(ServerRun(merged.server), verdicts, rejected, merged.weight, merged.skipped, self.unnamed)


class ServerHalf:
    """The server of a federation, in a process of its own.

    Args:
        federation: Federation of the server.
        setting: Parameters of one environment; only their shapes matter.
        steps: Usual number of local steps, one number per agent.
        run: Root of the run's keys, 32 bytes, which all parties have.
        secret: Secret of the server, 32 bytes.
        noise: As of `AgentHalf`; by default the operating system draws a root for each version.

    Raises:
        ConfigError: There is no agent, a number of local steps is out of range, a root does not have 32 bytes, or both
            roots are the same.
        UnsoundError: The federation hides updates in sums, which needs a protocol with other messages.
    """

    def __init__(
        self,
        federation: Federation,
        setting: PyTree,
        steps: list[int],
        run: Root,
        secret: Root,
        noise: Root | None = None,
    ) -> None:
        if not steps:
            raise ConfigError("steps is empty. A server needs at least one agent. Give the local steps of each agent.")
        check_roots(run=run, secret=secret)
        check_open(federation.summation)
        check_setting(federation, setting)
        self.federation, self.secret, self._run = federation, secret, run
        self._keys = Keys(np.frombuffer(run, np.uint32), np.zeros(8, np.uint32))
        self._noise = of_half(federation, run, secret, noise)
        self.steps = list(steps)
        for agent, count in enumerate(self.steps):
            self._check(agent, count)
        self.shares = shares(federation, np.array(self.steps))
        self.wire = messages(federation, jax.tree.map(lambda x: jnp.asarray(x)[None], setting))
        self.broadcasts, self.sent = codec(self.wire.sent), codec(self.wire.update)
        known = self.wire.up_bytes
        dense = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(self.wire.update))
        self.largest = (dense if known is None else known) + LARGEST
        self.together = lanes(self.wire.update, len(steps))
        self.merge, self.read = merge_blocks(federation, self.wire.decoded, len(steps)), reading(federation)

    def start(self, params: Params | None = None) -> ServerRun:
        """Return the server before the first version; `params` are those of a trained policy to start from."""
        key = jax.random.wrap_key_data(derived(self._run, Stream.SERVER)[0])
        return ServerRun(start_programs(self.federation).server(key, params))

    def open(self, run: ServerRun, ordered: Mapping[int, int] | None = None) -> Version:
        """Open the next version.

        Save `run` before you send the broadcast. A server that continues from an older state would give the same number
        to another version and draw noise with the same keys; agents that have received the later one refuse it.

        Args:
            run: State of the server.
            ordered: Local steps of each selected agent, by number; by default all agents, with their usual steps.

        Raises:
            ConfigError: There is no such agent, or the number of steps is out of range.
        """
        asked = dict(enumerate(self.steps)) if ordered is None else dict(ordered)
        for agent, steps in asked.items():
            self._check(agent, steps)
        asked = {int(agent): int(steps) for agent, steps in asked.items()}
        version, cohort = int(run.server.version), len(asked)
        orders = {k: Order(version, cohort, steps, float(self.shares[k])) for k, steps in asked.items()}
        return Version(self, run, orders)

    def noise_for(self, server: ServerState) -> np.ndarray | None:
        """Return the data of the key of the server's noise in a version; None without noise."""
        keys = self._keys._replace(noise=self._noise(self._keys))
        return server_noise(keys, int(server.version))

    def _check(self, agent: object, steps: object) -> None:
        known, most = _number(agent), self.federation.local_steps
        if known is None or not 0 <= known < len(self.steps) or not 1 <= (_number(steps) or 0) <= most:
            raise ConfigError(
                f"Agent {agent!r} is ordered {steps!r} local steps. Agents are integers from 0 to "
                f"{len(self.steps) - 1}, and local steps from 1 to {most}. Give numbers in these ranges."
            )


def _number(value: Any) -> int | None:
    """Return a value as a 64-bit integer, or None if it is something else, such as a bool or a string."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return int(value) if whole and -(2**63) <= int(value) < 2**63 else None
