"""What is known of a run while it goes on. Seeds may run side by side, so their rounds come interleaved."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import pairwise

from fedrl.core.measures import chosen
from fedrl.records import WITHOUT_ROUNDS, Compile, RoundRecord, Start
from fedrl.records.formatting import number
from fedrl.records.measured import value_in

BARS = "▁▂▃▄▅▆▇█"
WINDOW_S = 5.0


class RunProgress:
    """The state behind a progress display, brought up to date by one event at a time.

    Attributes:
        start: The plan of the run.
        method: The one that runs now.
        seed: Of the last round.
        round: The last one.
        compiling: Whether the next round has to wait for a compilation.
        bytes_up: Sent by the agents so far, over all seeds.
        bytes_down: Sent to the agents so far, over all seeds.
        time_s: On the virtual clock after the last round; NaN without one.
        shown: What the measures that are asked for came to in the last round.
        units: Of all measures.

    Raises:
        ConfigError: A measure that is asked for is none of the run.
    """

    def __init__(self, start: Start, clock: Callable[[], float] = time.monotonic, measures: Sequence[str] = ()) -> None:
        self.start = start
        self.units = start.get("measures", {})
        self.shown = {name: math.nan for name in measures if chosen(name, self.units, "--show") is not None}
        self.method = start["methods"][0] if start["methods"] else ""
        self.seed = self.round = self.bytes_up = self.bytes_down = 0
        self.compiling = False
        self.time_s = math.nan
        self._clock = clock
        self._began = self._since = clock()
        self._idle = 0.0
        self._rounds: dict[str, dict[int, int]] = {method: {} for method in self.methods}
        self._returns: dict[str, dict[int, list[float]]] = {method: {} for method in self.methods}
        self._seen = 0
        self._recent: deque[tuple[float, int]] = deque()

    @property
    def methods(self) -> list[str]:
        """Those that take rounds; the others only evaluate, or go on for a little."""
        return [method for method in self.start["methods"] if method not in WITHOUT_ROUNDS]

    def compile(self, event: Compile) -> None:
        """A program is being compiled from now until the next round ends."""
        self.method = event["method"]
        self.compiling = True
        self._since = self._clock()

    def add(self, record: RoundRecord) -> None:
        """A round ended."""
        method = record["method"]
        if method not in self._rounds:
            return
        now = self._clock()
        if self.compiling:
            self._idle += now - self._since
            self.compiling = False
            self._recent.clear()
        else:
            self._seen += 1
        self.method, self.seed, self.round = method, record["seed"], record["round"]
        self._rounds[method][self.seed] = self.round
        self.bytes_up += record["bytes_up"]
        self.bytes_down += record["bytes_down"]
        self.time_s = record.get("time_s", math.nan)
        self.shown = {name: number(value_in(record, name)) for name in self.shown}
        returned = number(record["return"])
        if math.isfinite(returned):
            self._returns[method].setdefault(self.round, []).append(returned)
        self._recent.append((now, self.start["environment_steps_per_round"]))
        while now - self._recent[0][0] > WINDOW_S:
            self._recent.popleft()

    def share(self, method: str) -> float:
        """How much of a method is done, from 0 to 1. Earlier methods are, whether or not their rounds were seen."""
        if method in self.methods and self.methods.index(method) < self._place:
            return 1.0
        planned = self.start["rounds"] * len(self.start["seeds"])
        return sum(self._rounds.get(method, {}).values()) / planned if planned else 0.0

    def curve(self, method: str) -> list[float]:
        """Training returns in the order of rounds, the mean over the seeds that got there."""
        found = self._returns.get(method, {})
        return [sum(found[i]) / len(found[i]) for i in sorted(found)]

    @property
    def speed(self) -> float:
        """Environment steps per second over the last seconds; NaN before two rounds are through."""
        if len(self._recent) < 2:
            return math.nan
        took = self._recent[-1][0] - self._recent[0][0]
        return sum(steps for _, steps in list(self._recent)[1:]) / took if took > 0 else math.nan

    @property
    def elapsed_s(self) -> float:
        """Since the run began."""
        return self._clock() - self._began

    @property
    def left_s(self) -> float:
        """Time the remaining rounds will take at the pace so far, compilations left out; NaN before there is one."""
        if not self._seen:
            return math.nan
        waiting = self._clock() - self._since if self.compiling else 0.0
        pace = max(self.elapsed_s - self._idle - waiting, 0.0) / self._seen
        planned = self.start["rounds"] * len(self.start["seeds"])
        return pace * planned * sum(1.0 - self.share(method) for method in self.methods)

    @property
    def _place(self) -> int:
        return self.methods.index(self.method) if self.method in self.methods else 0


def sparkline(values: Sequence[float], width: int, low: float, high: float) -> str:
    """A curve in a line of text: one bar for each value, or for the mean of neighbours where there are too many.

    >>> sparkline([0, 1, 2, 3], 8, 0, 3), sparkline([0, 0, 3, 3], 2, 0, 3)
    ('▁▃▆█', '▁█')
    """
    if not values:
        return ""
    cells = min(width, len(values))
    edges = [round(i * len(values) / cells) for i in range(cells + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[min(max(round((x - low) * scale), 0), len(BARS) - 1)] for x in means)
