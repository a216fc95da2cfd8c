"""State of a progress display. Seeds may run side by side, so the events of their rounds are interleaved."""

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
    """The state of a progress display, updated by one event at a time.

    Attributes:
        start: The plan of the run.
        method: Name of the method that runs now.
        seed: Seed of the last round.
        round: Number of the last round.
        compiling: Whether the next round waits for a compilation; with agents at other sites, for these.
        bytes_up: Bytes that agents have sent so far, over all seeds.
        bytes_down: Bytes that agents have been sent so far, over all seeds.
        time_s: Seconds on the virtual clock after the last round; NaN without one, or if time is real.
        epsilon: What the last seed has spent of its privacy budget; NaN without one.
        shown: Values of the chosen measures in the last round, by name.
        units: Units of all measures, by name.

    Raises:
        ConfigError: The run has no measure of a name in `measures`.
    """

    def __init__(self, start: Start, clock: Callable[[], float] = time.monotonic, measures: Sequence[str] = ()) -> None:
        self.start = start
        self.units = start.get("measures", {})
        self.shown = {name: math.nan for name in measures if chosen(name, self.units, "--show") is not None}
        self.method = start["methods"][0] if start["methods"] else ""
        self.seed = self.round = self.bytes_up = self.bytes_down = 0
        self.compiling = False
        self.time_s = self.epsilon = math.nan
        self._clock = clock
        self._began = self._since = clock()
        self._idle = 0.0
        self._rounds: dict[str, dict[int, int]] = {method: {} for method in self.methods}
        self._returns: dict[str, dict[int, list[float]]] = {method: {} for method in self.methods}
        self._seen = 0
        self._recent: deque[tuple[float, int]] = deque()

    @property
    def methods(self) -> list[str]:
        """Names of the methods that train in rounds; the others only evaluate or fine-tune."""
        return [method for method in self.start["methods"] if method not in WITHOUT_ROUNDS]

    def compile(self, event: Compile) -> None:
        """Note that a program is being compiled from now until the next round ends."""
        self.method = event["method"]
        self.compiling = True
        self._since = self._clock()

    def add(self, record: RoundRecord) -> None:
        """Update the state with the record of a finished round."""
        method = record["method"]
        if method not in self._rounds:
            return
        now = self._clock()
        # A round with a compilation says nothing about the pace of the rounds to come.
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
        self.time_s = math.nan if self.start.get("real_time") else record.get("time_s", math.nan)
        self.shown = {name: number(value_in(record, name)) for name in self.shown}
        privacy = record.get("privacy")
        self.epsilon = math.nan if privacy is None else privacy["epsilon"]
        returned = number(record["return"])
        if math.isfinite(returned):
            self._returns[method].setdefault(self.round, []).append(returned)
        self._recent.append((now, self.start["environment_steps_per_round"]))
        # A short window, so that the speed shows a machine that has become slower.
        while now - self._recent[0][0] > WINDOW_S:
            self._recent.popleft()

    def share(self, method: str) -> float:
        """Return how much of a method is done, from 0 to 1.

        Methods before the current one count as done: a resumed run emits no events of their earlier rounds.
        """
        if method in self.methods and self.methods.index(method) < self._place:
            return 1.0
        planned = self.start["rounds"] * len(self.start["seeds"])
        return sum(self._rounds.get(method, {}).values()) / planned if planned else 0.0

    def curve(self, method: str) -> list[float]:
        """Return training returns in the order of rounds, each the mean over the seeds that have reached the round."""
        found = self._returns.get(method, {})
        return [sum(found[i]) / len(found[i]) for i in sorted(found)]

    @property
    def speed(self) -> float:
        """Environment steps per second over the last five seconds; NaN before two rounds are complete."""
        if len(self._recent) < 2:
            return math.nan
        took = self._recent[-1][0] - self._recent[0][0]
        return sum(steps for _, steps in list(self._recent)[1:]) / took if took > 0 else math.nan

    @property
    def elapsed_s(self) -> float:
        """Seconds since the run began."""
        return self._clock() - self._began

    @property
    def left_s(self) -> float:
        """Seconds for the remaining rounds at the pace so far, without compilations; NaN before the first round."""
        if not self._seen:
            return math.nan
        # A compilation in progress has taken time, too, and says nothing about the pace.
        waiting = self._clock() - self._since if self.compiling else 0.0
        pace = max(self.elapsed_s - self._idle - waiting, 0.0) / self._seen
        planned = self.start["rounds"] * len(self.start["seeds"])
        return pace * planned * sum(1.0 - self.share(method) for method in self.methods)

    @property
    def _place(self) -> int:
        return self.methods.index(self.method) if self.method in self.methods else 0


def sparkline(values: Sequence[float], width: int, low: float, high: float) -> str:
    """Return a curve as a line of text: one bar per value, or per mean of adjacent values if there are many.

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
