"""Records of executors: what they know of their agents, what is asked of them, and the results of training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from fedrl.core.types import PyTree
from fedrl.engines.environment_failures import EnvironmentFailure
from fedrl.engines.executors.ahead import TrainedAhead
from fedrl.engines.inbox import Inbox, PartialSums
from fedrl.engines.messages import Upload
from fedrl.engines.state import Rejection
from fedrl.federation.federation import AgentState
from fedrl.server.board import Bids


class Team(NamedTuple):
    """The executor's state about agents, beside resident blocks.

    NumPy arrays, `[agents, ...]`, that are updated in place.

    Attributes:
        states: States of packed agents as rows of words, after their last finished job.
        received: Last broadcast that each agent received, if agents may train from different versions at a time.
        row: Otherwise the row of the table that each agent receives.
        version: Version of that broadcast; -1 before the first.
        again: Number of earlier jobs of each agent with the same version.
        cohort: Number of agents that received the same broadcast.
        steps: Local steps of the current job.
        share: Share of each agent among all agents, at the time of its job.
        trained: Number of calls of `train`, `[1]`.
        restarts: Number of restarts of each agent.
        ahead: Results of packed agents that trained before they were due; () if none ever does.
        world: Where the copies of a common world are, `[1, words]`; () if each agent has environments of its own.
    """

    states: np.ndarray
    received: PyTree
    row: np.ndarray
    version: np.ndarray
    again: np.ndarray
    cohort: np.ndarray
    steps: np.ndarray
    share: np.ndarray
    trained: np.ndarray
    restarts: np.ndarray
    ahead: TrainedAhead | tuple[()] = ()
    world: Any = ()


class Agents(NamedTuple):
    """The agents' half of the simulation state: resident blocks, and the state of the executor."""

    blocks: tuple[AgentState, ...]
    team: Team


class Elsewhere(ABC):
    """Stands for the blocks of agents whose states are in other processes."""

    @abstractmethod
    def rows(self, agents: Agents) -> np.ndarray:
        """Return the states of all agents as rows of words."""


class Learned(NamedTuple):
    """Result of training.

    Attributes:
        agent: Agents whose training succeeded; in the order of `block_sums`, or else in the order they were requested.
        items: The collected updates or parameters of each, with a leading axis; () if sums are collected.
        block_sums: The sums, if sums are collected.
        uploads: An `Upload` with a row for each agent.
        metrics: Metrics of each agent, by name.
        failed: Agents whose training failed.
        undo: Earlier stage memories, for `give_back`.
        failures: Failures of environments, also those after which an agent's round was repeated.
    """

    agent: np.ndarray
    items: PyTree
    block_sums: list[PartialSums]
    uploads: Upload
    metrics: dict[str, np.ndarray]
    failed: tuple[Rejection, ...]
    undo: Any
    failures: tuple[EnvironmentFailure, ...] = ()


class AfterBids(NamedTuple):
    """The updates that an upload budget has selected.

    Attributes:
        inbox: All updates since the last merge; the scale of those that did not come is 0.
        missing: Agents whose update was selected and did not come, or could not be read.
        report: What agents report beside their updates and not in bids, `[agents]` each; NaN for the others.
    """

    inbox: Inbox
    missing: tuple[Rejection, ...] = ()
    report: Mapping[str, np.ndarray] = {}


class SumCost(NamedTuple):
    """What sums by a protocol cost, beside what is known of updates.

    Attributes:
        size_bytes, messages: Bytes and number of the messages that each agent has sent, `[agents]`; () for none.
        bytes_down, messages_down: Bytes and number of the messages to agents.
        seconds: Seconds on the clock.
    """

    size_bytes: Any = ()
    messages: Any = ()
    bytes_down: int = 0
    messages_down: int = 0
    seconds: float = 0.0

    def beside(self, other: SumCost) -> SumCost:
        """Return the costs of two sums that are opened at the same time."""
        if isinstance(self.size_bytes, tuple) or isinstance(other.size_bytes, tuple):
            return other if isinstance(self.size_bytes, tuple) else self
        return SumCost(
            self.size_bytes + other.size_bytes,
            self.messages + other.messages,
            self.bytes_down + other.bytes_down,
            self.messages_down + other.messages_down,
            max(self.seconds, other.seconds),
        )


