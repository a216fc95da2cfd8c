"""Error feedback: the compression error of one update is added to the next one.

value + residual --> stages --> wire
                       |
         residual = (value + residual) - what the server decodes
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
    "an unbiased stage needs none."
)


@component(
    "stage",
    reference="Seide et al. (2014), https://doi.org/10.21437/Interspeech.2014-274; "
    "Karimireddy et al. (2019), https://arxiv.org/abs/1901.09847",
)
def error_feedback(*stages: Stage) -> Stage:
    """Add the compression error of lossy stages to the next update: e <- e + value - D(C(e + value)).

    C are the stages, D their decoding, and the agent sends C(e + value). At any time, the decoded updates and the
    residual e add up to the sum of all updates. An agent that is not in the cohort keeps its residual. Entries of a
    residual that are not finite are set to zero; the server rejects the update they came from.

    The residual stays bounded if each stage is a contraction for the arrays it is given,
    E ||x - D(C(x))||^2 <= (1 - delta) ||x||^2 with delta > 0 (`top_k`, `sign`, `random_k(unbiased=False)`, `quantize`
    with enough bits), or has a bounded error per entry (`hard_threshold`, `uniform_quantize`). A stage that selects
    entries followed by one that quantises them is a contraction by the product of their deltas. With any other stage,
    such as an unbiased one whose error may exceed its input, the residual would grow; those are refused.

    Args:
        *stages: Lossy stages, in order: `error_feedback(top_k(0.01), quantize(8))`.

    Raises:
        ConfigError: There are no stages.
        UnsoundError: A stage adds noise, which the residual would undo, corrects local training, or has an error
            without a known bound. When initialised: a stage is no contraction for an array as large as it is given.
    """
    if not stages:
        raise ConfigError("error_feedback() has no stages. It needs a lossy one. Write error_feedback(top_k(0.01)).")
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
                f"error_feedback() contains {stage!r}, whose error may exceed its input for an array of {size} "
                f"entries. The residual would grow without bound. Give it more bits. Or: {CURE}"
            )
        return server_state, (agent_state, zeros_like(value))

    def encode(
        key: Key, context: UpdateContext, server_state: PyTree, agent_state: PyTree, update: Update
    ) -> tuple[Update, PyTree]:
        check_not_encoded(update.value, "error_feedback()")
        memory, residual = agent_state
        meant = update._replace(value=jax.tree.map(jnp.add, update.value, residual))
        sent, memory = inner.encode(key, context, server_state, memory, meant)
        # The residual is measured by the server's own decoder, so that it also contains rounding in the decoding.
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
    """Refuse a stage whose error can't, or must not, be compensated."""
    if stage.noise is not None:
        raise UnsoundError(
            f"error_feedback() contains {stage!r}, which adds noise. The residual would subtract that noise again in "
            f"the next update. Put {stage!r} after error_feedback(...), not inside."
        )
    if stage.skips_uploads:
        raise UnsoundError(
            f"error_feedback() contains {stage!r}, which accumulates skipped updates itself. They would be counted "
            "twice. Put error_feedback(...) inside: lag(error_feedback(sign()))."
        )
    if stage.correction is not None:
        raise UnsoundError(
            f"error_feedback() contains {stage!r}, which corrects local training and compresses nothing. "
            f"There is no error to feed back. Put {stage!r} before error_feedback(...)."
        )
    if stage.unbiased and stage.contraction is None:
        raise UnsoundError(
            f"error_feedback() contains {stage!r}, which is unbiased, but whose error may exceed its input. The "
            f"residual would grow without bound. {CURE}"
        )
    if stage.contraction is None and stage.error_bound is None:
        raise UnsoundError(
            f"error_feedback() contains {stage!r}, which is no compression. There is no bound on the residual. "
            f"Put {stage!r} before error_feedback(...)."
        )
