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
from fedrl.core.stage import Stage, keep_update, pipeline, promising_nothing, zeros_like
from fedrl.core.types import Key, PyTree, Update, UpdateContext
from fedrl.stages.leaves import check_not_encoded

CURE = (
    "Use a contraction such as sign(), top_k(0.01) or random_k(0.01, unbiased=False), or leave error_feedback out: "
    "what is unbiased does without."
)


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

    The residual stays bounded if each stage is a contraction for the arrays it is given,
    E ||x - D(C(x))||^2 <= (1 - delta) ||x||^2 with delta > 0 (`top_k`, `sign`, `random_k(unbiased=False)`, `quantize`
    with enough bits), or never off by more than a bound (`hard_threshold`, `uniform_quantize`). One that chooses
    entries and one that codes them make a contraction by the product of their deltas. Around any other stage, such as
    an unbiased one whose error may exceed its input, the residual would grow; those are refused.

    Args:
        *stages: What to work around, in order: `error_feedback(top_k(0.01), quantize(8))`.

    Raises:
        ConfigError: There is nothing to work around.
        UnsoundError: A stage adds noise, which a residual would undo; steers training; or has an error that no
            bound is known for. When initialised: a stage is no contraction for an array as large as it is given.
    """
    if not stages:
        raise ConfigError(
            "error_feedback() works around nothing. It needs a lossy stage. Write error_feedback(top_k(0.01))."
        )
    for stage in stages:
        _check(stage)
    inner = pipeline(stages)
    assert inner.decode is not None
    read = inner.decode

    def init(value: PyTree) -> tuple[PyTree, PyTree]:
        server_state, agent_state = inner.init(value)
        weak = promising_nothing(stages, value)
        if weak is not None:
            stage, size = weak
            raise UnsoundError(
                f"error_feedback() works around {stage!r}, and with {size} entries in an array its error may "
                f"exceed all it is given, so the residual would grow without end. Give it more bits. Or: {CURE}"
            )
        return server_state, (agent_state, zeros_like(value))

    def encode(
        key: Key, context: UpdateContext, server_state: PyTree, agent_state: PyTree, update: Update
    ) -> tuple[Update, PyTree]:
        check_not_encoded(update.value, "error_feedback()")
        memory, residual = agent_state
        meant = update._replace(value=jax.tree.map(jnp.add, update.value, residual))
        sent, memory = inner.encode(key, context, server_state, memory, meant)
        left = jax.tree.map(jnp.subtract, meant.value, read(server_state, sent).value)
        return sent, (memory, jax.tree.map(lambda x: jnp.where(jnp.isfinite(x), x, 0.0), left))

    return Stage(
        encode,
        init,
        decode=read if any(stage.decode is not None for stage in stages) else None,
        finish=keep_update if all(stage.finish is keep_update for stage in stages) else inner.finish,
        may_increase_norm=True,
        reweights=inner.reweights,
        feeds_back=stages,
    )


def _check(stage: Stage) -> None:
    """Refuse a stage whose losses can't, or may not, be made up for."""
    if stage.noise is not None:
        raise UnsoundError(
            f"error_feedback() works around {stage!r}, and the residual would send later what that stage hides "
            f"now. Put {stage!r} after error_feedback(...), not inside."
        )
    if stage.skips_uploads:
        raise UnsoundError(
            f"error_feedback() works around {stage!r}, which remembers itself what it holds back. Put "
            "error_feedback(...) inside: lag(error_feedback(sign()))."
        )
    if stage.correction is not None:
        raise UnsoundError(
            f"error_feedback() works around {stage!r}, which steers training and loses nothing. "
            f"Put {stage!r} before error_feedback(...)."
        )
    if stage.unbiased and stage.contraction is None:
        raise UnsoundError(
            f"error_feedback() works around {stage!r}, which is right on average but may err by more than all it "
            f"is given, so the residual would grow without end. {CURE}"
        )
    if stage.contraction is None and stage.error_bound is None:
        raise UnsoundError(
            f"error_feedback() works around {stage!r}, which is no compression: there is no bound on what the "
            f"residual would have to make up for. Put {stage!r} before error_feedback(...)."
        )
