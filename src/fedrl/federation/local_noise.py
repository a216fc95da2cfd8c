"""Refuse parts that may not be combined with noise in each local gradient step, when a federation is built.

    episodes --> clipped gradient + noise --> optimiser, parameters, update, any stage, any rule: no further cost
             --> metrics, statistics, reports, a replay buffer: not covered

A learner that declares such noise (`Learner.noise`) protects single episodes. Whatever is computed from its noisy
gradients has no further privacy cost, so any payload, stage, rule and topology may follow. All else that depends on
episodes has to stay with the agent. `docs/soundness.md` has the whole matrix.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from fedrl.core.aggregator import Aggregator
from fedrl.core.errors import UnsoundError
from fedrl.core.learner import Learner, draws_noise, parameters_of
from fedrl.core.reports import nothing_measured
from fedrl.core.stage import Stage
from fedrl.core.types import Key, Metrics, PyTree, Update, UpdateContext
from fedrl.federation.private import CLEAR, UNBOUNDED, remembers


def check_local_noise(
    learner: Learner, aggregator: Aggregator, stages: Sequence[Stage], reports: Sequence[str]
) -> None:
    """Refuse what leaves an agent without having passed the noise of its gradients, and noise that covers no episode.

    Args:
        learner: The learning algorithm of every agent.
        aggregator: The rule that merges updates.
        stages: The stages that an update passes, in order.
        reports: The names of the scalars that agents report.

    Raises:
        UnsoundError: Two parts exclude each other; the message names both and a remedy.
    """
    if learner.noise is None:
        return
    if learner.statistics is not None:
        raise UnsoundError(
            f"{learner!r} adds noise to its gradients and counts statistics of episodes, which are sent without noise. "
            "Use a learner without statistics, or without noise.",
            reason=CLEAR,
        )
    if reports:
        asking = f"as {aggregator!r} requests" if set(reports) & set(aggregator.requested) else "as requested"
        raise UnsoundError(
            f"Agents report {list(reports)} unprotected, {asking}, and {learner!r} adds noise to its gradients alone. "
            "Use a rule, a selection and local steps that request no report, or a learner without noise.",
            reason=CLEAR,
        )
    _check_stages(learner, stages)
    _check_covers(learner)


def _check_stages(learner: Learner, stages: Sequence[Stage]) -> None:
    """Refuse a stage that reads metrics of the agent, such as returns: no noise was added to them."""
    value = parameters_of(learner)
    for stage in stages:
        value, reads = _traced(stage, value)
        if reads:
            raise UnsoundError(
                f"{stage!r} sends what depends on the agent's metrics, such as its return, and {learner!r} adds noise "
                f"to its gradients alone. Leave {stage!r} out.",
                reason=CLEAR,
            )


def _traced(stage: Stage, like: PyTree) -> tuple[PyTree, bool]:
    """Return the shapes of what a stage encodes, and whether it reads the metrics of its agent."""

    def encode(metrics: Metrics, key: Key, value: PyTree) -> PyTree:
        one = jnp.int32(1)
        context = UpdateContext(one, one, one, one, metrics)
        update, kept = stage.encode(key, context, *stage.init(value), Update(value, jnp.float32(1.0), one))
        return update.value, (update, kept)

    measured, key = nothing_measured(), jax.random.key(0)
    traced = jax.make_jaxpr(encode)(measured, key, like).jaxpr
    # The metrics are the first argument, so they are the first inputs of the program. What a stage keeps counts as
    # well, since it may send it later.
    metrics = {id(x) for x in traced.invars[: len(measured)]}
    taken = {id(x) for equation in traced.eqns for x in equation.invars} | {id(x) for x in traced.outvars}
    return jax.eval_shape(encode, measured, key, like)[0], bool(metrics & taken)


def _check_covers(learner: Learner) -> None:
    """Refuse noise that does not cover all that one episode does to the gradients of one local iteration."""
    noise = learner.noise
    assert noise is not None
    if noise.unit != "trajectory" or noise.at != "agent":
        raise UnsoundError(
            f"{learner!r} declares noise at the {noise.at!r} for the unit {noise.unit!r}. Noise in local steps is "
            "added by the agent, to cover one trajectory. Correct `noise`, or use a stage.",
            reason=UNBOUNDED,
        )
    clips = learner.clips_trajectories
    if clips is None or float(clips) > noise.clip:
        raise UnsoundError(
            f"{learner!r} adds noise for episodes that move a gradient by at most {noise.clip:g}, and does not bound "
            "them to that. Set `clips_trajectories`, if it clips each episode's gradient.",
            reason=UNBOUNDED,
        )
    if not learner.episodic:
        raise UnsoundError(
            f"{learner!r} adds noise for what one episode adds to one local iteration, and its episodes continue from "
            "iteration to iteration. Use a learner of whole episodes, such as reinforce(trajectory_clip=1.0).",
            reason=UNBOUNDED,
        )
    if remembers(learner):
        raise UnsoundError(
            f"{learner!r} adds noise for what one episode adds to one local iteration, and learns from its replay "
            "buffer in many. Use a learner without a replay buffer.",
            reason=UNBOUNDED,
        )
    if not draws_noise(learner):
        raise UnsoundError(
            f"{learner!r} declares noise, and its `learn` or its `gradient` does not read the key of it. Draw it from "
            "`context.noise`, or leave `noise` out.",
            reason=UNBOUNDED,
        )
