"""Define a stage: one step of the pipeline that transforms an update between an agent and the server.

    agent:   correction -> local training -> encode_1 -> encode_2 -> ... -> encode_n -> wire
    server:  wire -> decode_n -> ... -> decode_1 -> aggregate -> finish_n -> ... -> finish_1 -> step

The server undoes the stages in reverse order, so that each `decode` reads what its own `encode` wrote.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from fedrl.core.component import Call, record
from fedrl.core.errors import UnsoundError
from fedrl.core.types import Key, Params, PyTree, Update, UpdateContext


def no_state(params: Params) -> tuple[PyTree, PyTree]:
    """Return the empty server state and agent state of a stage without memory."""
    del params
    return (), ()


def keep_update(key: Key, server_state: PyTree, update: Update) -> tuple[Update, PyTree]:
    """Return the aggregate unchanged, as the `finish` of a stage that does nothing there."""
    del key
    return update, server_state


class GridNoise(NamedTuple):
    """Where the noise of several agents counts together, in a sum of whole numbers that hides its terms.

    Attributes:
        unit: All entries of an update are whole multiples of this power of two, in units of the parameters.
        largest: `() -> ` a number above the magnitude of every entry.
        least: The fewest agents in a sum whose noise the event counts on.
    """

    unit: float
    largest: Callable[[], float]
    least: int


class Noise(NamedTuple):
    """The calibrated noise that a stage adds in every round, with the privacy unit that it protects.

    Attributes:
        event: The `dp_accounting.DpEvent` of one round, for a privacy accountant.
        clip: The L2 sensitivity: the largest norm of an agent's update, or of one trajectory's contribution to it. The
            stage itself or a stage before it must enforce this bound: see `Stage.clips`. For a clipping norm that the
            server adapts, its initial value.
        at: Where the noise is added: by each "agent", as the last step of `encode`, or by the "server" once per round,
            in `finish`, to the sum of all updates divided by a known number.
        unit: The privacy unit: the whole update of an "agent", or the contribution of one "trajectory".
        relation: The neighbouring relation: one unit is added or removed ("add-remove"), or replaced by another one
            ("replace-one").
        each: The event of each agent, where some have a smaller clip than others; empty if all have `event`.
        rounds: The number of rounds that one event covers together, where the noise is correlated between rounds.
        separation: The least number of rounds from one participation of an agent to its next one, if the event depends
            on it.
        now: `server_state -> event` of the next round, for noise that the server adapts to what it has released; None
            if `event` is that of every round.
        grid: For noise "at" agents of which each adds a share: what their sum has to be. None: each adds the whole
            noise.
    """

    event: Any
    clip: float
    at: Literal["agent", "server"]
    unit: Literal["agent", "trajectory"] = "agent"
    relation: Literal["add-remove", "replace-one"] = "add-remove"
    each: tuple[Any, ...] = ()
    now: Callable[[PyTree], Any] | None = None
    rounds: int = 1
    separation: int = 1
    grid: GridNoise | None = None


class Secret(NamedTuple):
    """The server state of a stage that leaves the server by no broadcast and no checkpoint, such as earlier noise."""

    value: PyTree


def public(server_states: PyTree) -> PyTree:
    """Return server states without those that are secret."""
    return jax.tree.map(lambda x: () if _is_secret(x) else x, server_states, is_leaf=_is_secret)


def forgotten(tree: PyTree) -> PyTree:
    """Return a tree with zeros in place of all that is secret in it."""
    return jax.tree.map(lambda x: jax.tree.map(jnp.zeros_like, x) if _is_secret(x) else x, tree, is_leaf=_is_secret)


def _is_secret(node: object) -> bool:
    return isinstance(node, Secret)


@record
class Stage:
    """One stage of the update pipeline.

    Attributes:
        encode: `(key, context, server_state, agent_state, update) -> (update, agent_state)`, on the agent, in order.
        init: `value -> (server_state, agent_state)`, where `value` has the shapes that reach the stage: those of the
            parameters, or of the output of the previous stage. The server broadcasts the server state; the agent state
            never leaves its agent.
        correction: `(server_state, agent_state) -> correction` added to local gradients. Optional.
        decode: `(server_state, update) -> update`, on the server, per update, in reverse order. Optional.
        finish: `(key, server_state, update) -> (update, server_state)`, on the server, once per round, on the
            aggregate, in reverse order.
        reweights: The smallest and the largest factor by which the stage may change the weight of an update. A server
            that does not trust agents rejects weights outside this range. None: the stage leaves the weight unchanged.
        skips_uploads: Whether the stage may withhold an update. The server then reads an update of zeros with the
            same weight.
        may_increase_norm: Whether the stage may increase the norm of an update.
        unbiased: Whether the decoded value is unbiased over the key: E D(C(x)) = x, with C = encode and D = decode.
        contraction: `entries -> delta` such that E ||x - D(C(x))||^2 <= (1 - delta) ||x||^2 for every array of so many
            entries; a delta of zero or less bounds nothing. None: no such bound is known.
        error_bound: The largest absolute error of an entry of D(C(x)), in units of the parameters. None: unknown.
        clips: The L2 norm over all arrays to which the stage scales down a larger update, before it adds noise. None:
            it bounds no norm.
        noise: The calibrated noise that the stage adds, if any.
        sums: The name of the statistics whose running sum over all agents and rounds is the server state. They bypass
            later stages, and the servers of a tree add them unweighted. None: the stage sends no statistics.
        feeds_back: The stages whose compression error this stage stores and sends later; empty if it stores none.
        call: The constructor call that made the stage.
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


