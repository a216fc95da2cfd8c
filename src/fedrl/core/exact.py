"""Sums whose result does not depend on the order or the grouping of their terms.

Floating-point addition is not associative, so a sum over agents would depend on how the engine splits them.
Each term is therefore cut into two integers, and integers add up exactly:

    x  ->  coarse = round(x / COARSE),  fine = round((x - coarse * COARSE) / FINE)      |x| < LIMIT

A term keeps float32's own precision down to `FINE`; `LANES` terms fit an int32; the host goes on in int64.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32

COARSE = 2.0**-6
FINE = 2.0**-31
LIMIT = 2.0**20
LANES = 16


def partial_sum(
    values: Float[Array, "agents size"], weights: Float[Array, " agents"]
) -> tuple[Int32[Array, "2 size_and_weight"], Bool[Array, " agents"]]:
    """Add up weighted values exactly, inside a compiled program.

    Args:
        values: One row per agent, at most `LANES` rows.
        weights: One weight per agent, 0 for an absent one.

    Returns:
        The coarse and fine sums of `weights @ values`, with the sum of the weights as last entry; and which rows were
        refused because an entry was not finite or out of range. A refused row counts as absent.

    >>> import jax.numpy as jnp
    >>> sums, refused = partial_sum(jnp.array([[1.0, 2.0], [3.0, jnp.nan]]), jnp.array([0.5, 1.0]))
    >>> value, weight = mean_of(total([sums]))
    >>> value.tolist(), weight, refused.tolist()
    ([1.0, 2.0], 0.5, [False, True])
    """
    if values.shape[0] > LANES:
        raise ValueError(f"{values.shape[0]} rows do not fit an exact int32 sum. Add up at most {LANES} at a time.")
    terms = jnp.concatenate([values * weights[:, None], weights[:, None]], axis=1)
    accepted = (jnp.abs(terms) < LIMIT).all(axis=1)  # false for NaN, too
    terms = jnp.where(accepted[:, None], terms, 0.0)
    coarse = jnp.round(terms / COARSE)
    fine = jnp.round((terms - coarse * COARSE) / FINE)
    sums = jnp.stack([coarse.astype(jnp.int32).sum(0), fine.astype(jnp.int32).sum(0)])
    return sums, ~accepted & (weights != 0.0)


def total(partials: list[Any]) -> np.ndarray:
    """Add partial sums up, on the host: int64 `[2, size + 1]`, the same for every order and grouping."""
    sums = np.zeros(partials[0].shape, np.int64)
    for partial in partials:
        sums += np.asarray(partial)
    return sums


def mean_of(sums: np.ndarray) -> tuple[np.ndarray, float]:
    """The weighted mean, float32 `[size]`, and the sum of the weights. With no weight at all the mean is zero."""
    real = sums[0] * COARSE + sums[1] * FINE
    weight = float(real[-1])
    mean = real[:-1] / weight if weight > 0.0 else np.zeros(real.size - 1)
    return mean.astype(np.float32), weight


def nearest_power_of_two(size: float) -> float:
    """A scale that divides weights without rounding them."""
    return 2.0 ** int(np.round(np.log2(max(size, 1.0))))


def flatten(tree: Any) -> Float[Array, " size"]:
    """All leaves of a tree of float32 in one vector."""
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)])
