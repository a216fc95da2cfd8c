"""Refuse parts that may not be combined with noise or a hidden sum, when a federation is built.

Noise is calibrated for the contribution of one agent or one trajectory to a result, and hides nothing else; a hidden
sum hides single updates, and nothing that agents send beside them. So everything that leaves an agent
(`fedrl.federation.soundness`) must be protected, and everything protected must be bounded. `docs/soundness.md` has the
whole matrix.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from fedrl.core.aggregator import Aggregator
from fedrl.core.errors import UnsoundError
from fedrl.core.learner import Learner, parameters_of
from fedrl.core.replay import Replay
from fedrl.core.reports import nothing_measured
from fedrl.core.stage import Noise, Stage, pipeline
from fedrl.core.summation import Summation, hidden
from fedrl.core.types import Key, Params, PyTree, Update, UpdateContext
from fedrl.wire.codec import varies

CLEAR, UNBOUNDED = "in the clear", "unbounded"
UNIFORM = "Use mean(weighting='uniform')."


def private_parts(stages: Sequence[Stage], summation: Summation | None) -> list[Stage | Summation]:
    """Return the stages that add calibrated noise, and the summation if it hides its terms."""
    hiding = hidden(summation)
    return [*(stage for stage in stages if stage.noise is not None), *([hiding] if hiding else [])]


def adds_noise(learner: Learner, stages: Sequence[Stage]) -> bool:
    """Return whether agents or the server add calibrated noise, so that their keys need a noise root."""
    return learner.noise is not None or any(stage.noise is not None for stage in stages)


def check_private(
    learner: Learner,
    aggregator: Aggregator,
    stages: Sequence[Stage],
    payload: str,
    reports: Sequence[str],
    summation: Summation | None = None,
) -> None:
    """Refuse messages without protection beside noise or a hidden sum, and noise that is not calibrated.

    Args:
        learner: The learning algorithm of every agent.
        aggregator: The rule that merges updates.
        stages: The stages that an update passes, in order.
        payload: "delta" or "gradient".
        reports: The names of the scalars that agents report.
        summation: How updates are added.

    Raises:
        UnsoundError: Two parts exclude each other; the message names both and a remedy.
    """
    private, hiding = private_parts(stages, summation), hidden(summation)
    if not private:
        return
    # Messages beside the update come first: their refusal holds whatever the noise is calibrated for.
    noisy = adds_noise(learner, stages)
    _check_beside(learner, aggregator, stages, reports, private[0], None if noisy else hiding)
    if hiding is not None:
        _check_hidden(aggregator, hiding, noisy)
    for at, stage in enumerate(stages):
        if stage.noise is not None:
            _check_noise(learner, aggregator, stages, payload, at, hiding is not None)
            _check_grid(stages, at, hiding)
    _check_size(learner, stages, private[0], hiding is not None)


def _check_beside(
    learner: Learner,
    aggregator: Aggregator,
    stages: Sequence[Stage],
    reports: Sequence[str],
    private: Stage | Summation,
    hiding: Summation | None,
) -> None:
    """Refuse what leaves an agent beside the value of its update: statistics, reports, withheld updates, weights.

    `hiding` is the summation that hides weights, and statistics if it adds them as well, where nothing adds noise.
    """
    if learner.statistics is not None and (hiding is None or not hiding.statistics):
        raise UnsoundError(
            f"{learner!r} counts statistics, which are sent unprotected beside all stages, and {private!r} protects "
            f"the value of an update alone. Let every agent keep its own, personal(learner, "
            f"local=['moments']), or leave {private!r} out.",
            reason=CLEAR,
        )
    if reports:
        asking = f"as {aggregator!r} requests" if set(reports) & set(aggregator.requested) else "as requested"
        raise UnsoundError(
            f"Agents report {list(reports)} unprotected, {asking}, and {private!r} protects the value of an update "
            f"alone. Use a rule, a selection and local steps that request no report, or leave {private!r} out.",
            reason=CLEAR,
        )
    for stage in stages:
        if stage.skips_uploads:
            raise UnsoundError(
                f"{stage!r} sends an update or none depending on the data, which {private!r} does not protect, and one "
                f"upload contains the changes of several rounds. Leave {stage!r} out.",
                reason=CLEAR,
            )
        if stage.reweights and hiding is None:
            raise UnsoundError(
                f"{stage!r} makes the weight of an update depend on its agent, and the weight is sent unprotected: "
                f"{private!r} protects the value of an update alone. Leave {stage!r} out.",
                reason=CLEAR,
            )


def _check_hidden(aggregator: Aggregator, hiding: Summation, noisy: bool) -> None:
    """Refuse weights inside a hidden sum where noise is for equal ones, and a rule that is not known to be a mean."""
    if aggregator.divides_by == "weights" and noisy:
        raise UnsoundError(
            f"{aggregator!r} adds updates by weights inside {hiding!r}, and the noise is for a sum of updates with "
            f"equal weights. Weights with a cap are not supported yet. {UNIFORM}",
            reason="hidden",
        )
    if aggregator.divides_by is None and not hiding.group_size:
        raise UnsoundError(
            f"{aggregator!r} is not declared to be a mean (Aggregator.divides_by), and {hiding!r} opens the sum of "
            f"updates and of their weights, from which no more than a mean follows. {UNIFORM}",
            reason="hidden",
        )


def _check_noise(
    learner: Learner, aggregator: Aggregator, stages: Sequence[Stage], payload: str, at: int, hidden: bool
) -> None:
    """Refuse noise that does not cover the whole contribution of one agent, or one trajectory, to what is released."""
    stage, noise = stages[at], stages[at].noise
    assert noise is not None
    # Whoever reads only the sum sees what all later stages do to it; else noise protects from the stage on that adds
    # it.
    summed = noise.at == "server" or hidden
    begins = at if noise.unit == "trajectory" else _clip_before(stages, at, noise)
    if noise.unit == "trajectory":
        _check_trajectories(learner, stages, payload, at, summed)
    _check_between(stages, begins, at, len(stages) if summed else at + 1)
    feeding = [each for each in stages if each.feeds_back]
    if feeding and noise.unit == "agent" and not summed:
        raise UnsoundError(
            f"{feeding[0]!r} sends in later rounds what compression removed from an earlier update, and the noise of "
            f"{stage!r} is accounted for one round. Leave {feeding[0]!r} out; quantize() and top_k() without error "
            "feedback may follow noise that agents add.",
            reason=UNBOUNDED,
        )
    if noise.at == "server" and aggregator.divides_by != "count":
        capped = " Weights with a cap are not supported yet." if aggregator.divides_by == "weights" else ""
        raise UnsoundError(
            f"{stage!r} needs a bound on how far one agent moves the result, and for {aggregator!r} none is known."
            f"{capped} {UNIFORM}",
            reason=UNBOUNDED,
        )


def _check_grid(stages: Sequence[Stage], at: int, hiding: Summation | None) -> None:
    """Refuse shares of noise where the sum of enough of them, on their grid, is not all that can be read."""
    stage, noise = stages[at], stages[at].noise
    if noise is None or noise.grid is None:
        return
    grid = noise.grid
    if hiding is None:
        raise UnsoundError(
            f"{stage!r} adds a share of the noise to each update, which is too little for whoever reads a single one, "
            f"and no summation hides them. Use summation = ring_sum(minimum={max(grid.least, 2)}), or local_gaussian.",
            reason="hidden",
        )
    if hiding.minimum < grid.least:
        raise UnsoundError(
            f"{stage!r} counts on the noise of {grid.least} agents, and {hiding!r} opens the sum of {hiding.minimum}. "
            f"Set the minimum of the summation to {grid.least} or more, or least to {hiding.minimum} or fewer.",
            reason=UNBOUNDED,
        )
    if hiding.unit is None or hiding.unit > grid.unit:
        step = "no grid that it names" if hiding.unit is None else f"a grid with the step {hiding.unit:g}"
        raise UnsoundError(
            f"{stage!r} adds whole multiples of {grid.unit:g}, and {hiding!r} has {step}, so it would round them, and "
            "the price is that of whole numbers. Use a ring_sum of fewer agents or with a smaller largest.",
            reason=UNBOUNDED,
        )
    if hiding.limit < grid.largest():
        raise UnsoundError(
            f"{stage!r} makes entries of up to {grid.largest():g}, noise included, and {hiding!r} adds smaller ones "
            f"only. Set largest to {grid.largest():g} or more.",
            reason=UNBOUNDED,
        )
    if at != len(stages) - 1:
        raise UnsoundError(
            f"{stages[at + 1]!r} comes after {stage!r}, whose noise is a share of that of the sum and on its grid. Put "
            f"{stages[at + 1]!r} before it.",
            reason=UNBOUNDED,
        )


def _clip_before(stages: Sequence[Stage], at: int, noise: Noise) -> int:
    """Return the index of the last stage, up to the noise's own, that enforces the norm the noise is calibrated for."""
    stage = stages[at]
    clipping = [i for i, each in enumerate(stages[: at + 1]) if each.clips is not None]
    if not clipping:
        raise UnsoundError(
            f"{stage!r} adds noise for updates with an L2 norm of at most {noise.clip:g}, and no stage before it "
            f"enforces that norm. Put clip({noise.clip:g}) before {stage!r}.",
            reason=UNBOUNDED,
        )
    enough = [i for i in clipping if (stages[i].clips or 0.0) <= noise.clip]
    if not enough:
        looser = stages[clipping[-1]]
        raise UnsoundError(
            f"{looser!r} allows updates with a larger L2 norm than the {noise.clip:g} for which {stage!r} adds noise. "
            f"Put clip({noise.clip:g}) before {stage!r}.",
            reason=UNBOUNDED,
        )
    return enough[-1]


