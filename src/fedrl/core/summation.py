"""How a sum is taken is a value: what agents make of their terms, how those are added up, and what that opens.

    agents:   (value_k w_k, w_k) --quantize--> integers          the weight is applied there
    anywhere: integers + integers                                 in any order and grouping
    server:   integers --total--> float64 --> mean, weight

A sum that hides its terms takes the place of `exact_sum()`: its integers are those of a ring, and masks cancel in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from fedrl.core import exact
from fedrl.core.component import Call, component, record
from fedrl.core.errors import UnsoundError


@record
class Summation:
    """How weighted updates, and their weights, are added up for a rule that sees their sum.

    Attributes:
        quantize: `(terms [rows, size], accepted [rows]) -> integers [digits, size]`, the sum of the rows that are
            accepted, in a compiled program where the agents are; at most `fedrl.core.exact.LANES` rows.
        total: `[integers] -> float64 [size]`, on the host: the same whatever the order and the grouping.
        limit: Terms are smaller than this.
        opens: What whoever adds up can read: "each" term, or "sum" alone.
    """

    quantize: Callable[[jax.Array, jax.Array], jax.Array]
    total: Callable[[Sequence[Any]], np.ndarray]
    limit: float
    opens: str = "each"
    call: Call | None = None


def hidden(summation: Summation | None) -> Summation | None:
    """The summation, if it opens the sum of updates alone; None if whoever adds up reads each of them."""
    return summation if summation is not None and summation.opens == "sum" else None


def check_open(summation: Summation) -> None:
    """Refuse to send updates one by one where their sum alone is to be opened.

    Raises:
        UnsoundError: The summation hides its terms.
    """
    if hidden(summation) is not None:
        raise UnsoundError(
            f"{summation!r} opens the sum of updates alone, and here each is sent by itself, in the clear: messages by "
            "which parties hide them are not there yet. Use exact_sum(), or simulate the federation.",
            reason="hidden",
        )


@component("summation")
def exact_sum() -> Summation:
    """Add up without rounding, in integers of as many digits as the numbers need (`fedrl.core.exact`), in the open.

    >>> import jax.numpy as jnp
    >>> plain = exact_sum()
    >>> parts = [plain.quantize(jnp.array([[x]]), jnp.array([True])) for x in (1e12, 1e-3, -1e12)]
    >>> round(float(plain.total(parts)[0]), 9)
    0.001
    """
    return Summation(exact.partial_sum, exact.total, exact.UPDATES.limit)
