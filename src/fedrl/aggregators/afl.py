"""Agnostic federated learning: weights that look for the mixture of agents for which the parameters are worst.

lambda_k --weighs--> Delta_k         F_k, told by agents --> lambda <- projection onto the simplex of (lambda + gamma F)
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.aggregators.losses import losses, question
from fedrl.aggregators.namespace import namespace
from fedrl.core.aggregator import Aggregator, Arrivals, View
from fedrl.core.checks import check_above_zero, check_positive
from fedrl.core.component import component
from fedrl.core.errors import ConfigError
from fedrl.core.types import Key, Params, PyTree, Update


class Mixture(NamedTuple):
    """lambda, the weight of each agent `[agents]`; not below zero, of sum one."""

    weights: jax.Array


@component("aggregator", reference="Mohri, Sivek & Suresh (2019), https://arxiv.org/abs/1902.00146")
def afl(agents: int, step: float = 0.01, reference_return: float | None = None) -> Aggregator:
    """AFL: train for the worst mixture of agents, min over theta of max over lambda of sum_k lambda_k F_k(theta).

        theta <- theta + sum_k lambda_k Delta_k,      lambda <- projection onto the simplex of (lambda + gamma F)

    Both use the lambda of before. If only some agents take part, their weights are scaled to a sum of one, and the
    others' loss counts as zero; should none of them have any weight, they count alike.

    What leaves an agent beside its update is its loss, four bytes in the open: "loss", or "return" if
    `reference_return` is given.

    Args:
        agents: K, how many agents there are in all.
        step: gamma, in units of 1 / loss: with losses of some hundreds, choose a hundredth of a hundredth.
        reference_return: The best mean return there is. With it, F_k = max(best - return_k, 0), in units of the return.

    Raises:
        ConfigError: An argument is not above zero; when used, there are more agents than that.
    """
    check_positive(agents=agents)
    check_above_zero(step=step)
    gamma = min(step, 1e30)  # within float32; already so, any difference is enough for all weight to go to the worst

    def init(params: Params) -> Mixture:
        del params
        return Mixture(jnp.full(agents, 1.0 / agents, jnp.float32))

    def update(key: Key, view: View, arrivals: Arrivals, state: Mixture, updates: Update) -> tuple[Update, PyTree]:
        del key, view
        xp = namespace(updates)
        here = arrivals.sender
        if xp is np and here.max() >= agents:
            raise ConfigError(f"agents is {agents} and agent {here.max()} takes part. Set it to how many there are.")
        weights = xp.asarray(state.weights)
        own = weights[here]
        share = xp.where(own.sum() > 0.0, own / xp.where(own.sum() > 0.0, own.sum(), 1.0), 1.0 / len(here)).astype(
            np.float32
        )
        value = jax.tree.map(lambda x: xp.tensordot(share, x, 1), updates.value)
        ascent = (here == xp.arange(agents)[:, None]) @ losses(updates.report, reference_return, xp)
        # The projection of x + constant is that of x: so large losses cost no digits, and none overflows.
        behind = xp.maximum(ascent - ascent.max(), max(-2.0 / gamma, -3e38))
        after = on_simplex(weights + np.float32(gamma) * behind)
        return Update(value, updates.weight.sum(), updates.version.max()), Mixture(after)

    return Aggregator(update=update, init=init, needs="each", requested=(question(reference_return),), agents=agents)


def on_simplex(point: Any) -> Any:
    """The nearest point whose entries are not below zero and add up to one: max(x - nu, 0) for the right nu.

    In NumPy or JAX, as the point is.

    >>> on_simplex(np.array([0.5, 1.5, -1.0], np.float32)).tolist()
    [0.0, 1.0, 0.0]

    Reference: Duchi et al. (2008), https://doi.org/10.1145/1390156.1390191
    """
    xp = namespace(point)
    point = xp.maximum(point - point.max(), -1.0)  # only differences matter, and who is behind by 1 gets nothing
    ranked = xp.sort(point)[::-1]
    excess = (xp.cumsum(ranked) - 1.0) / xp.arange(1, len(point) + 1)
    kept = (ranked > excess).sum()
    return xp.maximum(point - excess[kept - 1], 0.0).astype(np.float32)