def _check_between(stages: Sequence[Stage], begins: int, at: int, ends: int) -> None:
    """Refuse stages that may enlarge an update between the clip and the noise, or before the sum is opened."""
    stage, noise = stages[at], stages[at].noise
    by_agent = noise is not None and noise.at == "agent"
    for each in stages[begins + 1 : at]:
        if each.may_increase_norm:
            raise UnsoundError(
                f"{each!r} comes between {stages[begins]!r} and {stage!r} and may enlarge the update, so the noise "
                f"would not cover it. Put {each!r} before {stages[begins]!r}.",
                reason=UNBOUNDED,
            )
    # Behind agents' noise a clip is as bad: it scales the noise down where the sum counts on the whole of it.
    for each in stages[at + 1 : ends]:
        if each.may_increase_norm or (by_agent and each.clips is not None):
            does = "may enlarge the update" if each.may_increase_norm else "scales the noise down with the update"
            raise UnsoundError(
                f"{each!r} comes after {stage!r}, whose noise is for the sum, and {does}, so the noise would not cover "
                f"it. Put it before {stages[begins]!r}, or leave it out.",
                reason=UNBOUNDED,
            )


def _check_trajectories(learner: Learner, stages: Sequence[Stage], payload: str, at: int, summed: bool) -> None:
    """Refuse trajectory-level noise unless each trajectory adds a bounded amount to one gradient in one round."""
    stage, noise = stages[at], stages[at].noise
    assert noise is not None
    if learner.clips_trajectories is None or float(learner.clips_trajectories) > noise.clip:
        raise UnsoundError(
            f"{stage!r} adds noise for trajectories that add at most {noise.clip:g} to a gradient, and {learner!r} "
            "does not clip each trajectory to that. Use a learner that does, such as reinforce(trajectory_clip=1.0), "
            "and noise for at least its C / n (Learner.clips_trajectories), or noise whose unit is the agent.",
            reason=UNBOUNDED,
        )
    if not learner.episodic:
        raise UnsoundError(
            f"{stage!r} covers what one trajectory adds to one round, and the episodes of {learner!r} continue from "
            "round to round. Use a learner of whole episodes, such as reinforce().",
            reason=UNBOUNDED,
        )
    if payload != "gradient":
        raise UnsoundError(
            f"{stage!r} covers what one trajectory adds to a mean of gradients, and with payload={payload!r} agents "
            "send the result of several optimiser steps. Use payload='gradient'.",
            reason=UNBOUNDED,
        )
    if remembers(learner):
        raise UnsoundError(
            f"{stage!r} covers what one trajectory adds to one round, and {learner!r} learns from its replay buffer in "
            "many. Use a learner without a replay buffer.",
            reason=UNBOUNDED,
        )
    ends = len(stages) if summed else at
    for each in stages[:ends]:
        if each.decode is not None or each.may_increase_norm:
            raise UnsoundError(
                f"{each!r} changes updates before the noise of {stage!r} is added, and one trajectory may change its "
                f"output by more than {noise.clip:g}. Put it after noise that agents add, or leave it out.",
                reason=UNBOUNDED,
            )


