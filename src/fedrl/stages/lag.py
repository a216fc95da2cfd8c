"""Lazy uploads: an agent sends its update only when its norm is large, and accumulates it until then.

update + accumulated updates --large enough?--yes--> stages --> wire
                                    |
                                    no: one bit is sent, and the sum is kept for the next round
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from fedrl.core.component import component
from fedrl.core.errors import UnsoundError
from fedrl.core.ranges import Count, Positive
from fedrl.core.stage import Stage, pipeline, zeros_like
from fedrl.core.types import Key, PyTree, Update, UpdateContext
from fedrl.stages.leaves import check_not_encoded
from fedrl.wire.codec import travels_if


@partial(jax.tree_util.register_dataclass, data_fields=["messages_sent", "value"], meta_fields=[])
@dataclass(frozen=True, eq=False)
class SkippableValue:
    """A value that is sent or skipped.

    Attributes:
        messages_sent: bool, whether the value is sent.
        value: Arrays, or a later stage's encoding of them; ignored if it is not sent.
    """

    messages_sent: PyTree
    value: PyTree


@component(
    "stage",
    reference="LAG: Chen et al. (2018), https://arxiv.org/abs/1805.09965; "
    "of policy gradients: Chen et al. (2018), https://arxiv.org/abs/1812.03239",
)
def lag(*stages: Stage, factor: Positive = 4.0, memory: Count = 10) -> Stage:
    """Skip an upload until the accumulated update is large compared with recent steps of the global parameters.

    With p_k the sum of agent k's updates since its last upload, agent k uploads p_k if

        ||p_k||^2 > factor * m,      m <- m + (||mean update||^2 - m) / memory in every round.

    This is the trigger of lazily aggregated gradients (LAG), with geometric weights of earlier steps. m starts at 0, so
    all agents upload in the first rounds. To the server a skipped update is all zeros with its weight kept; it is not
    counted as a message, and on the wire it takes one byte beside weight and version. At any time, the updates that
    the server decoded and those that agents accumulate add up to all updates.

    LAG's server reuses the last gradient of an agent that skips; this one does not, because an update in reinforcement
    learning is mostly noise, and noise that is used twice does not average out. The price: updates of heterogeneous
    agents do not vanish at the common optimum, so these agents upload now and then, where LAG's would have stopped.

    Args:
        *stages: Stages that an uploaded update passes, in order: `lag(error_feedback(sign()))`. Their state does not
            change while the agent skips.
        factor: Threshold, relative to the mean squared norm of recent steps.
        memory: Number of rounds over which steps are averaged.

    Raises:
        ConfigError: `factor` or `memory` is not above zero.
        UnsoundError: A stage inside adds noise, corrects local training, or skips uploads itself.
    """
    for stage in stages:
        if stage.noise is not None or stage.correction is not None or stage.skips_uploads:
            raise UnsoundError(
                f"lag() skips uploads of {stage!r}, which adds noise, corrects local training or skips uploads itself. "
                f"Such a stage has to work in every round. Put {stage!r} before lag(...), or leave one out."
            )
    inner = pipeline(stages)
    assert inner.decode is not None
    read = inner.decode

    def init(value: PyTree) -> tuple[PyTree, PyTree]:
        server_state, agent_state = inner.init(value)
        return (server_state, jnp.float32(0.0)), (agent_state, zeros_like(value))

    def encode(
        key: Key, context: UpdateContext, server_state: PyTree, agent_state: PyTree, update: Update
    ) -> tuple[Update, PyTree]:
        check_not_encoded(update.value, "lag()")
        (inside, moved), (before, held) = server_state, agent_state
        meant = update._replace(value=jax.tree.map(jnp.add, update.value, held))
        sent, after = inner.encode(key, context, inside, before, meant)
        # `<=`, so that a NaN is not silent: it is sent, and the server rejects it.
        silent = _square(meant.value) <= factor * moved

        def chosen(if_silent: PyTree, if_spoken: PyTree) -> PyTree:
            return jax.tree.map(lambda quiet, loud: jnp.where(silent, quiet, loud), if_silent, if_spoken)

        # If the upload is skipped, the sum is kept, and the inner stages keep their memory: nothing has passed them.
        kept = chosen(meant.value, zeros_like(meant.value))
        return sent._replace(value=SkippableValue(~silent, sent.value)), (chosen(before, after), kept)

    def decode(server_state: PyTree, update: Update) -> Update:
        messages_sent, value = update.value.messages_sent, update.value.value
        update = read(server_state[0], update._replace(value=value))
        return update._replace(
            value=jax.tree.map(lambda x: jnp.where(messages_sent, x, jnp.zeros_like(x)), update.value)
        )

    def finish(key: Key, server_state: PyTree, update: Update) -> tuple[Update, PyTree]:
        inside, moved = server_state
        update, inside = inner.finish(key, inside, update)
        return update, (inside, moved + (_square(update.value) - moved) / memory)

    return Stage(
        encode,
        init,
        decode=decode,
        finish=finish,
        may_increase_norm=True,
        reweights=inner.reweights,
        skips_uploads=True,
    )


def _square(value: PyTree) -> jax.Array:
    """Return the squared norm over all arrays."""
    return sum((jnp.square(leaf).sum() for leaf in jax.tree.leaves(value)), jnp.float32(0.0))


travels_if(SkippableValue, "messages_sent", "an update", may_be_silent=True)
