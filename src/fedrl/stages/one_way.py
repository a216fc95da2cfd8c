"""One way: parts of the parameters that agents receive and never send."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from fedrl.core.component import component
from fedrl.core.parts import check_parts, joined, without
from fedrl.core.stage import Stage
from fedrl.core.types import Context, Key, Params, PyTree, Update


@jax.tree_util.register_static
@dataclass(frozen=True)
class Shapes:
    """The shapes of a tree of parameters: structure without arrays, so it is known everywhere and costs no bytes."""

    structure: Any
    leaves: tuple[tuple[tuple[int, ...], str], ...]

    def zeros(self) -> Params:
        """A tree of these shapes."""
        return jax.tree.unflatten(self.structure, [jnp.zeros(shape, kind) for shape, kind in self.leaves])


@component("stage", reference="partial sharing: Pillutla et al. (2022), https://arxiv.org/abs/2204.03809")
def one_way(parts: Sequence[str]) -> Stage:
    """Send nothing of some parts: they flow from the server to the agents only.

    Agents start each round from the server's value and may move away from it while they train; the server's own stays
    as it is. What is not sent costs no bytes. It comes first in the pipeline, so that nothing is spent on what stays.

    Args:
        parts: Runs of names in the paths of parameters, such as "actor/0", as for `fedrl.learners.personal`.

    Raises:
        ConfigError: There is no such part.
    """

    def init(params: Params) -> tuple[PyTree, PyTree]:
        check_parts(params, parts, "parts")
        leaves, structure = jax.tree.flatten(params)
        return Shapes(structure, tuple((leaf.shape, leaf.dtype.name) for leaf in leaves)), ()

    def encode(key: Key, context: Context, shared: PyTree, local: PyTree, update: Update) -> tuple[Update, PyTree]:
        del key, context, shared
        return update._replace(value=without(update.value, parts)), local

    def finish(key: Key, shared: Shapes, update: Update) -> tuple[Update, PyTree]:
        del key
        return update._replace(value=joined(update.value, shared.zeros())), shared

    return Stage(encode, init, finish=finish)
