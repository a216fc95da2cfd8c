"""The way down, compressed: a server sends how its parameters differ from the copy that agents hold.

    commit --> x --x - c--> down stages --> wire --decode--> q        c <- c + q, at the server and wherever it is heard
                                                                      agents train from c; their change goes into x

Both ends add the same numbers, so one copy at the server stands for all that are up to date. A copy has a number, by
how many differences it was made; `fedrl.engines.down_messages` says from it what an agent is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedrl.core.errors import UnsoundError
from fedrl.core.learner import Learner, merged_into, parameters_of
from fedrl.core.stage import Stage, keep_update, pipeline, promising_nothing
from fedrl.core.subtrees import joined
from fedrl.core.types import Key, Params, PyTree, Update, UpdateContext
from fedrl.wire.codec import size_bytes

CURE = "Use a contraction such as sign(), top_k(0.1), random_k(0.1, unbiased=False) or quantize(8), or leave it out."


class ServerCopy(NamedTuple):
    """What agents hold of the server's parameters, as the server knows it.

    Attributes:
        held: c, which agents hear.
        stage_states: The memory of the server's stages.
        number: Scalar int32, by how many differences the copy was made.
        size_bytes: Scalar uint32, of the last of them as it travels, with what is sent as it is.
    """

    held: Params
    stage_states: PyTree
    number: jax.Array
    size_bytes: jax.Array


class Downlink(NamedTuple):
    """A server's half of the way down.

    Attributes:
        init: `params -> ServerCopy`, which agents have not been sent yet.
        send: `(key, version, ServerCopy, params) -> ServerCopy`, one difference further, with the key of the run and
            the version that the parameters followed. Nothing else draws by the key of this version.
    """

    init: Callable[[Params], ServerCopy]
    send: Callable[[Key, jax.Array, ServerCopy, Params], ServerCopy]


def downlink(learner: Learner, stages: Sequence[Stage]) -> Downlink:
    """The way down through these stages, for the parameters that a federation sees of a learner.

        q = D(C(x - c)),    c <- c + q

    What a difference lost is part of the next one, x - c: that is error feedback at the server. If the stages are a
    contraction by delta and x stands still, E ||x - c||^2 shrinks by 1 - delta with every difference.

    What learners count (`Statistics`, such as moments of observations) is merged exactly, and what agents count next is
    about what they were sent. So these parameters are sent as they are beside the others, and so are whole numbers.

    Args:
        learner: Whose parameters are sent.
        stages: What a difference passes, in order.

    Raises:
        UnsoundError: A stage does more than to compress, makes up for losses itself, or promises nothing for arrays of
            these sizes.

    Reference: DoubleSqueeze, Tang et al. (2019), https://arxiv.org/abs/1905.05957; EF21-P, Gruntkowska et al. (2022),
        https://arxiv.org/abs/2209.15218.
    """
    for stage in stages:
        _check_stage(stage)
    like = parameters_of(learner)
    counted = merged_into(learner, like) if learner.statistics is not None else [False] * len(jax.tree.leaves(like))
    as_is = [is_counted or not _is_real(x) for is_counted, x in zip(counted, jax.tree.leaves(like), strict=True)]

    def those(params: Params, exact: bool) -> Params:
        leaves, structure = jax.tree.flatten(params)
        return jax.tree.unflatten(
            structure, [x if one == exact else None for x, one in zip(leaves, as_is, strict=True)]
        )

    def nothing() -> Params:
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), those(like, False))

    weak = promising_nothing(stages, nothing())
    if weak is not None:
        stage, size = weak
        raise UnsoundError(
            f"{stage!r} is a down stage, and with {size} entries in an array its error may exceed all it is given, so "
            f"what agents hold would not come closer to what the server holds. Give it more bits. Or: {CURE}"
        )
    pipe = pipeline(stages)
    undo = pipe.decode
    assert undo is not None

    def init(params: Params) -> ServerCopy:
        return ServerCopy(params, pipe.init(nothing())[1], jnp.int32(0), jnp.uint32(0))

    def send(key: Key, version: jax.Array, copy: ServerCopy, params: Params) -> ServerCopy:
        server_state, number = pipe.init(nothing())[0], jnp.int32(0)
        params = jax.lax.optimization_barrier(params)
        apart = Update(
            jax.tree.map(jnp.subtract, those(params, False), those(copy.held, False)), jnp.float32(1), version
        )
        context = UpdateContext(number, version, jnp.int32(1), number)
        sent, stage_states = pipe.encode(key, context, server_state, copy.stage_states, apart)
        q = jax.lax.optimization_barrier(undo(server_state, sent).value)  # agents add it by itself, too
        held = joined(jax.tree.map(jnp.add, those(copy.held, False), q), params)
        size = jnp.asarray(size_bytes((sent.value, those(params, True))), jnp.uint32)
        return ServerCopy(held, stage_states, copy.number + 1, size)

    return Downlink(init, send)


def sent_params(copy: PyTree, params: Params) -> Params:
    """The parameters that agents hear of a server: the copy, or its own if it has none."""
    return copy.held if isinstance(copy, ServerCopy) else params


def adopted(copy: PyTree, params: Params) -> PyTree:
    """The copy of a server that took over parameters which its agents are given, too; () if it has none."""
    return copy._replace(held=params) if isinstance(copy, ServerCopy) else copy


def _is_real(x: jax.ShapeDtypeStruct) -> bool:
    return bool(jnp.issubdtype(x.dtype, jnp.floating))


def _check_stage(stage: Stage) -> None:
    """Refuse what is more, or less, than a compressor."""
    if stage.feeds_back:
        inner = ", ".join(map(repr, stage.feeds_back))
        raise UnsoundError(
            f"{stage!r} is a down stage. What {inner} loses is part of the next difference to the copy that agents "
            f"hold, and error feedback would send it a second time. Write down_stages=({inner},)."
        )
    for does, what in (
        (stage.noise is not None, "adds noise, which the next difference would take back"),
        (stage.reweights, "changes the weight of an update, and what a server sends has none"),
        (stage.skips_uploads, "holds updates back, and agents wait for what a server sends"),
        (stage.correction is not None, "steers local training, and a server trains nothing"),
        (stage.sums is not None, "keeps a sum over all agents, and a server is one"),
        (stage.finish is not keep_update, "works on what was merged, and nothing is merged on the way down"),
    ):
        if does:
            raise UnsoundError(
                f"{stage!r} is a down stage. It {what}. Put it among the stages that updates pass, or leave it out."
            )
    if stage.contraction is None:
        raise UnsoundError(
            f"{stage!r} is a down stage and no contraction: there is no promise that what agents hold comes closer to "
            f"what the server holds with every difference. {CURE}"
        )
