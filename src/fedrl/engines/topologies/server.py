"""All updates meet at one server."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from fedrl.core.keys import Keys, server_secret
from fedrl.core.types import Broadcast, Params, PyTree
from fedrl.engines.aggregation import Messages, merge_program, releases, skip_round
from fedrl.engines.down_messages import DownTraffic
from fedrl.engines.inbox import SUMS, UPDATES, Copied, Inbox, Table
from fedrl.engines.program_cache import cached_program
from fedrl.engines.state import Rejection
from fedrl.federation.federation import Federation, ServerState
from fedrl.server.schedules import Schedule


class TopologySpec(NamedTuple):
    """What a topology is made for.

    Attributes:
        federation: What agents run.
        fleet: Parameters of each agent's environment.
        wire: The messages of the federation.
        agents: How many there are.
        schedule: When servers merge.
        scaled: Whether updates may be scaled before they are merged.
    """

    federation: Federation
    fleet: PyTree
    wire: Messages
    agents: int
    schedule: Schedule
    scaled: bool


class Traffic(NamedTuple):
    """What was sent between agents and servers, or among neighbours, since the last merge.

    Attributes:
        bytes_up, bytes_down: Of all messages.
        messages_up, messages_down: How many.
        levels: Of a tree, the bytes up and down between each level and the one above, from the agents on.
        latency_s: How long the messages take, if the links are known.
    """

    bytes_up: int = 0
    bytes_down: int = 0
    messages_up: int = 0
    messages_down: int = 0
    levels: tuple[tuple[int, int], ...] = ()
    latency_s: float = 0.0


class SentMessages(NamedTuple):
    """What agents have sent and heard since the last merge, `[agents]` each, and whether anything was merged.

    Attributes:
        down_traffic: How often each was sent for, and what it was sent.
        arrived: Whose updates are merged.
        size_bytes: Of the updates that were sent.
        messages: How many those are; what a stage holds back is none.
    """

    down_traffic: DownTraffic
    arrived: np.ndarray
    size_bytes: np.ndarray
    messages: np.ndarray


class MergeResult(NamedTuple):
    """What came of a merge.

    Attributes:
        weight: Of all that was merged.
        rejected: What was left out.
        dropped: Agents whose updates nothing was made of.
        skipped: Why a server stands where it stood, if what it made was not finite.
        metrics: What is known of each agent after the merge, `[agents]` each.
        messages, size_bytes: How many messages each agent sent to others and their bytes, `[agents]`; None if it sent
            its update alone.
    """

    weight: float
    rejected: tuple[Rejection, ...]
    dropped: np.ndarray
    skipped: str = ""
    metrics: dict[str, np.ndarray] = {}
    messages: np.ndarray | None = None
    size_bytes: np.ndarray | None = None


class Server:
    """One server.

    Attributes:
        federation: What agents run.
        collects: What the executor is asked to collect of them.
        group: `[agents]`, whose updates may be added up together.
        relays: Of each level of servers that pass on what agents hear, the one above each agent, `[agents]`.
        releases: Whether a round of nobody is merged like any other, since the server adds noise in each.
    """

    releases = False

    def __init__(self, setting: TopologySpec) -> None:
        federation, schedule, agents = setting.federation, setting.schedule, setting.agents
        self.federation, self.wire, self.agents = federation, setting.wire, agents
        summed = federation.aggregator.needs == "sum" and not setting.scaled
        self.collects = SUMS if summed else UPDATES
        self.group = np.zeros(agents, int)
        self.relays: list[np.ndarray] = []
        self.needs_broadcasts = schedule.mix_models
        """Whether a merge needs what agents had heard."""
        self.releases = releases(federation)
        self._merge_updates = merge_program(federation, setting.wire.decoded, schedule.mix_models, agents)
        self._ahead = (1.0 - schedule.momentum) / schedule.momentum
        self.looks_ahead = self._ahead > 0.0

    def start(self, keys: Keys, first: ServerState) -> tuple[ServerState, PyTree]:
        """What servers begin with: the root, and what else the topology keeps."""
        del keys
        return first, self._before(first)

    def table(self, server: ServerState, memory: PyTree) -> Table:
        """What agents may hear now."""
        return Table(self._heard([server], [memory]), np.zeros(self.agents, np.int32), self._copied([server]))

    def holds(self, server: ServerState, memory: PyTree) -> Table:
        """The same without looking ahead."""
        del memory
        return Table(self._heard([server]), np.zeros(self.agents, np.int32))

    def merge(
        self, keys: Keys, server: ServerState, memory: PyTree, inbox: Inbox
    ) -> tuple[ServerState, PyTree, MergeResult]:
        """One version further."""
        found = self._merge_updates(server_secret(keys), server, inbox)
        before = self._before(server) if found.weight > 0.0 and not found.skipped else memory
        result = MergeResult(found.weight, found.rejected, found.dropped(inbox.agent), found.skipped)
        return found.server, before, result

    def skip(self, server: ServerState, memory: PyTree) -> tuple[ServerState, PyTree]:
        """One version further, although nothing was merged."""
        return skip_round(server), memory

    def restarted(self, keys: Keys, server: ServerState, memory: PyTree, ids: np.ndarray) -> tuple[ServerState, PyTree]:
        """These agents have begun anew. What servers hold stays."""
        del keys, ids
        return server, memory

    def traffic(self, sent: SentMessages, number: int, merged: bool) -> Traffic:
        """What a version cost, by its number; `merged` says whether servers made anything of it."""
        del number, merged
        asked = int(sent.down_traffic.dispatches.sum())
        up, said = int(sent.size_bytes.sum()), int(sent.messages.sum())
        down = (
            int(sent.down_traffic.size_bytes[0].sum()) if self.federation.down_stages else asked * self.wire.down_bytes
        )
        return Traffic(up, down, said, asked)

    def item(self) -> PyTree:
        """The shapes of what is collected of one agent."""
        return self.wire.decoded

    def _before(self, server: ServerState) -> Params:
        """What is kept of a server for a look-ahead from its next state."""
        return jax.tree.map(np.asarray, self.federation.broadcast(server).params) if self._ahead > 0.0 else ()

    def _copied(self, servers: list[ServerState]) -> PyTree:
        """Of servers whose agents hold copies, by how many differences these were made, and the size of the last."""
        if not self.federation.down_stages:
            return ()
        numbers, sizes = zip(*((server.down.number, server.down.size_bytes) for server in servers), strict=True)
        return Copied(*(np.stack([np.asarray(x) for x in column]) for column in (numbers, sizes)))

    def _heard(self, servers: list[ServerState], before: list[PyTree] | None = None) -> Broadcast:
        """Broadcasts of servers, stacked; from the states before, looking ahead."""
        sent = []
        for i, server in enumerate(servers):
            message = self.federation.broadcast(server)
            if before is not None and self._ahead > 0.0:
                ahead = _looking_ahead(self.federation, self._ahead)
                message = message._replace(params=ahead(message.params, before[i]))
            sent.append(jax.tree.map(np.asarray, message))
        stacked: Broadcast = jax.tree.map(lambda *leaves: np.stack(leaves), *sent)
        return stacked


@cached_program
def _looking_ahead(federation: Federation, ahead: float) -> Callable[[Params, Params], Params]:
    """Where momentum will have carried the parameters."""
    del federation
    return jax.jit(lambda params, before: jax.tree.map(lambda x, old: x + ahead * (x - old), params, before))
