"""q-FFL: updates of agents with a higher loss get a larger weight."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np

from fedrl.aggregators.losses import losses, question
from fedrl.aggregators.namespace import namespace
from fedrl.core.aggregator import Aggregator, Arrivals, View
from fedrl.core.component import component
from fedrl.core.errors import ConfigError
from fedrl.core.ranges import Finite, NonNegative, Positive
from fedrl.core.types import Key, PyTree, Update

LEAST_RATIO = 1e-10
"""Least ratio of a loss to the largest one: for q < 1, a loss of zero to the power of q - 1 would be infinite."""


@component("aggregator", reference="Li, Sanjabi, Beirami & Smith (2020), https://arxiv.org/abs/1905.10497")
def q_ffl(q: NonNegative = 1.0, lipschitz: Positive = 1.0, reference_return: Finite | None = None) -> Aggregator:
    """q-FedAvg: descend sum_k F_k^(q+1) / (q+1), so that agents with a higher loss have more influence.

        theta <- theta + sum_k F_k^q Delta_k / sum_k (q F_k^(q-1) L ||Delta_k||^2 + F_k^q)

    The denominator bounds the curvature of F^(q+1), so the step size needs no tuning for each q. q = 0 is the uniform
    mean; as q grows, the worst agent dominates. F_k is at least 1e-10 of the largest loss, which matters for q < 1
    only. If all F_k = 0, the objective is at its minimum and there is no step (for q = 0, which ignores losses, it is
    the uniform mean).

    Each agent reports its loss beside its update, four bytes in the clear: "loss", or "return" if `reference_return`
    is given.

    Args:
        q: Fairness exponent, at least 0.
        lipschitz: L, the curvature of the agents' losses; the paper takes 1 / (local step size).
        reference_return: The best possible mean return. With it, F_k = max(reference_return - return_k, 0).

    Raises:
        ConfigError: `q` is below zero, or `lipschitz` is not above zero.
    """
    if not 0.0 <= q < math.inf:
        raise ConfigError(f"q is {q}. The exponent of a loss is not negative. Set it to 0 (a uniform mean) or more.")

    def update(key: Key, view: View, arrivals: Arrivals, state: PyTree, updates: Update) -> tuple[Update, PyTree]:
        del key, view, arrivals
        xp = namespace(updates)
        step = _step(losses(updates.report, reference_return, xp), updates.value, q, lipschitz, xp)
        return Update(step, updates.weight.sum(), updates.version.max()), state

    return Aggregator(update=update, needs="each", requested=(question(reference_return),))


def _step(loss: Any, stacked: PyTree, q: float, lipschitz: float, xp: Any) -> PyTree:
    """Compute the step in a scaled form that does not overflow float32.

    With r = F / max F, and d = Delta / s for s the largest magnitude among all entries, the step is

    sum_k r_k^q d_k / (sum_k r_k^q / s + L s / max F sum_k q r_k^(q-1) ||d_k||^2)
    """
    worst = loss.max() if q > 0.0 else np.float32(1.0)
    weight_scale = xp.where(worst > 0.0, worst, 1.0)
    ratio = xp.where(worst > 0.0, xp.maximum(loss / weight_scale, LEAST_RATIO), 1.0) if q > 0.0 else xp.ones_like(loss)
    size = xp.stack([xp.maximum(x.max(initial=0.0), -x.min(initial=0.0)) for x in jax.tree.leaves(stacked)]).max()
    scaled = jax.tree.map(lambda x: x / xp.where(size > 0.0, size, 1.0), stacked)
    square = sum(xp.vecdot(x.reshape(len(x), -1), x.reshape(len(x), -1)) for x in jax.tree.leaves(scaled))
    power = ratio**q
    # A denominator beyond float32 belongs to a step below float32, so zero is its right value.
    with np.errstate(over="ignore", under="ignore"):
        curvature = xp.minimum(lipschitz * (size / weight_scale), 3e38) * (q * ratio ** (q - 1.0) * square).sum()
        whole = power.sum() / xp.where(size > 0.0, size, 1.0) + curvature
    share = xp.where(worst > 0.0, power / whole, 0.0).astype(np.float32)
    return jax.tree.map(lambda x: xp.tensordot(share, x, 1).astype(x.dtype), scaled)
