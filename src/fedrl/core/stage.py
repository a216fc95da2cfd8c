"""What a stage is: one step of the pipeline an update passes on its way out of an agent, and back.

    agent:   guide -> local training -> encode_1 -> encode_2 -> ... -> wire
    server:  wire -> decode_n -> ... -> decode_1 -> aggregate -> finish_n -> ... -> finish_1 -> step

The stages nest like the skins of an onion: what went on last comes off first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from fedrl.core.component import Call, record
from fedrl.core.types import Key, Params, PyTree, Update, UpdateContext


def no_state(params: Params) -> tuple[PyTree, PyTree]:
    """Shared and local state of a stage that needs none."""
    del params
    return (), ()


def keep_update(key: Key, server_state: PyTree, update: Update) -> tuple[Update, PyTree]:
    """A `finish` that leaves the aggregate as it is."""
    del key
    return update, server_state


class Noise(NamedTuple):
    """Calibrated noise that a stage adds in every round, and what it is calibrated for.

    Attributes:
        event: The `dp_accounting.DpEvent` of one round, for an accountant.
        clip: The L2 norm of what it hides: of an agent's update, or of what one trajectory adds to it. A stage in front
            keeps to it, or the stage itself, see `Stage.clips`. Of a norm that the server adapts, the first one.
        at: Who adds it: each "agent", as a last step of `encode`, or the "server" once a round, in `finish`, to the
            sum of all updates over a known number.
        unit: Whose part in the result it hides: all that an "agent" sends, or what one "trajectory" adds.
        relation: What neighbouring data are: one more or less ("add-remove"), or one in the place of another
            ("replace-one").
    """

    event: Any
    clip: float
    at: Literal["agent", "server"]
    unit: Literal["agent", "trajectory"] = "agent"
    relation: Literal["add-remove", "replace-one"] = "add-remove"


@record
class Stage:
    """One stage of the update pipeline.

    Attributes:
        encode: `(key, context, server_state, agent_state, update) -> (update, agent_state)`, on the agent, in order.
        init: `value -> (server_state, agent_state)`, for values like this one: the parameters, or what earlier stages
            make of them. Shared state is the server's and is broadcast; local state never moves.
        correction: `(server_state, agent_state) -> correction` added to local gradients. Optional.
        decode: `(server_state, update) -> update`, on the server, per update, in reverse order. Optional.
        finish: `(key, server_state, update) -> (update, server_state)`, on the server, once, on the aggregate, in
            reverse order.
        reweights: By what factors the stage may change the weight of an update, the least and the largest. A server
            that believes no agent holds it to them. None: it leaves the weight as it is.
        skips_uploads: The stage may hold an update back: the server reads zeros, with the weight kept, until it is
            sent.
        may_increase_norm: The stage may enlarge an update's norm.
        unbiased: What the server reads is right on average, over the key: E D(C(x)) = x.
        contraction: `entries -> delta` such that E ||x - D(C(x))||^2 <= (1 - delta) ||x||^2 for every array of so many
            entries; a delta of zero or less promises nothing. None: the stage is no compression, or none with a bound.
        error_bound: No entry of D(C(x)) is off by more than this, in units of the parameters.
        clips: The L2 norm over all arrays to which it scales a larger update down, before any noise of its own. None:
            it bounds nothing.
        noise: The calibrated noise that it adds, if any.
        sums: Its shared state is a sum over all agents, of whatever they have sent so far as statistics of this name.
            It travels beside later stages, and servers of a tree add it up. None: it sends no statistics.
        feeds_back: The stages whose losses it remembers and sends later; empty if it remembers none.
    """

    encode: Callable[[Key, UpdateContext, PyTree, PyTree, Update], tuple[Update, PyTree]]
    init: Callable[[Params], tuple[PyTree, PyTree]] = no_state
    correction: Callable[[PyTree, PyTree], PyTree] | None = None
    decode: Callable[[PyTree, Update], Update] | None = None
    finish: Callable[[Key, PyTree, Update], tuple[Update, PyTree]] = keep_update
    may_increase_norm: bool = False
    unbiased: bool = False
    contraction: Callable[[int], float] | None = None
    error_bound: float | None = None
    reweights: tuple[float, float] | None = None
    skips_uploads: bool = False
    clips: float | None = None
    noise: Noise | None = None
    sums: str | None = None
    feeds_back: tuple[Stage, ...] = ()
    call: Call | None = None


def pipeline(stages: Sequence[Stage]) -> Stage:
    """Many stages as one; its states are tuples of theirs, in order."""

    def init(params: Params) -> tuple[PyTree, PyTree]:
        pairs: list[tuple[PyTree, PyTree]] = []
        value = params
        for i, stage in enumerate(stages):
            value = encoded(stages[i - 1], *pairs[-1], value) if pairs else params
            pairs.append(stage.init(value))
        return tuple(server_state for server_state, _ in pairs), tuple(agent_state for _, agent_state in pairs)

    def correction(server_state: PyTree, agent_state: PyTree) -> PyTree:
        corrections = [
            s.correction(server_state[i], agent_state[i]) for i, s in enumerate(stages) if s.correction is not None
        ]
        return jax.tree.map(lambda *leaves: sum(leaves), *corrections) if corrections else None

    def encode(
        key: Key, context: UpdateContext, server_state: PyTree, agent_state: PyTree, update: Update
    ) -> tuple[Update, PyTree]:
        after = []
        for i, stage in enumerate(stages):
            update, state = stage.encode(jax.random.fold_in(key, i), context, server_state[i], agent_state[i], update)
            after.append(state)
        return update, tuple(after)

    def decode(server_state: PyTree, update: Update) -> Update:
        for i, stage in reversed(list(enumerate(stages))):
            if stage.decode is not None:
                update = stage.decode(server_state[i], update)
        return update

    def finish(key: Key, server_state: PyTree, update: Update) -> tuple[Update, PyTree]:
        after = list(server_state)
        for i, stage in reversed(list(enumerate(stages))):
            update, after[i] = stage.finish(jax.random.fold_in(key, i), server_state[i], update)
        return update, tuple(after)

    factors = [stage.reweights for stage in stages if stage.reweights]
    reweights = (math.prod(low for low, _ in factors), math.prod(high for _, high in factors)) if factors else None
    skips_uploads = any(stage.skips_uploads for stage in stages)
    return Stage(encode, init, correction, decode, finish, reweights=reweights, skips_uploads=skips_uploads)


def encoded(stage: Stage, server_state: PyTree, agent_state: PyTree, value: PyTree) -> PyTree:
    """What a stage makes of values like this one: a tree of zeros."""
    number = jnp.int32(0)

    def encode(key: Key) -> PyTree:
        update = Update(value, jnp.float32(0.0), number)
        return stage.encode(key, UpdateContext(number, number, number, number), server_state, agent_state, update)[
            0
        ].value

    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(encode, jax.random.key(0)))


def promising_nothing(stages: Sequence[Stage], value: PyTree) -> tuple[Stage, int] | None:
    """The first stage that is no contraction for an array that reaches it from values like this one, and its size."""
    pairs: list[tuple[PyTree, PyTree]] = []
    for i, stage in enumerate(stages):
        value = encoded(stages[i - 1], *pairs[-1], value) if pairs else value
        for size in [leaf.size for leaf in jax.tree.leaves(value) if jnp.issubdtype(leaf.dtype, jnp.floating)]:
            if stage.contraction is not None and stage.contraction(size) <= 0.0:
                return stage, size
        pairs.append(stage.init(value))
    return None


def zeros_like(params: Params) -> PyTree:
    """A correction of nothing."""
    return jax.tree.map(jnp.zeros_like, params)
