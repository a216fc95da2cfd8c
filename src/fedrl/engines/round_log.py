"""What is seen of a round while it goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fedrl.core.aggregator import Arrivals
from fedrl.core.measures import Measure
from fedrl.engines.state import Rejection, Uploads, no_uploads
from fedrl.engines.topologies.server import Traffic

TIMES = {
    "work": Measure("round", "s", "lower", ("work_s", "arrived"), lambda sums: sums["work_s"] / sums["arrived"]),
    "latency": Measure(
        "round", "s", "lower", ("messages_s", "arrived"), lambda sums: sums["messages_s"] / sums["arrived"]
    ),
}
"""What the clock measures: how long the local steps behind an update took, and its messages, the mean over arrivals."""


@dataclass
class RoundLog:
    """What is added up over the merges of a round.

    Attributes:
        agents: How many there are.
        names: Of the metrics.
        copied: Whether agents hold copies of what they are sent.
        dropped: Turns that came to nothing.
        cancelled: Agents that were called back.
        hung: Turns that hang, counted as they begin.
        restarted: Turns that were lost to a restart.
        duplicates: Updates that arrived once more.
        malformed: Messages that could not be read.
        weight: Of the merged updates.
        rejected: Turns whose training failed, and updates that the server left out.
        skipped: Why the server committed nothing, each time.
        traffic: Of each merge.
        known: What is known of each agent after the last merge, `[agents]` each.
        staleness: Of the updates of each merge.
        came: Whose updates arrived, batch by batch.
        messages_s: What the messages of the updates that arrived took, together.
        worked_s: And the local steps behind them.
        agents_s, merging_s: Wall time that agents took to learn, and servers to merge.
    """

    agents: int
    names: list[str]
    copied: bool = False
    dropped: int = 0
    cancelled: int = 0
    hung: int = 0
    restarted: int = 0
    duplicates: int = 0
    malformed: int = 0
    weight: float = 0.0
    rejected: list[Rejection] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    traffic: list[Traffic] = field(default_factory=list)
    known: dict[str, np.ndarray] = field(default_factory=dict)
    staleness: list[np.ndarray] = field(default_factory=list)
    came: list[Arrivals] = field(default_factory=list)
    selected: list[np.ndarray] = field(default_factory=list)
    messages_s: float = 0.0
    worked_s: float = 0.0
    agents_s: float = 0.0
    merging_s: float = 0.0

    def __post_init__(self) -> None:
        self.arrived, self.steps = np.zeros(self.agents, int), np.zeros(self.agents, int)
        self.work_s, self.sent_up = np.full(self.agents, np.nan), no_uploads(self.agents)
        self.whole_copies = np.zeros(self.agents, int)
        self._sums = {name: np.zeros(self.agents) for name in self.names}

    def learned(self, ids: np.ndarray, metrics: Mapping[str, np.ndarray], steps: np.ndarray) -> None:
        """Agents, each at most once, have learned in so many local steps."""
        self.arrived[ids] += 1
        self.steps[ids] += steps
        for name, column in metrics.items():
            self._sums.setdefault(name, np.zeros(self.agents))[ids] += column

    def receive(self, arrivals: Arrivals, uploads: Uploads, work_s: np.ndarray) -> None:
        """Updates of agents arrived, each at most once, after work that took so long."""
        ids = arrivals.sender
        self.came.append(arrivals)
        self.work_s[ids] = work_s
        self.weigh(uploads)
        for name, said in uploads.report.items():
            before = self.sent_up.report.get(name, np.full(self.agents, np.nan, np.float32))
            self.sent_up.report[name] = np.where(np.isin(np.arange(self.agents), ids), said, before)

    def weigh(self, uploads: Uploads) -> None:
        """So much was sent."""
        self.sent_up.size_bytes[:] += uploads.size_bytes
        self.sent_up.messages[:] += uploads.messages

    def correct(
        self, uploads: Uploads, sizes: np.ndarray, messages: np.ndarray, rejected: np.ndarray, bid: Sequence[str]
    ) -> None:
        """Of these uploads, so much was sent under a budget; of who was rejected, the server knows what was bid."""
        self.sent_up.size_bytes[:] += sizes - uploads.size_bytes
        self.sent_up.messages[:] += messages - uploads.messages
        for name, said in self.sent_up.report.items():
            if name not in bid:
                said[rejected] = np.nan

    @property
    def metrics(self) -> dict[str, np.ndarray]:
        """Each `[agents]`, added up over turns and local steps."""
        copies = {"whole_copies": self.whole_copies} if self.copied else {}
        return {name: x.astype(np.float32) for name, x in self._sums.items()} | self.known | copies

    @property
    def uploads(self) -> Uploads:
        """What agents sent; of several turns, the report of the last."""
        return self.sent_up

    @property
    def whole(self) -> Traffic:
        """What was sent, over all merges."""
        parts = self.traffic or [Traffic()]
        levels = [each.levels for each in parts if each.levels]
        return Traffic(
            bytes_up=sum(each.bytes_up for each in parts),
            bytes_down=sum(each.bytes_down for each in parts),
            messages_up=sum(each.messages_up for each in parts),
            messages_down=sum(each.messages_down for each in parts),
            levels=tuple(tuple(sum(at) for at in zip(*level, strict=True)) for level in zip(*levels, strict=True)),
            latency_s=sum(each.latency_s for each in parts),
        )

    @property
    def arrivals(self) -> Arrivals:
        """Whose updates arrived, in the order of time."""
        whole = [Arrivals(np.zeros(0, np.int32), np.zeros(0, np.int32)), *self.came]
        return Arrivals(*(np.concatenate(rows) for rows in zip(*whole, strict=True)))

    @property
    def sums(self) -> dict[str, float]:
        """The parts of `TIMES`."""
        return {"work_s": self.worked_s, "messages_s": self.messages_s, "arrived": float(self.arrived.sum())}

    @property
    def counts(self) -> tuple[int, int, int, float, int, int, int, int, int]:
        """As the last fields of a `ClockStats`."""
        stale = np.concatenate([np.zeros(0, int), *self.staleness])
        mean, most = (float(stale.mean()), int(stale.max())) if len(stale) else (0.0, 0)
        faults = self.hung, self.restarted, self.duplicates, self.malformed
        return int(self.arrived.sum()), self.dropped, self.cancelled, mean, most, *faults
