"""Mixing weights: how much of what it hears an agent makes its own.

    x <- W x        row i: what agent i takes from each        column j: where what agent j holds goes

Rows that sum to one keep agreement: equal agents stay equal. Columns that sum to one keep the mean. An edge that is
absent in a step, because an end of it is, has no weight; what it would have carried stays with the agent itself.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from scipy.linalg import eigvalsh

from fedrl.core.checks import check_above_zero
from fedrl.core.component import Call, component, record
from fedrl.core.errors import ConfigError, UnsoundError
from fedrl.topologies.graph import Adjacency

Weights = Float[np.ndarray, "agents agents"]


@record
class MixingMatrix:
    """A rule that gives a graph its weights.

    Attributes:
        weights: `adjacency -> [agents, agents]` float64; entry [i, j] is agent i's weight of agent j, and not zero on
            the diagonal only where [i, j] of the adjacency is true.
    """

    weights: Callable[[np.ndarray], np.ndarray]
    call: Call | None = None


@component("mixing", reference="Xiao & Boyd (2004), https://doi.org/10.1016/j.sysconle.2004.02.022")
def metropolis() -> MixingMatrix:
    """Metropolis-Hastings weights: W_ij = 1 / (1 + max(d_i, d_j)) for neighbours, and the rest on the diagonal.

    Rows and columns sum to one for every undirected graph, and an agent need only know its neighbours' degrees d.

    Raises:
        UnsoundError: When an engine gives it a directed graph.

    >>> import numpy as np
    >>> metropolis().weights(np.array([[False, True], [True, False]])).tolist()
    [[0.5, 0.5], [0.5, 0.5]]
    """

    def weights(adjacency: Adjacency) -> Weights:
        check_both_ways(adjacency, "metropolis()")
        degree = adjacency.sum(1)
        return completed(adjacency / (1.0 + np.maximum(degree[:, None], degree[None, :])))

    return MixingMatrix(weights)


@component("mixing", reference="Olfati-Saber & Murray (2004), https://doi.org/10.1109/TAC.2004.834113")
def laplacian(step_size: float | None = None) -> MixingMatrix:
    """Consensus with a constant step: theta_i <- theta_i + alpha sum_j (theta_j - theta_i), so W = I - alpha L.

    L is the graph's Laplacian. It converges for 0 < alpha < 2 / lambda_max(L), and only then.

    Args:
        step_size: alpha; by default 1 / (1 + the largest degree), which is safe for every graph.

    Raises:
        ConfigError: `step_size` is not above zero, or, when an engine gives it a graph, not below the bound.
        UnsoundError: When an engine gives it a directed graph.
    """
    if step_size is not None:
        check_above_zero(step_size=step_size)

    def weights(adjacency: Adjacency) -> Weights:
        check_both_ways(adjacency, "laplacian()")
        degree = adjacency.sum(1)
        alpha = 1.0 / (1.0 + degree.max()) if step_size is None else step_size
        # An edge's ends have at least lambda_max edges between them (Anderson & Morley): often enough to know.
        if alpha * (adjacency * (degree[:, None] + degree[None, :])).max(initial=0.0) >= 2.0:
            bound = largest_step(adjacency)
            if alpha >= bound * (1.0 - 1e-9):  # eigenvalues are rounded
                raise ConfigError(
                    f"step_size is {alpha}, and this graph's Laplacian allows less than 2 / lambda_max = {bound:.6g}. "
                    "With a larger step, agents overshoot each other and part. Choose a smaller one, or metropolis()."
                )
        return completed(alpha * adjacency)

    return MixingMatrix(weights)


@component("mixing")
def uniform_neighbours() -> MixingMatrix:
    """Every agent takes the plain mean of itself and those it hears: W_ij = 1 / (1 + d_i), d_i the number it hears.

    Rows sum to one. Columns do only if every agent is heard as often as it hears, as on `ring()`, `torus()` and
    `exponential()`; elsewhere agents agree on a mean in which the well-connected count more.
    """
    return MixingMatrix(lambda adjacency: completed(adjacency / (1.0 + adjacency.sum(1, keepdims=True))))


@component("mixing", reference="Kempe, Dobra & Gehrke (2003), https://doi.org/10.1109/SFCS.2003.1238221")
def column_stochastic() -> MixingMatrix:
    """Every agent splits what it holds evenly among itself and those that hear it: for `push_sum()`.

    W_ij = 1 / (1 + o_j), o_j the number that hear j. Columns sum to one for every graph, directed ones above all,
    and an agent need only know how many it talks to.
    """

    def weights(adjacency: Adjacency) -> Weights:
        split = adjacency / (1.0 + adjacency.sum(0, keepdims=True))
        np.fill_diagonal(split, 1.0 - split.sum(0))
        return split

    return MixingMatrix(weights)


def completed(shares: Weights) -> Weights:
    """What others' shares leave of one, on the diagonal of each row."""
    np.fill_diagonal(shares, 1.0 - shares.sum(1))
    return shares


def check_both_ways(adjacency: Adjacency, weights: str) -> None:
    """Refuse a graph in which someone is not heard by one that it hears.

    Raises:
        UnsoundError: It names the weights and the way out.
    """
    if not (adjacency == adjacency.T).all():
        raise UnsoundError(
            f"{weights} got a directed graph. Its weights are equal both ways, and some edges here go one way. "
            "Use an undirected graph, or column_stochastic() with push_sum()."
        )


def check_sums(weights: Weights, sums: str, mixing: object, rule: object) -> None:
    """Refuse weights whose rows or columns do not sum to one where a rule relies on it.

    Args:
        weights: Of one step.
        sums: "rows", "columns" or "both".
        mixing: What made the weights, for the message.
        rule: What relies on them, for the message.

    Raises:
        UnsoundError: It names both and the way out.
    """
    for axis, name, kept in ((1, "rows", "agreement"), (0, "columns", "the mean")):
        if sums in (name, "both") and not np.allclose(weights.sum(axis), 1.0, rtol=0.0, atol=1e-9):
            raise UnsoundError(
                f"{rule!r} relies on {kept}, and the {name} of the weights of {mixing!r} do not sum to one on this "
                "graph. Use metropolis() on an undirected graph; column_stochastic() with push_sum() on a directed one."
            )


def largest_step(adjacency: Adjacency) -> float:
    """2 / lambda_max(L), which the step of `laplacian()` has to stay below; infinite without edges.

    >>> from fedrl.topologies import complete
    >>> round(largest_step(complete().adjacency(8, 0)), 6)
    0.25
    """
    degrees = np.diag(adjacency.sum(1))
    largest = float(eigvalsh(degrees - adjacency)[-1])
    return 2.0 / largest if largest > 0.0 else float("inf")
