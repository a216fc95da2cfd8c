"""Log of a round, which accumulates its events over all merges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fedrl.clocks.events import ARRIVED, HUNG, WITHOUT_UPDATE, Events
from fedrl.core.aggregator import Arrivals
from fedrl.core.errors import NoMoreUpdatesError
from fedrl.core.measures import Measure
from fedrl.engines.environment_failures import EnvironmentFailure
from fedrl.engines.executors.records import OpenedUpdates
from fedrl.engines.state import Rejection, Uploads, no_uploads
from fedrl.engines.topologies.server import Traffic

TIMES = {
    "work": Measure("round", "s", "lower", ("work_s", "arrived"), lambda sums: sums["work_s"] / sums["arrived"]),
    "latency": Measure(
        "round", "s", "lower", ("messages_s", "arrived"), lambda sums: sums["messages_s"] / sums["arrived"]
    ),
}
"""Measures of the clock: seconds of the local steps behind an update, and of its messages, as means over arrivals."""

MOST_FRUITLESS, MOST_PER_AGENT = 10_000, 100
"""The number of events in a row without an update after which a run ends, and the least of them for each agent."""


@dataclass
class RoundLog:
    """Sums over the merges of a round.

    Attributes:
        agents: Number of agents.
        names: Names of the metrics.
        copied: Whether agents have copies of compressed broadcasts.
        real_time: Whether time is real, as for agents at other sites.
        dropped: Number of jobs without an update.
        cancelled: Number of cancelled jobs.
        hung: Number of jobs that hang, counted when they begin, or in real time when they are noticed.
        restarted: Number of jobs dropped by a restart.
        duplicates: Number of updates that arrived a second time.
        malformed: Number of messages that could not be read.
        fruitless: Number of events since the last update, or the last merge, none of which brought an update.
        weight: Total weight of the merged updates.
        rejected: Jobs whose training failed, and updates that the server rejected.
        failures: Failures of environments outside compiled programs.
        skipped: Reasons of merges that committed nothing.
        traffic: Traffic of each merge.
        known: Metrics of each agent from the last merge, `[agents]` each.
        staleness: Staleness of the updates of each merge.
        came: Arrivals, batch by batch.
        selected: Agents whose updates were sent under an upload budget, for each merge.
        messages_s: Simulated seconds of the messages of all updates that arrived.
        worked_s: Simulated seconds of the local steps behind them.
        left: Number of agents that left in the phases of a sum.
        phases_s: Seconds on the clock of these phases.
        agents_s, merging_s: Wall time of the agents' training, and of the servers' merges.
    """

    agents: int
    names: list[str]
    copied: bool = False
    real_time: bool = False
    dropped: int = 0
    cancelled: int = 0
    hung: int = 0
    restarted: int = 0
    duplicates: int = 0
    malformed: int = 0
    fruitless: int = 0
    weight: float = 0.0
    rejected: list[Rejection] = field(default_factory=list)
    failures: list[EnvironmentFailure] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    traffic: list[Traffic] = field(default_factory=list)
    known: dict[str, np.ndarray] = field(default_factory=dict)
    staleness: list[np.ndarray] = field(default_factory=list)
    came: list[Arrivals] = field(default_factory=list)
    selected: list[np.ndarray] = field(default_factory=list)
    messages_s: float = 0.0
    worked_s: float = 0.0
    left: int = 0
    phases_s: float = 0.0
    agents_s: float = 0.0
    merging_s: float = 0.0

    def __post_init__(self) -> None:
        self.arrived, self.steps = np.zeros(self.agents, int), np.zeros(self.agents, int)
        self.work_s, self.sent_up = np.full(self.agents, np.nan), no_uploads(self.agents)
        self.whole_copies = np.zeros(self.agents, int)
        self._sums = {name: np.zeros(self.agents) for name in self.names}

    def learned(self, ids: np.ndarray, metrics: Mapping[str, np.ndarray], steps: np.ndarray) -> None:
        """Log the training of agents, each at most once, with its metrics and local steps."""
        self.arrived[ids] += 1
        self.steps[ids] += steps
        # setdefault, because the host executor knows the names of its metrics only after the first training.
        for name, column in metrics.items():
            self._sums.setdefault(name, np.zeros(self.agents))[ids] += column

    def receive(self, arrivals: Arrivals, uploads: Uploads, work_s: np.ndarray) -> None:
        """Log the arrival of agents' updates, each at most once, and the simulated seconds of their work."""
        ids = arrivals.sender
        # Of updates that arrived at the same time, by sender: where agents have trained is no part of a result.
        order = np.argsort(ids)
        self.came.append(Arrivals(ids[order], arrivals.staleness[order]))
        self.work_s[ids] = work_s
        self.weigh(uploads)
        for name, said in uploads.report.items():
            before = self.sent_up.report.get(name, np.full(self.agents, np.nan, np.float32))
            self.sent_up.report[name] = np.where(np.isin(np.arange(self.agents), ids), said, before)

    def spent(self, ids: np.ndarray, work_s: np.ndarray, messages_s: np.ndarray) -> None:
        """Log the simulated seconds of the agents' work and messages."""
        order = np.argsort(ids)  # in floats the order changes a sum
        self.worked_s += float(work_s[order].sum())
        self.messages_s += float(messages_s[order].sum())

    def weigh(self, uploads: Uploads) -> None:
        """Add the sizes and numbers of uploads."""
        self.sent_up.size_bytes[:] += uploads.size_bytes
        self.sent_up.messages[:] += uploads.messages

    def add_sums(self, found: OpenedUpdates) -> None:
        """Log the sums that a protocol has opened, and what it cost."""
        merged = set(found.merged.tolist())
        # Who left after its vector had arrived is in the sum all the same.
        self.rejected += tuple(each for each in found.missing if each.agent not in merged) + found.rejected
        self.skipped += found.why
        self.left += len(found.missing)
        self.phases_s += found.cost.seconds

    def correct(
        self, uploads: Uploads, sizes: np.ndarray, messages: np.ndarray, rejected: np.ndarray, bid: Sequence[str]
    ) -> None:
        """Correct uploads for an upload budget: of rejected agents, the server only has the reports in their bids."""
        self.sent_up.size_bytes[:] += sizes - uploads.size_bytes
        self.sent_up.messages[:] += messages - uploads.messages
        for name, said in self.sent_up.report.items():
            # A rejected agent sent only its bid: its other reports never arrived.
            if name not in bid:
                said[rejected] = np.nan

    @property
    def metrics(self) -> dict[str, np.ndarray]:
        """Metrics, `[agents]` each, summed over jobs and local steps."""
        copies = {"whole_copies": self.whole_copies} if self.copied else {}
        return {name: x.astype(np.float32) for name, x in self._sums.items()} | self.known | copies

    @property
    def uploads(self) -> Uploads:
        """Uploads of the round; of several jobs of an agent, the report of the last."""
        return self.sent_up

    @property
    def whole(self) -> Traffic:
        """Traffic, summed over all merges."""
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
        """Arrivals of the round, in the order of time."""
        whole = [Arrivals(np.zeros(0, np.int32), np.zeros(0, np.int32)), *self.came]
        return Arrivals(*(np.concatenate(rows) for rows in zip(*whole, strict=True)))

    @property
    def sums(self) -> dict[str, float]:
        """The parts of `TIMES`, and the seconds of the phases of sums."""
        arrived = float(self.arrived.sum())
        return {
            **{"work_s": self.worked_s, "messages_s": self.messages_s, "arrived": arrived},
            "sum_phases": self.phases_s,
        }

    @property
    def counts(self) -> tuple[int, int, int, float, int, int, int, int, int]:
        """The last fields of a `ClockStats`."""
        stale = np.concatenate([np.zeros(0, int), *self.staleness])
        mean, most = (float(stale.mean()), int(stale.max())) if len(stale) else (0.0, 0)
        faults = self.hung, self.restarted, self.duplicates, self.malformed
        return int(self.arrived.sum()), self.dropped, self.cancelled, mean, most, *faults

    def ended(self, events: Events) -> None:
        """Count the jobs that ended without an update."""
        self.dropped += int(np.isin(events.kind, WITHOUT_UPDATE).sum())
        self.hung += int((events.kind == HUNG).sum()) if self.real_time else 0

    def check_progress(self, events: Events, now_s: float) -> None:
        """Count the events in a row without an update, since the last one or the last merge, on a virtual clock.

        Raises:
            NoMoreUpdatesError: There are so many that the next update would hardly ever arrive.
        """
        if self.real_time:
            return  # agents that come and go for hours are waited for, as their operators can act meanwhile
        self.fruitless = 0 if ARRIVED in events.kind else self.fruitless + int((events.agent >= 0).sum())
        if self.fruitless <= max(MOST_FRUITLESS, MOST_PER_AGENT * self.agents):
            return
        ends = {"dropped": self.dropped, "restarted": self.restarted, "hung": self.hung, "unreadable": self.malformed}
        told = ", ".join(f"{number:,} {what}" for what, number in ends.items() if number)
        raise NoMoreUpdatesError(
            f"At {now_s:g} s on the virtual clock {self.fruitless:,} jobs and absences in a row have ended without an "
            f"update ({told or 'no job has begun'}), so the next one would hardly ever arrive. Let agents stay online "
            "longer than a job takes (online_s, step_s), lower the probabilities of faults (drop_out, restart, "
            "malformed), or set deadline_s."
        )
