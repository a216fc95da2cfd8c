"""Speed of consensus: predicted from the spectrum of the mixing weights, and measured.

distance_k ~ contraction^k      contraction = the second largest |eigenvalue| of W = 1 - spectral gap
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np
from jaxtyping import Float

from fedrl.core.errors import ConfigError
from fedrl.core.types import Params
from fedrl.topologies.graph import Graph

if TYPE_CHECKING:
    from fedrl.topologies.mixing import MixingMatrix

LARGEST = 2048
"""Largest number of agents whose spectrum is computed, which takes seconds."""


def contraction(weights: Float[np.ndarray, "agents agents"]) -> float:
    """Return the asymptotic factor by which disagreement shrinks per step: the second largest |eigenvalue|.

    With symmetric weights it also bounds every single step.

    >>> import numpy as np
    >>> contraction(np.full((3, 3), 1 / 3)) < 1e-12
    True
    """
    if len(weights) == 1:
        return 0.0
    from scipy.linalg import eigvalsh  # slow to import, and only runs among neighbours need it

    symmetric = np.allclose(weights, weights.T, rtol=0.0, atol=1e-12)
    sizes = np.abs(eigvalsh(weights) if symmetric else np.linalg.eigvals(weights))
    return float(np.sort(sizes)[-2])


def long_run_contraction(graph: Graph, mixing: MixingMatrix, agents: int, gamma: float = 1.0) -> float | None:
    """Return the mean `contraction` of a consensus step, over a whole period of the graph.

    With gamma below 1, the step is I + gamma (W - I), as in CHOCO with lossless compression.

    None for a graph that never repeats, and for more than `LARGEST` agents.

    >>> from fedrl.topologies import metropolis, ring, time_varying
    >>> round(long_run_contraction(ring(), metropolis(), 4), 6)
    0.333333
    """
    if graph.period is None or agents > LARGEST:
        return None
    product = np.eye(agents)
    for step in range(graph.period):
        weights = mixing.weights(graph.adjacency(agents, step))
        product = (gamma * weights + (1.0 - gamma) * np.eye(agents)) @ product
    # The geometric mean per step, since a single step of a changing graph may not contract at all.
    return contraction(product) ** (1.0 / graph.period)


def spectral_gap(weights: Float[np.ndarray, "agents agents"]) -> float:
    """Return 1 - contraction: agents agree after about 1 / gap steps."""
    return 1.0 - contraction(weights)


def slowest_and_fastest(weights: Float[np.ndarray, "agents agents"]) -> tuple[float, float]:
    """Return the least and the largest eigenvalue of I - W, besides the zero of agreement, for symmetric weights.

    They are the shares by which a step shrinks the modes of disagreement. For more than `LARGEST` agents: zero and an
    upper bound.

    >>> import numpy as np
    >>> [round(x, 6) for x in slowest_and_fastest(np.full((3, 3), 1 / 3))]
    [1.0, 1.0]
    """
    if len(weights) > LARGEST:
        return 0.0, float(2.0 * (1.0 - weights.diagonal().min()))  # Gershgorin's discs
    from scipy.linalg import eigvalsh

    shares = 1.0 - eigvalsh(weights)[::-1]
    return float(shares[1]), float(shares[-1])


def distances(params: Params) -> Float[np.ndarray, " agents"]:
    """Return each agent's distance from the mean parameters, ||theta_i - mean||; every leaf has agents first."""
    squares = []
    for leaf in jax.tree.leaves(params):
        rows = np.asarray(leaf, np.float64).reshape(len(leaf), -1)
        squares.append(np.square(rows - rows.mean(0)).sum(1))
    return np.sqrt(np.sum(squares, axis=0))


def measured_contraction(disagreement: Sequence[float]) -> float:
    """Return the mean contraction per step over the second half of a series, where the slowest mode dominates.

    Args:
        disagreement: Disagreement of successive steps, such as the root mean square of `distances`.

    Raises:
        ConfigError: There are fewer than three steps, or the disagreement in the middle is zero.

    >>> measured_contraction([8.0, 4.0, 2.0, 1.0, 0.5])
    0.5
    """
    half = len(disagreement) // 2
    if len(disagreement) < 3 or disagreement[half] <= 0.0:
        raise ConfigError(
            f"disagreement has {len(disagreement)} steps, the middle one at {list(disagreement)[half : half + 1]}. A "
            "rate needs three or more, and disagreement left in the middle. Measure more steps, or stop earlier."
        )
    return float((disagreement[-1] / disagreement[half]) ** (1.0 / (len(disagreement) - 1 - half)))
