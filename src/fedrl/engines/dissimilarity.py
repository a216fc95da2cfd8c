"""How much the updates of a round differ from agent to agent: heterogeneity as the server would meet it.

start --local training--> end      delta_k = end_k - start_k, whatever an engine makes of the deltas after
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from fedrl.core.types import Params


class Dissimilarity(NamedTuple):
    """How much updates delta_k differ, with their mean delta.

    Attributes:
        dispersion: mean ||delta_k - delta||^2 / ||delta||^2: 0 where all agents move alike. One more than it is
            B(w)^2, the local dissimilarity of FedProx, with updates for gradients.
        cosine: The mean cosine of the angle between two agents' updates: 1 where they agree, 0 where they have nothing
            in common, below 0 where they undo each other.

    Noise counts: agents alike in everything but their luck have a dispersion above 0, too.

    Reference: Li et al. (2020), https://arxiv.org/abs/1812.06127
    """

    dispersion: float
    cosine: float


def dissimilarity(deltas: Float[np.ndarray, "agents params"]) -> Dissimilarity | None:
    """How much the rows differ; None if there are fewer than two, or no direction that they have in common.

    >>> import numpy as np
    >>> dissimilarity(np.array([[3.0, 0.0], [0.0, 3.0]]))
    Dissimilarity(dispersion=1.0, cosine=0.0)
    """
    return _measured([deltas])


def update_dissimilarity(begun: Params, ended: Params, without: Sequence[int] = ()) -> Dissimilarity | None:
    """The spread of the updates of a round that everybody took part in.

    Args:
        begun: What each agent held when it began, a leading agent axis on every leaf: `Simulation.held`.
        ended: What it held after it has trained.
        without: Agents that have no update, because theirs was refused.
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
    if agents < 2 or not np.isfinite(common) or common == 0.0 or min(x.min() for x in lengths if len(x)) == 0.0:
        return None
    directions = sum((rows / length[:, None]).sum(0) for rows, length in zip(parts, lengths, strict=True))
    total = sum(np.square(length).sum() for length in lengths)
    cosine = (float(np.square(directions).sum()) - agents) / (agents * (agents - 1))
    return Dissimilarity(float(total / agents / common - 1.0), cosine)
