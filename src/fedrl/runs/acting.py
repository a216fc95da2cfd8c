"""The programs with which a policy acts, on the CPU, for batches of any size."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import numpy as np

from fedrl.core.learner import Learner
from fedrl.core.types import Key, Params


def columns(
    program: Callable[[Key, Params, np.ndarray], jax.Array], key: Key, params: Params, batch: np.ndarray
) -> np.ndarray:
    """Run a program whose instances are on the last axis, for a batch on the first.

    The batch is filled up to a power of two, so that batches of all sizes share a few compiled programs.
    """
    size = max(len(batch), 1)
    filled = np.zeros((1 << (size - 1).bit_length(), *batch.shape[1:]), batch.dtype)
    filled[: len(batch)] = batch
    with jax.default_device(cpu()):
        found = np.asarray(program(key, params, np.moveaxis(filled, 0, -1)))
    return np.moveaxis(found, -1, 0)[: len(batch)]


@functools.cache
def cpu() -> jax.Device | None:
    """Return the CPU: one observation is too little work for an accelerator, whose products may round coarsely."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # there is none
        return None


@functools.cache
def first_key() -> Key:
    """Return the key of greedy actions, which is the same for all."""
    return jax.random.key(0)


@functools.lru_cache(maxsize=32)
def greedy(learner: Learner) -> Callable[[Key, Params, np.ndarray], jax.Array]:
    """Return the greedy program; all observations share one key, so equal ones get equal actions where values tie."""

    @jax.jit
    def act(key: Key, params: Params, observation: jax.Array) -> jax.Array:
        return jax.vmap(lambda seen: learner.act(key, params, seen[..., None], True)[..., 0], -1, -1)(observation)

    return act


@functools.lru_cache(maxsize=32)
def sampling(learner: Learner) -> Callable[[Key, Params, np.ndarray], jax.Array]:
    """Return the program that samples actions."""
    return jax.jit(lambda key, params, observation: learner.act(key, params, observation, False))


@functools.lru_cache(maxsize=32)
def probabilities(learner: Learner) -> Callable[[Key, Params, np.ndarray], jax.Array]:
    """Return the program of the probabilities of discrete actions."""
    assert learner.probabilities is not None
    find = learner.probabilities
    return jax.jit(lambda key, params, observation: find(params, observation))