def remembers(learner: Learner) -> bool:
    """Return whether a learner has a replay buffer, whose episodes take part in many rounds."""
    state = jax.eval_shape(lambda key: learner.init(key, learner.environment.params), jax.random.key(0))
    return any(isinstance(x, Replay) for x in jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, Replay)))


def _check_size(learner: Learner, stages: Sequence[Stage], private: Stage | Summation, hidden: bool) -> None:
    """Refuse message sizes that depend on data, unless noise was added to the data before."""
    like = parameters_of(learner)
    for count in range(1, len(stages) + 1):
        if varies(_after(stages[:count], like)):
            noisy = any(stage.noise is not None and stage.noise.at == "agent" for stage in stages[: count - 1])
            if not noisy or hidden:
                raise UnsoundError(
                    f"The size of a message of {stages[count - 1]!r} depends on its content, and {private!r} does not "
                    f"protect the size. Use a stage whose messages have one size, such as top_k(0.1) or quantize(8), "
                    f"or leave {private!r} out.",
                    reason=CLEAR,
                )
            return


def _after(stages: Sequence[Stage], like: Params) -> PyTree:
    """Return the shapes and dtypes of an update's value after the stages."""
    number = jnp.int32(0)

    def encoded(key: Key, value: Params) -> PyTree:
        pipe = pipeline(stages, key)
        context = UpdateContext(number, number, number, number, nothing_measured())
        return pipe.encode(key, context, *pipe.init(value), Update(value, jnp.float32(0.0), number))[0].value

    made: PyTree = jax.eval_shape(encoded, jax.random.key(0), like)
    return made
