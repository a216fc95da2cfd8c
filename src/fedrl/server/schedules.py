"""Define schedules: when the server merges updates, and when agents receive the result.

    synchronous        merges all updates, the first n, or those that arrive by a deadline; then all agents begin anew
    bounded_staleness  merges one update at a time; no agent gets more than so many iterations ahead of the slowest
    fed_async          merges one update at a time
    fed_buff           merges whenever so many updates have arrived
    afedpg             merges one update at a time; agents train at parameters extrapolated along the momentum

A schedule decides only about time. The federation decides how updates are merged: its stages, aggregator and server
optimiser.
"""

from __future__ import annotations

import math

import numpy as np

from fedrl.clocks.devices import Clock
from fedrl.core.checks import check_one_of
from fedrl.core.component import Call, component, record
from fedrl.core.errors import ConfigError
from fedrl.core.ranges import Count, FractionAboveZero, Positive, PositiveDuration, Whole
from fedrl.server.staleness import Staleness, ignore_staleness, polynomial


@record
class Schedule:
    """The rule for when the server merges updates, and when agents receive the result.

    Attributes:
        buffer_size: The number of updates in a merge; None for the updates of all selected agents.
        redispatch: Whether an agent that is done receives the current parameters at once (True) or at the next merge.
        staleness: The factor of a stale update.
        mixing: A further factor of every update; None for one over the number of agents.
        mix_models: Whether an update moves the server towards the agent's parameters (True) or by the agent's change.
        deadline_s: The seconds after which the server merges the updates it has, if they are a quorum.
        quorum: The least number of updates in a merge; with fewer, a deadline passes without one.
        stragglers: What happens to jobs still running when the server merges: "cancel" or "keep".
        concurrency: The largest number of agents that work at a time; None for all.
        bound: The largest number of iterations that an agent may be ahead of the slowest; None for any number.
        momentum: alpha of the look-ahead of `afedpg`; 1 for none.
        call: The constructor call that made the schedule.
    """

    buffer_size: int | None
    redispatch: bool
    staleness: Staleness = ignore_staleness()
    mixing: float | None = 1.0
    mix_models: bool = False
    deadline_s: float = math.inf
    quorum: int = 1
    stragglers: str = "keep"
    concurrency: int | None = None
    bound: int | None = None
    momentum: float = 1.0
    call: Call | None = None

    def scale(self, staleness: np.ndarray, agents: int) -> np.ndarray:
        """Return the factor of each update, float32, from its staleness in versions."""
        # float32 throughout, as the factor multiplies weights that agents compute in float32.
        mixing = 1.0 / agents if self.mixing is None else self.mixing
        return np.asarray(np.float32(mixing) * np.asarray(self.staleness.weight(staleness), np.float32), np.float32)


@component("schedule", reference="Bonawitz et al. (2019), https://arxiv.org/abs/1902.01046")
def synchronous(
    buffer_size: Count | None = None,
    *,
    deadline_s: PositiveDuration = math.inf,
    quorum: Count = 1,
    stragglers: str = "cancel",
    staleness: Staleness = ignore_staleness(),
) -> Schedule:
    """Merge in rounds: all agents begin together, and the server waits for all, for the first few, or until a deadline.

    A drop-out is noticed when its update would have been due. If the deadline passes without a quorum, the server
    continues to wait for one; if too few agents are left for a quorum, the round ends without a merge.

    Args:
        buffer_size: The number of updates to wait for ("elastic" synchronisation); all selected agents by default.
        deadline_s: The longest duration of a round in seconds.
        quorum: The least number of updates in a merge.
        stragglers: "cancel" ends jobs that are still running at the end of a round, as if they had never begun; "keep"
            lets them run, and merges their updates in the round in which they arrive.
        staleness: The factor of late updates.

    Raises:
        ConfigError: A number is out of range, or `stragglers` is unknown.

    >>> synchronous(5, deadline_s=60.0)
    synchronous(buffer_size=5, deadline_s=60.0)
    """
    check_one_of(stragglers, ("cancel", "keep"), "stragglers")
    if buffer_size is not None and quorum > buffer_size:
        raise ConfigError(
            f"quorum is {quorum} and buffer_size is {buffer_size}. The server would merge before there is a quorum. "
            "Set the quorum to at most buffer_size."
        )
    return Schedule(buffer_size, False, staleness, deadline_s=deadline_s, quorum=quorum, stragglers=stragglers)


