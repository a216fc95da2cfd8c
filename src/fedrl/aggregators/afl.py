"""Agnostic federated learning: mixture weights of agents that ascend the loss, while the parameters descend it.

lambda_k --weighs--> Delta_k     F_k, reported by agents --> lambda <- projection onto the simplex of (lambda + gamma F)
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.aggregators.losses import losses, question
from fedrl.aggregators.namespace import namespace
from fedrl.core.aggregator import Aggregator, Arrivals, View
from fedrl.core.component import component
from fedrl.core.errors import ConfigError
from fedrl.core.ranges import Count, Finite, Positive
from fedrl.core.types import Key, Params, PyTree, Update


class Mixture(NamedTuple):
    """lambda, the weight of each agent `[agents]`; non-negative, with sum 1."""

    weights: jax.Array


@component("aggregator", reference="Mohri, Sivek & Suresh (2019), https://arxiv.org/abs/1902.00146")
def afl(agents: Count, step: Positive = 0.01, reference_return: Finite | None = None) -> Aggregator:
    """AFL: train for the worst mixture of agents, min over theta of max over lambda of sum_k lambda_k F_k(theta).

        theta <- theta + sum_k lambda_k Delta_k,      lambda <- projection onto the simplex of (lambda + gamma F)

    Both updates use the previous lambda. With a cohort of some agents, their weights are scaled to sum 1 and the losses
    of the others count as zero; if all weights of a cohort are zero, its agents are weighed equally.

    Each agent reports its loss beside its update, four bytes in the clear: "loss", or "return" if `reference_return`
    is given.

    Args:
        agents: K, the number of all agents.
        step: gamma, in units of 1 / loss: with losses of some hundreds, choose about 1e-4.
        reference_return: The best possible mean return. With it, F_k = max(reference_return - return_k, 0).

    Raises:
        ConfigError: An argument is not above zero; when used, an agent's number is `agents` or more.
    """
    # Within float32. At 1e30 any difference in loss already moves all weight to the worst agent.
    gamma = min(step, 1e30)

    def init(params: Params) -> Mixture:
        del params
        return Mixture(jnp.full(agents, 1.0 / agents, jnp.float32))

    def update(key: Key, view: View, arrivals: Arrivals, state: Mixture, updates: Update) -> tuple[Update, PyTree]:
        del key, view
        xp = namespace(updates)
        here = arrivals.sender
        if xp is np and here.max() >= agents:
            raise ConfigError(
                f"agents is {agents}, and agent {here.max()} takes part. Agents count from 0, and each needs a weight. "
                "Set agents to the number of all agents."
            )
        weights = xp.asarray(state.weights)
        own = weights[here]
        share = xp.where(own.sum() > 0.0, own / xp.where(own.sum() > 0.0, own.sum(), 1.0), 1.0 / len(here)).astype(
            np.float32
        )
        value = jax.tree.map(lambda x: xp.tensordot(share, x, 1), updates.value)
        ascent = (here == xp.arange(agents)[:, None]) @ losses(updates.report, reference_return, xp)
        # The projection of x + constant is that of x, so subtracting the maximum is free. It keeps float32's digits
        # for the differences between large losses, and nothing overflows.
        behind = xp.maximum(ascent - ascent.max(), max(-2.0 / gamma, -3e38))
        after = on_simplex(weights + np.float32(gamma) * behind)
        return Update(value, updates.weight.sum(), updates.version.max()), Mixture(after)

    return Aggregator(update=update, init=init, needs="each", requested=(question(reference_return),), agents=agents)


def on_simplex(point: Any) -> Any:
    """Project a point onto the probability simplex: max(x - nu, 0), with nu such that the entries sum to 1.

    Computed in NumPy or JAX, depending on the type of the point.

    >>> on_simplex(np.array([0.5, 1.5, -1.0], np.float32)).tolist()
    [0.0, 1.0, 0.0]

    Reference: Duchi et al. (2008), https://doi.org/10.1145/1390156.1390191
    """
    xp = namespace(point)
    # Only differences matter, and an entry 1 or more below the largest is projected to 0: so small numbers suffice.
    point = xp.maximum(point - point.max(), -1.0)
    ranked = xp.sort(point)[::-1]
    excess = (xp.cumsum(ranked) - 1.0) / xp.arange(1, len(point) + 1)
    kept = (ranked > excess).sum()
    return xp.maximum(point - excess[kept - 1], 0.0).astype(np.float32)
