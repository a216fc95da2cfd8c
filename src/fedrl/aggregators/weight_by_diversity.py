"""Weights by diversity: agents whose updates point in other directions than those of the others weigh more."""

from __future__ import annotations

import jax

from fedrl.aggregators.namespace import namespace, weighted_mean
from fedrl.core.aggregator import Aggregator, Arrivals, View
from fedrl.core.component import component
from fedrl.core.ranges import FractionAboveZero
from fedrl.core.types import Key, PyTree, Update


@component(
    "aggregator", reference="after the gradient diversity of Yin et al. (2018), https://arxiv.org/abs/1706.05699"
)
def weight_by_diversity(floor: FractionAboveZero = 0.1) -> Aggregator:
    """Weigh agents by the mean cosine distance of their update from the updates of the others.

        d_k = mean over j != k of (1 - cos(Delta_j, Delta_k)),      w_k = n_k max(d_k, floor)

    So ten agents with the same environment do not outvote a single agent with another one. The rule uses only the
    updates. Where they are mostly noise, all directions differ equally and w_k is proportional to n_k.

    Args:
        floor: Lower bound of d_k, which lies between 0 and 2.

    Raises:
        ConfigError: The floor is not above zero.
    """

    def update(key: Key, view: View, arrivals: Arrivals, state: PyTree, updates: Update) -> tuple[Update, PyTree]:
        del key, view, arrivals
        xp = namespace(updates)
        flat = xp.concatenate([x.reshape(x.shape[0], -1) for x in jax.tree.leaves(updates.value)], axis=1)
        # Scaled by the largest entry before squaring, so that no square overflows float32.
        flat = flat / xp.maximum(xp.abs(flat).max(1, keepdims=True), 1e-30)
        weight_scale = flat / xp.maximum(xp.sqrt((flat * flat).sum(1, keepdims=True)), 1e-30)
        agents = len(weight_scale)
        alike = weight_scale @ weight_scale.T * (1.0 - xp.eye(agents, dtype=weight_scale.dtype))
        diversity = 1.0 - alike.sum(1) / max(agents - 1, 1)
        value = weighted_mean(updates.weight * xp.maximum(diversity, floor), updates.value)
        return Update(value, updates.weight.sum(), updates.version.max()), state

    return Aggregator(update=update, needs="each")
