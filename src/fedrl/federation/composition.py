"""Refuse combinations of parts that would not do what they promise, when a federation is built.

Combinations with noise or a hidden sum are checked in `fedrl.federation.private`.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedrl.core.aggregator import Aggregator, by_samples
from fedrl.core.errors import UnsoundError
from fedrl.core.learner import Learner, follows_corrections
from fedrl.core.stage import Stage
from fedrl.core.summation import Summation, hidden


def check_composition(
    learner: Learner, aggregator: Aggregator, stages: Sequence[Stage], payload: str, summation: Summation | None = None
) -> None:
    """Refuse a combination of valid parts that is invalid as a whole.

    Raises:
        UnsoundError: Two parts exclude each other; the message names both and a remedy.
    """
    hiding = hidden(summation)
    if hiding is not None:
        for inner in stages:
            if inner.decode is not None:
                raise UnsoundError(
                    f"{inner!r} is decoded update by update, and {hiding!r} makes single updates unreadable. "
                    f"Leave {inner!r} out, or replace it by a stage that commutes with sums."
                )
        _check_groups(aggregator, hiding)
    weighing = [stage for stage in stages if stage.reweights]
    if weighing and aggregator.weigh is not by_samples:
        raise UnsoundError(
            f"{weighing[0]!r} changes the weights of updates and {aggregator!r} replaces them by its own, so the stage "
            f"would have no effect. Use mean(), or leave {weighing[0]!r} out."
        )
    _check_sums(aggregator, stages, hiding)
    holding = next((stage for stage in stages if stage.skips_uploads), None)
    if holding is not None and aggregator.needs == "each":
        raise UnsoundError(
            f"{aggregator!r} reads each update, and would take updates that {holding!r} withholds for updates of zero. "
            "Use a rule of the sum such as mean().",
            reason="only sums",
        )
    if payload == "gradient" and learner.gradient is None:
        raise UnsoundError(
            f"{learner!r} has no gradient to send: an iteration of it takes several steps. "
            "Use payload='delta', or a learner with one step per iteration such as reinforce().",
            reason="gradients",
        )
    guiding = [stage for stage in stages if stage.correction is not None]
    if payload == "gradient" and guiding:
        raise UnsoundError(
            f"{guiding[0]!r} corrects local steps and payload='gradient' takes none. Use payload='delta', or leave "
            f"{guiding[0]!r} out: a mean of gradients at the same parameters does not drift.",
            reason="gradients",
        )
    if guiding and not follows_corrections(learner):
        raise UnsoundError(
            f"{guiding[0]!r} corrects local gradients, and the optimiser of {learner!r} does not read corrections. "
            f"Use optimizer = chain(add_correction(), sgd(...)), or leave {guiding[0]!r} out."
        )


def _check_groups(aggregator: Aggregator, hiding: Summation) -> None:
    """Refuse a rule that needs each update where there is one sum, and a rule of the sum where there are groups."""
    if aggregator.needs == "sum" and hiding.group_size:
        raise UnsoundError(
            f"{aggregator!r} needs the sum of all updates alone, and {hiding!r} opens that of each group, which tells "
            "more. Leave group_size out, or use a rule that sees each group, such as median().",
            reason="only sums",
        )
    if aggregator.needs == "each" and not hiding.group_size:
        raise UnsoundError(
            f"{aggregator!r} needs to see each update and {hiding!r} hides them. Aggregate by a rule of the sum such "
            f"as mean(), or let {aggregator!r} see the means of groups: ring_sum(group_size=...).",
            reason="only sums",
        )
    if hiding.group_size and aggregator.agents is not None:
        raise UnsoundError(
            f"{aggregator!r} has a number for each agent, and with {hiding!r} it sees the means of groups, which are "
            "drawn anew for each version. Use a rule without numbers of agents, such as median().",
            reason="only sums",
        )


def _check_sums(aggregator: Aggregator, stages: Sequence[Stage], hiding: Summation | None) -> None:
    """Refuse a stage with a sum over all agents beside parts that hide messages or change the agents' shares."""
    # SCAFFOLD's c = sum p_k c_k is right only if each p_k is known and every agent's change of c_k arrives unchanged.
    summing = [stage for stage in stages if stage.sums is not None]
    if not summing:
        return
    one, rest = summing[0], [stage for stage in stages if stage is not summing[0]]
    if aggregator.needs == "each":
        raise UnsoundError(
            f"{one!r} keeps a sum over all agents by the weights of a mean, and {aggregator!r} is not a mean: it would "
            "merge updates differently from how agents are corrected. Use mean() or mean('uniform'), or leave "
            f"{one!r} out.",
            reason="only sums",
        )
    covered = hiding is not None and hiding.statistics
    for private in (
        *(stage for stage in rest if stage.noise is not None),
        *([hiding] if hiding and not covered else []),
    ):
        raise UnsoundError(
            f"{private!r} hides single updates from the server, and {one!r} sends its statistics unprotected, beside "
            "all other stages. Statistics of stages under noise or inside a hidden sum are not supported yet. Leave "
            "one of them out.",
            reason="in the clear",
        )
    for stage in rest:
        if stage.sums == one.sums:
            raise UnsoundError(
                f"{one!r} and {stage!r} both send statistics named {one.sums!r}, so each would also read the other's. "
                "Leave one of them out."
            )
        if stage.reweights:
            raise UnsoundError(
                f"{stage!r} changes weights from round to round, and {one!r} keeps a sum over all agents, including "
                f"those not selected, so their shares must be fixed. Leave one of them out."
            )
        if stage.skips_uploads:
            raise UnsoundError(
                f"{stage!r} withholds messages, and {one!r} needs one in every round: its sum is right only if the "
                "statistics of every agent arrive. Leave one of them out."
            )
