"""Weights by environment settings: agents whose environment parameters differ from the others' weigh more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedrl.aggregators.namespace import namespace, weighted_mean
from fedrl.core.aggregator import Aggregator, Arrivals, View
from fedrl.core.component import component
from fedrl.core.errors import ConfigError
from fedrl.core.ranges import FractionAboveZero
from fedrl.core.reports import SETTING
from fedrl.core.types import Key, PyTree, Update


@component(
    "aggregator",
    reference="mean dissimilarities, as in the quadratic entropy of Rao (1982), "
    "https://doi.org/10.1016/0040-5809(82)90004-1; of the form by Gower (1971), https://doi.org/10.2307/2528823",
)
def weight_by_environment(names: Sequence[str], floor: FractionAboveZero = 0.1) -> Aggregator:
    """Weigh agents by the mean distance of their environment's parameters from those of the others.

        d_jk = mean over p of |x_jp - x_kp| / range_p,    d_k = mean over j != k of d_jk,    w_k = n_k max(d_k, floor)

    x_kp is parameter p of agent k's environment and range_p its largest difference between agents of the round. So d_k
    lies in [0, 1] in any units, and the mean of all d_k measures the diversity of the agents. Ten agents with the same
    environment do not outvote a single agent with another one, from the first round on and however noisy the updates
    are. If all agents are equal, w_k is proportional to n_k. An x_kp that is not finite is replaced by the mean of the
    others.

    Each agent reports the named parameters beside its update, four bytes each in the clear, and nothing else about its
    environment.

    Args:
        names: Parameters of the environment that are reported, such as `["length", "gravity"]`; each a scalar.
        floor: Lower bound of d_k.

    Raises:
        ConfigError: `names` is empty or has duplicates, or the floor is not above zero; when a federation is built,
            the environment has no such parameter.
    """
    asked = list(names)
    if not asked or len(set(asked)) < len(asked):
        raise ConfigError(
            f"names is {asked}. Agents are compared by at least one parameter, each listed once. Write, for example, "
            "names = ['length']."
        )

    def update(key: Key, view: View, arrivals: Arrivals, state: PyTree, updates: Update) -> tuple[Update, PyTree]:
        del key, view, arrivals
        xp = namespace(updates)
        apart = sum(_mean_distance(updates.report[SETTING + name], xp) for name in asked) / len(asked)
        value = weighted_mean(updates.weight * xp.maximum(apart, floor), updates.value)
        return Update(value, updates.weight.sum(), updates.version.max()), state

    return Aggregator(update=update, needs="each", requested=tuple(SETTING + name for name in asked))


def _mean_distance(values: Any, xp: Any) -> Any:
    """Return the mean over the others of |x_j - x_k| / range, `[agents]`.

    A number that is not finite is replaced by the mean of those that are.
    """
    # Sorted, the sum of distances follows from cumulative sums: O(K log K) instead of all K^2 pairs.
    agents, known = len(values), xp.isfinite(values)
    size = xp.where(known, xp.abs(values), 0.0).max()
    values = values / xp.where(size > 0.0, size, 1.0)  # differences of large numbers may overflow float32
    mean = xp.where(known, values, 0.0).sum() / xp.maximum(known.sum(), 1)
    values = xp.where(known, values, mean).astype(values.dtype)
    extent = values.max() - values.min()
    scaled = (values - values.min()) / xp.where(extent > 0.0, extent, 1.0)
    order = xp.argsort(scaled)
    placed, rank = scaled[order], xp.arange(agents)
    sums = placed * (2 * rank + 2 - agents) + placed.sum() - 2.0 * xp.cumsum(placed)
    return sums[xp.argsort(order)] / max(agents - 1, 1)
