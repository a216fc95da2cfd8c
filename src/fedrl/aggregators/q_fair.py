"""q-FFL: the higher an agent's loss, the more its update counts."""

from __future__ import annotations

import math
from typing import Any

import jax

from fedrl.aggregators.losses import losses, question
from fedrl.aggregators.namespace import namespace
from fedrl.core.aggregator import Aggregator
from fedrl.core.checks import check_above_zero
from fedrl.core.component import component
from fedrl.core.errors import ConfigError
from fedrl.core.types import PyTree, Update

LEAST_LOSS = 1e-6
"""A loss of zero to a negative power, for q < 1, would be infinite."""
LARGEST_NORM = 1e15
"""Beyond, float32 has no square."""


@component("aggregator", reference="Li, Sanjabi, Beirami & Smith (2020), https://arxiv.org/abs/1905.10497")
def q_fair(q: float = 1.0, lipschitz: float = 1.0, best: float | None = None) -> Aggregator:
    """q-FedAvg: descend on sum_k F_k^(q+1) / (q+1), so that agents with a high loss pull harder.

        theta <- theta + sum_k F_k^q Delta_k / sum_k (q F_k^(q-1) L ||Delta_k||^2 + F_k^q)

    The denominator bounds the curvature of F^(q+1), so the step needs no tuning for each q. q = 0 counts every agent
    once; a growing q leads towards the worst agent alone.

    What leaves an agent beside its update is its loss, four bytes in the open: "loss", or "return" if `best` is given.

    Args:
        q: How much fairness counts, at least 0.
        lipschitz: L, the curvature of the agents' losses; the paper takes 1 / (local step size).
        best: The best mean return there is. With it, F_k = max(best - return_k, 0), in units of the return.

    Raises:
        ConfigError: q is below zero or L is not above.
    """
    if not 0.0 <= q < math.inf:
        raise ConfigError(f"q is {q}. It is a power of losses. Set it to 0 (a plain mean) or more.")
    check_above_zero(lipschitz=lipschitz)

    def update(updates: Update, state: PyTree) -> tuple[Update, PyTree]:
        xp = namespace(updates)
        loss = xp.maximum(losses(updates.report, best, xp), LEAST_LOSS)
        power = loss**q
        curvature = q * loss ** (q - 1.0) * lipschitz * _norms(updates.value, xp) ** 2
        whole = (curvature + power).sum()
        value = jax.tree.map(lambda x: (xp.tensordot(power, x, 1) / whole).astype(x.dtype), updates.value)
        return Update(value, updates.weight.sum(), updates.version.max()), state

    return Aggregator(update=update, sees="each", asks=(question(best),))


def _norms(stacked: PyTree, xp: Any) -> Any:
    """||x_k|| over all arrays of each agent, at most `LARGEST_NORM`."""
    flat = xp.concatenate([x.reshape(x.shape[0], -1) for x in jax.tree.leaves(stacked)], axis=1)
    return xp.sqrt((xp.clip(flat, -LARGEST_NORM, LARGEST_NORM) ** 2).sum(1))