def pipeline(stages: Sequence[Stage], noise: Key | None = None) -> Stage:
    """Return one stage that applies all the given ones; its states are tuples of their states, in order.

    Args:
        stages: The stages, in order.
        noise: The key of those that add calibrated noise, in place of the one that the others get.

    Raises:
        UnsoundError: In `encode` and `finish`: a stage adds calibrated noise, and there is no key for it.
    """

    def init(params: Params) -> tuple[PyTree, PyTree]:
        pairs: list[tuple[PyTree, PyTree]] = []
        # A stage's memory has the shape of its input, and a stage before it may have changed that (`flatten`).
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
            own = _key_of(i, stage, key, noise)
            update, state = stage.encode(own, context, server_state[i], agent_state[i], update)
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
            update, after[i] = stage.finish(_key_of(i, stage, key, noise), server_state[i], update)
        return update, tuple(after)

    factors = [stage.reweights for stage in stages if stage.reweights]
    reweights = (math.prod(low for low, _ in factors), math.prod(high for _, high in factors)) if factors else None
    skips_uploads = any(stage.skips_uploads for stage in stages)
    return Stage(encode, init, correction, decode, finish, reweights=reweights, skips_uploads=skips_uploads)


def _key_of(i: int, stage: Stage, key: Key, noise: Key | None) -> Key:
    """Return the key of the stage at a position."""
    # It depends on the position alone, so a stage appended later changes no earlier one's noise.
    if stage.noise is None:
        return jax.random.fold_in(key, i)
    if noise is None:
        raise UnsoundError(
            f"{stage!r} adds calibrated noise, and it was run with ordinary keys, which can be searched. Run it with "
            "TurnKeys and ServerKeys that have a noise key: fedrl.core.keys."
        )
    return jax.random.fold_in(noise, i)


def encoded(stage: Stage, server_state: PyTree, agent_state: PyTree, value: PyTree) -> PyTree:
    """Return zeros with the shapes and dtypes that a stage produces from a value; nothing is computed."""
    number = jnp.int32(0)

    def encode(key: Key) -> PyTree:
        update = Update(value, jnp.float32(0.0), number)
        return stage.encode(key, UpdateContext(number, number, number, number), server_state, agent_state, update)[
            0
        ].value

    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(encode, jax.random.key(0)))


def promising_nothing(stages: Sequence[Stage], value: PyTree) -> tuple[Stage, int] | None:
    """Return the first stage whose contraction bounds nothing for an array that reaches it, with the array's size."""
    pairs: list[tuple[PyTree, PyTree]] = []
    for i, stage in enumerate(stages):
        value = encoded(stages[i - 1], *pairs[-1], value) if pairs else value
        for size in [leaf.size for leaf in jax.tree.leaves(value) if jnp.issubdtype(leaf.dtype, jnp.floating)]:
            # The bound of a compressor depends on the size of an array: `quantize(1)` contracts only small ones.
            if stage.contraction is not None and stage.contraction(size) <= 0.0:
                return stage, size
        pairs.append(stage.init(value))
    return None


def zeros_like(params: Params) -> PyTree:
    """Return a correction of zeros."""
    return jax.tree.map(jnp.zeros_like, params)
