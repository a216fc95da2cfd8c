"""Compute the share of each agent among all agents, whether or not it takes part in a round.

    p_k = w_k / (w_1 + ... + w_N),      w_k the weight that the aggregator gives to n_k samples

The shares of a cohort do not add up to one, and they are not normalised to.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Int

from fedrl.federation.federation import Federation


def shares(federation: Federation, steps: Int[np.ndarray, " agents"]) -> Float32[np.ndarray, " agents"]:
    """Return p_k of each agent, with n_k its local steps times the samples of one local step.

    Args:
        federation: The federation whose aggregator gives the weights: `mean()` by samples, `mean("uniform")` equally.
        steps: The local steps of every agent, `[agents]`.
    """
    aggregator, samples = federation.aggregator, federation.learner.samples
    # In float64, and rounded once: the shares of many agents then add up to one within float32's precision.
    weights = np.array([aggregator.weight_scale(float(count * samples)) for count in steps], np.float64)
    return np.asarray(weights / weights.sum(), np.float32)
