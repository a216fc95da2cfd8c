"""Define a summation: how weighted updates are encoded as integers, added, and decoded.

    agents:   (value_k w_k, w_k) --quantize--> integers          agents apply their own weights
    anywhere: integers + integers                                 in any order and grouping
    server:   integers --total--> float64 --> mean, weight

A secure sum can replace `exact_sum()`: its integers are elements of a ring, in which masks cancel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from fedrl.core import exact
from fedrl.core.component import Call, component, record
from fedrl.core.errors import UnsoundError


@record
class Summation:
    """How weighted updates and their weights are added for a rule with `needs="sum"`, or in groups for another one.

    Attributes:
        quantize: `(terms [rows, size], accepted [rows]) -> integers [digits, size]`, the sum of the accepted rows, in
            the compiled program of the agents; at most `fedrl.core.exact.LANES` rows.
        total: `[integers] -> float64 [size]`, on the host, independent of order and grouping.
        limit: The bound below which all terms must be.
        weight_limit: The bound below which all weights must be; None: `limit`.
        opens: What the server can read: "each" term, or the "sum" alone.
        rows: The most rows of one call of `quantize`; 1 where `total` needs the integers of each agent by itself.
        minimum: The fewest updates of which a sum is opened; a round with fewer is left out.
        unit: The step of the grid to which terms are rounded, a power of two; None: they are not rounded to one.
        statistics: Whether statistics are added in the same way as updates, and hidden like them.
        group_size: The fewest agents in a group whose sum is opened by itself, for a rule that needs each; 0: one sum.
        protocol: The messages by which integers are added, so that none of them is read: "none", "masks", "additive" or
            "ckks". They are exchanged after it is decided whose updates are merged (`fedrl.engines.secure_sums`).
        phase_s: Seconds in which the messages of one phase of the protocol have to come.
        verified: Whether agents compare which set of agents they were shown (`fedrl.secure.plan.SumPlan`).
        call: The constructor call that made the summation.
    """

    quantize: Callable[[jax.Array, jax.Array], jax.Array]
    total: Callable[[Sequence[Any]], np.ndarray]
    limit: float
    weight_limit: float | None = None
    opens: str = "each"
    rows: int = exact.LANES
    minimum: int = 1
    unit: float | None = None
    statistics: bool = False
    group_size: int = 0
    protocol: str = "none"
    phase_s: float = math.inf
    verified: bool = True
    call: Call | None = None


def hidden(summation: Summation | None) -> Summation | None:
    """Return the summation if the server can read the sum alone; None if it can read each update."""
    return summation if summation is not None and summation.opens == "sum" else None


def opens_by_protocol(summation: Summation) -> bool:
    """Return whether sums are opened by a protocol, with messages of its own in place of updates."""
    return summation.protocol != "none"


def check_open(summation: Summation) -> None:
    """Refuse a summation that hides its terms where updates are sent one by one.

    Raises:
        UnsoundError: The summation opens the sum alone.
    """
    if hidden(summation) is not None:
        raise UnsoundError(
            f"{summation!r} opens the sum of updates alone, and here each update is sent unprotected. Use exact_sum(), "
            "or a coordinator and sites, which carry out ring_sum(..., protocol='masks').",
            reason="hidden",
        )


@component("summation")
def exact_sum() -> Summation:
    """Add without rounding, in integers of several digits (`fedrl.core.exact`); the server can read each term.

    >>> import jax.numpy as jnp
    >>> plain = exact_sum()
    >>> parts = [plain.quantize(jnp.array([[x]]), jnp.array([True])) for x in (1e12, 1e-3, -1e12)]
    >>> round(float(plain.total(parts)[0]), 9)
    0.001
    """
    return Summation(exact.partial_sum, exact.total, exact.UPDATES.limit)
