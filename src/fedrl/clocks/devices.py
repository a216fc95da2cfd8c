"""The devices behind agents: how fast they compute, how they are connected, when they are there.

clock(step_s=stragglers(1.0, share=0.1, times=20), drop_out=0.2)

An agent that drops out, hangs, or leaves before its update has arrived, is left as it was before the turn: what it
would have learned is lost. After a restart all that it remembered is lost, too: its learner, the memory of its stages
and its environment begin anew, as another draw of the beginning of the run, and it hears the server in its next turn.
Among neighbours, and on its own, it goes on from the first parameters of the run, since those it had were nowhere else.

Nothing is applied twice: the scheduler knows an update by its agent and turn, and ignores a copy. A message that can't
be read is refused, and told with the agent; what the agent learned stays with it, and its stages remember what they did
before, as after any update that came to nothing. Among neighbours its edges are absent, and it goes on from the
parameters that it held before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedrl.clocks.counter_rng import Purpose
from fedrl.clocks.distributions import Distributed, check_distribution, draw
from fedrl.core.component import Call, component, record
from fedrl.core.errors import ConfigError


@record
class Clock:
    """What takes how long. The attributes are the arguments of `clock`."""

    step_s: Distributed
    up_bytes_per_s: Distributed
    down_bytes_per_s: Distributed
    latency_s: Distributed
    jitter: float
    drop_out: float
    hang: float
    hang_s: float
    restart: float
    duplicate: float
    malformed: float
    joins_s: Distributed
    online_s: float
    offline_s: float
    availability_trace: tuple[tuple[float, ...], ...] | None
    devices_seed: int
    call: Call | None = None


class Speeds(NamedTuple):
    """What an agent's turn takes, `[agents]` each.

    Attributes:
        messages_s: Seconds for the broadcast to come and the update to go; without the bytes of a broadcast whose size
            differs from turn to turn.
        step_s: Seconds for a local step.
        latency_s: Seconds that any message takes.
        byte_down_s: Seconds for a byte of such a broadcast.
    """

    messages_s: np.ndarray
    step_s: np.ndarray
    latency_s: np.ndarray
    byte_down_s: np.ndarray


@component("clock")
def clock(
    *,
    step_s: Distributed = 1.0,
    up_bytes_per_s: Distributed = math.inf,
    down_bytes_per_s: Distributed = math.inf,
    latency_s: Distributed = 0.0,
    jitter: float = 0.0,
    drop_out: float = 0.0,
    hang: float = 0.0,
    hang_s: float = math.inf,
    restart: float = 0.0,
    duplicate: float = 0.0,
    malformed: float = 0.0,
    joins_s: Distributed = 0.0,
    online_s: float = math.inf,
    offline_s: float = 0.0,
    availability_trace: Sequence[Sequence[float]] | None = None,
    devices_seed: int = 0,
) -> Clock:
    """A virtual clock: it turns speeds, links and absences into times at which updates arrive.

    A turn of an agent takes

        2 latency + bytes down / down_bytes_per_s + bytes up / up_bytes_per_s
          + local steps * step_s * exp(jitter * N(0, 1)),

    where an update whose size depends on what is in it takes as long as it would decoded; with down stages, bytes down
    are those of what the agent is sent in that turn: a difference, or a copy whole. What becomes of an agent that
    drops out, hangs, restarts or leaves stands at the top of this module.

    Args:
        step_s: Seconds per local iteration: a number, one per agent, or a spread.
        up_bytes_per_s: What an agent sends per second, likewise.
        down_bytes_per_s: What it receives per second, likewise.
        latency_s: Seconds a message takes besides, likewise.
        jitter: Standard deviation of the logarithm of the computing time, from turn to turn.
        drop_out: Probability that a turn comes to nothing. It is noticed when the update would have been due.
        hang: Probability that a turn hangs: no update arrives, and nobody is told. Under a schedule that waits for
            every agent it needs `hang_s`; others go on without whoever hangs.
        hang_s: Mean seconds from when the update of a hung turn would have been due until the hang is noticed, which
            ends the turn; exponentially distributed, infinity for never. A server that merges without its agent calls
            it back all the same, where it does so with those who are late.
        restart: Probability that the agent's process restarts in a turn. It is noticed when the update would have been
            due.
        duplicate: Probability that an update arrives twice, the second time up to two latencies later.
        malformed: Probability that an update arrives in bytes that nobody can read.
        joins_s: When an agent is there for the first time, likewise a number, one per agent, or a spread.
        online_s: Mean time an agent stays, exponentially distributed.
        offline_s: Mean time until it returns, exponentially distributed.
        availability_trace: When agents are there, instead: rows of `[agent, from_s, until_s]`. Agents without a row
            always are.
        devices_seed: Draws the spreads. What happens from turn to turn depends on the seed of the run.

    Raises:
        ConfigError: A number is out of range.
    """
    rows = None if availability_trace is None else tuple(tuple(row) for row in availability_trace)
    devices = Clock(
        step_s=step_s,
        up_bytes_per_s=up_bytes_per_s,
        down_bytes_per_s=down_bytes_per_s,
        latency_s=latency_s,
        jitter=jitter,
        drop_out=drop_out,
        hang=hang,
        hang_s=hang_s,
        restart=restart,
        duplicate=duplicate,
        malformed=malformed,
        joins_s=joins_s,
        online_s=online_s,
        offline_s=offline_s,
        availability_trace=rows,
        devices_seed=devices_seed,
    )
    _check_numbers(devices)
    _check_trace(rows, math.isfinite(online_s) or offline_s > 0.0)
    return devices


def _check_numbers(devices: Clock) -> None:
    """Refuse sizes and probabilities that are out of range."""
    check_distribution(
        0.0,
        step_s=devices.step_s,
        latency_s=devices.latency_s,
        joins_s=devices.joins_s,
        jitter=devices.jitter,
        offline_s=devices.offline_s,
    )
    for name, value in {"up_bytes_per_s": devices.up_bytes_per_s, "down_bytes_per_s": devices.down_bytes_per_s}.items():
        check_distribution(1e-9, **{name: value})
    check_distribution(1e-9, online_s=devices.online_s)
    check_distribution(0.0, hang_s=devices.hang_s)
    for name, chance in {
        "drop_out": devices.drop_out,
        "hang": devices.hang,
        "restart": devices.restart,
        "malformed": devices.malformed,
    }.items():
        if not 0.0 <= chance < 1.0:
            raise ConfigError(
                f"{name} is {chance}. It is a probability, and with 1 no update would ever arrive. Set it to at least "
                "0, below 1."
            )
    if not 0.0 <= devices.duplicate <= 1.0:
        raise ConfigError(f"duplicate is {devices.duplicate}. It is a probability. Set it to at least 0, at most 1.")


def speeds_of(devices: Clock, agents: int, up_bytes: int, down_bytes: int) -> Speeds:
    """What a turn takes on each device, with messages of such sizes; 0 for a broadcast whose size differs."""

    def each(distribution: Distributed, purpose: Purpose, name: str) -> np.ndarray:
        return draw(distribution, agents, devices.devices_seed, purpose, name)

    latency_s = each(devices.latency_s, Purpose.LATENCY, "latency_s")
    down_bytes_per_s = each(devices.down_bytes_per_s, Purpose.DOWN, "down_bytes_per_s")
    messages_s = 2.0 * latency_s
    messages_s = messages_s + down_bytes / down_bytes_per_s
    messages_s = messages_s + up_bytes / each(devices.up_bytes_per_s, Purpose.UP, "up_bytes_per_s")
    return Speeds(messages_s, each(devices.step_s, Purpose.STEP, "step_s"), latency_s, 1.0 / down_bytes_per_s)


def _check_trace(rows: tuple[tuple[float, ...], ...] | None, rates: bool) -> None:
    if rows is None:
        return
    if rates:
        raise ConfigError(
            "trace is given, and so is online_s or offline_s. Both say when agents are there. Leave one of them out."
        )
    for row in rows:
        if len(row) != 3 or row[0] != int(row[0]) or not 0.0 <= row[1] < row[2]:
            raise ConfigError(
                f"trace has the row {list(row)}. A row is [agent, from_s, until_s]: a whole number, then a time that "
                "begins before it ends. Correct it."
            )
