"""How fast agents agree: what the spectrum of the weights predicts, and what was measured.

distance_k ~ contraction^k      contraction = the second largest |eigenvalue| of W = 1 - spectral gap
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np
from jaxtyping import Float
from scipy.linalg import eigvalsh

from fedrl.core.errors import ConfigError
from fedrl.core.types import Params
from fedrl.topologies.graph import Graph

if TYPE_CHECKING:
    from fedrl.topologies.mixing import MixingMatrix

LARGEST = 2048
"""Agents up to which a spectrum takes seconds."""


def contraction(weights: Float[np.ndarray, "agents agents"]) -> float:
    """The factor by which disagreement shrinks in a step, in the long run: the second largest |eigenvalue|.

    With symmetric weights it also bounds every single step.

    >>> import numpy as np
    >>> contraction(np.full((3, 3), 1 / 3)) < 1e-12
    True
    """
    if len(weights) == 1:
        return 0.0
    symmetric = np.allclose(weights, weights.T, rtol=0.0, atol=1e-12)
    sizes = np.abs(eigvalsh(weights) if symmetric else np.linalg.eigvals(weights))
    return float(np.sort(sizes)[-2])


def long_run_contraction(graph: Graph, mixing: MixingMatrix, agents: int, gamma: float = 1.0) -> float | None:
    """The `contraction` of a step of consensus, over a whole period of a graph that changes.

    Of one that goes by gamma towards what is heard, I + gamma (W - I), if copies lose nothing.

    None for a graph that never repeats, and for more agents than a spectrum is quickly found of.

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
    return contraction(product) ** (1.0 / graph.period)


def spectral_gap(weights: Float[np.ndarray, "agents agents"]) -> float:
    """1 - contraction: agents agree after some 1 / gap steps."""
    return 1.0 - contraction(weights)


def slowest_and_fastest(weights: Float[np.ndarray, "agents agents"]) -> tuple[float, float]:
    """The least and the largest eigenvalue of I - W, besides the zero of agreement, of symmetric weights.

    They are the shares by which a step shrinks the modes of disagreement. Of more agents than a spectrum is quickly
    found of, zero and a bound from above.

    >>> import numpy as np
    >>> [round(x, 6) for x in slowest_and_fastest(np.full((3, 3), 1 / 3))]
    [1.0, 1.0]
    """
    if len(weights) > LARGEST:
        return 0.0, float(2.0 * (1.0 - weights.diagonal().min()))  # Gershgorin's discs
    shares = 1.0 - eigvalsh(weights)[::-1]
    return float(shares[1]), float(shares[-1])


def distances(params: Params) -> Float[np.ndarray, " agents"]:
    """How far each agent's parameters are from the mean of all, ||theta_i - mean||; every leaf has agents first."""
    squares = []
    for leaf in jax.tree.leaves(params):
        rows = np.asarray(leaf, np.float64).reshape(len(leaf), -1)
        squares.append(np.square(rows - rows.mean(0)).sum(1))
    return np.sqrt(np.sum(squares, axis=0))


def measured_contraction(disagreement: Sequence[float]) -> float:
    """The mean factor a step over the second half of a series, where the slowest mode is all that is left.

    Args:
        disagreement: Of one step after another, such as the root mean square of `distances`.

    Raises:
        ConfigError: There are fewer than three steps, or nothing to measure at the middle.

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
