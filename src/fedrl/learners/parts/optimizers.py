"""Local optimisers of optax, and two gradient transformations that use the server's parameters or corrections.

chain(fedprox(0.1), adam(3e-4))       FedProx
chain(add_correction(), sgd(0.1))     SCAFFOLD, together with `fedrl.stages.scaffold`

The constructors store their arguments, for configuration files. Any optax transformation works in their place.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedrl.core.checks import check_positive
from fedrl.core.component import component
from fedrl.core.hyperparameters import Number
from fedrl.core.ranges import Count, FractionBelowOne, NonNegative, Positive, Traced
from fedrl.core.types import LocalContext, Params, PyTree


def descend(
    optimizer: optax.GradientTransformation, gradient: Params, state: PyTree, params: Params, context: LocalContext
) -> tuple[Params, PyTree]:
    """Take one step of an optimiser, which may read `context`; return the new parameters and optimiser state."""
    extended = optax.with_extra_args_support(optimizer)
    step, state = extended.update(gradient, state, params, context=context)
    return optax.apply_updates(params, step), state


@component("optimizer", reference="Kingma & Ba (2015), https://arxiv.org/abs/1412.6980")
def adam(
    learning_rate: Traced[Positive],
    b1: FractionBelowOne = 0.9,
    b2: FractionBelowOne = 0.999,
    eps: Traced[Positive] = 1e-5,
    max_norm: Traced[Positive] | None = None,
    decay_steps: Count | None = None,
) -> optax.GradientTransformation:
    """Build Adam: the running mean of the gradient, divided by the root of its running mean square.

    Args:
        learning_rate: Initial step size.
        b1: Decay of the running mean of the gradient.
        b2: Decay of the running mean of its square.
        eps: Added to the root; 1e-5 as in common implementations of PPO, where the paper has 1e-8.
        max_norm: Bound to which the global norm of the gradient is clipped first, if given.
        decay_steps: Optimiser steps over which the step size decays linearly to zero, if given.
    """
    return _clipped(optax.adam(_rate(learning_rate, decay_steps), b1, b2, eps), max_norm)


@component("optimizer", reference="Robbins & Monro (1951), https://doi.org/10.1214/aoms/1177729586")
def sgd(
    learning_rate: Traced[Positive],
    momentum: Traced[FractionBelowOne] | None = None,
    max_norm: Traced[Positive] | None = None,
    decay_steps: Count | None = None,
) -> optax.GradientTransformation:
    """Build stochastic gradient descent.

    Args:
        learning_rate: Initial step size.
        momentum: Decay of heavy-ball momentum, if given.
        max_norm: Bound to which the global norm of the gradient is clipped first, if given.
        decay_steps: Optimiser steps over which the step size decays linearly to zero, if given.
    """
    return _clipped(optax.sgd(_rate(learning_rate, decay_steps), momentum), max_norm)


@component(
    "optimizer",
    reference="Tieleman & Hinton (2012), https://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf",
)
def rmsprop(
    learning_rate: Traced[Positive],
    smoothing: FractionBelowOne = 0.99,
    eps: Traced[Positive] = 1e-5,
    max_norm: Traced[Positive] | None = None,
    decay_steps: Count | None = None,
) -> optax.GradientTransformation:
    """Build RMSProp: the gradient divided by the root of its running mean square; the optimiser of the A2C paper.

    Args:
        learning_rate: Initial step size.
        smoothing: Decay of the running mean of the squared gradient.
        eps: Added under the root.
        max_norm: Bound to which the global norm of the gradient is clipped first, if given.
        decay_steps: Optimiser steps over which the step size decays linearly to zero, if given.
    """
    return _clipped(optax.rmsprop(_rate(learning_rate, decay_steps), smoothing, eps), max_norm)


@component("optimizer")
def chain(*optimizers: Traced[optax.GradientTransformation]) -> optax.GradientTransformationExtraArgs:
    """Chain several gradient transformations, in order, such as `fedprox(0.1)` and `adam(3e-4)`.

    Args:
        *optimizers: The transformations; in a configuration, a list of optimizers is their chain.
    """
    return optax.with_extra_args_support(optax.chain(*optimizers))


def _clipped(optimizer: optax.GradientTransformation, max_norm: Number | None) -> optax.GradientTransformation:
    """Return the optimiser with norm clipping in front, if given."""
    # Of all parameters as one vector: for a dozen small arrays, the overhead per array exceeds the arithmetic.
    return optax.flatten(optimizer if max_norm is None else optax.chain(optax.clip_by_global_norm(max_norm), optimizer))


def _rate(learning_rate: Number, decay_steps: int | None) -> Number | optax.Schedule:
    if decay_steps is None:
        return learning_rate
    check_positive(decay_steps=decay_steps)
    return optax.linear_schedule(learning_rate, 0.0, decay_steps)


@component("optimizer", reference="Li et al. (2020), https://arxiv.org/abs/1812.06127")
def fedprox(strength: Traced[NonNegative]) -> optax.GradientTransformationExtraArgs:
    """FedProx: add the gradient of (strength / 2) ||theta - theta_global||^2 to every local gradient.

    Args:
        strength: mu of the paper.
    """

    def update(
        gradient: Params, state: optax.OptState, params: Params | None = None, *, context: LocalContext, **_: Any
    ) -> tuple[Params, optax.OptState]:
        pulled = jax.tree.map(lambda g, p, anchor: g + strength * (p - anchor), gradient, params, context.params)
        return pulled, state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


@component("optimizer", reference="Karimireddy et al. (2020), https://arxiv.org/abs/1910.06378")
def add_correction() -> optax.GradientTransformationExtraArgs:
    """Add the correction of SCAFFOLD (c - c_k) or of gradient tracking to every local gradient."""

    def update(
        gradient: Params, state: optax.OptState, params: Params | None = None, *, context: LocalContext, **_: Any
    ) -> tuple[Params, optax.OptState]:
        del params
        return jax.tree.map(jnp.add, gradient, context.correction), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)
