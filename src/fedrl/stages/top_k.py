"""Sparsification: send only the largest entries, as pairs of index and value."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from fedrl.core.component import component
from fedrl.core.errors import ConfigError
from fedrl.core.stage import Stage
from fedrl.core.types import Context, Key, PyTree, Update
from fedrl.stages.leaves import check_not_encoded


@partial(jax.tree_util.register_dataclass, data_fields=["index", "value"], meta_fields=["shape"])
@dataclass(frozen=True, eq=False)
class Sparse:
    """An array that is zero but for some entries; the shape is static, so it opens without a template.

    Attributes:
        index: int32 `[entries]`, into the array laid out flat.
        value: `[entries]`, an array or what a later stage made of it.
        shape: Of the whole array.
    """

    index: PyTree
    value: PyTree
    shape: tuple[int, ...]

    def dense(self) -> jax.Array:
        """The whole array."""
        flat = jnp.zeros(math.prod(self.shape), self.value.dtype)
        return flat.at[self.index].set(self.value).reshape(self.shape)


@component("stage", reference="Aji & Heafield (2017), https://arxiv.org/abs/1704.05021")
def top_k(fraction: float) -> Stage:
    """Keep the largest entries of every array, by magnitude, and drop the rest.

    The k = ceil(fraction * d) of d entries kept in each array make it a contraction,
    ||x - C(x)||^2 <= (1 - k / d) ||x||^2, which is what `error_feedback` needs. Alone, what is dropped is lost.

    Args:
        fraction: Share of the entries that is kept, above 0 and at most 1; never less than one entry.

    Raises:
        ConfigError: `fraction` is out of range.

    >>> import jax.numpy as jnp
    >>> jnp.abs(Sparse(jnp.array([2]), jnp.array([-3.0]), (4,)).dense()).tolist()
    [0.0, 0.0, 3.0, 0.0]
    """
    if not 0.0 < fraction <= 1.0:
        raise ConfigError(f"fraction is {fraction}. It is the share of entries that is sent. Choose it in (0, 1].")

    def encode(key: Key, context: Context, shared: PyTree, local: PyTree, update: Update) -> tuple[Update, PyTree]:
        del key, context, shared
        check_not_encoded(update.value, "top_k()")

        def largest(x: jax.Array) -> Sparse:
            flat = x.reshape(-1)
            _, index = jax.lax.top_k(jnp.abs(flat), math.ceil(fraction * flat.size))
            return Sparse(index.astype(jnp.int32), flat[index], x.shape)

        return update._replace(value=jax.tree.map(largest, update.value)), local

    def decode(shared: PyTree, update: Update) -> Update:
        del shared
        return update._replace(
            value=jax.tree.map(
                lambda x: x.dense() if isinstance(x, Sparse) else x,
                update.value,
                is_leaf=lambda x: isinstance(x, Sparse),
            )
        )

    return Stage(encode, decode=decode)
