"""Which agents share masks and secrets: a graph with few neighbours each, so that a sum of many agents stays cheap.

All agents up to some twenty, beyond that a circulant graph over a random order: each agent with the `degree / 2` before
and after it (Bell et al., 2020, whose k-regular graph this is). `risk` bounds what may go wrong, by the union bound
over agents, for agents that are corrupted or leave independently of the order. An order that the corrupted ones choose,
or agents that are corrupted once the order is known, void the bounds; a complete graph has no order.

References: Bell et al. (2020), Secure Single-Server Aggregation with (Poly)Logarithmic Overhead,
https://doi.org/10.1145/3372297.3417885; Joag-Dev and Proschan (1983), Negative Association of Random Variables,
https://doi.org/10.1214/aos/1176346079
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import NamedTuple

from fedrl.core.errors import ConfigError

MOST_DEGREE = 200
"""The largest degree that `smallest_degree` tries."""


def random_order(agents: Sequence[int], seed: bytes) -> tuple[int, ...]:
    """Return agents in an order that follows from public randomness alone.

    Args:
        agents: Their numbers.
        seed: Public randomness that no agent could choose.

    >>> sorted(random_order(range(5), b"round 1"))
    [0, 1, 2, 3, 4]
    """
    return tuple(sorted(agents, key=lambda agent: hashlib.sha256(seed + b"order %d" % agent).digest()))


def circulant(order: Sequence[int], degree: int) -> dict[int, tuple[int, ...]]:
    """Return the neighbours of each agent: those within `degree / 2` places of it in the order, as in a ring.

    >>> circulant([5, 1, 3, 2, 4, 0], degree=2)[5]
    (0, 1)
    """
    count = len(order)
    if degree >= count - 1:
        return {agent: tuple(sorted(other for other in order if other != agent)) for agent in order}
    offsets = [offset for offset in range(-(degree // 2), degree // 2 + 1) if offset]
    return {agent: tuple(sorted(order[(at + by) % count] for by in offsets)) for at, agent in enumerate(order)}


def default_degree(agents: int) -> int:
    """Return how many neighbours an agent has: all up to 21 agents, 20 up to 100, then 20 more for each factor of ten.

    >>> [default_degree(agents) for agents in (6, 10, 100, 1000)]
    [5, 9, 20, 40]
    """
    grown = 20 + math.ceil(20 * math.log10(max(agents, 100) / 100) - 1e-9)
    return min(agents - 1, grown + grown % 2)


def default_threshold(degree: int) -> int:
    """Return how many shares give a secret back: three fifths of the neighbours, more than half of the holders.

    >>> [default_threshold(degree) for degree in (1, 5, 9, 20, 40)]
    [2, 4, 6, 12, 24]
    """
    return max((degree + 1) // 2 + 1, math.ceil(0.6 * degree - 1e-9))


class GraphRisk(NamedTuple):
    """Upper bounds of what may go wrong in one sum.

    Attributes:
        revealed: Probability that, those who are corrupted can read the masked vector of some honest agent.
        separated: Probability that honest agents who stay are not connected, so that sums of parts are revealed; who
            stays is the coordinator's to say if it deviates.
        aborted: Probability that a secret can't be put together, as too many of its holders left.
    """

    revealed: float
    separated: float
    aborted: float


def risk(agents: int, degree: int, threshold: int, *, corrupted: float, dropped: float, verified: bool) -> GraphRisk:
    """Return upper bounds of the probabilities that privacy or completion fail in one sum.

    An agent's secrets have its neighbours and itself as holders. An honest coordinator's code asks each for a share of
    one of both secrets, so corrupted holders need `threshold` shares of the other one. A malicious coordinator may ask
    some for one and some for the other: with c corrupted holders it has `degree + 1 + c` shares of both.

    In a sparse graph, honest agents are cut into parts by `degree / 2` places in a row without one of them, twice. That
    many are corrupted or have left, or a malicious coordinator says that they have left. But an agent at the edge of a
    part has `degree / 2` neighbours in it and takes part with `threshold - 1`, so the others have to be corrupted ones
    in its `degree / 2` places outside: for both edges, as numbers of disjoint places are negatively associated
    (Joag-Dev and Proschan, 1983), with a probability of at most the product.

    Args:
        agents: Number of agents.
        degree: Number of neighbours of each.
        threshold: Number of shares that give a secret back.
        corrupted: Fraction of the agents who tell the coordinator all they know.
        dropped: Fraction of the agents who leave.
        verified: Whether the coordinator may deviate from the protocol.

    >>> risk(1000, 40, 24, corrupted=0.1, dropped=0.1, verified=False).revealed < 2**-30
    True
    """
    bad, gone = math.ceil(corrupted * agents - 1e-9), math.ceil(dropped * agents - 1e-9)
    enough = 2 * threshold - degree - 1 if verified else threshold
    revealed = agents * _tail(agents - 1, min(bad, agents - 1), degree, enough)
    aborted = agents * _tail(agents - 1, min(gone, agents - 1), degree, degree - threshold + 1)
    separated = 0.0
    half, either = degree // 2, min(agents, bad + gone)
    if degree < agents - 1 and verified:
        separated = (agents * _tail(agents - 2, min(bad, agents - 2), half, threshold - 1 - half)) ** 2
    elif degree < agents - 1:
        separated = agents * math.comb(either, half) / math.comb(agents, half)
    return GraphRisk(min(1.0, revealed), min(1.0, separated), min(1.0, aborted))


def _tail(population: int, marked: int, draws: int, least: int) -> float:
    """Return the probability that at least so many of the drawn ones are marked (hypergeometric), exactly."""
    if least <= 0:
        return 1.0
    ways = sum(
        math.comb(marked, i) * math.comb(population - marked, draws - i) for i in range(least, min(marked, draws) + 1)
    )
    return ways / math.comb(population, draws)


def smallest_degree(
    agents: int,
    *,
    corrupted: float,
    dropped: float,
    verified: bool = True,
    privacy_failure: float = 2**-40,
    completion_failure: float = 1e-3,
) -> tuple[int, int]:
    """Return the smallest degree, and the smallest threshold for it, whose risk is as small as asked for.

    Args:
        agents: Number of agents.
        corrupted: Fraction of the agents who tell the coordinator all they know, not chosen by the order.
        dropped: Fraction of the agents who leave, not chosen by the order.
        verified: Whether the coordinator may deviate from the protocol.
        privacy_failure: The largest probability that a vector or the sum of a part is revealed.
        completion_failure: The largest probability that the sum is given up.

    Raises:
        ConfigError: No graph reaches both, not even the complete one.

    >>> smallest_degree(1000, corrupted=0.1, dropped=0.1, verified=False)
    (42, 25)
    """
    most = min(agents - 1, MOST_DEGREE)
    degrees = [degree for degree in range(2, most + 1, 2) if degree < agents - 1]
    if most == agents - 1:
        degrees.append(most)
    for degree in degrees:
        for threshold in range(2, degree + 2):
            found = risk(agents, degree, threshold, corrupted=corrupted, dropped=dropped, verified=verified)
            if max(found.revealed, found.separated) <= privacy_failure:
                if found.aborted <= completion_failure:
                    return degree, threshold
                break  # a larger threshold aborts more often
    raise ConfigError(
        f"{corrupted:.0%} of {agents} agents are corrupted and {dropped:.0%} leave: no graph of at most {most} "
        f"neighbours fails to keep sums private with at most {privacy_failure:.2g} and to complete with at most "
        f"{completion_failure:.2g}. Allow fewer corrupted or dropped agents, or larger probabilities."
    )
