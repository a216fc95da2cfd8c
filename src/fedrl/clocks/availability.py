"""Simulate when agents are online: they join, leave and return.

    offline | online | offline | online ...     phases 0, 1, 2, 3, ...; an agent is online in odd phases
            join     leave     return

The end of a phase is drawn by (agent, phase), or read from a trace, so no future event has to be stored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int32

from fedrl.clocks.counter_rng import Purpose, exponential
from fedrl.clocks.devices import Clock
from fedrl.clocks.distributions import draw
from fedrl.core.errors import ConfigError, NoMoreUpdatesError

MOST_PHASES = 1_000_000
"""Phases between two events of an agent that are followed, which takes seconds of computing."""


class OnlinePeriod(NamedTuple):
    """The current phase of each agent, and the second at which it ends."""

    phase: Int32[np.ndarray, " agents"]
    until_s: Float64[np.ndarray, " agents"]

    @property
    def there(self) -> np.ndarray:
        """Return which agents are online, bool `[agents]`."""
        return self.phase % 2 == 1


class Availability(NamedTuple):
    """The online periods of agents.

    Attributes:
        start: The first phase of all agents.
        at: `(agents, online periods, seconds [agents], seed) -> online periods` at these later seconds.
    """

    start: OnlinePeriod
    at: Callable[[np.ndarray, OnlinePeriod, np.ndarray, int], OnlinePeriod]


def availability(devices: Clock, agents: int) -> Availability:
    """Return the online periods of the agents of a clock.

    Raises:
        ConfigError: A row of the trace has an unknown agent, or overlaps another row.
    """
    if devices.availability_trace is not None:
        edges = _edges(devices.availability_trace, agents)
        first = edges[:, 0]
    else:
        first = draw(devices.joins_s, agents, devices.devices_seed, Purpose.JOIN, "joins_s")

    def end_of(ids: np.ndarray, online: OnlinePeriod, seed: int) -> np.ndarray:
        """Return when the phase that has just begun ends."""
        if devices.availability_trace is not None:
            return np.asarray(edges[ids, np.minimum(online.phase, edges.shape[1] - 1)])
        mean = np.where(online.there, devices.online_s, devices.offline_s)
        return np.asarray(online.until_s + mean * exponential(seed, Purpose.STAY, ids, online.phase))

    def at(ids: np.ndarray, online: OnlinePeriod, seconds: np.ndarray, seed: int) -> OnlinePeriod:
        # Several phases may end before the given second; each is drawn by its own number, so skipping changes nothing.
        phase, until_s = online.phase.copy(), online.until_s.copy()
        most = phase + MOST_PHASES
        while (over := np.flatnonzero(until_s <= seconds)).size:
            if (phase[over] >= most[over]).any():
                who = int(ids[over][phase[over] >= most[over]][0])
                raise NoMoreUpdatesError(
                    f"At {seconds[over].max():g} s on the virtual clock, agent {who} has come and gone more than "
                    f"{MOST_PHASES // 2:,} times since its last event. Each time is simulated, so the run would hardly "
                    "go on. Raise online_s and offline_s, or lower the times of the slowest agents (step_s, latency_s)."
                )
            phase[over] += 1
            until_s[over] = end_of(ids[over], OnlinePeriod(phase[over], until_s[over]), seed)
        return OnlinePeriod(phase, until_s)

    return Availability(OnlinePeriod(np.zeros(agents, np.int32), first), at)


def _edges(rows: tuple[tuple[float, ...], ...], agents: int) -> np.ndarray:
    """Return for each agent the seconds at which it comes and goes in turn, `[agents, edges]`, padded by infinity."""
    stays: list[list[float]] = [[] for _ in range(agents)]
    for agent, begin, end in sorted(rows):
        if not 0 <= agent < agents:
            raise ConfigError(
                f"availability_trace has a row of agent {int(agent)}. There are {agents} agents, from 0. Correct it."
            )
        mine = stays[int(agent)]
        if mine and mine[-1] >= begin:
            raise ConfigError(
                f"availability_trace has agent {int(agent)} come at {begin:g} s, before it left at {mine[-1]:g} s. "
                "Two periods overlap. Join the rows."
            )
        mine += [begin, end]
    # A last column of infinity: after its last row an agent stays offline for good.
    width = max(len(mine) for mine in stays) + 1
    edges = np.full((agents, width + 1), np.inf)
    for agent, mine in enumerate(stays):
        edges[agent, : max(len(mine), 1)] = mine or [0.0]
    return edges
