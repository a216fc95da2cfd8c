"""What an aggregator is: a rule that makes one update of many.

A rule that sees only the sum lets engines add updates up as they come, in any grouping and any order:
for such a rule, `update` of partial means weighted by their partial weights equals `update` of the whole.
A rule that sees each update gets them all, stacked. It may ask the agents for a few numbers about themselves.
Who sent what and how stale it is, no agent says: the engine states it, as `Arrivals`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax

from fedrl.core.component import Call, record
from fedrl.core.types import Key, Params, PyTree, Update

NOBODY = -1
"""The sender of a row that is the mean of several updates."""


class View(NamedTuple):
    """What a rule may look at of the server.

    Attributes:
        params: The parameters that the merged update will change.
        version: Scalar int32; how many times the server has committed.
    """

    params: Params
    version: jax.Array


class Arrivals(NamedTuple):
    """Whose updates are merged, as the engine knows it: nothing of it depends on what an agent says.

    Attributes:
        sender: Int32 `[n]`, the number of the agent that sent each; `NOBODY` for a mean of several.
        staleness: Int32 `[n]`, how many versions ago the agent was sent what it started from.
    """

    sender: Any
    staleness: Any


def on_time(agents: Any) -> Arrivals:
    """Arrivals of these agents, all of whom heard what the server holds now.

    >>> import numpy as np
    >>> on_time(np.array([2, 5], np.int32)).staleness.tolist()
    [0, 0]
    """
    return Arrivals(agents, agents * 0)


def by_samples(update: Update) -> jax.Array:
    """Weigh an update by the weight it came with: the number of samples behind it, unless a stage changed that."""
    return update.weight


@record
class Aggregator:
    """A rule that makes one update of many.

    Attributes:
        update: `(key, view, arrivals, state, updates) -> (update, state)`; every leaf of `updates` and of `arrivals`
            has a leading axis of updates. The leaves are NumPy arrays on the host, where reductions over agents are
            fastest, and JAX arrays inside a compiled program. A rule of the sum gets one row, the mean of all.
        init: `params -> state`.
        weigh: `update -> weight` of one agent's update, before any summing.
        needs: "sum" if the rule is a function of the weighted sum, "each" if it needs every update by itself.
        requested: What each agent is to tell about itself, see `fedrl.core.reports`. A rule that asks sees each update,
            and finds what they told in `updates.report`.
        weight_scale: `samples of a usual update -> a usual weight`, for exact sums, and for an agent's share among all.
        divides_by: What its result is a mean by: sum_k w_k x_k over the "count" of updates if each has the weight 1, or
            over the sum of the "weights". None: it is no mean, or none whose divisor is known.
        agents: Of a rule that keeps a number for each agent, how many agents it has room for. None: any number.
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
