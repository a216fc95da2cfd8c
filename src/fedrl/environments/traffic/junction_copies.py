"""Copies of a junction on the last axis of all arrays, however it is mapped.

`jax.vmap` of a function with an axis for its slots puts the copies first where arrays of pairs are made, `[copies,
slots, slots]`, and processors with vectors are slow at sums over short last axes. So the functions of a junction are
written for arrays `[slots, *copies]`, with any number of axes behind their own, and mapping one adds the last axis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp


def copies_last(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that `jax.vmap` maps by an axis at the end of its arguments, for one that takes such axes.

    Args:
        function: A function of arrays; scalars are arrays without axes of their own.

    >>> total = copies_last(lambda x: x.sum(0))
    >>> jax.vmap(total, -1)(jnp.ones((3, 2))).tolist()
    [3.0, 3.0]
    """
    wrapped = jax.custom_batching.custom_vmap(function)

    @wrapped.def_vmap
    def mapped(axis_size: int, in_batched: Sequence[Any], *arguments: Any) -> tuple[Any, Any]:
        def last(x: jax.Array, batched: bool) -> jax.Array:
            return jnp.moveaxis(x, 0, -1) if batched else jnp.broadcast_to(x[..., None], (*x.shape, axis_size))

        found = wrapped(*(jax.tree.map(last, x, b) for x, b in zip(arguments, in_batched, strict=True)))
        found = jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), found)
        return found, jax.tree.map(lambda _: True, found)

    return wrapped
