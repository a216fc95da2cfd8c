"""The coordinate-wise median, robust against fewer than half of the agents."""

from __future__ import annotations

from typing import Any

import jax

from fedrl.aggregators.namespace import namespace
from fedrl.core.aggregator import Aggregator, Arrivals, View
from fedrl.core.component import component
from fedrl.core.types import Key, PyTree, Update


@component("aggregator", reference="Yin et al. (2018), https://arxiv.org/abs/1803.01498")
def median() -> Aggregator:
    """Take the median of every coordinate over the agents; the mean of the middle two if their number is even.

    The median lies between honest values as long as fewer than half of the agents are dishonest. Weights are ignored,
    because agents state their own. A NaN sorts as infinite; engines reject such an update beforehand.
    """

    def update(key: Key, view: View, arrivals: Arrivals, state: PyTree, updates: Update) -> tuple[Update, PyTree]:
        del key, view, arrivals
        xp = namespace(updates)

        def middle(x: Any) -> Any:
            # Halved before they are added: the sum of two large float32 numbers may overflow.
            ranked, agents = xp.sort(x, axis=0), x.shape[0]
            return 0.5 * ranked[(agents - 1) // 2] + 0.5 * ranked[agents // 2]

        value = jax.tree.map(middle, updates.value)
        return Update(value, updates.weight.sum(), updates.version.max()), state

    return Aggregator(update=update, needs="each")
