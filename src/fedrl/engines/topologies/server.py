"""The topology with one server, and the interface that all topologies share."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from fedrl.core import exact
from fedrl.core.keys import Keys, server_noise, server_secret
from fedrl.core.types import Broadcast, Params, PyTree
from fedrl.engines.aggregation import merge_program, releases, skip_round
from fedrl.engines.down_messages import DownTraffic
from fedrl.engines.inbox import SUMS, UPDATES, Copied, Inbox, Table
from fedrl.engines.messages import Messages
from fedrl.engines.program_cache import cached_program
from fedrl.engines.state import Rejection
from fedrl.federation.federation import Federation, ServerState
from fedrl.server.schedules import Schedule


class TopologySpec(NamedTuple):
    """Inputs from which a topology is built.

    Attributes:
        federation: Federation to simulate.
        fleet: Parameters of each agent's environment.
        wire: Shapes of the federation's messages.
        agents: Number of agents.
        schedule: Schedule of the merges.
        scaled: Whether updates may be scaled before they are merged.
        live: Whether agents may be at other sites, so that messages to them travel as bytes.
    """

    federation: Federation
    fleet: PyTree
    wire: Messages
    agents: int
    schedule: Schedule
    scaled: bool
    live: bool = False


class Traffic(NamedTuple):
    """Traffic between agents and servers, or among neighbours, since the last merge.

    Attributes:
        bytes_up, bytes_down: Bytes of all messages.
        messages_up, messages_down: Number of messages.
        levels: In a tree, bytes up and down between each level and the one above, from the agents up.
        latency_s: Seconds that the messages take, if the links are known.
    """

    bytes_up: int = 0
    bytes_down: int = 0
    messages_up: int = 0
    messages_down: int = 0
    levels: tuple[tuple[int, int], ...] = ()
    latency_s: float = 0.0

    def with_down(self, size_bytes: int, messages: int) -> Traffic:
        """Return the traffic with more messages to agents."""
        (up, down), *above = self.levels or ((0, 0),)
        levels = ((up, down + size_bytes), *above) if self.levels else ()
        bytes_down, messages_down = self.bytes_down + size_bytes, self.messages_down + messages
        return self._replace(bytes_down=bytes_down, messages_down=messages_down, levels=levels)


class SentMessages(NamedTuple):
    """Messages of agents since the last merge, `[agents]` each.

    Attributes:
        down_traffic: Jobs of each agent, and the messages it was sent.
        arrived: Mask of agents whose updates arrived.
        size_bytes: Bytes of the updates that were sent.
        messages: Number of these uploads; an update that a stage withholds is not counted.
    """

    down_traffic: DownTraffic
    arrived: np.ndarray
    size_bytes: np.ndarray
    messages: np.ndarray


class MergeResult(NamedTuple):
    """Result of a merge.

    Attributes:
        weight: Total weight of the merged updates.
        rejected: Updates that were rejected.
        dropped: Agents whose updates had no effect.
        skipped: Reason why a server kept its state, if the merge was not finite; else "".
        metrics: Metrics of each agent from the merge, `[agents]` each.
        messages, size_bytes: Number and bytes of the messages that each agent sent to neighbours, `[agents]`; None if
            it only sent its update.
    """

    weight: float
    rejected: tuple[Rejection, ...]
    dropped: np.ndarray
    skipped: str = ""
    metrics: dict[str, np.ndarray] = {}
    messages: np.ndarray | None = None
    size_bytes: np.ndarray | None = None


class Server:
    """The topology with one server.

    Attributes:
        federation: Federation that the agents run.
        collects: What the executor collects of a block: sums, updates or parameters.
        group: `[agents]`, group of each agent; only updates of one group may be summed.
        relays: For each level of relays, the relay above each agent, `[agents]`.
        periods: In a tree, the rounds between two merges on each level.
        releases: Whether a round without updates is merged like any other, because the server adds noise in each.
    """

    releases = False
    periods: tuple[int, ...] = ()

    def __init__(self, setting: TopologySpec) -> None:
        federation, schedule, agents = setting.federation, setting.schedule, setting.agents
        self.federation, self.wire, self.agents = federation, setting.wire, agents
        # A program of a block adds the updates of several agents, and a protocol may need those of each.
        added_in_blocks = federation.summation.rows == exact.LANES and not setting.scaled
        summed = federation.aggregator.needs == "sum" and added_in_blocks
        self.collects = SUMS if summed else UPDATES
        self.group = np.zeros(agents, int)
        self.relays: list[np.ndarray] = []
        self.needs_broadcasts = schedule.mix_models
        """Whether a merge needs the parameters that agents had received."""
        self.releases = releases(federation)
        self._merge_updates = merge_program(federation, setting.wire.decoded, schedule.mix_models, agents)
        self._ahead = (1.0 - schedule.momentum) / schedule.momentum
        self.looks_ahead = self._ahead > 0.0
        self._live = setting.live

    def start(self, keys: Keys, first: ServerState) -> tuple[ServerState, PyTree]:
        """Return the initial state of the root server, and of the topology."""
        del keys
        return first, self._before(first)

    def table(self, server: ServerState, memory: PyTree) -> Table:
        """Return the broadcasts of this version, and the row that each agent receives."""
        copies = self._copied([server], [memory])
        return Table(self._heard([server], [memory]), np.zeros(self.agents, np.int32), copies)

    def holds(self, server: ServerState, memory: PyTree) -> Table:
        """Return the same without look-ahead: the server's own parameters."""
        del memory
        return Table(self._heard([server]), np.zeros(self.agents, np.int32))

    def merge(
        self, keys: Keys, server: ServerState, memory: PyTree, inbox: Inbox
    ) -> tuple[ServerState, PyTree, MergeResult]:
        """Merge the updates of an inbox and advance the version."""
        noise = server_noise(keys, int(server.version))
        found = self._merge_updates(server_secret(keys), server, inbox, noise)
        # Look-ahead extrapolates the last step that was taken, so a skipped merge keeps the earlier parameters.
        before = self._before(server) if found.weight > 0.0 and not found.skipped else memory
        result = MergeResult(found.weight, found.rejected, found.dropped(inbox.agent), found.skipped)
        return found.server, before, result

    def skip(self, server: ServerState, memory: PyTree) -> tuple[ServerState, PyTree]:
        """Advance the version without a merge."""
        return skip_round(server), memory

    def restarted(
        self, keys: Keys, server: ServerState, memory: PyTree, ids: np.ndarray, policy: Params | None = None
    ) -> tuple[ServerState, PyTree]:
        """Take note that agents have restarted; the state of servers does not change."""
        del keys, ids, policy
        return server, memory

    def traffic(self, sent: SentMessages, number: int, merged: bool) -> Traffic:
        """Return the traffic of version `number`; `merged` says whether there was a merge."""
        del number, merged
        asked = int(sent.down_traffic.dispatches.sum())
        up, said = int(sent.size_bytes.sum()), int(sent.messages.sum())
        # Under down stages the size of a broadcast differs between agents, and was counted as each was sent.
        down = (
            int(sent.down_traffic.size_bytes[0].sum()) if self.federation.down_stages else asked * self.wire.down_bytes
        )
        return Traffic(up, down, said, asked)

    def item(self) -> PyTree:
        """Return the shapes of the item collected of one agent."""
        return self.wire.decoded

    def _before(self, server: ServerState) -> Params:
        """Return the parameters from which the next version looks ahead; () without look-ahead."""
        return jax.tree.map(np.asarray, self.federation.broadcast(server).params) if self._ahead > 0.0 else ()

    def _copied(self, servers: list[ServerState], before: list[PyTree]) -> PyTree:
        """Return the servers' copies, with the parameters `before` of those that look ahead; () without down stages."""
        down = self.federation.downlink
        if down is None:
            return ()

        def row(server: ServerState, earlier: PyTree) -> Copied:
            copy = server.down
            if not self._live:
                return Copied(copy.number, copy.size_bytes)
            held = (copy.held, earlier) if self.looks_ahead else (copy.held,)
            return Copied(copy.number, copy.size_bytes, held, down.message(copy), np.float64(self._ahead))

        rows = [jax.tree.map(np.asarray, row(*pair)) for pair in zip(servers, before, strict=True)]
        stacked: Copied = jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
        return stacked

    def _heard(self, servers: list[ServerState], before: list[PyTree] | None = None) -> Broadcast:
        """Return the stacked broadcasts of servers, with look-ahead from the parameters `before` if given."""
        sent = []
        for i, server in enumerate(servers):
            message = self.federation.broadcast(server)
            if before is not None and self._ahead > 0.0:
                ahead = looking_ahead(self.federation, self._ahead)
                message = message._replace(params=ahead(message.params, before[i]))
            sent.append(jax.tree.map(np.asarray, message))
        stacked: Broadcast = jax.tree.map(lambda *leaves: np.stack(leaves), *sent)
        return stacked


@cached_program
def looking_ahead(federation: Federation, ahead: float) -> Callable[[Params, Params], Params]:
    """Return the program that extrapolates the parameters along the last step, as momentum would."""
    del federation
    return jax.jit(lambda params, before: jax.tree.map(lambda x, old: x + ahead * (x - old), params, before))
