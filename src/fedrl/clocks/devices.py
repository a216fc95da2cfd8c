"""Describe the devices of agents: their speeds, links, absences and faults.

    clock(step_s=stragglers(1.0, fraction=0.1, slowdown=20), drop_out=0.2)

An agent that drops out, hangs, or leaves before its update has arrived returns to its state before the job, and what it
learned in the job is discarded. A restart also discards its earlier memory: its learner, stages and environment are
initialised again, by another draw than at the start of the run, and it receives the server's parameters with its next
job. Without a server it continues from the run's first parameters, since its own were stored nowhere else.

Each update is applied once: the scheduler knows it by its agent and job, and ignores a duplicate. An unreadable message
is rejected and recorded with its agent. The agent keeps what it learned, and its stages return to their previous state,
as after any rejected update. In a gossip topology, the edges of that agent are absent in this round, and it continues
from its previous parameters.

A message takes the time of its bytes. An update whose size depends on its content counts with its decoded size. With
down stages, bytes down are those of the job's own message: a difference, or the whole copy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedrl.clocks.counter_rng import Purpose
from fedrl.clocks.distributions import Distributed, DistributedRate, check_distribution, draw
from fedrl.core.component import Call, component, record
from fedrl.core.errors import ConfigError
from fedrl.core.ranges import Duration, Fraction, FractionBelowOne, NonNegative, PositiveDuration, Whole


@record
class Clock:
    """The times and fault probabilities of all devices. The attributes are the arguments of `clock`."""

    step_s: Distributed
    up_bytes_per_s: DistributedRate
    down_bytes_per_s: DistributedRate
    latency_s: Distributed
    jitter: float
    drop_out: float
    hang: float
    hang_s: float
    restart: float
    duplicate: float
    malformed: float
    phase_drop_out: float
    joins_s: Distributed
    online_s: float
    offline_s: float
    availability_trace: tuple[tuple[float, ...], ...] | None
    devices_seed: int
    call: Call | None = None


class Speeds(NamedTuple):
    """The times of an agent's job in seconds, `[agents]` each.

    Attributes:
        messages_s: The time of the broadcast and of the update; without the bytes of a broadcast whose size differs
            from job to job.
        step_s: The time of a local step.
        latency_s: The latency of any message.
        byte_down_s: The time per byte of a message to the agent.
        byte_up_s: The time per byte of a message from it.
    """

    messages_s: np.ndarray
    step_s: np.ndarray
    latency_s: np.ndarray
    byte_down_s: np.ndarray
    byte_up_s: np.ndarray


@component("clock")
def clock(
    *,
    step_s: Distributed = 1.0,
    up_bytes_per_s: DistributedRate = math.inf,
    down_bytes_per_s: DistributedRate = math.inf,
    latency_s: Distributed = 0.0,
    jitter: NonNegative = 0.0,
    drop_out: FractionBelowOne = 0.0,
    hang: FractionBelowOne = 0.0,
    hang_s: Duration = math.inf,
    restart: FractionBelowOne = 0.0,
    duplicate: Fraction = 0.0,
    malformed: FractionBelowOne = 0.0,
    phase_drop_out: FractionBelowOne = 0.0,
    joins_s: Distributed = 0.0,
    online_s: PositiveDuration = math.inf,
    offline_s: Duration = 0.0,
    availability_trace: Sequence[Sequence[Duration]] | None = None,
    devices_seed: Whole = 0,
) -> Clock:
    """A virtual clock: compute when updates arrive from speeds, links, absences and faults.

    A job of an agent takes

        2 latency + bytes down / down_bytes_per_s + bytes up / up_bytes_per_s
          + local steps * step_s * exp(jitter * N(0, 1))

    seconds. The module docstring describes the bytes of messages, and what happens to an agent after a fault.

    Args:
        step_s: The seconds per local iteration: one number, one per agent, or a distribution.
        up_bytes_per_s: The upload bandwidth, likewise.
        down_bytes_per_s: The download bandwidth, likewise.
        latency_s: The latency of a message, likewise.
        jitter: The standard deviation of the logarithm of the computing time over jobs.
        drop_out: The probability that a job ends without an update, noticed when the update would have been due.
        hang: The probability that a job hangs, so no update and no notice arrives. A schedule that waits for every
            agent needs `hang_s`; others continue without the agent.
        hang_s: The mean seconds from when the update of a hanging job would have been due until the hang is noticed and
            ends the job; exponentially distributed, infinity for never. A schedule that cancels stragglers also cancels
            hanging jobs.
        restart: The probability that the agent's process restarts in a job, noticed as a drop-out is.
        duplicate: The probability that an update arrives twice, the second time up to two latencies later.
        malformed: The probability that the bytes of an update are unreadable.
        phase_drop_out: The probability that an agent leaves in a phase of the protocol of a sum (`ring_sum`), after its
            training: its update is not in the sum, or is if it has sent it masked by then.
        joins_s: The second at which an agent is first online: one number, one per agent, or a distribution.
        online_s: The mean time that an agent stays online, exponentially distributed.
        offline_s: The mean time that it stays offline, exponentially distributed.
        availability_trace: Recorded online periods instead: rows of `[agent, from_s, until_s]`. Agents without a row
            are always online.
        devices_seed: The seed of the distributions. What differs from job to job depends on the seed of the run.

    Raises:
        ConfigError: A number is out of range.

    >>> clock(step_s=[1.0, 4.0], drop_out=0.1)
    clock(step_s=[1.0, 4.0], drop_out=0.1)
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
        phase_drop_out=phase_drop_out,
        joins_s=joins_s,
        online_s=online_s,
        offline_s=offline_s,
        availability_trace=rows,
        devices_seed=devices_seed,
    )
    # Checked at construction, where the user still sees the call that has the wrong number.
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
        "phase_drop_out": devices.phase_drop_out,
    }.items():
        if not 0.0 <= chance < 1.0:
            raise ConfigError(
                f"{name} is {chance}. It is a probability, and with 1 no update would ever arrive. Set it to at least "
                "0, below 1."
            )
    if not 0.0 <= devices.duplicate <= 1.0:
        raise ConfigError(f"duplicate is {devices.duplicate}. It is a probability. Set it to at least 0, at most 1.")