class OpenedUpdates(NamedTuple):
    """The sums that a protocol has opened.

    Attributes:
        inbox: The agents whose updates are in an opened sum, or were refused by name, with a `PartialSums` for each.
        missing: Agents that left in a phase of the protocol.
        why: Why sums stay hidden, a reason for each.
        cost: What the protocol cost.
        groups: If a rule sees the mean of each group, the agents behind each update of `inbox`; else ().
        rejected: Agents whose updates are in no group, as they are beyond the range of sums.
    """

    inbox: Inbox
    missing: tuple[Rejection, ...] = ()
    why: tuple[str, ...] = ()
    cost: SumCost = SumCost()
    groups: tuple[np.ndarray, ...] = ()
    rejected: tuple[Rejection, ...] = ()

    @property
    def merged(self) -> np.ndarray:
        """The agents whose updates are merged, unless the server rejects them."""
        return np.concatenate(self.groups) if self.groups else self.inbox.agent[self.inbox.scale > 0.0]

    def with_sum(self, other: OpenedUpdates) -> OpenedUpdates:
        """Return these and the sums of another group of agents."""
        return OpenedUpdates(
            self.inbox.joined(other.inbox),
            self.missing + other.missing,
            self.why + other.why,
            self.cost.beside(other.cost),
            self.groups + other.groups,
            self.rejected + other.rejected,
        )


LOST = -1
"""The fault number of an agent whose environment failed."""


class Found(NamedTuple):
    """Raw result of training, in the order of blocks.

    Attributes:
        agent: All agents that trained.
        fault: Fault number of each agent, 0 if its training succeeded: `fedrl.core.faults.FAULT`, or `LOST`.
        sums: For each block its exact sums, the agents of its seats, and the mask of seats in use; empty if sums are
            not collected.
        items: The collected updates or parameters of each agent; () if sums are collected.
        uploads: An `Upload` with a row for each agent.
        metrics: Metrics of each agent, by name.
        undo: For `give_back`: a block's number, its agents, and their stage memory before training.
    """

    agent: np.ndarray
    fault: np.ndarray
    sums: list[tuple[Any, np.ndarray, np.ndarray]]
    items: PyTree
    uploads: Upload
    metrics: dict[str, np.ndarray]
    undo: list[tuple[int, np.ndarray, Any]]


class ExecutorPlan(NamedTuple):
    """Requirements of the other parts of a simulation on its executor.

    Attributes:
        collects: What a block returns: "sums", "updates", "params" or "encoded".
        group: `[agents]`, group of each agent; only updates of one group may be summed.
        sparse: Whether few agents may be due at a time.
        mixed: Whether agents that train at the same time may have received different versions.
        ahead: Whether agents may train before they are due.
        varied: Whether agents may have different numbers of local steps.
        bids: Costs of bids, under an upload budget; else None.
    """

    collects: str
    group: np.ndarray
    sparse: bool
    mixed: bool
    ahead: bool
    varied: bool
    bids: Bids | None = None


def joined(parts: Sequence[PyTree], here: Sequence[np.ndarray]) -> PyTree:
    """Concatenate the results of blocks as NumPy arrays, without seats that are not in use."""
    rows = [jax.tree.map(lambda x, h=h: np.asarray(x)[h], part) for part, h in zip(parts, here, strict=True)]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *rows)


def together(parts: Sequence[Learned], ids: np.ndarray, summed: bool) -> Learned:
    """Return the results of several calls for some of these agents each as that of one call."""
    if len(parts) == 1:
        return parts[0]
    agent = np.concatenate([part.agent for part in parts])
    # Sums are exact, so only single updates have an order: that of `ids`.
    order = np.arange(len(agent)) if summed else np.argsort(np.argsort(ids)[np.searchsorted(np.sort(ids), agent)])

    def rows(trees: Sequence[PyTree]) -> PyTree:
        return jax.tree.map(lambda *leaves: np.concatenate(leaves)[order], *trees)

    return Learned(
        agent[order],
        rows([part.items for part in parts]),
        [each for part in parts for each in part.block_sums],
        rows([part.uploads for part in parts]),
        rows([part.metrics for part in parts]),
        tuple(each for part in parts for each in part.failed),
        [each for part in parts for each in part.undo],
    )
