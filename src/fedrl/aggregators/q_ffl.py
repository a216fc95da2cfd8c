"""q-FFL: the higher an agent's loss, the more its update counts."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np

from fedrl.aggregators.losses import losses, question
from fedrl.aggregators.namespace import namespace
from fedrl.core.aggregator import Aggregator, Arrivals, View
from fedrl.core.checks import check_above_zero
from fedrl.core.component import component
from fedrl.core.errors import ConfigError
from fedrl.core.types import Key, PyTree, Update

LEAST_RATIO = 1e-10
"""Of a loss to the largest. For q < 1, that of an agent without a loss would be infinite to the power of q - 1."""


@component("aggregator", reference="Li, Sanjabi, Beirami & Smith (2020), https://arxiv.org/abs/1905.10497")
def q_ffl(q: float = 1.0, lipschitz: float = 1.0, reference_return: float | None = None) -> Aggregator:
    """q-FedAvg: descend on sum_k F_k^(q+1) / (q+1), so that agents with a high loss pull harder.

        theta <- theta + sum_k F_k^q Delta_k / sum_k (q F_k^(q-1) L ||Delta_k||^2 + F_k^q)

    The denominator bounds the curvature of F^(q+1), so the step needs no tuning for each q. q = 0 counts every agent
    once; a growing q leads towards the worst agent alone. F_k counts as 1e-10 of the largest loss at least, which
    matters for q < 1 alone. Where nobody has a loss, all F_k = 0, the objective is at its least and there is no step
    (for q = 0, where losses do not count, the plain mean).

    What leaves an agent beside its update is its loss, four bytes in the open: "loss", or "return" if
    `reference_return` is given.

    Args:
        q: How much fairness counts, at least 0.
        lipschitz: L, the curvature of the agents' losses; the paper takes 1 / (local step size).
        reference_return: The best mean return there is. With it, F_k = max(best - return_k, 0), in units of the return.

    Raises:
        ConfigError: q is below zero or L is not above.
    """
    if not 0.0 <= q < math.inf:
        raise ConfigError(f"q is {q}. It is a power of losses. Set it to 0 (a plain mean) or more.")
    check_above_zero(lipschitz=lipschitz)

    def update(key: Key, view: View, arrivals: Arrivals, state: PyTree, updates: Update) -> tuple[Update, PyTree]:
        del key, view, arrivals
        xp = namespace(updates)
        step = _step(losses(updates.report, reference_return, xp), updates.value, q, lipschitz, xp)
        return Update(step, updates.weight.sum(), updates.version.max()), state

    return Aggregator(update=update, needs="each", requested=(question(reference_return),))


def _step(loss: Any, stacked: PyTree, q: float, lipschitz: float, xp: Any) -> PyTree:
    """The rule as a ratio of what float32 holds: with r = F / max F and d = Delta / s, s the largest entry of all,

    sum_k r_k^q d_k / (sum_k r_k^q / s + L s / max F sum_k q r_k^(q-1) ||d_k||^2)
    """
    worst = loss.max() if q > 0.0 else np.float32(1.0)
    weight_scale = xp.where(worst > 0.0, worst, 1.0)
    ratio = xp.where(worst > 0.0, xp.maximum(loss / weight_scale, LEAST_RATIO), 1.0) if q > 0.0 else xp.ones_like(loss)
    size = xp.stack([xp.maximum(x.max(initial=0.0), -x.min(initial=0.0)) for x in jax.tree.leaves(stacked)]).max()
    scaled = jax.tree.map(lambda x: x / xp.where(size > 0.0, size, 1.0), stacked)
    square = sum(xp.vecdot(x.reshape(len(x), -1), x.reshape(len(x), -1)) for x in jax.tree.leaves(scaled))
    power = ratio**q
    with np.errstate(over="ignore", under="ignore"):  # a denominator beyond float32 makes a step below it: zero
        curvature = xp.minimum(lipschitz * (size / weight_scale), 3e38) * (q * ratio ** (q - 1.0) * square).sum()
        whole = power.sum() / xp.where(size > 0.0, size, 1.0) + curvature
    share = xp.where(worst > 0.0, power / whole, 0.0).astype(np.float32)
    return jax.tree.map(lambda x: xp.tensordot(share, x, 1).astype(x.dtype), scaled)