@component("schedule", reference="Xie et al. (2019), https://arxiv.org/abs/1903.03934")
def fed_async(
    mixing: FractionAboveZero = 0.6, *, staleness: Staleness = polynomial(0.5), concurrency: Count | None = None
) -> Schedule:
    """FedAsync: theta <- (1 - a) theta + a theta_k with a = mixing * s(tau), for each update as it arrives.

    theta_k are the agent's parameters after training from a version that is tau merges old; the agent then continues
    from the new theta at once. The paper also anchors local training: `chain(fedprox(rho), ...)` as the learner's
    optimiser.

    Args:
        mixing: The weight of a fresh agent's parameters, in (0, 1].
        staleness: s(tau).
        concurrency: The largest number of agents that work at a time; all by default. The next one is drawn from those
            with the fewest jobs.

    Raises:
        ConfigError: A number is out of range.

    >>> fed_async(0.5).scale(np.array([0, 3]), agents=10).tolist()
    [0.5, 0.25]
    """
    return Schedule(1, True, staleness, mixing=mixing, mix_models=True, concurrency=concurrency)


@component("schedule", reference="Nguyen et al. (2022), https://arxiv.org/abs/2106.06639")
def fed_buff(
    buffer_size: Count = 10, *, staleness: Staleness = polynomial(0.5), concurrency: Count | None = None
) -> Schedule:
    """FedBuff: theta <- theta + mean of s(tau_k) Delta_k, as soon as a buffer of updates is full.

    An agent that is done continues at once from the server's current parameters, or another agent takes its place.

    Args:
        buffer_size: The number of updates in a merge.
        staleness: s(tau).
        concurrency: The largest number of agents that work at a time; all by default. The next one is drawn from those
            with the fewest jobs.

    Raises:
        ConfigError: A number is out of range.

    >>> fed_buff(5, concurrency=20)
    fed_buff(buffer_size=5, concurrency=20)
    """
    return Schedule(buffer_size, True, staleness, concurrency=concurrency)


@component("schedule", reference="Ho et al. (2013), https://papers.nips.cc/paper/4894")
def bounded_staleness(bound: Whole = 3, *, mixing: Positive | None = None) -> Schedule:
    """Stale synchronous parallel (SSP): add every update as it arrives, and let no agent get far ahead.

    An agent that has done c iterations waits until the slowest agent present has done at least c - bound. With bound 0
    all agents are in step.

    Args:
        bound: The largest number of iterations between the fastest and the slowest agent.
        mixing: The factor of an update; one over the number of agents by default, so that one iteration of all agents
            changes the parameters like a round of FedAvg.

    Raises:
        ConfigError: A number is out of range.

    >>> bounded_staleness(2).scale(np.array([0, 1]), agents=4).tolist()
    [0.25, 0.25]
    """
    return Schedule(1, True, mixing=mixing, bound=bound)


@component("schedule", reference="Lan et al. (2024), https://arxiv.org/abs/2404.08003")
def afedpg(
    alpha: FractionAboveZero = 0.5, *, staleness: Staleness = ignore_staleness(), concurrency: Count | None = None
) -> Schedule:
    r"""AFedPG: agents train at a look-ahead point along the server's momentum, and each update is merged as it arrives.

    Agents receive the look-ahead point

        theta~ = theta + ((1 - alpha) / alpha) (theta - theta_previous),

    and the server takes steps of a given length along the momentum d <- (1 - alpha) d + alpha g of the updates g. So
    the server needs the same alpha: `server_optimizer=normalized_momentum(rate, alpha)`. The paper's agents send policy
    gradients, `payload="gradient"`; changes of parameters are possible, too. The analysis decreases alpha over time;
    here it is constant. The method is NIGT (Cutkosky & Mehta, 2020) with asynchronous agents.

    Args:
        alpha: The weight of the newest update in the momentum; 1 for no look-ahead.
        staleness: A further factor of stale updates; the paper uses none.
        concurrency: The largest number of agents that work at a time; all by default. The next one is drawn from those
            with the fewest jobs.

    Raises:
        ConfigError: A number is out of range.

    >>> afedpg(0.2).momentum
    0.2
    """
    return Schedule(1, True, staleness, concurrency=concurrency, momentum=alpha)


def check_hangs(devices: Clock, schedule: Schedule, selected: int) -> None:
    """Refuse hangs that are never noticed where the first one would stop the run.

    Args:
        devices: The clock, with the probability of a hang.
        schedule: The schedule.
        selected: The number of agents selected in a round.

    Raises:
        ConfigError: The schedule waits for every agent without a limit.
    """
    if not devices.hang or math.isfinite(devices.hang_s):
        return
    # A run stops if the schedule needs the update of every agent; it survives a hang if others can fill its place.
    if schedule.bound is not None:
        # The bound makes all agents wait for the slowest.
        waits = True
    elif schedule.redispatch:
        waits = False
    elif math.isfinite(schedule.deadline_s):
        waits = schedule.quorum >= selected
    else:
        waits = schedule.buffer_size is None or schedule.buffer_size >= selected
    if waits:
        raise ConfigError(
            f"hang is {devices.hang:g} and hang_s is inf, and {schedule!r} waits for all {selected} agents that are "
            "selected, so the first one that hangs would stop the run for ever. Set the seconds after which a hang is "
            "noticed (hang_s), give the schedule a deadline (deadline_s) with a quorum below that number, or let it "
            "wait for fewer."
        )
