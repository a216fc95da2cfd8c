"""What mechanisms with noise at the server share: the clip of an agent, and a sum with a fixed divisor."""

from __future__ import annotations

from collections.abc import Callable

import jax

from fedrl.core.types import Key, PyTree, Update, UpdateContext
from fedrl.stages.clip import clipped, norm_of
from fedrl.stages.leaves import PLACES, check_not_encoded

Encode = Callable[[Key, UpdateContext, PyTree, PyTree, Update], tuple[Update, PyTree]]


def clip_of_agent(bound: float, stage: str) -> Encode:
    """Return the `encode` that scales an update down to an L2 norm of at most `bound`; errors name the `stage`."""

    def encode(
        key: Key, context: UpdateContext, server_state: PyTree, agent_state: PyTree, update: Update
    ) -> tuple[Update, PyTree]:
        del key, context, server_state
        # Indices of a sparse update are no numbers to clip; the noise is added to what the server decodes.
        check_not_encoded(update.value, stage, PLACES)
        return update._replace(value=clipped(update.value, bound, norm_of)), agent_state

    return encode


def over_expected(update: Update, expected: float) -> PyTree:
    """Return the sum of the updates of a round, divided by the number of agents expected in it.

    Dividing by the number that came would reveal it, and noise calibrated for the sum would not cover that.

    Args:
        update: The aggregate: a mean over those who came, whose weight is their number.
        expected: n.
    """
    return jax.tree.map(lambda x: x * (update.weight / expected), update.value)
