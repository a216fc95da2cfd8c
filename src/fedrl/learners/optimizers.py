"""Optimisers are optax's; two transformations here read what the server sent along.

optax.chain(proximal(0.1), optax.adam(3e-4))     FedProx
optax.chain(corrected(), optax.sgd(0.1))         SCAFFOLD, together with `fedrl.stages.control_variates`
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedrl.core.component import component
from fedrl.core.types import Hint, Params, PyTree


def descend(
    optimizer: optax.GradientTransformation, gradient: Params, state: PyTree, params: Params, hint: Hint
) -> tuple[Params, PyTree]:
    """One step of an optimiser that may read the hint. Returns the new parameters and optimiser state."""
    extended = optax.with_extra_args_support(optimizer)
    step, state = extended.update(gradient, state, params, hint=hint)
    return optax.apply_updates(params, step), state


@component("optimizer", reference="Kingma & Ba (2015), https://arxiv.org/abs/1412.6980")
def adam(
    learning_rate: float, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-5, max_norm: float | None = None
) -> optax.GradientTransformation:
    """Adam, after clipping the gradient's global norm to `max_norm` if given."""
    return _clipped(optax.adam(learning_rate, b1, b2, eps), max_norm)


@component("optimizer", reference="Robbins & Monro (1951), https://doi.org/10.1214/aoms/1177729586")
def sgd(
    learning_rate: float, momentum: float | None = None, max_norm: float | None = None
) -> optax.GradientTransformation:
    """Stochastic gradient descent, after clipping the gradient's global norm to `max_norm` if given."""
    return _clipped(optax.sgd(learning_rate, momentum), max_norm)


def _clipped(optimizer: optax.GradientTransformation, max_norm: float | None) -> optax.GradientTransformation:
    return optimizer if max_norm is None else optax.chain(optax.clip_by_global_norm(max_norm), optimizer)


@component("optimizer", reference="Li et al. (2020), https://arxiv.org/abs/1812.06127")
def proximal(strength: float) -> optax.GradientTransformationExtraArgs:
    """FedProx: pull local parameters towards the global ones, gradient of (strength / 2) ||theta - theta_global||^2."""

    def update(
        gradient: Params, state: optax.OptState, params: Params | None = None, *, hint: Hint, **_: Any
    ) -> tuple[Params, optax.OptState]:
        pulled = jax.tree.map(lambda g, p, anchor: g + strength * (p - anchor), gradient, params, hint.params)
        return pulled, state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


@component("optimizer", reference="Karimireddy et al. (2020), https://arxiv.org/abs/1910.06378")
def corrected() -> optax.GradientTransformationExtraArgs:
    """SCAFFOLD: add the correction c - c_k to every local gradient."""

    def update(
        gradient: Params, state: optax.OptState, params: Params | None = None, *, hint: Hint, **_: Any
    ) -> tuple[Params, optax.OptState]:
        del params
        return jax.tree.map(jnp.add, gradient, hint.correction), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)
