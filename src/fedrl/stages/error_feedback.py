"""Error feedback: what a lossy stage leaves out this time is sent next time.

value + residual --> stages --> wire
                       |
         residual = (value + residual) - what the server will read
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fedrl.core.component import component
from fedrl.core.errors import ConfigError, UnsoundError
from fedrl.core.stage import Stage, pipeline, zeros_like
from fedrl.core.types import Context, Key, Params, PyTree, Update
from fedrl.stages.leaves import check_not_encoded


@component(
    "stage",
    reference="Seide et al. (2014), https://doi.org/10.21437/Interspeech.2014-274; "
    "Karimireddy et al. (2019), https://arxiv.org/abs/1901.09847",
)
def error_feedback(*stages: Stage) -> Stage:
    """Remember what lossy stages lose, and add it to the next update.

    e <- e + value - D(C(e + value)), with C the stages and D their decoding. At any time what the server has read and
    what the agent still holds add up to all that the agent meant to send. An agent that sits a round out keeps its
    residual. A residual that is not finite is forgotten, together with the update that the server refuses.

    The residual stays bounded around a contraction, ||x - D(C(x))||^2 <= (1 - a) ||x||^2 with a > 0: `top_k`, or
    `quantize` with many bits. Around a coarse unbiased quantiser, whose error may exceed its input, it grows.

    Args:
        *stages: What to work around, in order: `error_feedback(top_k(0.01), quantize(8))`.

    Raises:
        ConfigError: There is nothing to work around.
        UnsoundError: A stage hides or adds noise, which a residual would undo, or steers training.
    """
    if not stages:
        raise ConfigError(
            "error_feedback() works around nothing. It needs a lossy stage. Write error_feedback(top_k(0.01))."
        )
    for stage in stages:
        if stage.hides or stage.event is not None:
            raise UnsoundError(
                f"error_feedback() works around {stage!r}, and the residual would send later what that stage hides "
                f"now. Put {stage!r} after error_feedback(...), not inside."
            )
        if stage.guide is not None:
            raise UnsoundError(
                f"error_feedback() works around {stage!r}, which steers training and loses nothing. "
                f"Put {stage!r} before error_feedback(...)."
            )
    inner = pipeline(stages)
    assert inner.decode is not None
    read = inner.decode

    def init(params: Params) -> tuple[PyTree, PyTree]:
        shared, local = inner.init(params)
        return shared, (local, zeros_like(params))

    def encode(key: Key, context: Context, shared: PyTree, local: PyTree, update: Update) -> tuple[Update, PyTree]:
        check_not_encoded(update.value, "error_feedback()")
        memory, residual = local
        meant = update._replace(value=jax.tree.map(jnp.add, update.value, residual))
        sent, memory = inner.encode(key, context, shared, memory, meant)
        left = jax.tree.map(jnp.subtract, meant.value, read(shared, sent).value)
        return sent, (memory, jax.tree.map(lambda x: jnp.where(jnp.isfinite(x), x, 0.0), left))

    return Stage(
        encode,
        init,
        decode=read if any(stage.decode is not None for stage in stages) else None,
        finish=inner.finish,
        expands=True,
        weighs=inner.weighs,
    )
