"""Check that stages and rules do what they declare, and refuse those that do not.

    always              a stage changes only the value of an update, and the other fields that it declares
    with noise or a     a stage clips to its declared norm, does not enlarge updates unless declared, and adds noise
    hidden sum          where it declares to; a rule is the mean that it declares to be

The first check traces a stage, which costs no computation; the second runs it on numbers. A declaration that holds for
these numbers may still be false: the author of a mechanism must prove it elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core.aggregator import Aggregator, View, on_time
from fedrl.core.chacha import KEY_WORDS, chacha_key
from fedrl.core.checks import check_above_zero, check_one_of
from fedrl.core.errors import UnsoundError
from fedrl.core.learner import Learner, parameters_of
from fedrl.core.reports import nothing_measured
from fedrl.core.stage import Noise, Stage, keep_update, pipeline
from fedrl.core.summation import Summation
from fedrl.core.types import Key, Params, PyTree, Update, UpdateContext
from fedrl.federation.private import private_parts
from fedrl.wire.codec import is_sent

ROUNDING = 1e-4
"""The relative tolerance of norms and means."""
FAR = 1e3
"""The norm of the update with which a clip is tried, in units of the largest declared bound."""
TRIED = 3
"""The number of updates with which a mean is tried."""


def check_words(stages: Sequence[Stage], summation: Summation | None, learner: Learner | None = None) -> None:
    """Refuse unknown words and sizes out of range in the declarations of noise, clips and sums.

    Raises:
        ConfigError: A field is not one of the allowed words, or a norm is not above zero; the message has its name.
    """
    for declared in (*stages, *(() if learner is None else (learner,))):
        if declared.noise is not None:
            check_one_of(declared.noise.at, ("agent", "server"), "noise.at")
            check_one_of(declared.noise.unit, ("agent", "trajectory"), "noise.unit")
            check_one_of(declared.noise.relation, ("add-remove", "replace-one"), "noise.relation")
            check_above_zero(**{"noise.clip": declared.noise.clip})
    for stage in stages:
        if stage.clips is not None:
            check_above_zero(clips=stage.clips)
    if summation is not None:
        check_one_of(summation.opens, ("each", "sum"), "opens")


def check_claims(
    learner: Learner, rules: Sequence[Aggregator], stages: Sequence[Stage], summation: Summation | None
) -> None:
    """Refuse a federation whose stages or rules do not do what they declare (`check_declared`, `check_bounds`)."""
    if stages:
        check_declared(stages, parameters_of(learner))
    for rule in rules if private_parts(stages, summation) else ():
        check_bounds(stages, rule, parameters_of(learner))


def check_declared(stages: Sequence[Stage], like: Params) -> None:
    """Refuse a stage that changes another field than the value of an update without declaring it.

    Args:
        stages: The stages that an update passes, in order.
        like: The shapes of the parameters.

    Raises:
        UnsoundError: A stage changes an undeclared field; the message names both and the attribute to set.
    """
    value = like
    for stage in stages:
        value, changed = _traced(stage, value)
        if changed:
            raise UnsoundError(
                f"{stage!r} changes {changed[0]} of an update and does not declare that. The checks of what leaves an "
                f"agent rely on what stages declare. {changed[1]}"
            )


def _traced(stage: Stage, like: PyTree) -> tuple[PyTree, tuple[str, str] | None]:
    """Return the shapes of a stage's output, and the first undeclared change of another field with its remedy."""
    # While a stage is traced, a field that it does not touch comes out as the very object that went in, so identity
    # (`is`) tells most stages apart without a computation; `_moves` decides about the rest.
    found: list[tuple[str, str]] = []

    def encode(key: Key, value: PyTree, weight: jax.Array, version: jax.Array) -> PyTree:
        made, _ = stage.encode(key, _context(), *stage.init(value), Update(value, weight, version))
        if made.version is not version and _moves(stage, like):
            found.append(("the version", "Leave it as it is."))
        if made.weight is not weight and not stage.reweights and _moves(stage, like):
            found.append(("the weight", "Set `reweights` to the least and the largest factor."))
        if is_sent(made.value) is not True and is_sent(value) is True and not stage.skips_uploads:
            found.append(("whether a message is sent", "Set `skips_uploads`."))
        if made.report:
            found.append((f"the report {sorted(made.report)}", "Request it by name: federate(..., reports=[...])."))
        if set(made.statistics) - {stage.sums}:
            found.append((f"the statistics {sorted(made.statistics)}", "Set `sums` to their name."))
        return made.value

    scalar = jax.ShapeDtypeStruct((), jnp.float32), jax.ShapeDtypeStruct((), jnp.int32)
    made = jax.eval_shape(encode, jax.random.key(0), like, *scalar)
    return made, found[0] if found else None


def _moves(stage: Stage, like: PyTree) -> bool:
    """Return whether `encode` changes a concrete weight or version; under `jit`, identity says nothing."""
    with jax.ensure_compile_time_eval():
        value, weight, version = _drawn(like), jnp.float32(3.0), jnp.int32(5)
        made, _ = stage.encode(jax.random.key(0), _context(), *stage.init(value), Update(value, weight, version))
        return float(made.weight) != 3.0 or int(made.version) != 5


