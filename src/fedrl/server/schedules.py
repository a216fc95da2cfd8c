"""When the server merges, and when agents hear of it.

    synchronous        all, or the first n, or who is there by the deadline; then everybody begins anew
    bounded_staleness  one at a time, but nobody runs more than so many iterations ahead of the slowest
    fed_async          one at a time
    fed_buff           so many at a time, whoever they are
    afedpg             one at a time, and agents train where momentum will have carried the parameters

A schedule decides about time alone. What is merged, and how, stays with the federation: its stages, aggregator and
server optimiser.
"""

from __future__ import annotations

import math

import numpy as np

from fedrl.clocks.devices import Clock
from fedrl.core.checks import check_above_zero, check_one_of, check_positive
from fedrl.core.component import Call, component, record
from fedrl.core.errors import ConfigError
from fedrl.server.staleness import Staleness, ignore_staleness, polynomial


@record
class Schedule:
    """When the server merges, and when agents hear of it.

    Attributes:
        buffer_size: Updates that make a merge; None for all of those who are at work.
        redispatch: Whether an agent that is done is sent what the server holds at once, or at the next merge.
        staleness: What a stale update is scaled by.
        mixing: What every update is scaled by, besides; None for one over the number of agents.
        mix_models: Whether an update says where to go (to the agent's parameters), or how far (its change).
        deadline_s: Seconds after which the server merges what it has, if that is a quorum.
        quorum: Updates without which a merge is abandoned, or a deadline is ignored.
        stragglers: What becomes of agents still at work when the server merges: "cancel" calls them back, "keep" lets
            them go on.
        concurrency: Agents at work at a time; None for all.
        bound: Iterations that an agent may be ahead of the slowest; None for any number.
        momentum: alpha of the look-ahead; 1 for none.
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
        """What updates are scaled by that are so many versions old, float32."""
        mixing = 1.0 / agents if self.mixing is None else self.mixing
        return np.asarray(np.float32(mixing) * np.asarray(self.staleness.weight(staleness), np.float32), np.float32)


@component("schedule", reference="Bonawitz et al. (2019), https://arxiv.org/abs/1902.01046")
def synchronous(
    buffer_size: int | None = None,
    *,
    deadline_s: float = math.inf,
    quorum: int = 1,
    stragglers: str = "cancel",
    staleness: Staleness = ignore_staleness(),
) -> Schedule:
    """Rounds: all begin together, and the server waits for all of them, the first few, or until a deadline.

    A drop-out is noticed when its update would have been due. If the deadline passes without a quorum, the server goes
    on waiting for one; if too few are left to make one, the round is abandoned and nothing is merged.

    Args:
        buffer_size: Updates to wait for ("elastic" synchronisation); by default those of all agents that were asked.
        deadline_s: Seconds from the beginning of a round to its end at the latest.
        quorum: The least number of updates to merge.
        stragglers: "cancel" calls back those still at work at the end of a round, as if they had never begun; "keep"
            lets them go on, and merges their updates in the round in which they come.
        staleness: What late updates are scaled by.

    Raises:
        ConfigError: A number is out of range, or `stragglers` is not known.
    """
    check_positive(quorum=quorum, **({} if buffer_size is None else {"buffer_size": buffer_size}))
    check_one_of(stragglers, ("cancel", "keep"), "stragglers")
    if not deadline_s > 0.0:
        raise ConfigError(f"deadline_s is {deadline_s}. Nobody could meet it. Set it above 0, or leave it out.")
    if buffer_size is not None and quorum > buffer_size:
        raise ConfigError(
            f"quorum is {quorum} and wait_for is {buffer_size}. The server would merge before there is a quorum. "
            "Let the quorum be at most wait_for."
        )
    return Schedule(buffer_size, False, staleness, deadline_s=deadline_s, quorum=quorum, stragglers=stragglers)


@component("schedule", reference="Xie et al. (2019), https://arxiv.org/abs/1903.03934")
def fed_async(
    mixing: float = 0.6, *, staleness: Staleness = polynomial(0.5), concurrency: int | None = None
) -> Schedule:
    """FedAsync: theta <- (1 - a) theta + a theta_k with a = mixing * s(tau), as each agent comes.

    theta_k are the agent's parameters after training from a version that may be tau behind; the agent goes on from the
    new theta at once. The paper also anchors local training: `chain(fedprox(rho), ...)` as the learner's optimiser.

    Args:
        mixing: How far the server goes to a fresh agent's parameters.
        staleness: s(tau).
        concurrency: Agents at work at a time; all by default. The next one is among those who had the fewest turns.

    Raises:
        ConfigError: A number is out of range.
    """
    if not 0.0 < mixing <= 1.0:
        raise ConfigError(
            f"mixing is {mixing}. It is the share of the agent's parameters. Set it above 0, to at most 1."
        )
    _check_concurrency(concurrency)
    return Schedule(1, True, staleness, mixing=mixing, mix_models=True, concurrency=concurrency)


@component("schedule", reference="Nguyen et al. (2022), https://arxiv.org/abs/2106.06639")
def fed_buff(
    buffer_size: int = 10, *, staleness: Staleness = polynomial(0.5), concurrency: int | None = None
) -> Schedule:
    """FedBuff: theta <- theta + mean of s(tau_k) Delta_k, as soon as a buffer of updates is full.

    An agent that is done goes on at once from what the server holds, or makes room for another.

    Args:
        buffer_size: Updates that make a merge.
        staleness: s(tau).
        concurrency: Agents at work at a time; all by default. The next one is among those who had the fewest turns.

    Raises:
        ConfigError: A number is out of range.
    """
    check_positive(buffer_size=buffer_size)
    _check_concurrency(concurrency)
    return Schedule(buffer_size, True, staleness, concurrency=concurrency)


@component("schedule", reference="Ho et al. (2013), https://papers.nips.cc/paper/4894")
def bounded_staleness(bound: int = 3, *, mixing: float | None = None) -> Schedule:
    """Stale synchronous parallel: every update is added as it comes, and nobody runs far ahead.

    An agent that has done c iterations waits until the slowest one present has done at least c - bound. With bound 0
    agents go in step.

    Args:
        bound: Iterations between the fastest and the slowest.
        mixing: What an update is scaled by; one over the number of agents by default, so that an iteration of all
            agents moves the parameters like a round of FedAvg.

    Raises:
        ConfigError: A number is out of range.
    """
    if bound < 0:
        raise ConfigError(
            f"bound is {bound}. Nobody can be ahead of the slowest by less than nothing. Set it to 0 or more."
        )
    if mixing is not None:
        check_above_zero(mixing=mixing)
    return Schedule(1, True, mixing=mixing, bound=bound)


@component("schedule", reference="Lan et al. (2024), https://arxiv.org/abs/2404.08003")
def afedpg(
    alpha: float = 0.5, *, staleness: Staleness = ignore_staleness(), concurrency: int | None = None
) -> Schedule:
    r"""AFedPG: agents gather experience where the momentum will have carried the parameters, and come one at a time.

    Sent out is the look-ahead point

        theta~ = theta + ((1 - alpha) / alpha) (theta - theta_previous),

    and the server takes steps of a given length along the momentum d <- (1 - alpha) d + alpha g of what comes back. So
    give it the same alpha, `server_optimizer=normalized_momentum(rate, alpha)`; the paper's agents send policy
    gradients, `payload="gradient"`, and changes of parameters will do, too. The analysis lets alpha fall over time;
    here it is constant. The idea is that of NIGT (Cutkosky & Mehta, 2020), with agents that come when they come.

    Args:
        alpha: Weight of the newest update in the momentum; 1 looks nowhere.
        staleness: What a stale update is scaled by besides; the paper scales nothing.
        concurrency: Agents at work at a time; all by default. The next one is among those who had the fewest turns.

    Raises:
        ConfigError: A number is out of range.
    """
    if not 0.0 < alpha <= 1.0:
        raise ConfigError(f"alpha is {alpha}. It is the weight of the newest update. Set it above 0, to at most 1.")
    _check_concurrency(concurrency)
    return Schedule(1, True, staleness, concurrency=concurrency, momentum=alpha)


def _check_concurrency(concurrency: int | None) -> None:
    if concurrency is not None:
        check_positive(concurrency=concurrency)


def check_hangs(devices: Clock, schedule: Schedule, asked: int) -> None:
    """Refuse hangs that nobody ever notices where one of so many agents that are asked stops the run.

    Raises:
        ConfigError: The schedule waits for every agent, however long it takes.
    """
    if not devices.hang or math.isfinite(devices.hang_s):
        return
    if schedule.bound is not None:
        waits = True  # for the slowest
    elif schedule.redispatch:
        waits = False
    elif math.isfinite(schedule.deadline_s):
        waits = schedule.quorum >= asked
    else:
        waits = schedule.buffer_size is None or schedule.buffer_size >= asked
    if waits:
        raise ConfigError(
            f"hang is {devices.hang:g} and hang_s is inf, and {schedule!r} waits for all {asked} agents that are "
            "asked, so the first one that hangs would stop the run for ever. Say after how many seconds a hang is "
            "noticed (hang_s), give the schedule a deadline (deadline_s) with a quorum below that number, or let it "
            "wait for fewer."
        )