def speeds_of(devices: Clock, agents: int, up_bytes: int, down_bytes: int) -> Speeds:
    """Return the times of a job on each device for messages of these sizes; 0 for a broadcast whose size differs."""

    # Each quantity has its own stream, so a distribution of latencies does not change the drawn speeds.
    def each(distribution: Distributed, purpose: Purpose, name: str) -> np.ndarray:
        return draw(distribution, agents, devices.devices_seed, purpose, name)

    latency_s = each(devices.latency_s, Purpose.LATENCY, "latency_s")
    down_bytes_per_s = each(devices.down_bytes_per_s, Purpose.DOWN, "down_bytes_per_s")
    messages_s = 2.0 * latency_s
    messages_s = messages_s + down_bytes / down_bytes_per_s
    up_bytes_per_s = each(devices.up_bytes_per_s, Purpose.UP, "up_bytes_per_s")
    messages_s = messages_s + up_bytes / up_bytes_per_s
    step_s = each(devices.step_s, Purpose.STEP, "step_s")
    return Speeds(messages_s, step_s, latency_s, 1.0 / down_bytes_per_s, 1.0 / up_bytes_per_s)


def _check_trace(rows: tuple[tuple[float, ...], ...] | None, rates: bool) -> None:
    if rows is None:
        return
    if rates:
        raise ConfigError(
            "availability_trace is given, and so is online_s or offline_s. Both set when agents are online. Leave one "
            "of them out."
        )
    for row in rows:
        if len(row) != 3 or row[0] != int(row[0]) or not 0.0 <= row[1] < row[2]:
            raise ConfigError(
                f"availability_trace has the row {list(row)}. A row is [agent, from_s, until_s]: a whole number, then "
                "a period that begins before it ends. Correct it."
            )
