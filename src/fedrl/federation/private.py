"""What may not stand beside noise or a hidden sum: refused when a federation is built.

Noise is calibrated for what one agent, or one trajectory, adds to a result, and hides nothing else; a hidden sum hides
single updates, and nothing that agents send beside them. So all that leaves an agent (`fedrl.federation.soundness`)
has to be covered, and what is covered has to be bounded. `docs/soundness.md` has the whole matrix.
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
    """The stages that add calibrated noise, and a summation that hides its terms."""
    hiding = hidden(summation)
    return [*(stage for stage in stages if stage.noise is not None), *([hiding] if hiding else [])]


def check_private(
    learner: Learner,
    aggregator: Aggregator,
    stages: Sequence[Stage],
    payload: str,
    reports: Sequence[str],
    summation: Summation | None = None,
) -> None:
    """Refuse what would leave unprotected beside noise or a hidden sum, and noise that is not calibrated.

    Args:
        learner: What every agent runs.
        aggregator: The rule that merges.
        stages: What an update passes.
        payload: "delta" or "gradient".
        reports: What agents say about themselves.
        summation: How updates are added up.

    Raises:
        UnsoundError: It names both parts and the way out.
    """
    private, hiding = private_parts(stages, summation), hidden(summation)
    if not private:
        return
    _check_beside(learner, aggregator, stages, reports, private[0])
    if hiding is not None:
        _check_hidden(aggregator, hiding)
    for at, stage in enumerate(stages):
        if stage.noise is not None:
            _check_noise(learner, aggregator, stages, payload, at, hiding is not None)
    _check_size(learner, stages, private[0], hiding is not None)


def _check_beside(
    learner: Learner,
    aggregator: Aggregator,
    stages: Sequence[Stage],
    reports: Sequence[str],
    private: Stage | Summation,
) -> None:
    """What leaves an agent beside the value of its update."""
    inside = " Hidden sums of statistics are not there yet." if isinstance(private, Summation) else ""
    if learner.statistics is not None:
        raise UnsoundError(
            f"{learner!r} counts statistics, which are sent in the clear beside all stages, and {private!r} covers the "
            f"value of an update alone.{inside} Let every agent keep its own, personal(learner, local=['moments']), or "
            f"leave {private!r} out.",
            reason=CLEAR,
        )
    if reports:
        asking = f"{aggregator!r} asks for it" if set(reports) & set(aggregator.requested) else "something asks for it"
        raise UnsoundError(
            f"Agents tell {list(reports)} in the clear, since {asking}, and {private!r} covers the value of an update "
            f"alone. Use a rule, a selection and local steps that ask for nothing, or leave {private!r} out.",
            reason=CLEAR,
        )
    for stage in stages:
        if stage.skips_uploads:
            raise UnsoundError(
                f"{stage!r} sends an update or none as the data have it, which {private!r} does not cover, and says in "
                f"one round what several were bounded for. Leave {stage!r} out.",
                reason=CLEAR,
            )
        if stage.reweights:
            raise UnsoundError(
                f"{stage!r} makes the weight of an update depend on its agent, in the clear, and {private!r} covers "
                f"the value of an update alone. Leave {stage!r} out.",
                reason=CLEAR,
            )


def _check_hidden(aggregator: Aggregator, hiding: Summation) -> None:
    """In a sum that hides its terms all weigh alike."""
    if aggregator.divides_by != "count":
        raise UnsoundError(
            f"{aggregator!r} adds updates up by weights, and the sum of {hiding!r} hides them all alike. Weights "
            f"inside a hidden sum are not there yet. {UNIFORM}",
            reason="hidden",
        )


def _check_noise(
    learner: Learner, aggregator: Aggregator, stages: Sequence[Stage], payload: str, at: int, hidden: bool
) -> None:
    """Noise that covers all of what one agent, or one trajectory, adds to what is released."""
    stage, noise = stages[at], stages[at].noise
    assert noise is not None
    summed = noise.at == "server" or hidden
    begins = at if noise.unit == "trajectory" else _clip_before(stages, at, noise)
    if noise.unit == "trajectory":
        _check_trajectories(learner, stages, payload, at, summed)
    _check_between(stages, begins, at, len(stages) if summed else at + 1)
    feeding = [each for each in stages if each.feeds_back]
    if feeding and noise.unit == "agent" and not summed:
        raise UnsoundError(
            f"{feeding[0]!r} sends again in later rounds what an earlier update lost, and the noise of {stage!r} is "
            f"priced for one round. Leave {feeding[0]!r} out; quantize() and top_k() without error feedback may follow "
            "noise that agents add.",
            reason=UNBOUNDED,
        )
    if noise.at == "server" and aggregator.divides_by != "count":
        capped = " Weights with a cap are not there yet." if aggregator.divides_by == "weights" else ""
        raise UnsoundError(
            f"{stage!r} needs to know how far one agent moves the result, and for {aggregator!r} no bound is known."
            f"{capped} {UNIFORM}",
            reason=UNBOUNDED,
        )


def _clip_before(stages: Sequence[Stage], at: int, noise: Noise) -> int:
    """The last stage that keeps the norm for which noise is calibrated, the stage of the noise itself included."""
    stage = stages[at]
    clipping = [i for i, each in enumerate(stages[: at + 1]) if each.clips is not None]
    if not clipping:
        raise UnsoundError(
            f"{stage!r} adds noise for updates of an L2 norm of at most {noise.clip:g}, and nothing in front of it "
            f"keeps them there. Put clip({noise.clip:g}) before {stage!r}.",
            reason=UNBOUNDED,
        )
    enough = [i for i in clipping if (stages[i].clips or 0.0) <= noise.clip]
    if not enough:
        looser = stages[clipping[-1]]
        raise UnsoundError(
            f"{looser!r} lets updates of a larger L2 norm through than the {noise.clip:g} for which {stage!r} adds "
            f"noise. Put clip({noise.clip:g}) before {stage!r}.",
            reason=UNBOUNDED,
        )
    return enough[-1]


def _check_between(stages: Sequence[Stage], begins: int, at: int, ends: int) -> None:
    """From the clip on, and until the noise is added, or the sum opened, nothing enlarges an update."""
    stage, noise = stages[at], stages[at].noise
    by_agent = noise is not None and noise.at == "agent"
    for each in stages[begins + 1 : at]:
        if each.may_increase_norm:
            raise UnsoundError(
                f"{each!r} comes between {stages[begins]!r} and {stage!r}, and may enlarge the update, so the noise "
                f"would not cover it. Put {each!r} before {stages[begins]!r}.",
                reason=UNBOUNDED,
            )
    for each in stages[at + 1 : ends]:
        if each.may_increase_norm or (by_agent and each.clips is not None):
            does = "may enlarge the update" if each.may_increase_norm else "scales the noise down with the update"
            raise UnsoundError(
                f"{each!r} comes after {stage!r}, whose noise is for the sum, and {does}, so the noise would not cover "
                f"it. Put it before {stages[begins]!r}, or leave it out.",
                reason=UNBOUNDED,
            )


def _check_trajectories(learner: Learner, stages: Sequence[Stage], payload: str, at: int, summed: bool) -> None:
    """Noise for what one trajectory adds: to one gradient, of bounded norm, in one round."""
    stage, noise = stages[at], stages[at].noise
    assert noise is not None
    if learner.clips_trajectories is None or learner.clips_trajectories > noise.clip:
        raise UnsoundError(
            f"{stage!r} adds noise for trajectories that add at most {noise.clip:g} to a gradient, and {learner!r} "
            "does not keep them there, each by itself. Use a learner that does (Learner.clips_trajectories), or noise "
            "whose unit is the agent.",
            reason=UNBOUNDED,
        )
    if not learner.episodic:
        raise UnsoundError(
            f"{stage!r} covers what one trajectory adds to one round, and the episodes of {learner!r} go on from round "
            "to round. Use a learner of whole episodes, as reinforce() is.",
            reason=UNBOUNDED,
        )
    if payload != "gradient":
        raise UnsoundError(
            f"{stage!r} covers what one trajectory adds to a mean of gradients, and with payload={payload!r} agents "
            "send what their optimisers make of several. Use payload='gradient'.",
            reason=UNBOUNDED,
        )
    state = jax.eval_shape(lambda key: learner.init(key, learner.environment.params), jax.random.key(0))
    if any(isinstance(x, Replay) for x in jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, Replay))):
        raise UnsoundError(
            f"{stage!r} covers what one trajectory adds to one round, and {learner!r} learns from its memory in many. "
            "Use a learner without a memory of experience.",
            reason=UNBOUNDED,
        )
    ends = len(stages) if summed else at
    for each in stages[:ends]:
        if each.decode is not None or each.may_increase_norm:
            raise UnsoundError(
                f"{each!r} works on updates before the noise of {stage!r} is added, and one trajectory may change by "
                f"more than {noise.clip:g} what it makes of them. Put it after noise that agents add, or leave it out.",
                reason=UNBOUNDED,
            )


def _check_size(learner: Learner, stages: Sequence[Stage], private: Stage | Summation, hidden: bool) -> None:
    """Sizes that depend on data, unless on data with noise in them."""
    like = parameters_of(learner)
    for count in range(1, len(stages) + 1):
        if varies(_after(stages[:count], like)):
            noisy = any(stage.noise is not None and stage.noise.at == "agent" for stage in stages[: count - 1])
            if not noisy or hidden:
                raise UnsoundError(
                    f"How large a message of {stages[count - 1]!r} is depends on what is in it, in the clear, and "
                    f"{private!r} does not cover that. Use a stage whose messages have one size, such as top_k(0.1) or "
                    f"quantize(8), or leave {private!r} out.",
                    reason=CLEAR,
                )
            return


def _after(stages: Sequence[Stage], like: Params) -> PyTree:
    """The shapes of what stages make of an update."""
    pipe, number = pipeline(stages), jnp.int32(0)

    def encoded(key: Key, value: Params) -> PyTree:
        context = UpdateContext(number, number, number, number, nothing_measured())
        return pipe.encode(key, context, *pipe.init(value), Update(value, jnp.float32(0.0), number))[0].value

    made: PyTree = jax.eval_shape(encoded, jax.random.key(0), like)
    return made
