"""Dissimilarity of the agents' updates in a round: heterogeneity as it affects the aggregate.

start --local training--> end      delta_k = end_k - start_k, before any stage
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from fedrl.core.types import Params


class Dissimilarity(NamedTuple):
    """Dissimilarity of updates delta_k with the mean delta.

    Attributes:
        dispersion: mean ||delta_k - delta||^2 / ||delta||^2: 0 if all updates are equal. 1 + dispersion is B(w)^2, the
            local dissimilarity of FedProx, with updates in place of gradients.
        cosine: Mean cosine between the updates of two agents: 1 if they are parallel, 0 if orthogonal, below 0 if
            opposed.

    Sampling noise contributes: equal agents with different random numbers also have a dispersion above 0.

    Reference: Li et al. (2020), https://arxiv.org/abs/1812.06127
    """

    dispersion: float
    cosine: float


def dissimilarity(deltas: Float[np.ndarray, "agents params"]) -> Dissimilarity | None:
    """Compute the dissimilarity of the rows; None for fewer than two, for a mean of zero, or a row of zeros.

    >>> import numpy as np
    >>> found = dissimilarity(np.array([[3.0, 0.0], [0.0, 3.0]]))
    >>> round(found.dispersion, 6), round(found.cosine, 6)
    (1.0, 0.0)
    """
    return _measured([deltas])


def update_dissimilarity(begun: Params, ended: Params, without: Sequence[int] = ()) -> Dissimilarity | None:
    """Compute the dissimilarity of the updates in a round in which all agents took part.

    Args:
        begun: Parameters of each agent before training, with a leading agent axis on every leaf: `Simulation.held`.
        ended: Parameters of each agent after training, likewise.
        without: Agents without an update, because theirs was rejected.
    """
    pairs = zip(jax.tree.leaves(begun), jax.tree.leaves(ended), strict=True)
    rows = [(np.asarray(new, np.float64) - np.asarray(old, np.float64)).reshape(len(new), -1) for old, new in pairs]
    deltas = np.concatenate(rows, axis=1)
    return _measured([deltas[~np.isin(np.arange(len(deltas)), without)]])


def _measured(parts: Sequence[np.ndarray]) -> Dissimilarity | None:
    lengths = [np.sqrt(np.square(rows).sum(1)) for rows in parts]
    agents = sum(map(len, parts))
    mean = sum(rows.sum(0) for rows in parts) / max(agents, 1)
    common = float(np.square(mean).sum())
    # Both measures divide by the norm of the mean, or by that of each update.
    if agents < 2 or not np.isfinite(common) or common == 0.0 or min(x.min() for x in lengths if len(x)) == 0.0:
        return None
    # |sum of K unit vectors|^2 is K plus twice the sum of all pairwise cosines: linear in the agents, not quadratic.
    directions = sum((rows / length[:, None]).sum(0) for rows, length in zip(parts, lengths, strict=True))
    total = sum(np.square(length).sum() for length in lengths)
    cosine = (float(np.square(directions).sum()) - agents) / (agents * (agents - 1))
    return Dissimilarity(float(total / agents / common - 1.0), cosine)
