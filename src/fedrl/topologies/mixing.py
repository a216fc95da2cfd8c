"""Mixing weights: the matrix W by which agents average with their neighbours.

    x <- W x        row i: the weights that agent i gives to senders     column j: the weights that agent j is given

Rows that sum to one preserve agreement: equal agents stay equal. Columns that sum to one preserve the mean. An edge to
an absent agent has weight zero; the diagonal takes its weight instead.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from fedrl.core.component import Call, component, record
from fedrl.core.errors import ConfigError, UnsoundError
from fedrl.core.ranges import Positive
from fedrl.topologies.graph import Adjacency

Weights = Float[np.ndarray, "agents agents"]


@record
class MixingMatrix:
    """A rule that assigns weights to the edges of a graph.

    Attributes:
        weights: `adjacency -> [agents, agents]` float64; entry [i, j] is agent i's weight for the message of agent j.
            Off the diagonal, it is non-zero only where the adjacency is true.
    """

    weights: Callable[[np.ndarray], np.ndarray]
    call: Call | None = None


@component("mixing", reference="Xiao & Boyd (2004), https://doi.org/10.1016/j.sysconle.2004.02.022")
def metropolis() -> MixingMatrix:
    """Metropolis-Hastings weights: W_ij = 1 / (1 + max(d_i, d_j)) for neighbours, and the rest on the diagonal.

    Rows and columns sum to one for every undirected graph, and an agent only needs to know its neighbours' degrees d.

    Raises:
        UnsoundError: When a simulation is built: its graph is directed.

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
def laplacian(step_size: Positive | None = None) -> MixingMatrix:
    """Laplacian weights with a constant step: theta_i <- theta_i + alpha sum_j (theta_j - theta_i), W = I - alpha L.

    L is the graph's Laplacian. Consensus converges if and only if 0 < alpha < 2 / lambda_max(L).

    Args:
        step_size: alpha; by default 1 / (1 + the largest degree), which converges on every graph.

    Raises:
        ConfigError: `step_size` is not above zero or, when a simulation is built, not below the bound of its graph.
        UnsoundError: When a simulation is built: its graph is directed.
    """

    def weights(adjacency: Adjacency) -> Weights:
        check_both_ways(adjacency, "laplacian()")
        degree = adjacency.sum(1)
        alpha = 1.0 / (1.0 + degree.max()) if step_size is None else step_size
        # lambda_max is at most the largest sum of degrees over an edge (Anderson & Morley): below that bound, no
        # spectrum has to be computed.
        if alpha * (adjacency * (degree[:, None] + degree[None, :])).max(initial=0.0) >= 2.0:
            bound = largest_step(adjacency)
            if alpha >= bound * (1.0 - 1e-9):  # computed eigenvalues are rounded
                raise ConfigError(
                    f"step_size is {alpha}, and this graph's Laplacian allows less than 2 / lambda_max = {bound:.6g}. "
                    "With a larger step, consensus diverges. Choose a smaller one, or metropolis()."
                )
        return completed(alpha * adjacency)

    return MixingMatrix(weights)


@component("mixing")
def uniform_neighbours() -> MixingMatrix:
    """Uniform weights: W_ij = 1 / (1 + d_i), the mean over agent i and its d_i senders.

    Rows sum to one. Columns do only if every agent has as many receivers as senders, as on `ring()`, `torus()` and
    `exponential()`; elsewhere agents agree on a mean in which well-connected agents weigh more.
    """
    return MixingMatrix(lambda adjacency: completed(adjacency / (1.0 + adjacency.sum(1, keepdims=True))))


@component("mixing", reference="Kempe, Dobra & Gehrke (2003), https://doi.org/10.1109/SFCS.2003.1238221")
def column_stochastic() -> MixingMatrix:
    """Column-stochastic weights, for `push_sum()`: W_ij = 1 / (1 + o_j), with o_j the number of receivers of agent j.

    Every agent splits its values equally among itself and its receivers. Columns sum to one for every graph, also a
    directed one, and an agent only needs to know the number of its receivers.
    """

    def weights(adjacency: Adjacency) -> Weights:
        split = adjacency / (1.0 + adjacency.sum(0, keepdims=True))
        # The rest of each column, so that columns sum to one although the shares are rounded.
        np.fill_diagonal(split, 1.0 - split.sum(0))
        return split

    return MixingMatrix(weights)


def completed(shares: Weights) -> Weights:
    """Set the diagonal such that each row sums to one."""
    np.fill_diagonal(shares, 1.0 - shares.sum(1))
    return shares


def check_both_ways(adjacency: Adjacency, weights: str) -> None:
    """Refuse a directed graph.

    Raises:
        UnsoundError: An edge has no counterpart in the other direction.
    """
    if not (adjacency == adjacency.T).all():
        raise UnsoundError(
            f"{weights} got a directed graph. Its weights are symmetric, and some edges of this graph go one way. "
            "Use an undirected graph, or column_stochastic() with push_sum()."
        )


def check_sums(weights: Weights, sums: str, mixing: object, rule: object) -> None:
    """Refuse weights whose rows or columns do not sum to one where a rule relies on it.

    Args:
        weights: Weights of one step, `[agents, agents]`.
        sums: "rows", "columns" or "both".
        mixing: The rule of the weights, for the message.
        rule: The gossip rule, for the message.

    Raises:
        UnsoundError: Such a sum is not one.
    """
    for axis, name, kept in ((1, "rows", "agreement"), (0, "columns", "the mean")):
        if sums in (name, "both") and not np.allclose(weights.sum(axis), 1.0, rtol=0.0, atol=1e-9):
            raise UnsoundError(
                f"{rule!r} relies on {kept}, and the {name} of the weights of {mixing!r} do not sum to one on this "
                "graph. Use metropolis() on an undirected graph; column_stochastic() with push_sum() on a directed one."
            )


def largest_step(adjacency: Adjacency) -> float:
    """Return 2 / lambda_max(L), the upper bound of the step size of `laplacian()`; infinite without edges.

    >>> from fedrl.topologies import complete
    >>> round(largest_step(complete().adjacency(8, 0)), 6)
    0.25
    """
    from scipy.linalg import eigvalsh  # slow to import, and only some graphs need it

    degrees = np.diag(adjacency.sum(1))
    largest = float(eigvalsh(degrees - adjacency)[-1])
    return 2.0 / largest if largest > 0.0 else float("inf")
