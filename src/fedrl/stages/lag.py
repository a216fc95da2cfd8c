"""Lazy: say something only when there is enough to say.

value + what was held back --worth it?--yes--> stages --> wire
                               |
                               no: one bit; all of it is held back until it is worth a message
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from fedrl.core.checks import check_above_zero, check_positive
from fedrl.core.component import component
from fedrl.core.errors import UnsoundError
from fedrl.core.stage import Stage, pipeline, zeros_like
from fedrl.core.types import Key, PyTree, Update, UpdateContext
from fedrl.stages.leaves import check_not_encoded
from fedrl.wire.codec import travels_if


@partial(jax.tree_util.register_dataclass, data_fields=["messages_sent", "value"], meta_fields=[])
@dataclass(frozen=True, eq=False)
class SkippableValue:
    """A value that travels only if it is spoken.

    Attributes:
        messages_sent: bool, whether it travels.
        value: Arrays, or what a later stage made of them; of no consequence unless spoken.
    """

    messages_sent: PyTree
    value: PyTree


@component(
    "stage",
    reference="LAG: Chen et al. (2018), https://arxiv.org/abs/1805.09965; "
    "of policy gradients: Chen et al. (2018), https://arxiv.org/abs/1812.03239",
)
def lag(*stages: Stage, factor: float = 4.0, memory: int = 10) -> Stage:
    """Hold an update back until it is large beside what the federation as a whole has moved lately.

    With p_k what agent k has to say, its update and all that it held back since it last spoke, it speaks if

        ||p_k||^2 > factor * m,      m <- m + (||mean update||^2 - m) / memory in every round,

    which is the trigger of lazily aggregated gradients (LAG) with geometric weights of earlier steps, m beginning at 0:
    in the first rounds everybody speaks. A held-back update is all zeros to the server, which keeps its weight, and no
    message is counted; on the wire it is one byte beside its weight and version. At any time what the server has read
    and what agents hold back add up to all that they meant to send.

    LAG's server goes on with the gradient that an agent sent last. Here it does not: an update of reinforcement
    learning is mostly noise, and noise that is used twice does not average out. The price: where agents are unlike,
    their updates do not vanish at the common optimum, so they go on speaking now and then, when LAG's would have fallen
    silent.

    Args:
        *stages: What a spoken update passes on its way, in order: `lag(error_feedback(sign()))`. Their state stands
            still while the agent is silent.
        factor: How much it takes to speak.
        memory: Over how many rounds steps are averaged.

    Raises:
        ConfigError: `factor` or `memory` is not above zero.
        UnsoundError: A stage inside adds noise, steers training, or is lazy itself.
    """
    check_above_zero(factor=factor)
    check_positive(memory=memory)
    for stage in stages:
        if stage.noise is not None or stage.correction is not None or stage.skips_uploads:
            raise UnsoundError(
                f"lag() holds back what {stage!r} makes of an update, and that stage adds noise, steers "
                f"training or is lazy itself: it needs every round. Put {stage!r} before lag(...), or leave one out."
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
        silent = _square(meant.value) <= factor * moved  # not so for NaN: it is sent, for the server to refuse

        def chosen(if_silent: PyTree, if_spoken: PyTree) -> PyTree:
            return jax.tree.map(lambda quiet, loud: jnp.where(silent, quiet, loud), if_silent, if_spoken)

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
    """The squared norm of all arrays together."""
    return sum((jnp.square(leaf).sum() for leaf in jax.tree.leaves(value)), jnp.float32(0.0))


travels_if(SkippableValue, "messages_sent", "an update", may_be_silent=True)
