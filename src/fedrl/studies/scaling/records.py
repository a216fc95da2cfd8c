"""The records in `scale.json`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NotRequired, TypedDict


class Predicted(TypedDict):
    """The cost model beside a measured number.

    Attributes:
        value: What the model says, in seconds or bytes.
        error: The difference of the model from the measured number, divided by the latter; None if that is 0.
    """

    value: float
    error: float | None


class Probe(TypedDict):
    """What was measured with one number of agents; all but the first three are absent unless `state` is "measured".

    Attributes:
        agents: Number of agents, K.
        state: "measured"; "failed" if its process ran out of memory or time, or an error ended it; "refused" if the
            experiment can't be built with so many agents.
        holds: Whether the limit is kept; None without a limit, or if refused. A failed probe keeps no limit.
        reason: Why it failed or was refused, a sentence.
        rounds: Number of measured rounds, after those that warm up.
        round_s: Seconds of wall time of a round, the median.
        round_low_s: The same of the shortest round.
        round_high_s: The same of the longest round.
        agents_compute_s: Seconds of a round for training and encoding of all agents, the median.
        server_compute_s: Seconds of a round for all else, above all the merge, the median.
        steps_per_second: Environment steps of all agents per second.
        bytes_up: Bytes of all messages of a round to servers or neighbours, the mean.
        bytes_down: Bytes of all messages of a round from servers, the mean.
        messages_up: Number of messages up, the mean.
        messages_down: Number of messages down, the mean.
        latency_s: Seconds that the messages of a round take, or on a virtual clock the simulated seconds of a round;
            None if the configuration does not describe links or devices.
        memory_bytes: Peak memory of the process, the memory of its worker processes after the last round, and the
            peak that accelerators report.
        rejected: Number of updates that were rejected in the measured rounds.
        start_s: Seconds from the start of the process to the first measured round.
        compiled_s: Seconds of compiling, added over devices; about 0 if all programs were read from the cache on disk.
        model: The cost model beside the measured numbers, by the name of the quantity.
    """

    agents: int
    state: Literal["measured", "failed", "refused"]
    holds: bool | None
    reason: NotRequired[str]
    rounds: NotRequired[int]
    round_s: NotRequired[float]
    round_low_s: NotRequired[float]
    round_high_s: NotRequired[float]
    agents_compute_s: NotRequired[float]
    server_compute_s: NotRequired[float]
    steps_per_second: NotRequired[float]
    bytes_up: NotRequired[float]
    bytes_down: NotRequired[float]
    messages_up: NotRequired[float]
    messages_down: NotRequired[float]
    latency_s: NotRequired[float | None]
    memory_bytes: NotRequired[int]
    rejected: NotRequired[int]
    start_s: NotRequired[float]
    compiled_s: NotRequired[float]
    model: NotRequired[dict[str, Predicted]]


class Cost(TypedDict):
    """A line of the cost model: `fixed + per_agent K`, in seconds or bytes."""

    fixed: float
    per_agent: float


class LimitRecord(TypedDict):
    """The limit.

    Attributes:
        quantity: "round", "memory" or "bytes".
        most: In seconds or bytes.
        text: The limit in words.
    """

    quantity: str
    most: float
    text: str


class Extrapolated(TypedDict):
    """What the cost model says of a number of agents that was not measured."""

    agents: int
    round: float
    memory: float
    bytes: float


class Scale(TypedDict):
    """The content of `scale.json`.

    Attributes:
        name: Name of the experiment.
        limit: The limit; None if only given numbers were measured.
        state: "found" if `agents` keeps the limit and `broken` does not; "open" if every measured number keeps it, or
            the search ended before the two were within 10 %; "none" if no measured number keeps it; "measured" without
            a limit; "interrupted".
        agents: The largest measured number of agents that keeps the limit, of those below the smallest that breaks it.
        broken: The smallest measured number of agents that breaks the limit, if any.
        notes: Sentences about the search.
        machine: What it was measured on.
        model: The cost model by quantity; empty with fewer than two measured numbers of agents.
        probes: In the order of the number of agents.
        extrapolated: The cost model for numbers that were not measured.
    """

    name: str
    limit: LimitRecord | None
    state: Literal["found", "open", "none", "measured", "interrupted"]
    agents: int | None
    broken: int | None
    notes: Sequence[str]
    machine: dict[str, Any]
    model: dict[str, Cost]
    probes: list[Probe]
    extrapolated: list[Extrapolated]


def value_in(probe: Probe, quantity: str) -> float:
    """Return the measured value of a quantity that can be limited.

    >>> value_in({"agents": 2, "state": "measured", "holds": None, "bytes_up": 3.0, "bytes_down": 4.0}, "bytes")
    7.0
    """
    if quantity == "bytes":
        return float(probe["bytes_up"] + probe["bytes_down"])
    return float(probe["round_s"] if quantity == "round" else probe["memory_bytes"])
