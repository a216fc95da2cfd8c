"""What an aggregator is: a rule that makes one update of many.

A rule that sees only the sum lets engines add updates up as they come, in any grouping and any order:
for such a rule, `update` of partial means weighted by their partial weights equals `update` of the whole.
A rule that sees each update gets them all, stacked. It may ask the agents for a few numbers about themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax

from fedrl.core.component import Call, record
from fedrl.core.types import Params, PyTree, Update


def by_samples(update: Update) -> jax.Array:
    """Weigh an update by the weight it came with: the number of samples behind it, unless a stage changed that."""
    return update.weight


@record
class Aggregator:
    """A rule that makes one update of many.

    Attributes:
        update: `(updates, state) -> (update, state)`; every leaf of `updates` has a leading agent axis. The leaves
            are NumPy arrays on the host, where reductions over agents are fastest, and JAX arrays inside a
            compiled program.
        init: `params -> state`.
        weigh: `update -> weight` of one agent's update, before any summing.
        sees: "sum" if the rule is a function of the weighted sum, "each" if it needs every update by itself.
        asks: What each agent is to tell about itself, see `fedrl.core.told`. A rule that asks sees each update, and
            finds what they told in `updates.report`.
        unit: `samples of a usual update -> a usual weight`, for exact sums, and for an agent's share among all.
        sensitivity: `(clip, agents) -> bound` on how far one agent with updates of norm at most `clip` moves the
            result, or None where no bound is known.
    """

    update: Callable[[Update, PyTree], tuple[Update, PyTree]]
    init: Callable[[Params], PyTree] = lambda params: ()
    weigh: Callable[[Update], jax.Array] = by_samples
    sees: Literal["each", "sum"] = "each"
    asks: tuple[str, ...] = ()
    unit: Callable[[float], float] = lambda samples: samples
    sensitivity: Callable[[float, int], float] | None = None
    call: Call | None = None
