"""What is seen of a round on the virtual clock."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from fedrl.core.faults import FAULT
from fedrl.core.measures import Measure
from fedrl.core.told import DURATION
from fedrl.engines.merging import SIZE, SPOKEN, told_in
from fedrl.engines.simulation import Refusal

TIMES = {
    "work": Measure("round", "s", "lower", ("work_s", "arrived"), lambda sums: sums["work_s"] / sums["arrived"]),
    "latency": Measure(
        "round", "s", "lower", ("messages_s", "arrived"), lambda sums: sums["messages_s"] / sums["arrived"]
    ),
}
"""What the clock measures: how long the local steps behind an update took, and its messages, the mean over arrivals."""


@dataclass
class Log:
    """What is added up while time goes on.

    Attributes:
        agents: How many there are.
        names: Of the metrics.
        sent: Broadcasts.
        lost: Turns that came to nothing.
        late: Agents that were called back.
        weight: Of the merged updates.
        refused: Turns whose training failed, and updates that the server left out.
        skipped: Why the server committed nothing, each time.
        staleness: Of the updates of each merge.
        messages_s: What the messages of the updates that arrived took, together.
        agents_s: Wall time that agents took to learn.
    """

    agents: int
    names: list[str]
    sent: int = 0
    lost: int = 0
    late: int = 0
    weight: float = 0.0
    refused: list[Refusal] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    staleness: list[np.ndarray] = field(default_factory=list)
    messages_s: float = 0.0
    agents_s: float = 0.0

    def __post_init__(self) -> None:
        self.arrived, self.steps = np.zeros(self.agents, int), np.zeros(self.agents, int)
        self.work_s, self._worked_s = np.full(self.agents, np.nan), 0.0
        self._sums = np.zeros((self.agents, len(self.names)), np.float64)

    def receive(self, ids: np.ndarray, metrics: np.ndarray, steps: np.ndarray, work_s: np.ndarray) -> None:
        """Updates of these agents arrived, each at most once, after so many local steps that took so long."""
        self.arrived[ids] += 1
        self.steps[ids] += steps
        self.work_s[ids] = work_s
        self._worked_s += float(work_s.sum())
        self._sums[ids] += metrics

    @property
    def received(self) -> int:
        """Updates that arrived."""
        return int(self.arrived.sum())

    def bytes_up(self, each: int | None) -> int:
        """What they took: so much each, or what the agents measured."""
        return self.received * each if each is not None else int(self._sums[:, self.names.index(SIZE)].sum())

    @property
    def messages_up(self) -> int:
        """Updates that arrived and had something to say."""
        return int(self._sums[:, self.names.index(SPOKEN)].sum()) if SPOKEN in self.names else self.received

    @property
    def metrics(self) -> dict[str, np.ndarray]:
        """Each `[agents]`, added up over turns and local steps."""
        named = dict(zip(self.names, self._sums.T.astype(np.float32), strict=True))
        del named[FAULT]  # of those that arrived there are none
        return named

    @property
    def told(self) -> dict[str, np.ndarray]:
        """What agents say about themselves, each `[agents]`; NaN for those of whom nothing arrived."""
        said = {name: np.where(self.arrived > 0, x, np.nan) for name, x in told_in(self.metrics).items()}
        return said | ({DURATION: self.work_s} if DURATION in said else {})

    @property
    def sums(self) -> dict[str, float]:
        """The parts of `TIMES`."""
        return {"work_s": self._worked_s, "messages_s": self.messages_s, "arrived": float(self.received)}

    @property
    def counts(self) -> tuple[int, int, int, float, int]:
        """As the last fields of a `Tick`."""
        stale = np.concatenate([np.zeros(0, int), *self.staleness])
        mean, most = (float(stale.mean()), int(stale.max())) if len(stale) else (0.0, 0)
        return self.received, self.lost, self.late, mean, most
