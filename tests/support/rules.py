"""Aggregators by themselves, without a server around them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core.aggregator import Aggregator, Arrivals, View
from fedrl.core.types import PyTree, Update

VIEW = View({"x": jnp.zeros(1)}, jnp.int32(0))


def arrivals(count: int, sender=None, xp=np) -> Arrivals:
    """Of the first so many agents, or of those named, none of them late."""
    ids = np.arange(count) if sender is None else np.asarray(sender)
    return Arrivals(xp.asarray(ids, np.int32), xp.zeros(count, np.int32))


def alone(rule: Aggregator, compiled: bool = False) -> Callable[..., tuple[Update, PyTree]]:
    """The rule as `(updates, state=(), sender=None) -> (update, state)`, on the host or inside a compiled program."""
    update, xp = (jax.jit(rule.update), jnp) if compiled else (rule.update, np)

    def applied(updates: Update, state: PyTree = (), sender=None) -> tuple[Update, PyTree]:
        return update(jax.random.key(0), VIEW, arrivals(len(updates.weight), sender, xp), state, updates)

    return applied


def applied(rule: Aggregator, updates: Update, state: PyTree = (), sender=None) -> tuple[Update, PyTree]:
    """What a rule makes of updates from these agents, on the host."""
    return alone(rule)(updates, state, sender)


def traced(rule: Aggregator, updates: Update, state: PyTree = (), sender=None) -> tuple[Update, PyTree]:
    """The same inside a compiled program."""
    return alone(rule, compiled=True)(updates, state, sender)