def _context() -> UpdateContext:
    one = jnp.int32(1)
    return UpdateContext(one, one, one, one, nothing_measured())


def _drawn(like: PyTree) -> PyTree:
    """Return arrays of these shapes, with normal draws for floating dtypes and zeros for others."""
    draws = np.random.default_rng(0)

    def draw(x: Any) -> jax.Array:
        real = jnp.issubdtype(x.dtype, jnp.floating)
        return jnp.asarray(draws.normal(size=x.shape) if real else np.zeros(x.shape), x.dtype)

    return jax.tree.map(draw, like)


def check_bounds(stages: Sequence[Stage], rule: Aggregator, like: Params) -> None:
    """Refuse stages and a rule that do not do what they declare for a drawn update; used with noise or hidden sums.

    Args:
        stages: The stages that an update passes, in order.
        rule: The rule that merges updates.
        like: The shapes of the parameters.

    Raises:
        UnsoundError: A declaration is false; the message has the declared and the measured number.
    """
    drawn = _drawn(like)
    # The update is far above every clip, so that each must act.
    largest = max([1.0, *(stage.clips for stage in stages if stage.clips is not None)])
    value = jax.tree.map(lambda x: x * (FAR * largest / _norm(drawn)), drawn)
    for i, stage in enumerate(stages):
        noise = stage.noise
        if noise is not None:
            _check_adds(stages[: i + 1], noise, value)
        if noise is not None and noise.at == "agent":
            # The norms after it depend on the draws of the noise.
            break
        before, after = (_norm(_through(stages[:count], value, 0)) for count in (i, i + 1))
        if stage.clips is not None and not after <= stage.clips * (1.0 + ROUNDING):
            raise UnsoundError(
                f"{stage!r} declares that it scales updates down to an L2 norm of {stage.clips:g}, and scales one of "
                f"{before:.3g} to {after:.3g}. Noise would not cover that. Correct `clips`, or the stage."
            )
        if not stage.may_increase_norm and not after <= before * (1.0 + ROUNDING):
            raise UnsoundError(
                f"{stage!r} declares that it enlarges no update, and changes an L2 norm of {before:.3g} to "
                f"{after:.3g}. Noise would not cover that. Set `may_increase_norm`, and put it before the clip."
            )
    if rule.divides_by == "count":
        _check_mean(rule, drawn)


def _check_adds(stages: Sequence[Stage], noise: Noise, value: PyTree) -> None:
    stage = stages[-1]
    # Two keys must give two results. Of the server's noise, only the presence of a `finish` is checked.
    one, other = (_through(stages, value, seed) for seed in (0, 1))
    silent = noise.at == "agent" and _norm(jax.tree.map(jnp.subtract, one, other)) == 0.0
    if silent or (noise.at == "server" and stage.finish is keep_update):
        where = "`encode`" if noise.at == "agent" else "`finish`"
        raise UnsoundError(
            f"{stage!r} declares noise that the {noise.at} adds, and its {where} adds none. Add it there, from the "
            "key, or leave `noise` out."
        )


def _check_mean(rule: Aggregator, drawn: PyTree) -> None:
    """Refuse a rule that declares `divides_by="count"` and is not the mean of updates with equal weights."""
    # Updates of unequal norms and weights: a median, a weighted mean or a multiple of the mean would differ.
    stacked = jax.tree.map(lambda x: jnp.stack([x * (i + 1.0) for i in range(TRIED)]), drawn)
    updates = Update(stacked, jnp.arange(1.0, 1.0 + TRIED), jnp.zeros(TRIED, jnp.int32))
    weights = jax.vmap(rule.weigh)(updates)
    arrivals = on_time(jnp.arange(TRIED))
    view, state = View(drawn, jnp.int32(0)), rule.init(drawn)
    merged, _ = rule.update(jax.random.key(0), view, arrivals, state, updates._replace(weight=weights))
    off = jax.tree.map(lambda x, of: x - of.mean(0), merged.value, stacked)
    if not bool((weights == 1.0).all()) or not _norm(off) <= ROUNDING * _norm(drawn):
        raise UnsoundError(
            f"{rule!r} declares that it divides by the number of updates, and is not their unweighted mean. "
            "Noise calibrated for that mean would not cover it. Correct `divides_by`, or the rule."
        )


def _through(stages: Sequence[Stage], value: PyTree, seed: int) -> PyTree:
    """Return the value that the server decodes after a value has passed the stages."""
    pipe = pipeline(stages, chacha_key(np.full(KEY_WORDS, seed, np.uint32)))
    assert pipe.decode is not None
    server_state, agent_state = pipe.init(value)
    update = Update(value, jnp.float32(1.0), jnp.int32(0))
    return pipe.decode(
        server_state, pipe.encode(jax.random.key(seed), _context(), server_state, agent_state, update)[0]
    ).value


def _norm(tree: PyTree) -> float:
    return float(np.sqrt(sum(float(jnp.square(leaf).sum()) for leaf in jax.tree.leaves(tree))))
