"""Define an aggregator: a rule that merges the updates of many agents into one.

    updates [n, ...], arrivals [n] --update--> merged update

An aggregator with `needs="sum"` depends only on the weighted sum of updates: applied to partial means with their
partial weights, it gives the same result as applied to all updates. So an engine may add updates as they arrive, in any
grouping and any order. An aggregator with `needs="each"` receives all updates, stacked, and may request scalars from
the agents. The engine, not the agents, states who sent an update and how stale it is (`Arrivals`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax

from fedrl.core.component import Call, record
from fedrl.core.types import Key, Params, PyTree, Update

NOBODY = -1
"""The sender that stands for a mean of several updates."""


class View(NamedTuple):
    """The part of the server's state that an aggregator may read.

    Attributes:
        params: The global parameters, which the merged update will change.
        version: Scalar int32; the number of times that the server has committed.
    """

    params: Params
    version: jax.Array


class Arrivals(NamedTuple):
    """The senders of the merged updates and their staleness, as the engine knows them, not as agents claim them.

    Attributes:
        sender: Int32 `[n]`, the number of the agent that sent each update; `NOBODY` for a mean of several updates.
        staleness: Int32 `[n]`, the number of versions between the parameters that the agent trained from and now.
    """

    sender: Any
    staleness: Any


def on_time(agents: Any) -> Arrivals:
    """Return the arrivals of agents that all trained from the current version.

    Args:
        agents: Int32 `[n]`, the numbers of the agents.

    >>> import numpy as np
    >>> on_time(np.array([2, 5], np.int32)).staleness.tolist()
    [0, 0]
    """
    return Arrivals(agents, agents * 0)


def by_samples(update: Update) -> jax.Array:
    """Return the weight that an update arrived with: its number of samples, unless a stage changed it."""
    return update.weight


@record
class Aggregator:
    """A rule that merges updates into one.

    Attributes:
        update: `(key, view, arrivals, state, updates) -> (update, state)`; every leaf of `updates` and of `arrivals`
            has a leading axis of updates. The leaves are NumPy arrays on the host, where reductions over agents are
            fastest, and JAX arrays inside a compiled program. A rule with `needs="sum"` receives one row: the weighted
            mean of all updates.
        init: `params -> state`.
        weigh: `update -> weight` of one agent's update, before any summing.
        needs: "sum" if the rule depends only on the weighted sum, "each" if it needs every update separately.
        requested: The names of the scalars that each agent must report: see `fedrl.core.reports`. They arrive in
            `updates.report`, so such a rule has `needs="each"`.
        weight_scale: `samples -> weight` that the rule gives to an update of so many samples. It scales exact sums and
            gives each agent's share p_k.
        divides_by: The divisor of a rule that is a mean, sum_k w_k x_k / divisor: the "count" of updates, where each
            weight is 1, or the sum of the "weights". None: the rule is no mean, or its divisor is unknown.
        agents: The number of agents for which a rule with one number per agent has room. None: any number.
        call: The constructor call that made the aggregator.
    """

    update: Callable[[Key, View, Arrivals, PyTree, Update], tuple[Update, PyTree]]
    init: Callable[[Params], PyTree] = lambda params: ()
    weigh: Callable[[Update], jax.Array] = by_samples
    needs: Literal["each", "sum"] = "each"
    requested: tuple[str, ...] = ()
    weight_scale: Callable[[float], float] = lambda samples: samples
    divides_by: Literal["count", "weights"] | None = None
    agents: int | None = None
    call: Call | None = None
