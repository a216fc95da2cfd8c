"""The weighted mean: FedAvg."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fedrl.aggregators.namespace import weighted_mean
from fedrl.core.aggregator import Aggregator, Arrivals, View, by_samples
from fedrl.core.checks import check_one_of
from fedrl.core.component import component
from fedrl.core.types import Key, PyTree, Update


@component("aggregator", reference="McMahan et al. (2017), https://arxiv.org/abs/1602.05629")
def mean(weighting: str = "samples") -> Aggregator:
    """FedAvg: the weighted mean sum_k w_k value_k / sum_k w_k of the updates.

    Args:
        weighting: "samples" sets w_k to the number of samples agent k trained on, "uniform" sets w_k = 1.

    Raises:
        ConfigError: `weighting` is unknown.

    >>> mean("uniform").needs
    'sum'
    """
    check_one_of(weighting, ("samples", "uniform"), "weighting")

    def update(key: Key, view: View, arrivals: Arrivals, state: PyTree, updates: Update) -> tuple[Update, PyTree]:
        del key, view, arrivals
        value = weighted_mean(updates.weight, updates.value)
        return Update(value, updates.weight.sum(), updates.version.max()), state

    return Aggregator(
        update=update,
        weigh=by_samples if weighting == "samples" else _equally,
        needs="sum",
        weight_scale=(lambda samples: samples) if weighting == "samples" else lambda samples: 1.0,
        divides_by="count" if weighting == "uniform" else "weights",
    )


def _equally(update: Update) -> jax.Array:
    """Return the weight 1."""
    del update
    return jnp.float32(1.0)
