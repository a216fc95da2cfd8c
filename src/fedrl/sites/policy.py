"""What a site lets leave: checked against the federation when the agent is built, and against every message.

    federation --outgoing--> names, sizes, protection --check_federation--> refused, before anything is sent
    update     --too_large--> a job without an update
    day        --Allowance--> the agent waits until the next day

The site alone decides: nothing here comes from the coordinator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from fedrl.core.errors import ConfigError
from fedrl.core.ranges import Count, NonNegative, Positive, check_ranges, ranges_of
from fedrl.core.summation import hidden
from fedrl.engines.messages import messages
from fedrl.federation.federation import Federation
from fedrl.federation.soundness import HIDDEN, NOISE, NOTHING, SERVER, Outgoing, outgoing
from fedrl.privacy.guarantee import Guarantee
from fedrl.wire.codec import varies

DAY_S = 86400


@dataclass(frozen=True, kw_only=True)
class MayLeave:
    """What a site lets leave. The defaults allow parameters and their weight, and nothing about the data beside them.

    Attributes:
        payload: The kinds of updates: "delta", the change of the parameters, and "gradient".
        reports: Names of the numbers that an agent may report, such as "loss", with an update or in a bid before it.
        statistics: Names of the statistics that may be sent in the clear beside an update, such as "moments".
        largest_bytes: The largest update in bytes; no limit by default.
        rounds_a_day: The largest number of jobs whose updates leave in one day (UTC); no limit by default.
        privacy: The least protection of an update's value: "nothing", or "noise" that the agent itself adds behind a
            clip, before the update leaves.
        max_epsilon: The largest epsilon of a privacy budget with which the site takes part, as its own experiment says;
            by default it needs no budget.
        max_delta: The largest delta of such a budget; no limit by default.
        sizes: Whether the size of an update, or whether it is sent at all, may depend on the data.
        weights: Whether a stage may derive the weight of an update from the data.
        capacity: Whether the measured local steps per second may leave.
        reasons: Whether the reasons of failures may leave, which may contain what an environment raised.

    >>> MayLeave(reports=("loss",)).capacity
    False
    """

    payload: tuple[Literal["delta", "gradient"], ...] = ("delta",)
    reports: tuple[str, ...] = ()
    statistics: tuple[str, ...] = ()
    largest_bytes: Count | None = None
    rounds_a_day: Count | None = None
    privacy: Literal["nothing", "noise"] = "nothing"
    max_epsilon: Positive | None = None
    max_delta: NonNegative | None = None
    sizes: bool = False
    weights: bool = False
    capacity: bool = False
    reasons: bool = False

    def __post_init__(self) -> None:
        check_ranges(ranges_of(MayLeave), vars(self), "may_leave")


def check_federation(may_leave: MayLeave, federation: Federation, leaving: list[Outgoing] | None = None) -> None:
    """Refuse a federation that would let out what the site does not allow.

    Args:
        may_leave: What the site allows.
        federation: The site's own federation.
        leaving: What leaves, as `fedrl.federation.soundness.outgoing` lists it; computed by default.

    Raises:
        ConfigError: It names what would leave, and the key that allows it.

    >>> from fedrl.aggregators import mean
    >>> from fedrl.environments import gridworld
    >>> from fedrl.federation.federate import federate
    >>> from fedrl.learners import q_table
    >>> check_federation(MayLeave(), federate(q_table(gridworld()), mean(), reports=["loss"]))
    Traceback (most recent call last):
    fedrl.core.errors.ConfigError: The federation lets out report/loss (asked for by name), and this site ...
    """
    if federation.payload not in may_leave.payload:
        allowed = " or ".join(may_leave.payload) or "nothing"
        raise ConfigError(
            f"The federation lets out updates of the kind {federation.payload!r}, and this site allows {allowed}. Add "
            f"{federation.payload!r} to may_leave.payload, or take no part in this federation."
        )
    for each in leaving_of(federation) if leaving is None else leaving:
        key = _forbidden(may_leave, federation, each)
        if key:
            raise ConfigError(
                f"The federation lets out {_shown(each)}, and this site does not allow that. Set may_leave.{key}, or "
                "take no part in this federation."
            )


def check_guarantee(may_leave: MayLeave, guarantee: Guarantee | None) -> None:
    """Refuse an experiment with less privacy than the site asks for.

    The coordinator keeps the budget; that it adds the same noise is compared before the first job, with all stages.

    Args:
        may_leave: What the site allows.
        guarantee: The guarantee of the site's own experiment; None if it has none.

    Raises:
        ConfigError: It names the key, what the experiment promises, and what to do.
    """
    asked = {"max_epsilon": may_leave.max_epsilon, "max_delta": may_leave.max_delta}
    for key, most in asked.items():
        if most is None:
            continue
        if guarantee is None:
            raise ConfigError(
                f"may_leave.{key} is {most:g}, and the experiment has no privacy budget. Add [federation.privacy] to "
                "it, as the coordinator has to, or take no part in this federation."
            )
        name = key.removeprefix("max_")
        found = guarantee.budget.epsilon if name == "epsilon" else guarantee.budget.delta
        if found > most:
            raise ConfigError(
                f"may_leave.{key} is {most:g}, and the privacy budget of the experiment has {name} = {found:g}. Ask "
                f"for a federation with a smaller one, or take no part in this one."
            )
    if asked["max_epsilon"] is not None and guarantee is not None and guarantee.not_certified():
        raise ConfigError(
            f"may_leave.max_epsilon is {may_leave.max_epsilon:g}, and the experiment is not certified: "
            f"{guarantee.not_certified()}. Leave federation.privacy.reproducible out of it."
        )


def leaving_of(federation: Federation, bids: tuple[str, ...] | None = None) -> list[Outgoing]:
    """Return what leaves an agent with its update, from the trace that the agent's programs use as well.

    Args:
        federation: The site's own federation.
        bids: Reports that leave in a bid before the update, under an upload budget; None for no bids.
    """
    one = jax.tree.map(lambda x: jnp.asarray(x)[None], federation.learner.environment.params)
    update = messages(federation, one).update
    found = outgoing(federation, update)
    if bids is None:
        return found
    note = "of every job, before the coordinator decides whether the update is sent"
    reports = {f"report/{name}": f"bid/{name}" for name in bids}
    said = [each._replace(name=reports[each.name], note=note) for each in found if each.name in reports]
    size = [Outgoing("bid size", "agent", SERVER, 4, note=f"the size of the update, {note}")] if varies(update) else []
    return [*said, *size, *(each for each in found if each.name not in reports)]


def needed(federation: Federation, bids: tuple[str, ...] | None = None) -> MayLeave:
    """Return the narrowest `MayLeave` with which a site may take part in a federation; `bids` as of `leaving_of`.

    >>> from fedrl.aggregators import q_ffl
    >>> from fedrl.environments import gridworld
    >>> from fedrl.federation.federate import federate
    >>> from fedrl.learners import q_table
    >>> needed(federate(q_table(gridworld()), q_ffl(1.0))).reports
    ('loss',)
    """
    leaving = [each.name.partition("/") for each in leaving_of(federation, bids) if each.protection != HIDDEN]
    return MayLeave(
        payload=("gradient",) if federation.payload == "gradient" else ("delta",),
        reports=tuple(name for kind, _, name in leaving if kind in ("report", "bid")),
        statistics=tuple(name for kind, _, name in leaving if kind == "statistics"),
        sizes=any(kind in ("size", "silence") for kind, _, _ in leaving),
        weights=any(stage.reweights for stage in federation.stages) and hidden(federation.summation) is None,
    )


def _forbidden(may_leave: MayLeave, federation: Federation, each: Outgoing) -> str:
    """Return the setting that would allow something that leaves; "" if it is allowed."""
    kind, _, name = each.name.partition("/")
    largest, size = may_leave.largest_bytes, each.size_bytes
    # Noise that the server adds, and sums that others hide, protect only if the others keep to it.
    noisy = may_leave.privacy == "nothing" or NOISE["agent"] in each.protection
    derived, inside = any(stage.reweights for stage in federation.stages), each.protection == HIDDEN
    allowed = {
        f"reports to a list with {name!r}": kind not in ("report", "bid") or name in may_leave.reports,
        f"statistics to a list with {name!r}": kind != "statistics" or name in may_leave.statistics or inside,
        "sizes = true": kind not in ("size", "silence", "bid size") or may_leave.sizes,
        "weights = true": kind != "weight" or may_leave.weights or not derived or inside,
        "privacy = 'nothing'": kind != "value" or noisy,
        f"largest_bytes to {size} or more": kind != "value" or largest is None or size is None or size <= largest,
    }
    return next((key for key, holds in allowed.items() if not holds), "")


def _shown(each: Outgoing) -> str:
    if each.name == "value":
        size = "of a size that varies" if each.size_bytes is None else f"of {each.size_bytes:,} bytes"
        protection = "unprotected" if each.protection == NOTHING else f"protected by {each.protection}"
        return f"updates {size}, {protection}"
    return f"{each.name} ({each.note})" if each.note else each.name


def too_large(may_leave: MayLeave, update: bytes) -> str:
    """Return the reason why an update may not leave; "" if it may.

    >>> too_large(MayLeave(largest_bytes=2), b"abc")
    'The update has 3 bytes, and this site lets at most 2 leave.'
    """
    largest = may_leave.largest_bytes
    if largest is None or len(update) <= largest:
        return ""
    return f"The update has {len(update):,} bytes, and this site lets at most {largest:,} leave."


class Allowance:
    """The jobs that may still leave in a day.

    Args:
        most: The largest number of jobs in one day; None for no limit.

    >>> allowance = Allowance(1)
    >>> allowance.count("run", 1, 10.0)
    >>> allowance.allows("run", 1, 20.0), allowance.allows("run", 2, 20.0), allowance.allows("run", 2, 86400.0)
    (True, False, True)
    >>> allowance.wait_s(86000.0)
    400.0
    """

    def __init__(self, most: int | None) -> None:
        self.most = most
        self._jobs: dict[int, set[tuple[str, int]]] = {}

    def count(self, run: str, job: int, time: float) -> None:
        """Count a job whose update leaves at this time, in seconds since 1970; one that is sent again counts once."""
        if self.most is not None:
            day = _day(time)
            self._jobs = {each: jobs for each, jobs in self._jobs.items() if each >= day - 1}
            self._jobs.setdefault(day, set()).add((run, job))

    def allows(self, run: str, job: int, time: float) -> bool:
        """Return whether the update of a job may leave at this time."""
        jobs = self._jobs.get(_day(time), set())
        return self.most is None or (run, job) in jobs or len(jobs) < self.most

    def wait_s(self, time: float) -> float:
        """Return the seconds until another job may begin; 0 if one may now."""
        if self.most is None or len(self._jobs.get(_day(time), ())) < self.most:
            return 0.0
        return (_day(time) + 1) * DAY_S - time


def _day(time: float) -> int:
    """Return the number of a day in UTC."""
    return int(time // DAY_S)
