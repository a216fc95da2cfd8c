"""Compress the broadcast: the server sends the difference between its parameters and the copy that agents store.

    commit --> x --x - c--> down stages --> wire --decode--> q        c <- c + q, at the server and at every receiver
                                                                      agents train from c; their change is added to x

Both ends add the same numbers, so one copy at the server represents those of all agents that are up to date. A copy is
numbered by the differences added so far; `fedrl.engines.down_messages` decides from the number what an agent is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedrl.core.errors import UnsoundError
from fedrl.core.learner import Learner, merged_into, parameters_of
from fedrl.core.stage import Stage, encoded, keep_update, pipeline, promising_nothing
from fedrl.core.subtrees import joined
from fedrl.core.types import Key, Params, PyTree, Update, UpdateContext
from fedrl.wire.codec import size_bytes

CURE = "Use a contraction such as sign(), top_k(0.1), random_k(0.1, unbiased=False) or quantize(8), or leave it out."


class ServerCopy(NamedTuple):
    """The copy of the server's parameters that agents store, as the server knows it.

    Attributes:
        held: c, the parameters that agents train from.
        stage_states: The states of the down stages.
        number: Scalar int32; the number of differences added so far.
        size_bytes: Scalar uint32; the size of the last message in bytes, including parameters sent uncompressed.
        difference: The last difference as the stages encode it, without those parameters; zeros before the first.
    """

    held: Params
    stage_states: PyTree
    number: jax.Array
    size_bytes: jax.Array
    difference: PyTree = ()


class Downlink(NamedTuple):
    """Both sides of the compressed broadcast.

    Attributes:
        init: `params -> ServerCopy`, before anything was sent.
        send: `(key, version, ServerCopy, params) -> ServerCopy` after one more difference. The key is used for nothing
            else; `version` is the one that the parameters replace.
        message: `ServerCopy -> message` that leads to this copy from the one before: the encoded difference, and the
            parameters that are sent uncompressed. `fedrl.wire.codec` writes it in `ServerCopy.size_bytes` bytes.
        receive: `(held, message) -> held`: the copy after a message, with the bits of the server's copy.
    """

    init: Callable[[Params], ServerCopy]
    send: Callable[[Key, jax.Array, ServerCopy, Params], ServerCopy]
    message: Callable[[ServerCopy], PyTree]
    receive: Callable[[Params, PyTree], Params]


def downlink(learner: Learner, stages: Sequence[Stage]) -> Downlink:
    """Build the compressed broadcast of a learner's parameters by these stages.

        q = D(C(x - c)),    c <- c + q

    What compression removed from a difference is part of the next one, x - c: this is error feedback at the server. If
    the stages are a contraction by delta and x is constant, E ||x - c||^2 shrinks by 1 - delta with every difference.

    Parameters that a learner counts (`Statistics`, such as moments of observations) are sent uncompressed beside the
    others, as agents count their next statistics relative to exactly these. So are integers.

    Args:
        learner: The learner whose parameters are sent.
        stages: The stages that a difference passes, in order.

    Raises:
        UnsoundError: A stage does more than compress, has error feedback itself, or is no contraction for arrays of
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
            f"{stage!r} is a down stage, and with {size} entries in an array its error may exceed its input, so "
            f"the copy of the agents would not converge to the server's parameters. Give it more bits. Or: {CURE}"
        )
    pipe = pipeline(stages)
    undo = pipe.decode
    assert undo is not None

    def init(params: Params) -> ServerCopy:
        server_state, agent_state = pipe.init(nothing())
        none = encoded(pipe, server_state, agent_state, nothing())
        return ServerCopy(params, agent_state, jnp.int32(0), jnp.uint32(0), none)

    def send(key: Key, version: jax.Array, copy: ServerCopy, params: Params) -> ServerCopy:
        server_state, number = pipe.init(nothing())[0], jnp.int32(0)
        # The barriers keep XLA from fusing the difference with the commit before it, and the sum with the decoding: the
        # copy of an agent, which decodes and adds in another program, would differ in the last bits.
        params = jax.lax.optimization_barrier(params)
        apart = Update(
            jax.tree.map(jnp.subtract, those(params, False), those(copy.held, False)), jnp.float32(1), version
        )
        context = UpdateContext(number, version, jnp.int32(1), number)
        sent, stage_states = pipe.encode(key, context, server_state, copy.stage_states, apart)
        size = jnp.asarray(size_bytes((sent.value, those(params, True))), jnp.uint32)
        held = added(copy.held, sent, params)
        return ServerCopy(held, stage_states, copy.number + 1, size, sent.value)

    def added(held: Params, sent: Update, exact: Params) -> Params:
        # Agents decode and add in a program of their own, whose input is what was encoded.
        value = jax.lax.optimization_barrier(sent.value)
        decoded = undo(pipe.init(nothing())[0], sent._replace(value=value)).value
        q = jax.lax.optimization_barrier(decoded)
        return joined(jax.tree.map(jnp.add, those(held, False), q), exact)

    def message(copy: ServerCopy) -> PyTree:
        return copy.difference, those(copy.held, True)

    def receive(held: Params, message: PyTree) -> Params:
        difference, exact = message
        return added(held, Update(difference, jnp.float32(1), jnp.int32(0)), exact)

    return Downlink(init, send, message, receive)


def sent_params(copy: PyTree, params: Params) -> Params:
    """Return the parameters that a server sends: the copy, or its own without down stages."""
    return copy.held if isinstance(copy, ServerCopy) else params


def adopted(copy: PyTree, params: Params) -> PyTree:
    """Return the copy after server and agents were given the same parameters; () without down stages."""
    return copy._replace(held=params) if isinstance(copy, ServerCopy) else copy


def _is_real(x: jax.ShapeDtypeStruct) -> bool:
    return bool(jnp.issubdtype(x.dtype, jnp.floating))


def _check_stage(stage: Stage) -> None:
    """Refuse a down stage that is not a compressor with a contraction bound."""
    if stage.feeds_back:
        inner = ", ".join(map(repr, stage.feeds_back))
        raise UnsoundError(
            f"{stage!r} is a down stage. What {inner} removes is part of the next difference to the copy of the "
            f"agents, and error feedback would send it a second time. Write down_stages=({inner},)."
        )
    for does, what in (
        (stage.noise is not None, "adds noise, which the next difference would remove"),
        (stage.reweights, "changes the weight of an update, and a broadcast has none"),
        (stage.skips_uploads, "withholds updates, and agents wait for the broadcast"),
        (stage.correction is not None, "corrects local training, and a server does not train"),
        (stage.sums is not None, "keeps a sum over all agents, and the sender is a single server"),
        (stage.finish is not keep_update, "changes the merged update, and a broadcast is not merged"),
    ):
        if does:
            raise UnsoundError(
                f"{stage!r} is a down stage. It {what}. Put it among the stages that updates pass, or leave it out."
            )
    if stage.contraction is None:
        raise UnsoundError(
            f"{stage!r} is a down stage and no contraction: nothing guarantees that the copy of the agents converges "
            f"to the server's parameters. {CURE}"
        )
